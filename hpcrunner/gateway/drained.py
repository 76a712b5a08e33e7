"""The drain mark: a file of the spool that keeps every gateway on it from taking new work."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import time
from dataclasses import asdict, dataclass

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.spool import PRIVATE_FILE, Spool, SpoolError
from hpcrunner.sync import sync_folder, write_synced

_LONGEST_REASON = 500
_LONGEST_MARK = 4096


class SpoolDrained(HpcrunnerError):
    """No new experiments are taken on this spool."""

    exit_code = 75  # EX_TEMPFAIL


@dataclass(frozen=True, slots=True)
class Drained:
    """The mark: since when (epoch seconds), by whom (``user@host``), and why, in one line.

    ``since`` is 0 and the rest empty where the file cannot be understood: it counts all the same.
    """

    since: float = 0.0
    by: str = ""
    reason: str = ""

    def words(self) -> str:
        """``drained since … by …: reason``."""
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        text = f"drained since {when} by {self.by}" if self.by else "drained, nobody can tell why"
        return f"{text}: {self.reason}" if self.reason else text


def mark_of(spool: Spool) -> Drained | None:
    """The spool's mark, if there is one. Raises SpoolError where nobody can tell."""
    try:
        with spool.drain_mark.open("rb") as file:
            raw = json.loads(file.read(_LONGEST_MARK))
        return Drained(float(raw["since"]), str(raw["by"]), str(raw["reason"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(spool, error) from error
    except (ValueError, TypeError, KeyError):
        return Drained()


def drain(spool: Spool, reason: str) -> tuple[Drained, bool]:
    """Mark the spool; returns the mark, and whether it is new: the first one stays.

    Raises SpoolError.
    """
    there = mark_of(spool)
    if there is not None:
        return there, False
    mark = Drained(round(time.time(), 3), _who(), " ".join(reason.split())[:_LONGEST_REASON])
    unfinished = spool.root / f".drained-{secrets.token_hex(4)}"
    try:
        try:
            write_synced(unfinished, json.dumps(asdict(mark)), PRIVATE_FILE)
            crashpoint("drain.written")
            unfinished.rename(spool.drain_mark)
        finally:
            unfinished.unlink(missing_ok=True)
        sync_folder(spool.root)
    except OSError as error:
        raise _unusable(spool, error) from error
    return mark, True


def resume(spool: Spool) -> bool:
    """Take the mark away; returns whether there was one. Raises SpoolError."""
    try:
        spool.drain_mark.unlink()
        sync_folder(spool.root)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _unusable(spool, error) from error
    return True


def refuse_where_drained(spool: Spool) -> None:
    """Raise SpoolDrained where the spool has the mark."""
    mark = mark_of(spool)
    if mark is not None:
        raise SpoolDrained(
            f"{mark.words()}; nothing was submitted",
            where=f"spool {spool.root}",
            remedy="'hpcrunner resume' lets it take new experiments again",
        )


def _who() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _unusable(spool: Spool, error: OSError) -> SpoolError:
    return SpoolError(
        f"the drain mark cannot be read or written ({error.strerror})",
        where=str(spool.drain_mark),
        remedy="check room and permissions of the spool",
    )
