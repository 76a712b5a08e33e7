"""argv in, out what sbatch, squeue, sacct, scancel and scontrol of Slurm 22.05 print.

Only the options that hpcrunner uses are known. Any other is refused as Slurm refuses it and
noted in ``Cluster.complaints``, so that a change of the caller shows.

Faults, by program (``Cluster.faults``, each for one call):

============================  ==============================================================
any: ``hang``                 no answer at all; the client is killed at its time-out
any: ``killed``               the client is killed while it prints: value 0..1 of the output
any: ``warn``                 the answer, and a warning on stderr
sbatch: ``hang_after``        the job is taken, the answer never comes
sbatch: ``socket_timeout``    not taken, "Socket timed out" after MessageTimeout
sbatch: ``socket_after``      taken, "Socket timed out"
sbatch: ``socket_late``       taken that many seconds after the client has given up
sbatch: ``banner``            taken; a site's wrapper prints a line before the id
sbatch: ``silent``            taken; a site's wrapper swallows the answer, status 0
sbatch: ``garbage``           taken; prints what is no id, status 0
sbatch: ``refuse``            not taken, with that text
============================  ==============================================================

Slurm has no translations and no decimal commas in these columns, so there is no fault for an
odd locale; what a locale could bend is the form of times, which SLURM_TIME_FORMAT fixes and the
fake honours.
"""

from __future__ import annotations

import time

from slurm.cluster import DOWN, ENDED, UP, Account, Cluster, Job

MESSAGE_TIMEOUT = 10.0  # s; a client tries for about this long before it says so
_NO_CONTACT = "Unable to contact slurm controller (connect failure)"
_SOCKET = "Socket timed out on send/recv operation"

_SBATCH_WORDS = (
    "job-name comment partition account qos nodes ntasks cpus-per-task mem mem-per-cpu tmp "
    "time gres gpus gpus-per-node array output open-mode propagate chdir export exclude "
    "signal constraint reservation"
)
_SBATCH_VALUES = frozenset(_SBATCH_WORDS.split(" "))
_SBATCH_FLAGS = frozenset(["parsable", "requeue", "no-requeue"])


class Answer:
    """What a command prints and ends with. ``hangs``: it never ends."""

    def __init__(
        self, stdout: str = "", stderr: str = "", status: int = 0, *, hangs: bool = False
    ) -> None:
        self.stdout = stdout
        self.stderr = stderr
        self.status = status
        self.hangs = hangs
        self.took = 0.0


def answer(cluster: Cluster, argv: list[str], environ: dict[str, str], now: float) -> Answer:
    """Do what ``argv`` asks of the cluster."""
    program = argv[0].rpartition("/")[2]
    cluster.calls.append(program)
    cluster.settle(now)
    fault = cluster.fault(program)
    kind = fault.kind if fault else ""
    if kind == "hang":
        return Answer(hangs=True)
    command = _COMMANDS[program]
    given = command(cluster, argv[1:], environ, now, kind, fault.value if fault else None)
    if kind == "killed" and given.status == 0:
        kept = int(len(given.stdout) * float(fault.value or 0.0))  # type: ignore[union-attr,arg-type]
        return Answer(given.stdout[:kept], "", -9)
    if kind == "warn":
        given.stderr = f"{program}: warning: The note of the day is not for parsers\n"
    return given


def _refused(cluster: Cluster, program: str, argv: list[str], word: str, status: int) -> Answer:
    cluster.complaints.append(f"{program} {' '.join(argv)}")
    text = (
        f"{program}: unrecognized option '{word}'\nTry \"{program} --help\" for more information\n"
    )
    return Answer("", text, status)


# -- sbatch --------------------------------------------------------------------------------


def _sbatch(
    cluster: Cluster, argv: list[str], environ: dict[str, str], now: float, kind: str, value: object
) -> Answer:
    options: dict[str, str] = {}
    script = ""
    for word in argv:
        name, equals, text = word[2:].partition("=")
        if not word.startswith("--"):
            script = word
        elif name in (_SBATCH_VALUES if equals else _SBATCH_FLAGS):
            options[name] = text
        else:
            return _refused(cluster, "sbatch", argv, word, 255)
    missing = {"parsable", "job-name", "chdir", "output"} - set(options)
    if missing or not script:
        cluster.complaints.append(f"sbatch without {sorted(missing)}: {argv}")
    failed = "sbatch: error: Batch job submission failed: "
    if cluster.controller == DOWN:
        return Answer("", f"{failed}{_NO_CONTACT}\n", 1)
    if cluster.controller != UP:
        # The request stays in the controller's socket, or does not: both have been seen.
        return Answer("", f"{failed}{_SOCKET}\n", 1)
    if kind == "refuse":
        return Answer("", f"{failed}{value}\n", 1)
    if kind == "socket_timeout":
        return Answer("", f"{failed}{_SOCKET}\n", 1)
    tasks = int(options["array"].rpartition("-")[2]) if "array" in options else 0
    if tasks >= cluster.max_array_size:
        return Answer("", f"{failed}Invalid job array specification\n", 1)
    if kind == "socket_late":
        cluster.late.append((now + float(value), options, script))  # type: ignore[arg-type]
        return Answer("", f"{failed}{_SOCKET}\n", 1)
    base = cluster.submit(options, script, now)
    if kind == "hang_after":
        return Answer(hangs=True)
    if kind == "socket_after":
        return Answer("", f"{failed}{_SOCKET}\n", 1)
    if kind == "banner":
        return Answer(f"*** Maintenance on day {base} ***\n\n{base}\n")
    if kind == "silent":
        return Answer("", "", 0)
    if kind == "garbage":
        return Answer(f"Submitted batch job {base} on cluster hpc\n", "", 0)
    return Answer(f"{base}\n")


# -- squeue --------------------------------------------------------------------------------


def _squeue(
    cluster: Cluster, argv: list[str], environ: dict[str, str], now: float, kind: str, value: object
) -> Answer:
    template, expanded, every = "", False, False
    for word in argv:
        if word.startswith("--format="):
            template = word[9:]
        elif word == "--array":
            expanded = True
        elif word == "--states=all":
            every = True
        elif word not in ("--me", "--all", "--noheader"):
            return _refused(cluster, "squeue", argv, word, 1)
    if not (expanded and every and {"--me", "--all", "--noheader"} < set(argv) and template):
        return _refused(cluster, "squeue", argv, "(a word that is missing)", 1)
    if cluster.controller != UP:
        return _no_controller(cluster, "slurm_load_jobs error: ")
    rows = []
    for job in cluster.jobs.values():
        common = {"F": str(job.base), "j": job.name}
        if job.record and not any(t.number == 0 for t in job.tasks.values()):
            end = _time(job.record_end, environ)
            rows.append({**common, "K": "N/A", "T": job.record, "S": end, "N": "", "r": "None"})
        for task in job.tasks.values():
            start = task.start if task.start is not None else task.end
            rows.append(
                {
                    **common,
                    "K": "N/A" if task.index is None else str(task.index),
                    "T": task.shown,
                    "S": "N/A" if start is None else _time(start, environ),
                    "N": task.node,
                    "r": task.reason,
                }
            )
    try:
        lines = [_filled(template, row) for row in rows]
    except KeyError as unknown:
        return _refused(cluster, "squeue", argv, f"%{unknown.args[0]}", 1)
    lines += cluster.rows_of_others
    return Answer("".join(f"{line}\n" for line in lines))


def _filled(template: str, row: dict[str, str]) -> str:
    first, *rest = template.split("%")
    return first + "".join(row[part[0]] + part[1:] for part in rest)


# -- sacct ---------------------------------------------------------------------------------


def _sacct(
    cluster: Cluster, argv: list[str], environ: dict[str, str], now: float, kind: str, value: object
) -> Answer:
    given = dict.fromkeys(("jobs", "name", "starttime", "endtime", "state", "format"), "")
    flags = set()
    for word in argv:
        name, equals, text = word[2:].partition("=")
        if equals and name in given and word.startswith("--"):
            given[name] = text
        elif word in ("--parsable2", "--noheader", "--allocations", "--duplicates"):
            flags.add(word)
        else:
            return _refused(cluster, "sacct", argv, word, 1)
    if not {"--parsable2", "--noheader"} <= flags or not given["format"]:
        return _refused(cluster, "sacct", argv, "(a word that is missing)", 1)
    if not cluster.accounting:
        return Answer("", "Slurm accounting storage is disabled\n", 1)
    if cluster.database == DOWN:
        error = (
            "sacct: error: slurm_persist_conn_open_without_init: failed to open persistent "
            "connection to host:localhost:6819: Connection refused\n"
            "sacct: error: Sending PersistInit msg: Connection refused\n"
            "sacct: error: Problem talking to the database: Connection refused\n"
        )
        return Answer("", error, 1)
    if cluster.database != UP:
        return Answer(hangs=True)
    rows = list(cluster.accounts.values())
    if given["jobs"]:
        ids = {int(text) for text in given["jobs"].split(",")}
        rows = [row for row in rows if row.base in ids]
    if given["name"]:
        names = set(given["name"].split(","))
        rows = [row for row in rows if row.name in names]
    if given["starttime"]:
        since = float(given["starttime"].removeprefix("uts"))
        rows = [row for row in rows if row.submitted >= since]
    if "--duplicates" not in flags:
        newest: dict[object, Account] = {}
        for row in rows:
            key = (row.base, row.index, row.tasks is not None)
            if key not in newest or newest[key].submitted <= row.submitted:
                newest[key] = row
        rows = list(newest.values())
    columns = given["format"].split(",")
    lines = []
    for row in rows:
        if row.tasks is not None:
            if row.word == "PENDING" and not _record_waits(cluster, row):
                continue
            shown = f"{row.base}_[{_ranges(row.tasks)}]"
        else:
            shown = str(row.base) if row.index is None else f"{row.base}_{row.index}"
        values = {
            "JobID": shown,
            "JobName": row.name,
            "State": row.word + row.by,
            "ExitCode": row.exit,
            "Submit": _time(row.submitted, environ),
            "Start": row.start,
            "End": row.end,
            "NodeList": row.node,
        }
        steps = () if "--allocations" in flags else row.steps
        try:
            lines.append("|".join(values[column] for column in columns))
        except KeyError as unknown:
            return _refused(cluster, "sacct", argv, str(unknown), 1)
        for name, word, exit_field in steps:
            own = {"JobName": name, "State": word, "ExitCode": exit_field}
            step = {**values, "JobID": f"{shown}.{name}", **own}
            lines.append("|".join(step[column] for column in columns))
    return Answer("".join(f"{line}\n" for line in lines))


def _record_waits(cluster: Cluster, row: Account) -> bool:
    """Whether the array's record still stands; its last task takes it over when it starts."""
    job = cluster.jobs.get(row.base)
    if job is None or job.submitted != row.submitted:
        return True  # forgotten by the controller: the account was never closed
    return any(task.number == 0 for task in job.tasks.values()) or bool(job.record)


def _ranges(numbers: list[int]) -> str:
    parts: list[str] = []
    first = last = None
    for number in [*sorted(numbers), None]:
        if last is not None and number == last + 1:
            last = number
            continue
        if first is not None:
            parts.append(str(first) if first == last else f"{first}-{last}")
        first = last = number
    return ",".join(parts)


# -- scancel, scontrol ---------------------------------------------------------------------


def _scancel(
    cluster: Cluster, argv: list[str], environ: dict[str, str], now: float, kind: str, value: object
) -> Answer:
    if cluster.controller == DOWN:
        text = f"scancel: error: Kill job error on job id {argv[0]}: {_NO_CONTACT}\n"
        return Answer("", text, 8)
    if cluster.controller != UP:
        return Answer(hangs=True)
    for word in argv:
        if word.startswith("-"):
            return _refused(cluster, "scancel", argv, word, 1)
        base, bracket, tasks = word.partition("_")
        if not base.isdecimal():
            return Answer("", f"scancel: error: Invalid job id {word}\n", 1)
        cluster.cancel(int(base), _indexes(tasks) if bracket else None, now)
    return Answer()


def _indexes(text: str) -> list[int]:
    found: list[int] = []
    for part in text.strip("[]").split(","):
        first, dash, last = part.partition("-")
        found += range(int(first), int(last if dash else first) + 1)
    return found


def _scontrol(
    cluster: Cluster, argv: list[str], environ: dict[str, str], now: float, kind: str, value: object
) -> Answer:
    if argv != ["show", "config"]:
        cluster.complaints.append(f"scontrol {' '.join(argv)}")
        return Answer("", f"invalid entity:{argv[-1]} for keyword:show\n", 1)
    if cluster.controller != UP:
        return _no_controller(cluster, "slurm_load_ctl_conf error: ")
    storage = "accounting_storage/slurmdbd" if cluster.accounting else "accounting_storage/none"
    lines = [
        "Configuration data as of 2026-11-21T02:11:53",
        f"AccountingStorageType   = {storage}",
        "ClusterName             = fake",
        f"MaxArraySize            = {cluster.max_array_size}",
        f"MinJobAge               = {cluster.min_job_age:.0f} sec",
        "SLURM_VERSION           = 22.05.8",
        "",
    ]
    return Answer("\n".join(lines))


def _no_controller(cluster: Cluster, prefix: str) -> Answer:
    if cluster.controller == DOWN:
        return Answer("", f"{prefix}{_NO_CONTACT}\n", 1)
    return Answer(hangs=True)


def _time(at: float, environ: dict[str, str]) -> str:
    if environ.get("SLURM_TIME_FORMAT") == "%s":
        return str(int(at))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at))


_COMMANDS = {
    "sbatch": _sbatch,
    "squeue": _squeue,
    "sacct": _sacct,
    "scancel": _scancel,
    "scontrol": _scontrol,
}
__all__ = ["ENDED", "Answer", "Job", "answer"]
