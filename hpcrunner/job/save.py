"""Saving the mutable artifacts: now and then while the payload runs, and at its end.

``retval`` is saved at the end only: the client takes the first whole object it finds there as
the task's result. An artifact is packed when its files may have changed since the last upload (or
since it was fetched), sent when their content has, never twice at once, and never when it is
empty: an empty folder must not replace results of an earlier attempt.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.events import Events, size
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.plan import PlannedArtifact
from hpcrunner.request.record import SavedArtifact
from hpcrunner.storage.contract import StoreUnreachable

if TYPE_CHECKING:
    from hpcrunner.storage.pack import Signature

AT_THE_END_ONLY = frozenset({"retval"})
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 20.0
_LOOK_AGAIN = 0.5
# Files that changed so shortly before may change once more without looking otherwise: clocks of
# file systems tick, some of them once in two seconds.
_TICK = 2.0
# Stores one artifact's folder; returns the very object of the last time where nothing was sent.
Upload = Callable[[PlannedArtifact, Path], SavedArtifact]
# A moment of the monotonic clock. It is asked again and again: a signal can bring it nearer.
Until = Callable[[], float]


@dataclass(slots=True)
class _Slot:
    """What is known of one mutable artifact. ``interval`` None: at the end only."""

    artifact: PlannedArtifact
    path: Path
    interval: float | None
    due: float = 0.0
    signature: Signature | None = None
    saved: SavedArtifact | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Saver:
    """The saves of one attempt. ``upload`` packs and stores one artifact's path.

    ``before`` is called with an artifact's tag each time before its path is looked at.
    """

    def __init__(
        self,
        artifacts: Iterable[PlannedArtifact],
        workspace: Workspace,
        interval: float,
        upload: Upload,
        events: Events,
        on_saved: Callable[[], None],
        before: Callable[[str], None] = lambda tag: None,
    ) -> None:
        self._slots = [
            _Slot(artifact, workspace.tag(artifact.tag), _interval(artifact, interval))
            for artifact in artifacts
        ]
        self._upload = upload
        self._events = events
        self._on_saved = on_saved
        self._before = before
        self._done = threading.Event()

    @property
    def saved(self) -> tuple[SavedArtifact, ...]:
        """The last upload of each artifact that had one."""
        return tuple(slot.saved for slot in self._slots if slot.saved is not None)

    def start(self) -> None:
        """Take what is there as already stored, and begin the periodic saves."""
        from hpcrunner.storage.pack import content_signature

        now = time.monotonic()
        for slot in self._slots:
            slot.signature = content_signature(slot.path)
            slot.due = now + (slot.interval or 0.0)
        if any(slot.interval for slot in self._slots):
            threading.Thread(target=self._periodically, daemon=True).start()

    def finish(self, until: Until, tags: frozenset[str] | None = None) -> list[str]:
        """Save what changed (of ``tags`` only, where given), all at once, trying ``until`` then.

        Returns what could not be saved, a line each.
        """
        self._done.set()
        failures: dict[str, str] = {}
        running = []
        for slot in self._slots:
            tag = slot.artifact.tag
            if tags is not None and tag not in tags:
                continue
            failures[tag] = f"artifact {tag} was not saved: no time was left for it"
            thread = threading.Thread(target=self._finish_one, args=(slot, until, failures))
            thread.daemon = True
            thread.start()
            running.append(thread)
        for thread in running:
            while thread.is_alive() and (left := until() - time.monotonic()) > 0:
                thread.join(min(left, _LOOK_AGAIN))
        return [line for line in failures.values() if line]

    def _finish_one(self, slot: _Slot, until: Until, failures: dict[str, str]) -> None:
        failures[slot.artifact.tag] = self._save(slot, until)

    def _periodically(self) -> None:
        timed = [slot for slot in self._slots if slot.interval]
        while not self._done.wait(max(0.0, min(s.due for s in timed) - time.monotonic())):
            saved_before = self.saved
            for slot in timed:
                interval = slot.interval or 0.0
                if slot.due <= time.monotonic() and not self._done.is_set():
                    self._save(slot, time.monotonic)  # one try: the next comes by itself
                    slot.due = time.monotonic() + interval
            if self.saved != saved_before:
                self._on_saved()

    def _save(self, slot: _Slot, until: Until) -> str:
        """Save one artifact if it changed; empty, or one line on why it could not be saved."""
        tag = slot.artifact.tag
        if not slot.lock.acquire(timeout=max(0.0, until() - time.monotonic())):
            return f"artifact {tag} was not saved: an earlier save of it still runs"
        try:
            self._before(tag)
            self._upload_changed(slot, until)
        except HpcrunnerError as error:
            why = error.line()
        except OSError as error:
            why = f"{error.filename or slot.path}: {error.strerror}"
        except Exception as error:  # whatever a store's client throws is no reason to end
            why = f"{type(error).__name__}: {error}"
        else:
            return ""
        finally:
            slot.lock.release()
        line = f"artifact {tag} was not saved: {why}"
        self._events.tell("save_failed", line, tag=tag)
        return line

    def _upload_changed(self, slot: _Slot, until: Until) -> None:
        from hpcrunner.storage.pack import content_signature

        looked = time.time()
        signature = content_signature(slot.path)
        if signature == slot.signature or not _holds_files(slot.path):
            return
        pause = _FIRST_PAUSE
        began = time.monotonic()
        while True:
            try:
                saved = self._upload(slot.artifact, slot.path)
                break
            except StoreUnreachable:
                if time.monotonic() + pause >= until():
                    raise
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
        # Taken before the upload: what changed meanwhile is saved again next time.
        slot.signature = signature if signature.newest < looked - _TICK else None
        if saved is slot.saved:
            self._events.note("unchanged", tag=saved.tag)
            return
        slot.saved = saved
        crashpoint("job.artifact_saved")
        took = time.monotonic() - began
        text = f"saved {saved.tag}, {size(saved.size)} in {took:.1f} s"
        self._events.tell("saved", text, tag=saved.tag, size=saved.size)


def _holds_files(path: Path) -> bool:
    return path.is_file() or any(files for _, _, files in os.walk(path))


def _interval(artifact: PlannedArtifact, default: float) -> float | None:
    if artifact.tag in AT_THE_END_ONLY:
        return None
    chosen = artifact.save_frequency or default
    return chosen if chosen > 0 else None
