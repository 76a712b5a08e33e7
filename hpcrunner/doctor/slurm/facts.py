"""All that Slurm says of itself to an ordinary user, asked once."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.slurm import assoc, show
from hpcrunner.errors import HpcrunnerError
from hpcrunner.schedulers import sacct, scontrol
from hpcrunner.schedulers.command import CommandFailed
from hpcrunner.schedulers.contract import SchedulerUnavailable

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "scontrol", "srun", "sacctmgr")
_AS_OF = re.compile(r"Configuration data as of (\d+)")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Facts:
    """The answers, and for what was not to be had (by the name of its field) why.

    ``skew`` is this host's clock less the controller's, in seconds; None where it is not told.
    """

    commands: Mapping[str, str] = field(default_factory=dict)
    client: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    skew: float | None = None
    partitions: tuple[show.RealPartition, ...] = ()
    nodes: tuple[show.RealNode, ...] = ()
    user: str = ""
    associations: tuple[assoc.Association, ...] = ()
    default_account: str = ""
    groups: tuple[str, ...] = ()
    troubles: Mapping[str, SchedulerUnavailable] = field(default_factory=dict)

    @property
    def config(self) -> scontrol.ClusterConfig:
        """The settings that the schedulers use."""
        return scontrol.config_of(self.settings)

    def has(self, name: str) -> bool:
        """Whether a field was answered."""
        return name not in self.troubles

    def nodes_of(self, partition: str) -> list[show.RealNode]:
        """The nodes of a partition."""
        return [node for node in self.nodes if partition in node.partitions]


def ask_all(edge: Edge, *, sacctmgr: bool = True) -> Facts:
    """Ask everything; what fails is noted, and what needs it is left out."""
    commands = {name: edge.find(name) for name in COMMANDS}
    troubles: dict[str, SchedulerUnavailable] = {}

    def answer(name: str, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except (SchedulerUnavailable, CommandFailed) as error:
            troubles[name] = _unavailable(error)
            return otherwise

    if not commands["scontrol"]:
        missing = SchedulerUnavailable(
            "there is no scontrol on the PATH",
            where="Slurm",
            remedy="load the site's module for Slurm; others than Slurm: hpcrunner site list",
        )
        return Facts(commands=commands, troubles=dict.fromkeys(_ASKED, missing))
    printed = edge.first_line(["scontrol", "--version"])
    began = edge.clock()
    config = answer("settings", lambda: edge.ask(scontrol.ARGV), None)
    middle = (began + edge.clock()) / 2
    settings: Mapping[str, str] = {}
    skew = None
    if config is not None:
        settings = answer("settings", lambda: scontrol.settings(config), {})
        told = _AS_OF.search(config.stdout)
        # The controller tells whole seconds: half of one is its own doubt.
        skew = middle - (int(told[1]) + 0.5) if told else None
    if "settings" in troubles:  # each further question would wait as long in vain
        away = dict.fromkeys(_ASKED, troubles["settings"])
        return Facts(commands=commands, client=_version(printed), troubles=away)
    user = edge.environ.get("USER") or edge.first_line(["id", "-un"])
    found: tuple[assoc.Association, ...] = ()
    default = ""
    if scontrol.config_of(settings).accounting:
        answer("accounting", lambda: sacct.parse(edge.ask(ACCOUNTING)), None)
    if sacctmgr and commands["sacctmgr"] and "accounting" not in troubles:
        cluster = settings.get("ClusterName", "")
        found = answer("associations", lambda: assoc.parse(edge.ask(assoc.argv(user)), cluster), ())
        default = answer(
            "default_account", lambda: assoc.parse_default(edge.ask(assoc.default_argv(user))), ""
        )
    elif "accounting" in troubles:
        troubles["associations"] = troubles["accounting"]
    return Facts(
        commands=commands,
        client=_version(printed),
        settings=settings,
        skew=skew,
        partitions=answer(
            "partitions", lambda: show.partitions(edge.ask(list(show.PARTITIONS))), ()
        ),
        nodes=answer("nodes", lambda: show.nodes(edge.ask(list(show.NODES))), ()),
        user=user,
        associations=found,
        default_account=default,
        groups=tuple(edge.first_line(["id", "-Gn"]).split()),
        troubles=troubles,
    )


# Any question that only slurmdbd can answer, in the form of our own.
ACCOUNTING = next(iter(sacct.argvs(["1"])))
_ASKED = ("settings", "accounting", "associations", "default_account", "partitions", "nodes")


def _version(printed: str) -> str:
    """``slurm 23.11.4`` or ``slurm-wlm 22.05.8`` as its number."""
    match = re.search(r"\d+\.\d+(\.\d+)?", printed)
    return match[0] if match else ""


def _unavailable(error: HpcrunnerError) -> SchedulerUnavailable:
    if isinstance(error, SchedulerUnavailable):
        return error
    return SchedulerUnavailable(error.what, where=error.where, remedy=error.remedy)
