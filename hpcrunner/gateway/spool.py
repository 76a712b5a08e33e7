"""The spool: the gateway's folder on the shared file system, private to its user.

Layout::

    journal.db             the journal (SQLite)
    reports.db             how far the reports have come; see reports/positions.py
    gateway.lock           who runs here: host, pid, since when, and a sign of life
    drained                there while no new experiments are to be taken; who, when and why
    batches/<batch id>/    one folder a batch: see hpcrunner/request/plan.py
    queue/local_submit/    directory queue of ``hpcrunner submit``
    wishes/<verb>/<id>     what people ask of an experiment, until the gateway has taken it up
    wishes/collect         somebody wants what has aged out removed now: see collector.py
    local/                 the local scheduler's own state
    store/                 file storage of ``hpcrunner submit`` where the site names no other
    metadata-store         how far the metadata store has come: see metadata_store.py
    staging/               what is carried for nodes without a network: see staging/layout.py
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.claim import Fenced, claims, fence
from hpcrunner.request.plan import (
    CLAIMS,
    EVENTS,
    LOGS,
    PLAN_NAME,
    RECORDS,
    SCRIPT_NAME,
    Plan,
    PlanError,
    read_plan,
)
from hpcrunner.sync import sync_folder, write_synced

PRIVATE_FOLDER = 0o700
PRIVATE_FILE = 0o600
SUBMIT_QUEUE = "local_submit"
_RECORD_NAME = re.compile(r"(\d{1,9})\.json")
_EXPERIMENT_ID = re.compile(r"[0-9a-f]{12}")


class Verb(str, Enum):
    """What people may ask of an experiment."""

    CANCEL = "cancel"
    RETRY = "retry"  # one of the dead list is to run again
    DROP = "drop"  # one of the dead list needs nobody's care any more


class SpoolError(HpcrunnerError):
    """The spool cannot be used as it is."""

    exit_code = 73  # EX_CANTCREAT


class Spool:
    """Paths and private writes under one folder. Raises SpoolError where it may not be used."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the folders that are missing, and refuse a spool that others could enter."""
        try:
            for folder in (
                self.root,
                self.batches,
                self.queue_root,
                self.queue_root / SUBMIT_QUEUE,
                *(self.wish_root / verb.value for verb in Verb),
                self.store,
            ):
                folder.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            found = self.root.stat()
        except OSError as error:
            raise SpoolError(
                f"cannot be made or read ({error.strerror})",
                where=f"spool {self.root}",
                remedy="name a folder of your own on the shared file system as 'spool'",
            ) from error
        if found.st_uid != os.geteuid():
            raise SpoolError(
                "belongs to another user",
                where=f"spool {self.root}",
                remedy="name a folder of your own as 'spool' in the site file",
            )
        if not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
            raise SpoolError(
                f"cannot be written (mode {stat.S_IMODE(found.st_mode):04o}, or its file system is "
                "read-only)",
                where=f"spool {self.root}",
                remedy=f"chmod 700 {self.root}, or see how it is mounted",
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise SpoolError(
                f"is open to others (mode {stat.S_IMODE(found.st_mode):04o})",
                where=f"spool {self.root}",
                remedy=f"it will hold credentials: chmod 700 {self.root}",
            )

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self.root / "journal.db"

    @property
    def positions(self) -> Path:
        """The file of the reports' positions."""
        return self.root / "reports.db"

    @property
    def lock(self) -> Path:
        """The gateway's lock file."""
        return self.root / "gateway.lock"

    @property
    def drain_mark(self) -> Path:
        """The file that keeps gateways from taking anything new."""
        return self.root / "drained"

    @property
    def batches(self) -> Path:
        """The folder of all batch folders."""
        return self.root / "batches"

    @property
    def queue_root(self) -> Path:
        """The root of the spool's own directory queues."""
        return self.root / "queue"

    @property
    def wish_root(self) -> Path:
        """The folder of wishes, a folder a verb."""
        return self.root / "wishes"

    @property
    def local(self) -> Path:
        """The local scheduler's folder."""
        return self.root / "local"

    @property
    def store(self) -> Path:
        """File storage for hand-submitted experiments."""
        return self.root / "store"

    def batch_folder(self, batch: str) -> Path:
        """The folder of a batch id."""
        return self.batches / batch

    def write_batch(self, plan: Plan, script: str) -> Path:
        """Write a batch's folder whole and synced; returns it.

        A handful of files and syncs, whatever the number of experiments in the plan.
        """
        folder = self.batch_folder(plan.batch)
        try:
            folder.mkdir(mode=PRIVATE_FOLDER)
            for name in (CLAIMS, EVENTS, RECORDS, LOGS):
                (folder / name).mkdir(mode=PRIVATE_FOLDER)
            write_synced(folder / PLAN_NAME, plan.to_json(), PRIVATE_FILE)
            write_synced(folder / SCRIPT_NAME, script, PRIVATE_FOLDER)
            sync_folder(folder)
            sync_folder(self.batches)
        except OSError as error:
            if not isinstance(error, FileExistsError):
                self.remove_batch(plan.batch)  # or each try on a full disk would leave one
            raise SpoolError(
                f"cannot write a batch ({error.strerror})",
                where=str(folder),
                remedy="free some room or quota; nothing was submitted, it is tried again",
            ) from error
        return folder

    def remove_batch(self, batch: str) -> None:
        """Remove a batch's folder; missing is fine."""
        shutil.rmtree(self.batch_folder(batch), ignore_errors=True)

    def batch_names(self) -> list[str]:
        """The ids of all batch folders there are."""
        return sorted(entry.name for entry in os.scandir(self.batches) if entry.is_dir())

    def plan(self, batch: str) -> Plan | None:
        """A batch's plan, or None where it is not whole."""
        try:
            return read_plan(self.batch_folder(batch))
        except PlanError:
            return None

    def started(self, batch: str) -> bool:
        """Whether a job has claimed or left anything in a batch's folder."""
        folder = self.batch_folder(batch)
        for name in (CLAIMS, EVENTS, RECORDS, LOGS):
            with suppress(FileNotFoundError):
                if os.listdir(folder / name):
                    return True
        return False

    def fence(self, batch: str, task: int) -> Fenced:
        """See that no job starts this attempt any more. Raises SpoolError.

        Without its folder (a batch that was refused, or an old journal put back) none can: the
        plan is gone. Whether one had started, nobody can tell then.
        """
        try:
            return fence(self.batch_folder(batch) / CLAIMS / str(task))
        except OSError as error:
            if isinstance(error, FileNotFoundError) and not self.batch_folder(batch).exists():
                return Fenced.AFTER_START
            raise SpoolError(
                f"cannot fence an attempt ({error.strerror})",
                where=str(self.batch_folder(batch)),
                remedy="free some room or quota; it is tried again",
            ) from error

    def claimant(self, batch: str, task: int) -> str:
        """The id of the job that has claimed an attempt; "" for none, or where none can be read."""
        try:
            held = claims(self.batch_folder(batch) / CLAIMS / str(task))
        except OSError:
            return ""
        owners = [owner for owner in held if owner is not None and not owner.fenced]
        return owners[-1].job_id if owners else ""

    def log(self, batch: str, task: int) -> Path:
        """The scheduler's output file of a task."""
        return self.batch_folder(batch) / LOGS / f"{task}.out"

    def record(self, batch: str, task: int) -> Path:
        """Where a task leaves its record."""
        return self.batch_folder(batch) / RECORDS / f"{task}.json"

    def events(self, batch: str, task: int) -> Path:
        """The progress of a task."""
        return self.batch_folder(batch) / EVENTS / str(task)

    def records(self, batch: str) -> dict[int, Path]:
        """The records of a batch by task index: one listing, no file is opened."""
        try:
            names = os.listdir(self.batch_folder(batch) / RECORDS)
        except FileNotFoundError:
            return {}
        matches = (_RECORD_NAME.fullmatch(name) for name in names)
        folder = self.batch_folder(batch) / RECORDS
        return {int(m[1]): folder / m[0] for m in matches if m}

    def wish(self, verb: Verb, ids: Iterable[str]) -> None:
        """Leave a wish about these experiments for the gateway to take up. Raises SpoolError."""
        folder = self.wish_root / verb.value
        try:
            for experiment in ids:
                (folder / experiment).touch(mode=PRIVATE_FILE)
            sync_folder(folder)
        except OSError as error:
            raise SpoolError(
                f"cannot leave a wish ({error.strerror})",
                where=str(folder),
                remedy="free some room or quota, and ask again",
            ) from error

    def wishes(self, verb: Verb) -> list[str]:
        """The experiment ids of which somebody wishes that."""
        names = os.listdir(self.wish_root / verb.value)
        return sorted(n for n in names if _EXPERIMENT_ID.fullmatch(n))

    def wish_taken(self, verb: Verb, experiment: str) -> None:
        """The wish is journalled: forget the file."""
        (self.wish_root / verb.value / experiment).unlink(missing_ok=True)
