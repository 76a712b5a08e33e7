"""The site's own scheduler options: which it may give, and which DRMAA can carry.

The options of slurm-drmaa are those its parser knows (slurm_drmaa/util.c of 1.1.6, function
``slurmdrmaa_parse_additional_attr``); its README's list differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# What hpcrunner says itself, so that a site must not say it otherwise.
FORBIDDEN = {
    "job-name": "the name is how a lost submission is found again",
    "comment": "the comment is how a lost submission is found again",
    "output": "the output belongs into the batch's folder",
    "error": "the output belongs into the batch's folder",
    "input": "a job reads nothing",
    "open-mode": "the output belongs into the batch's folder",
    "propagate": "jobs take the limits of their node",
    "array": "hpcrunner makes the arrays",
    "chdir": "a job starts in its batch's folder",
    "export": "use the key export",
    "export-file": "use the key export",
    "get-user-env": "use the key export",
    "wrap": "hpcrunner writes the script",
    "parsable": "hpcrunner reads sbatch's answer",
    "quiet": "hpcrunner reads sbatch's answer",
    "verbose": "hpcrunner reads sbatch's answer",
    "help": "nothing would be submitted",
    "usage": "nothing would be submitted",
    "version": "nothing would be submitted",
    "test-only": "nothing would be submitted",
    "wait": "the gateway does not wait for one job",
    "clusters": "a site is one cluster",
    "uid": "jobs run as the gateway's user",
    "gid": "jobs run as the gateway's user",
    "partition": "use the key partitions",
    "account": "use the key account",
    "qos": "use the key qos",
    "time": "use defaults.time_limit and partitions.max_time",
    "time-min": "use defaults.time_limit and partitions.max_time",
    "nodes": "an experiment runs on one node",
    "ntasks": "an experiment is one task",
    "ntasks-per-node": "an experiment is one task",
    "cpus-per-task": "use defaults.cpus",
    "mem": "use defaults.memory and memory_syntax",
    "mem-per-cpu": "use defaults.memory and memory_syntax",
    "mem-per-gpu": "use defaults.memory and memory_syntax",
    "gres": "use partitions.gpus",
    "gpus": "use partitions.gpus and gpu_syntax",
    "gpus-per-node": "use partitions.gpus and gpu_syntax",
    "gpus-per-task": "use partitions.gpus and gpu_syntax",
    "tmp": "use the key tmp",
    "requeue": "use the key requeue",
    "no-requeue": "use the key requeue",
    "dependency": "experiments do not wait for each other",
    "signal": "use the key grace",
}

# Long options that slurm-drmaa takes with a value, and as a bare flag.
DRMAA_VALUES = frozenset(
    {
        "account",
        "acctg-freq",
        "comment",
        "constraint",
        "cpus-per-task",
        "exclude",
        "gres",
        "licenses",
        "mem",
        "mem-per-cpu",
        "mincpus",
        "nodelist",
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "partition",
        "qos",
        "reservation",
        "time",
        "tmp",
    }
)
DRMAA_FLAGS = frozenset(["contiguous", "exclusive", "no-kill", "no-requeue", "requeue", "share"])

_LONG = re.compile(r"--([a-z][a-z0-9-]*)(?:=(.+))?")


def split_directive(word: str) -> tuple[str, str | None]:
    """``--name=value`` as (name, value); value is None for a flag. Raises ValueError."""
    match = _LONG.fullmatch(word)
    if match is None:
        raise ValueError("not a long option (--name or --name=value)")
    return match[1], match[2]


def why_forbidden(name: str) -> str:
    """Why a site must not give this option, or an empty text.

    Slurm takes unambiguous beginnings of its options too (getopt_long(3)), so ``--outp`` is
    ``--output``.
    """
    for option, reason in FORBIDDEN.items():
        if option == name or option.startswith(name):
            return f"--{option}: {reason}"
    return ""


def check_directive(word: str) -> str:
    """The word, if a site may give it. Raises ValueError with the reason if not."""
    name, value = split_directive(word)
    if reason := why_forbidden(name):
        raise ValueError(reason)
    if value is not None and re.search(r"[\x00-\x1f\x7f\"'`\\]", value):
        raise ValueError("quotes, backslashes and control characters cannot be carried")
    return word


def why_not_drmaa(name: str, value: str | None) -> str:
    """Why slurm-drmaa cannot carry an option, or an empty text."""
    if name == "mail-type":
        return "slurm-drmaa ignores lists of mail types silently"
    if value is None:
        return "" if name in DRMAA_FLAGS else "slurm-drmaa has no such flag"
    if name in DRMAA_FLAGS:
        return "slurm-drmaa drops the value of this flag silently"
    if name not in DRMAA_VALUES:
        return "slurm-drmaa has no such option"
    if value == "" or any(character in " \t\"'" for character in value):
        return "a native specification has no quoting: no blanks, quotes or empty values"
    if "=" in value:
        return "slurm-drmaa cuts a value at its '='"
    return ""


def drmaa_refuses(words: Iterable[str]) -> tuple[str, ...]:
    """One line for each of these directives that slurm-drmaa cannot carry."""
    lines = []
    for word in words:
        name, value = split_directive(word)
        if reason := why_not_drmaa(name, value):
            lines.append(f"{word}: {reason}")
    return tuple(lines)
