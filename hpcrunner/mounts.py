"""Which file system a path lies on, for every room that asks."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path

# By the names that /proc/self/mounts has for them.
_SHARED = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "cvmfs",
        "gfs2",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb3",
        "virtiofs",
        "wekafs",
    ]
)
_OWN = frozenset(
    ["bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"]
)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted file system: where, and of which type; both empty where nobody knows.

    ``shared``: True for types that are there to be shared between machines, False for those that
    are one machine's own, None for all others.
    """

    point: str = ""
    type: str = ""

    @property
    def shared(self) -> bool | None:
        """See the class."""
        kind = self.type.removeprefix("fuse.")
        return True if kind in _SHARED else False if kind in _OWN else None


def says_full(error: OSError) -> bool:
    """Whether it says that a file system has no room, or that a quota on it is used up."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def one_nodes_own(path: Path) -> bool:
    """Whether a path is on a type of file system that one machine has for itself.

    Of types that nobody knows it is not said: what a site names for all its nodes is shared then.
    """
    return mount_of(path).shared is False


def mount_of(path: Path) -> Mount:
    """The mount that holds a path, which need not be there yet."""
    try:
        table = Path("/proc/self/mounts").read_text("utf-8", "replace")
    except OSError:
        return Mount()
    return holder(os.path.realpath(path), table)


def holder(path: str, table: str) -> Mount:
    """The mount of an absolute path in the text of /proc/self/mounts: the last of the deepest."""
    found = Mount()
    for line in table.splitlines():
        words = line.split(" ")
        if len(words) < 3:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), words[1])
        below = path == point or path.startswith(point.rstrip("/") + "/")
        if below and len(point) >= len(found.point):
            found = Mount(point, words[2])
    return found
