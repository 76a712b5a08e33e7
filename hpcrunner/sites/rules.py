"""Many users on one site: whose experiments may run, where, and how many of them at once.

The rule that counts for an experiment is the first of the site's ``rules`` that its queue, its
owner and its signature fit. It is chosen once, when the experiment is taken, by
``rule_for``; ``narrowed`` is what it makes of a partition. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.errors import shown
from hpcrunner.sites.part import Part
from hpcrunner.sites.parts import Partition, SiteDirective
from hpcrunner.sites.values import (
    Budget,
    Count,
    Memory,
    Pattern,
    SlurmName,
    Switch,
    TimeLimit,
)

# An owner is a stranger's text, and some patterns take very long over long texts.
_LONGEST_OWNER = 256


class Rule(Part):
    """Some of the site's users: what their jobs get, and how many there may be."""

    name: SlurmName = Field(
        description="Name of the rule: in remarks, and to tell which experiments count together.",
        examples=["students"],
    )
    queues: Pattern = Field(
        default="",
        description="The queues it is for: what is found anywhere in a queue's name. Left out: "
        "all. What `hpcrunner submit` publishes comes by `local_submit`.",
        examples=["^rmq_students_"],
    )
    owners: Pattern = Field(
        default="",
        description="The owners it is for: what is found anywhere in the request's `owner`, which "
        "a client may set as it likes. Left out: all.",
        examples=["^ann$"],
    )
    signed: Switch = Field(
        default=False,
        description="Whether it is only for messages that are sealed and signed with the key of "
        "their queue, and for what `hpcrunner submit` publishes.",
    )
    allowed: Switch = Field(
        default=True, description="Whether these experiments are run; else they are set aside."
    )
    account: SlurmName | None = Field(
        default=None,
        description="Account to charge, instead of the site's and the partition's.",
        examples=["research"],
    )
    qos: SlurmName | None = Field(
        default=None,
        description="QOS of the jobs, instead of the site's and the partition's.",
        examples=["low"],
    )
    partitions: tuple[SlurmName, ...] = Field(
        default=(),
        description="The only partitions of the site that are tried, in this order; left out: "
        "all, in the site's order.",
        examples=["gpu", "cpu"],
    )
    max_time: TimeLimit = Field(
        default=None, description="Longest time limit of a job.", examples=["04:00:00"]
    )
    max_cpus: Count | None = Field(default=None, description="Most CPUs of a job.")
    max_memory: Memory | None = Field(
        default=None, description="Most memory of a job.", examples=["32G"]
    )
    max_gpus: Budget | None = Field(
        default=None, description="Most GPUs of a job; `0`: none.", examples=["1"]
    )
    directives: tuple[SiteDirective, ...] = Field(
        default=(),
        description="Options for these jobs, after those of the site and the partition.",
        examples=["--nice=100"],
    )
    max_jobs: Count | None = Field(
        default=None,
        description="Most experiments of the rule that wait or run in the scheduler at once; the "
        "others wait before it.",
        examples=["50"],
    )
    max_jobs_per_queue: Count | None = Field(
        default=None, description="The same for each of its queues by itself."
    )
    max_jobs_per_owner: Count | None = Field(
        default=None, description="The same for each of its owners by himself.", examples=["10"]
    )

    @property
    def capped(self) -> bool:
        """Whether some of its experiments may have to wait for others to end."""
        return any((self.max_jobs, self.max_jobs_per_queue, self.max_jobs_per_owner))


class QueueWeight(Part):
    """How often some queues have their turn."""

    queues: Pattern = Field(
        description="The queues: what is found anywhere in a queue's name.",
        examples=["^rmq_urgent_"],
    )
    weight: Count = Field(
        description="How many messages of each of them are taken for one of a queue without "
        "weight, while both have some.",
        examples=["5"],
    )


class RuledOut(HpcrunnerError):
    """The site's rules let nobody run this."""

    exit_code = 65  # EX_DATAERR


def rule_for(rules: Sequence[Rule], *, queue: str, owner: str, signed: bool) -> Rule | None:
    """The first rule that fits; None where there are no rules at all.

    ``signed``: the message's signature was found good, or nobody else can have sent it.
    Raises RuledOut where no rule fits, or the one that does says no.
    """
    if not rules:
        return None
    whose = f"queue {shown(queue)}, {f'owner {shown(owner)}' if owner else 'no owner'}"
    for rule in rules:
        if _fits(rule, queue, owner, signed=signed):
            if rule.allowed:
                return rule
            raise RuledOut(
                f"the site's rule {rule.name} runs none of these ({whose})",
                where=f"rules.{rule.name}",
                remedy="send it by another queue, or ask who keeps the site's file",
            )
    unsigned = "" if signed else ", not signed"
    raise RuledOut(
        f"none of the site's rules is for it ({whose}{unsigned})",
        where="rules",
        remedy="send it by a queue that a rule is for, or add a rule to the site's file",
    )


def _fits(rule: Rule, queue: str, owner: str, *, signed: bool) -> bool:
    if rule.signed and not signed:
        return False
    if rule.queues and not re.search(rule.queues, queue):
        return False
    if not rule.owners:
        return True
    return len(owner) <= _LONGEST_OWNER and re.search(rule.owners, owner) is not None


def rule_named(rules: Sequence[Rule], name: str) -> Rule | None:
    """The rule of that name, if there is one (still)."""
    return next((rule for rule in rules if rule.name == name), None)


def narrowed(partitions: Sequence[Partition], rule: Rule | None) -> tuple[Partition, ...]:
    """The partitions as a rule leaves them: those it names, in its order, with the lower limits,
    its account, its QOS and its directives.
    """
    if rule is None:
        return tuple(partitions)
    chosen = partitions
    if rule.partitions:
        chosen = [p for name in rule.partitions for p in partitions if p.name == name]
    return tuple(_narrowed(partition, rule) for partition in chosen)


def _narrowed(partition: Partition, rule: Rule) -> Partition:
    gpus = partition.gpus
    if rule.max_gpus is not None:
        most = rule.max_gpus
        gpus = tuple(g.model_copy(update={"count": min(g.count, most)}) for g in gpus if most)
    return partition.model_copy(
        update={
            "max_time": lower(partition.max_time, rule.max_time),
            "max_cpus": lower(partition.max_cpus, rule.max_cpus),
            "max_memory": lower(partition.max_memory, rule.max_memory),
            "gpus": gpus,
            "account": rule.account or partition.account,
            "qos": rule.qos or partition.qos,
            "directives": partition.directives + rule.directives,
        }
    )


def lower(one: int | None, other: int | None) -> int | None:
    """The lower of two limits, where None is no limit."""
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def weight_of(weights: Sequence[QueueWeight], queue: str) -> int:
    """A queue's weight: that of the first entry that fits, else 1."""
    return next((w.weight for w in weights if re.search(w.queues, queue)), 1)


def may_be_capped(rules: Sequence[Rule], queue: str) -> bool:
    """Whether experiments of a queue may have to wait for others to end, by whatever rule."""
    return any(r.capped and (not r.queues or re.search(r.queues, queue)) for r in rules)
