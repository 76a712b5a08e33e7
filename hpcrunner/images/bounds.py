"""The image cache kept within its bounds: what was not used for longest goes.

Never what a job uses. Its mark is locked while it runs; where locks do not reach other nodes, the
mark's time says so, which is why an image that was used in the last hours stays in any case.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

from hpcrunner.usemark import MARK_EVERY, in_use, marked_at

IMAGE, MARK = ".sif", ".used"
KEPT = 2 * MARK_EVERY + 600.0  # a mark may be late
_GONE = ".gone"
_IMAGE = re.compile(r"[0-9a-f]{64}\.sif(\.gone)?")
_OURS = re.compile(r"[0-9a-f]{64}\.(json|failed|[0-9]+\.lock|used)(\.[0-9a-f]+\.new)?")
_DEAD_NOTE = 7 * 86400.0


def make_room(folder: Path, limit: int, now: float) -> list[str]:
    """Remove images until those left are within ``limit`` bytes; returns the names of those.

    ``now`` is the time by the file system's clock. Notes and locks that nobody has touched for a
    week go too. Raises OSError where there is no such folder.
    """
    images, total, removed = [], 0, []
    for entry in list(os.scandir(folder)):
        with suppress(OSError):
            status = entry.stat(follow_symlinks=False)
            if _IMAGE.fullmatch(entry.name):
                name = entry.name.removesuffix(_GONE)
                used = marked_at(folder / name.replace(IMAGE, MARK), status.st_mtime)
                images.append((used, status.st_size, name))
                total += status.st_size
            elif _OURS.fullmatch(entry.name) and now - status.st_mtime > _DEAD_NOTE:
                _remove_note(Path(entry.path))
    for used, size, name in sorted(images):
        if total <= limit:
            break
        with suppress(OSError):
            if _take_away(folder / name, used, now):
                total -= size
                removed.append(name)
    return removed


def _take_away(image: Path, used: float, now: float) -> bool:
    """Out of sight first, then a look at its mark: of a job that starts now, one sees the other."""
    mark, hidden = image.with_suffix(MARK), image.with_name(image.name + _GONE)
    if now - used < KEPT or in_use(mark):
        return False
    with suppress(FileNotFoundError):  # hidden by one that died before it removed it
        image.rename(hidden)
    if in_use(mark) or marked_at(mark, used) > used:
        hidden.rename(image)
        return False
    hidden.unlink()
    mark.unlink(missing_ok=True)
    return True


def _remove_note(note: Path) -> None:
    """A note of what is there stays for as long as that is; so does a mark."""
    if note.suffix == MARK and note.with_suffix(IMAGE).exists():
        return
    if note.suffix == ".json":
        with suppress(OSError):
            text = note.read_text("utf-8", "replace")
            found = re.search(r"[0-9a-f]{64}\.sif", text)
            if found and (note.parent / found[0]).exists():
                return
    note.unlink(missing_ok=True)
