"""``python -m hpcrunner.images.child REFERENCE FILE LIMIT``: pull an image with spython.

A process of its own, since spython ends the process where it fails, prints as it likes, and
knows the program only as ``singularity`` on the PATH. It ends, and all that it started, when its
standard input closes: so nothing is left running when whoever wanted the image dies. No file that
is written on the way may have more than LIMIT bytes (0: any number).
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from pathlib import Path
from subprocess import CalledProcessError


def main(reference: str, target: Path, limit: int) -> int:
    """Pull; the program's own lines go to standard error. Returns its exit code."""
    hardest = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if limit and not 0 <= hardest < limit:  # -1 is none
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from spython.main import Client

    try:
        _, lines = Client.pull(
            image=reference, name=target.name, pull_folder=str(target.parent), stream=True
        )
        for line in lines:
            sys.stderr.write(line)
    except CalledProcessError as error:
        return int(error.returncode) or 1
    return 0


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
