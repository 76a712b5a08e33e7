"""The payload: one synced line into a ledger on the shared file system, then as its kind says.

Arguments: ledger, kind, seconds to sleep, megabytes to take. Runs on any Python 3, without
packages. A line is ``start|end key attempt job host time``; "end" is written only by a payload
that came to its own end.
"""

import os
import signal
import sys
import time

ledger, kind, sleep, megabytes = sys.argv[1:5]


def note(word: str) -> None:
    job = os.environ.get("SLURM_JOB_ID", "-")
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    if array and task:
        job = f"{array}_{task}"
    fields = (
        word,
        os.environ["STUDIOML_EXPERIMENT"],
        os.environ["STUDIOML_ATTEMPT"],
        job,
        os.environ.get("SLURMD_NODENAME", os.uname().nodename),
        f"{time.time():.3f}",
    )
    fd = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(fields) + "\n").encode())
    os.fsync(fd)
    os.close(fd)


note("start")
time.sleep(float(sleep))
if kind == "memory":
    hog = bytearray(int(megabytes) * 1_000_000)
    for page in range(0, len(hog), 4096):
        hog[page] = 1
    time.sleep(60)
if kind in ("time", "cancel"):
    time.sleep(1800)
note("end")
if kind == "signal":
    os.kill(os.getpid(), signal.SIGUSR2)
sys.exit(3 if kind == "exit" else 0)
