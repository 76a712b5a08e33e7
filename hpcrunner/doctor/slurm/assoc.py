"""sacctmgr(1) show assoc and show user: which accounts and QOS are the user's."""

from __future__ import annotations

from dataclasses import dataclass

from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.contract import SchedulerUnavailable

_FORMAT = "Cluster,Account,Partition,QOS,DefaultQOS,MaxSubmit"


@dataclass(frozen=True, slots=True)
class Association:
    """The user in an account. ``partition`` "": in all; ``max_submit`` None: no limit."""

    account: str
    partition: str = ""
    qos: tuple[str, ...] = ()
    default_qos: str = ""
    max_submit: int | None = None


def argv(user: str) -> list[str]:
    """The query for one user's associations."""
    words = ["sacctmgr", "--noheader", "--parsable2", "show", "assoc"]
    return [*words, f"user={user}", f"format={_FORMAT}"]


def default_argv(user: str) -> list[str]:
    """The query for the user's default account."""
    words = ["sacctmgr", "--noheader", "--parsable2", "show", "user"]
    return [*words, user, "format=DefaultAccount"]


def parse(done: Completed, cluster: str) -> tuple[Association, ...]:
    """The associations with this cluster. Raises SchedulerUnavailable."""
    found = []
    for line in _lines(done):
        words = line.split("|")
        if len(words) < 6 or words[0].lower() != cluster.lower():
            continue
        _, account, partition, qos, default, submit = words[:6]
        found.append(
            Association(
                account,
                partition,
                tuple(name for name in qos.split(",") if name),
                default,
                int(submit) if submit.isdecimal() else None,
            )
        )
    return tuple(found)


def parse_default(done: Completed) -> str:
    """The default account, or an empty text. Raises SchedulerUnavailable."""
    return next(iter(_lines(done)), "").strip("|")


def _lines(done: Completed) -> list[str]:
    if done.returncode != 0:
        why = done.stderr.strip().partition("\n")[0][:200] or "no word why"
        raise SchedulerUnavailable(
            f"failed ({why})", where="sacctmgr", remedy="is slurmdbd up? Ask the administrators"
        )
    return [line for line in done.stdout.splitlines() if line.strip()]
