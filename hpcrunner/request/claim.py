"""The claim: who may run an attempt, as files that exactly one process can have made.

A submission that was repeated after a crash can put a second job on the same attempt, and the
scheduler can start a job again that the gateway has given up. Both are settled here::

    claims/<index>        the first claim of the attempt
    claims/<index>.<n>    the n-th after it: a restart of the same job, or the gateway's fence

The last one holds. A next one can be made by one process only, so that of a restarting job and
a gateway that fences at the same time one wins and the other sees it. Each file is one JSON
object: an ``Owner``. Claims of earlier versions have a line for each restart; the last counts.
"""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

from hpcrunner.crashpoint import crashpoint
from hpcrunner.sync import sync_folder

# File systems without hard links say so in one of these ways.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# A name that link(2) met may hide from open(2) for as long as NFS remembers it as missing.
_LOOKS, _PAUSE = 50, 0.1


@dataclass(frozen=True, slots=True)
class Owner:
    """Who claims. ``restarts`` is Slurm's count of requeues of this job, 0 at first.

    ``fenced``: the gateway, so that nobody may run the attempt any more. ``time`` is epoch
    seconds of the host's clock.
    """

    host: str
    pid: int
    job_id: str
    restarts: int
    time: float
    fenced: bool = False


class Fenced(Enum):
    """What the fence has cut off."""

    BEFORE_START = "before start"  # nobody had claimed the attempt, and nobody will
    AFTER_START = "after start"  # somebody runs or ran it; no restart of it will


def fence(path: Path) -> Fenced:
    """See that no job starts the attempt of this claim from now on. Raises OSError.

    It may be called again and gives the same answer. It does not stop a job that runs: whoever
    fences knows that it has ended, or has it cancelled.
    """
    gateway = Owner(os.uname().nodename, os.getpid(), "", 0, time.time(), fenced=True)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    held = claims(path)
    while not is_fenced(held):
        if make_claim(path, len(held), gateway):
            held.append(gateway)
        else:
            held = claims(path, at_least=len(held) + 1)
    return Fenced.BEFORE_START if is_fenced(held[:1]) else Fenced.AFTER_START


def is_fenced(held: Sequence[Owner | None]) -> bool:
    """Whether the last of these claims is a fence."""
    last = held[-1] if held else None
    return last is not None and last.fenced


def claims(path: Path, at_least: int = 0) -> list[Owner | None]:
    """All claims of an attempt, oldest first; None for one that is torn. Raises OSError.

    ``at_least``: so many are known to be there, though they may not show yet.
    """
    found: list[Owner | None] = []
    while True:
        name = _name(path, len(found))
        content = _read(name)
        for _ in range(_LOOKS if len(found) < at_least else 0):
            if content is not None:
                break
            time.sleep(_PAUSE)
            content = _read(name)
        if content is None:
            if len(found) < at_least:
                raise OSError(errno.ESTALE, "is there but cannot be read", str(name))
            return found
        found.append(owner_from(content))


def make_claim(path: Path, number: int, owner: Owner) -> bool:
    """Make the claim of that number (0: the first); False where there is one. Raises OSError.

    It appears with all its bytes on disk: a crash leaves a whole claim or none. Where the file
    system has no hard links it is made first and written then, and a crash between leaves an
    empty one, which is nobody's: its attempt ends without a record.
    """
    name = _name(path, number)
    line = (json.dumps(asdict(owner)) + "\n").encode()
    temporary = name.with_name(f".{name.name}.{owner.host}.{os.getpid()}.{time.time_ns():x}")
    try:
        _write(temporary, line)
        crashpoint("claim.written")
        made = _link(temporary, name)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        made = _write_new(name, line)
    finally:
        temporary.unlink(missing_ok=True)
    if made:
        sync_folder(name.parent)
    return made


def owner_from(content: bytes) -> Owner | None:
    """The owner that a claim's content names last; None where it is torn or no claim."""
    try:
        raw = json.loads(content.splitlines()[-1])
        return Owner(
            host=str(raw["host"]),
            pid=int(raw["pid"]),
            job_id=str(raw["job_id"]),
            restarts=int(raw["restarts"]),
            time=float(raw["time"]),
            fenced=raw.get("fenced", False) is True,
        )
    except (ValueError, TypeError, LookupError, AttributeError):
        return None


def _name(path: Path, number: int) -> Path:
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _link(temporary: Path, name: Path) -> bool:
    """link(2), which NFS may do and then report as failed: the count of links tells (open(2))."""
    try:
        os.link(temporary, name)
    except OSError as error:
        with suppress(OSError):
            if temporary.stat().st_nlink == 2:
                return True
        if not isinstance(error, FileExistsError):
            raise
        return False
    return True


def _write_new(name: Path, line: bytes) -> bool:
    try:
        _write(name, line)
    except FileExistsError:
        return False
    return True


def _write(path: Path, line: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line)
        os.fsync(fd)
    finally:
        os.close(fd)
