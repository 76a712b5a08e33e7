"""One gateway per spool: a lock file that says who holds it."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

from hpcrunner.errors import HpcrunnerError


class SpoolBusy(HpcrunnerError):
    """Another gateway works on this spool."""

    exit_code = 75  # EX_TEMPFAIL


class SpoolLock:
    """An exclusive flock(2) on the spool's lock file, held until closed or the process ends."""

    def __init__(self, path: Path, *, patience: float = 0.0) -> None:
        """Take the lock, trying for ``patience`` seconds: a passing look of ``holder_of`` may
        stand in the way for an instant. Raises SpoolBusy, naming host and pid of the holder.
        """
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        give_up = time.monotonic() + patience
        try:
            while not _try_lock(self._handle):
                if time.monotonic() >= give_up:
                    raise BlockingIOError
                time.sleep(0.05)
        except OSError as error:
            holder = os.pread(self._handle, 500, 0).decode(errors="replace").strip()
            os.close(self._handle)
            raise SpoolBusy(
                f"a gateway already runs here ({holder or 'it has not said where'})",
                where=f"spool {path.parent}",
                remedy="stop that one first, or name another spool",
            ) from error
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"host {socket.gethostname()} pid {os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let the lock go. The file stays: removing it would let two holders meet."""
        os.ftruncate(self._handle, 0)
        os.close(self._handle)


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder_of(path: Path) -> str | None:
    """Who holds the lock (``host … pid …``), or None where nobody does."""
    try:
        SpoolLock(path).close()
    except SpoolBusy:
        return path.read_text(errors="replace").strip() or "unknown holder"
    except OSError:
        return None
    return None
