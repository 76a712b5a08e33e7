"""The spool's folder: whose, on which file system, how fast, how full."""

from __future__ import annotations

import fcntl
import os
import stat
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hpcrunner.doctor.finding import Finding, fault, ok, warning
from hpcrunner.mounts import Mount, mount_of
from hpcrunner.request.probe import skew
from hpcrunner.request.units import format_bytes

_ROUNDS = 5
_SLOW = 1.0  # seconds; each group of messages costs one such sync
_LEAST_FREE, _LEAST_FILES = 200 << 20, 10_000
SKEW_WARNED, SKEW_REFUSED = 10.0, 240.0  # seconds; many logins by time end at 300


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder as this host sees it.

    ``trouble``: why it cannot be used, "" where it can. ``sync``, ``rename`` and ``lock`` are
    seconds for one, in the middle of a few. ``free`` in bytes, ``files`` in inodes; None where
    nobody counts. ``skew`` is this host's clock less that of the file system, in seconds.
    """

    path: Path
    trouble: str = ""
    mine: bool = True
    mode: int = 0o700
    mount: Mount = field(default_factory=Mount)
    sync: float = 0.0
    rename: float = 0.0
    lock: float | None = 0.0
    free: int | None = None
    files: int | None = None
    skew: float = 0.0


def folder_facts(path: Path) -> FolderFacts:
    """Look at a folder that is there, and write in a folder of our own below it."""
    try:
        found = path.stat()
    except OSError as error:
        return FolderFacts(path, trouble=error.strerror or str(error))
    seen = {
        "mine": found.st_uid == os.geteuid(),
        "mode": stat.S_IMODE(found.st_mode),
        "mount": mount_of(path),
    }
    own = path / f".doctor-{os.getpid()}"
    try:
        own.mkdir(mode=0o700)
        try:
            return FolderFacts(path, **seen, **_measured(own), **_room(path))  # type: ignore[arg-type]
        finally:
            for left in own.iterdir():
                left.unlink()
            own.rmdir()
    except OSError as error:
        return FolderFacts(path, trouble=error.strerror or str(error), **seen)  # type: ignore[arg-type]


def judge_spool(facts: FolderFacts) -> Iterator[Finding]:
    """What the spool needs: private, its owner's, writable, roomy, quick enough, with locks."""
    where, mode = f"spool {facts.path}", f"mode {facts.mode:04o}"
    findings: list[Finding] = []
    if not facts.mine:
        findings.append(
            fault("spool", "belongs to another user", where, "name a folder of your own as spool")
        )
    if facts.mode & 0o077:
        findings.append(
            fault(
                "spool",
                f"is open to others ({mode})",
                where,
                f"it holds credentials: chmod 700 {facts.path}",
            )
        )
    if facts.trouble:
        findings.append(
            fault(
                "spool",
                f"cannot be used ({facts.trouble})",
                where,
                "name a folder of your own on the shared file system as spool",
            )
        )
    else:
        findings += _inconvenient(facts, where)
    yield from findings
    if not findings:
        pace = f"sync {_ms(facts.sync)}, rename {_ms(facts.rename)}, lock {_ms(facts.lock or 0)}"
        free = "" if facts.free is None else f", {format_bytes(facts.free)} free"
        yield ok("spool", f"private, {pace}{free}, on {facts.mount.type or 'some disk'}", where)


def judge_shared(path: Path, mount: Mount, hosts: Sequence[str], here: str) -> Finding:
    """Whether nodes see what lies here; ``hosts`` are those that a job has shown to see it."""
    where, kind = str(path), mount.type or "a file system of some type"
    if any(host != here for host in hosts):
        return ok("shared", f"other hosts see it ({kind})", where)
    if hosts:
        return ok("shared", f"a job saw it, on this very host ({kind})", where)
    if mount.shared is False:
        return warning(
            "shared",
            f"on {kind}, which is a disk of one machine",
            where,
            "put it on a file system that the nodes see; a probe job shows whether they do",
        )
    return ok("shared", f"on {kind}; a probe job shows whether nodes see it", where)


def judge_skew(seconds: float, what: str) -> Finding:
    """A difference of two clocks: ``what`` names them."""
    far = abs(seconds)
    told = f"{far:.1f} s {'ahead' if seconds > 0 else 'behind'}"
    remedy = "tell the administrators: it is NTP's to mend"
    if far >= SKEW_REFUSED:
        return fault("clock", f"{told}: logins by time are refused soon", what, remedy)
    if far >= SKEW_WARNED:
        return warning("clock", f"{told}: times in status and logs are off", what, remedy)
    return ok("clock", "within a second" if far < 1 else told, what)


def _inconvenient(facts: FolderFacts, where: str) -> Iterator[Finding]:
    if facts.lock is None:
        yield fault(
            "spool",
            "its file system has no locks (flock)",
            where,
            "Lustre: mounted with -o flock; or name a folder elsewhere as spool",
        )
    if facts.free is not None and facts.free < _LEAST_FREE:
        yield warning("spool", f"only {format_bytes(facts.free)} free", where, "make room or quota")
    if facts.files is not None and facts.files < _LEAST_FILES:
        yield warning("spool", f"only {facts.files} files more fit", where, "make room or quota")
    if max(facts.sync, facts.rename) > _SLOW:
        yield warning(
            "spool",
            f"slow: {_ms(facts.sync)} to sync a file, {_ms(facts.rename)} to rename one",
            where,
            "each group of messages waits for that; name a folder on a quicker file system",
        )


def _measured(own: Path) -> dict[str, float | None]:
    sync, rename, lock = [], [], []
    apart = 0.0
    locks = True
    for number in range(_ROUNDS):
        file = own / f"file{number}"
        began, before = time.monotonic(), time.time()
        handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(handle, b"probe")
            os.fsync(handle)
            synced = time.monotonic()
            apart = skew(before, os.fstat(handle).st_mtime, time.time())
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(handle, fcntl.LOCK_UN)
            except OSError:
                locks = False
            locked = time.monotonic()
        finally:
            os.close(handle)
        file.rename(own / "renamed")
        sync.append(synced - began)
        lock.append(locked - synced)
        rename.append(time.monotonic() - locked)
    middle = statistics.median
    return {
        "sync": middle(sync),
        "rename": middle(rename),
        "lock": middle(lock) if locks else None,
        "skew": apart,
    }


def _room(path: Path) -> dict[str, int | None]:
    found = os.statvfs(path)
    return {
        "free": found.f_bavail * found.f_frsize,
        # Some file systems make inodes as they go, and count none.
        "files": found.f_favail if found.f_files else None,
    }


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.001 else "under 1 ms"
