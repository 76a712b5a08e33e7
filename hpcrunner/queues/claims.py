"""A gateway's private folder under a queue root: messages taken and not yet settled.

Taking is a rename into ``<root>/.hpcrunner-<gateway id>/<queue>/``: atomic, so that of many
takers one wins, and kept over a crash. The folder stands beside the queues, not inside one:
the StudioML client takes everything it finds in a queue folder for a message.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.queues.errors import OptionInvalid

LARGEST_MESSAGE = 32 * 1024 * 1024
_GATEWAY_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Claim:
    """A message file of ours. ``redelivered`` where an earlier process had taken it."""

    queue: str
    name: str
    redelivered: bool = False


class Claims:
    """The claimed messages of one gateway. Methods raise OSError unless they say otherwise.

    ``gateway_id`` must be unique among all gateways on this root, and the same after a restart.
    """

    def __init__(self, root: Path, gateway_id: str) -> None:
        if not _GATEWAY_ID.fullmatch(gateway_id):
            raise OptionInvalid(
                f"{gateway_id!r} cannot name a gateway",
                where="gateway id",
                remedy="use up to 64 letters, digits, dots, dashes and underscores",
            )
        self._root = root
        self.folder = root / f".hpcrunner-{gateway_id}"

    def path(self, claim: Claim) -> Path:
        """Where a claimed message lies."""
        return self.folder / claim.queue / claim.name

    def claim(self, queue: str, name: str) -> Claim:
        """Take a message out of its queue. FileNotFoundError: another taker was faster."""
        source = self._root / queue / name
        # Renaming needs no right to read the file: refuse before it is moved out of sight.
        os.close(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))
        claim = Claim(queue, name)
        target = self.path(claim)
        try:
            source.rename(target)
        except FileNotFoundError:
            if target.parent.is_dir():
                raise
            self.folder.mkdir(mode=0o700, exist_ok=True)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            source.rename(target)
        return claim

    def leftovers(self) -> list[Claim]:
        """What an earlier process of this gateway took and did not settle, oldest first."""
        found: list[tuple[int, Claim]] = []
        if not self.folder.is_dir():
            return []
        for queue in self.folder.iterdir():
            if not queue.is_dir():
                continue
            for message in queue.iterdir():
                claim = Claim(queue.name, message.name, redelivered=True)
                found.append((message.stat(follow_symlinks=False).st_mtime_ns, claim))
        return [claim for _, claim in sorted(found, key=lambda pair: (pair[0], pair[1].name))]

    def read(self, claim: Claim) -> tuple[bytes, tuple[int, int]]:
        """The message, cut one byte above LARGEST_MESSAGE, and its size and mtime (ns) after."""
        handle = os.open(self.path(claim), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as stream:
            body = stream.read(LARGEST_MESSAGE + 1)
            status = os.fstat(handle)
        return body, (status.st_size, status.st_mtime_ns)

    def settle(self, claims: Iterable[Claim]) -> None:
        """Remove these for good, and sync the removals."""
        folders: set[Path] = set()
        for claim in claims:
            path = self.path(claim)
            with suppress(FileNotFoundError):
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def give_back(self, claim: Claim) -> bool:
        """Return a message under its own name; its mtime, and so its place, is kept.

        False where the queue is gone: its owner deleted it with all its messages.
        """
        queue = self._root / claim.queue
        if not queue.is_dir():
            self.path(claim).unlink(missing_ok=True)
            return False
        target = queue / claim.name
        if target.exists():
            target = queue / f"{claim.name}-{uuid.uuid4()}"
        self.path(claim).rename(target)
        return True

    def tidy(self) -> None:
        """Remove the private folders that are empty."""
        with suppress(OSError):
            for folder in (*self.folder.iterdir(), self.folder):
                with suppress(OSError):
                    folder.rmdir()
