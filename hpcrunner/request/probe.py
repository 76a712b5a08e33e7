"""The probe job of ``hpcrunner doctor``: what it is to look at, and what it saw.

A probe's folder is that of a batch with ``probe.json`` in the place of the plan: the batch script
starts the same job side, which finds no plan there, and looks instead of running an experiment::

    probe.json           the order; 0600, for it may hold the credentials of a store
    script, logs/1.out   as in a batch
    probe-report.json    what was seen; by rename
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.location import Location
from hpcrunner.request.plan import location_from

PROBE_NAME = "probe.json"
REPORT_NAME = "probe-report.json"


class ProbeError(HpcrunnerError):
    """An order or report that cannot be read."""

    exit_code = 65  # EX_DATAERR


@dataclass(frozen=True, slots=True)
class ProbeCommand:
    """A command to run in the job; ``timeout`` in seconds."""

    name: str
    argv: tuple[str, ...]
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class ProbeOrder:
    """What to look at.

    ``planted`` is the name of a variable that must not reach the job. ``folders`` are names and
    paths, which may hold ``$NAME``, to write in. ``cpus`` and ``gpus`` are what the job asked for.
    ``secrets`` are names of variables of the login session, each with the ``digest`` of its value.
    """

    planted: str
    folders: tuple[tuple[str, str], ...] = ()
    commands: tuple[ProbeCommand, ...] = ()
    stores: tuple[Location, ...] = field(default=(), repr=False)
    cpus: int = 1
    gpus: int = 0
    secrets: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    def to_json(self) -> str:
        """The order as JSON text."""
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class CommandSeen:
    """How a command ended: ``code`` None where it was not to be had; its last line."""

    name: str
    code: int | None
    line: str


@dataclass(frozen=True, slots=True)
class FolderSeen:
    """A folder on the node; ``trouble`` is empty where it could be written. ``free`` in bytes."""

    name: str
    path: str
    trouble: str
    file_system: str
    free: int


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """A store as the node reaches it; ``trouble`` is empty where it does."""

    address: str
    trouble: str


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What the job saw.

    ``node`` is the scheduler's name for the host, empty where it has none. ``skew`` is the node's
    clock less that of the spool's file system (s); ``written_at`` is the node's time (epoch).
    ``devices`` are the GPUs that were handed out. ``secrets`` are the names of those variables that
    have the value of the login session in the job, too.
    """

    host: str
    node: str
    job_id: str
    python: str
    executable: str
    hpcrunner: str
    leaked: bool
    devices: tuple[str, ...]
    folders: tuple[FolderSeen, ...]
    commands: tuple[CommandSeen, ...]
    stores: tuple[StoreSeen, ...]
    skew: float
    written_at: float
    secrets: tuple[str, ...] = ()

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self))


def digest(order: str, value: str) -> str:
    """A value as it is compared without being told; ``order`` is the random name of its order."""
    return hashlib.sha256(f"{order}\0{value}".encode("utf-8", "surrogateescape")).hexdigest()


def skew(before: float, stamped: float, after: float) -> float:
    """How far this clock is from the one that stamped a file, in seconds.

    It was stamped at some time from ``before`` to ``after``, which are apart where the file system
    is slow.
    """
    return max(before - stamped, 0.0) or min(after - stamped, 0.0)


def order_from_json(text: str, *, where: str) -> ProbeOrder:
    """Read what ``ProbeOrder.to_json`` wrote. Raises ProbeError."""
    try:
        raw: dict[str, Any] = json.loads(text)
        return ProbeOrder(
            **{
                **raw,
                "folders": tuple((name, path) for name, path in raw["folders"]),
                "secrets": tuple((name, value) for name, value in raw["secrets"]),
                "commands": tuple(
                    ProbeCommand(**{**c, "argv": tuple(c["argv"])}) for c in raw["commands"]
                ),
                "stores": tuple(location_from(s) for s in raw["stores"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProbeError(
            f"not a probe's order ({type(error).__name__})",
            where=where,
            remedy="are login node and compute node served by one version of hpcrunner?",
        ) from error


def report_from_json(text: str, *, where: str) -> ProbeReport:
    """Read what ``ProbeReport.to_json`` wrote. Raises ProbeError."""
    try:
        raw: dict[str, Any] = json.loads(text)
        return ProbeReport(
            **{
                **raw,
                "devices": tuple(str(device) for device in raw["devices"]),
                "secrets": tuple(str(name) for name in raw["secrets"]),
                "folders": tuple(FolderSeen(**f) for f in raw["folders"]),
                "commands": tuple(CommandSeen(**c) for c in raw["commands"]),
                "stores": tuple(StoreSeen(**s) for s in raw["stores"]),
            }
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProbeError(
            f"not a probe's report ({type(error).__name__})",
            where=where,
            remedy="are login node and compute node served by one version of hpcrunner?",
        ) from error
