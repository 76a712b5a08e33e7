"""What can be wrong with an image, by the reasons that an attempt ends for."""

from __future__ import annotations

from pathlib import Path

from hpcrunner.mounts import one_nodes_own, says_full
from hpcrunner.request.reasons import Reason
from hpcrunner.request.units import format_bytes
from hpcrunner.storage.contract import StorageError


class ImageUnusable(StorageError):
    """No image, one without the digest or the signature that is demanded."""

    exit_code = 65  # EX_DATAERR
    reason = Reason.ARTIFACT_REFUSED


_EXIT_CODES = {
    Reason.ARTIFACT_NOT_FOUND: 66,  # EX_NOINPUT
    Reason.ARTIFACT_DENIED: 77,  # EX_NOPERM
    Reason.ARTIFACT_REFUSED: 65,  # EX_DATAERR
    Reason.JOB_SIDE_FAULT: 73,  # EX_CANTCREAT: the cache
    Reason.NO_ROOM: 73,
}


class PullFailed(StorageError):
    """An image did not come; ``reason`` says whether it ever will."""

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        reason: Reason = Reason.STORE_UNREACHABLE,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reason = reason
        self.exit_code = _EXIT_CODES.get(reason, StorageError.exit_code)


class FailedBefore(StorageError):
    """What another job met a moment ago, in its words."""

    def __init__(self, line: str, reason: Reason) -> None:
        super().__init__(line)
        self.reason = reason
        self.exit_code = _EXIT_CODES.get(reason, StorageError.exit_code)


def too_large(where: str, largest: int) -> ImageUnusable:
    """What is said of an image that is larger than this site takes."""
    return ImageUnusable(
        f"larger than the {format_bytes(largest)} that an image may have here",
        where=where,
        remedy="make it smaller, or ask the site to raise container.max_image",
    )


def no_room(where: str, folder: Path) -> PullFailed:
    """What is said where the cache's disk is full; ``folder`` is the cache, or in it.

    It is the node's fault only where the disk is the node's own: a full one that all nodes share
    would be met on each of them in turn.
    """
    own = one_nodes_own(folder)
    return PullFailed(
        "no room for it in the image cache" + (", on this node's own disk" if own else ""),
        where=where,
        remedy="make room for container.cache, or name another folder",
        reason=Reason.JOB_SIDE_FAULT if own else Reason.NO_ROOM,
    )


def cannot_be_used(folder: Path, error: OSError) -> PullFailed:
    """What is said where the cache's folder cannot be made, or nothing in it."""
    if says_full(error):
        return no_room(f"image cache {folder}", folder)
    return PullFailed(
        f"cannot be used ({error.strerror or type(error).__name__})",
        where=f"image cache {folder}",
        remedy="name a folder that is this user's with container.cache of the site file",
        reason=Reason.JOB_SIDE_FAULT,
    )
