"""Retention of the spool's own file store, into which ``hpcrunner submit`` puts work.

An experiment's results and its record may go once the journal has forgotten it; an archive of a
workspace, once no message that may still be run names it. Both only after the site's time without
anybody writing them or submitting that workspace again, and both only where they bear names that
the client gives: whatever else lies there is a person's.

What goes is taken out of sight first, and its age is looked at then: a submission that finds its
archive there touches it (client/upload.py), so one of the two sees the other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.removal import changed_at
from hpcrunner.gateway.spool import Spool
from hpcrunner.request.storelayout import (
    ARTIFACTS_BUCKET,
    BLOBS,
    EXPERIMENTS,
    KEY,
    RECORDS_BUCKET,
    SHA256,
)

_ASIDE = ".going-"
_PAGE = 100  # messages in memory at once


@dataclass(frozen=True, slots=True)
class Stored:
    """Something in the store; ``name`` is the experiment's key, or the archive's SHA-256."""

    path: Path
    name: bytes
    archive: bool = False


def stored(store: Path) -> list[Stored]:
    """What of a store bears the client's names; what an earlier sweep began comes first."""
    artifacts, records = store / ARTIFACTS_BUCKET, store / RECORDS_BUCKET
    found = []
    for folder, archive in (
        (artifacts / EXPERIMENTS, False),
        (records / EXPERIMENTS, False),
        (artifacts / BLOBS, True),
    ):
        with suppress(FileNotFoundError):
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                name = os.fsencode(entry.name.removeprefix(_ASIDE))
                stem = name.removesuffix(b".tar") if archive else name
                form = SHA256 if archive else KEY
                if form.fullmatch(stem) and not entry.is_symlink():
                    found.append(Stored(Path(entry.path), stem, archive))
    return found


def needed(
    journal: Reader, spool: Spool, gone: Collection[str], blank: Collection[str]
) -> Generator[None, None, set[bytes]]:
    """The names in all messages that may still be run, and the keys that the journal knows.

    A dry run passes the experiments that would be ``gone`` from the journal by now, or ``blank``,
    without their messages. Read step by step, in the order in which a message goes its way, so
    that none slips by. Raises JournalError and OSError.
    """
    names: set[bytes] = set()
    for place in (".publishing/*/*", "[!.]*/*", ".hpcrunner-*/*/*"):
        for path in spool.queue_root.glob(place):
            with suppress(FileNotFoundError, IsADirectoryError):
                names |= _names(path.read_bytes())
            yield
    after = 0
    while page := journal.aging.messages(after, _PAGE):
        after = page[-1][0]
        for _, experiment, message in page:
            if experiment not in gone and experiment not in blank:
                names |= _names(message)
        yield
    return names | {os.fsencode(key) for key in journal.aging.known_keys(gone)}


def _names(message: bytes) -> set[bytes]:
    return {*SHA256.findall(message), *KEY.findall(message)}


def young(path: Path, before: float) -> bool:
    """Whether it was written or touched since (epoch seconds). Raises OSError."""
    if path.is_dir():
        return changed_at(path) >= before
    # Opened, since NFS answers a stat from its memory and an open from the server.
    with path.open("rb") as file:
        return os.fstat(file.fileno()).st_mtime >= before


def begun(path: Path) -> bool:
    """Whether a folder's removal was begun by a sweep that did not come to its end."""
    return path.name.startswith(_ASIDE) and path.is_dir()


def out_of_sight(path: Path, before: float) -> Path | None:
    """Its new path; None for one that somebody has used meanwhile. Raises OSError."""
    aside = path
    if not path.name.startswith(_ASIDE):
        aside = path.rename(path.with_name(f"{_ASIDE}{path.name}"))
    if young(aside, before):
        aside.rename(aside.with_name(aside.name.removeprefix(_ASIDE)))
        return None
    return aside


def unfinished(store: Path) -> Iterator[Path]:
    """What writes that were broken off have left: see storage/file.py."""
    for bucket in (ARTIFACTS_BUCKET, RECORDS_BUCKET):
        for place in (f"{BLOBS}/.*.part", f"{EXPERIMENTS}/.*.part", f"{EXPERIMENTS}/*/.*.part"):
            yield from (store / bucket).glob(place)
