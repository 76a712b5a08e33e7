"""The job side as the gateway meets it: claims and records of jobs that a played Slurm starts."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from slurm.cluster import UP, Cluster, Task
from truth import Attempt, Broken, Truth, expected

from hpcrunner.job.claim import Claim, job_id, take_claim
from hpcrunner.job.recordfile import make_way, read_record, write_record
from hpcrunner.request.claim import Owner
from hpcrunner.request.plan import PlanError, read_plan
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record

NODES = ("n0", "n1", "n2")
KILL_WAIT = 30.0
_NO_PROCESS = 10**8  # above Linux's highest process id, so that none is ever found alive


@dataclass
class Run:
    """A started task, by its job and index: what the job side came to when it claimed."""

    base: int
    index: int | None
    attempt: Attempt | None  # None where the plan was not there any more
    owner: Owner
    claimed: bool
    folder: Path

    @property
    def task(self) -> int:
        return self.index or 1


class Nodes:
    """Starts and ends the tasks of the cluster, and tells ``truth`` of it."""

    def __init__(self, cluster: Cluster, truth: Truth, clock: Callable[[], float]) -> None:
        self.ledger: list[tuple[Attempt, str, int]] = []  # attempt, job id, restarts
        self._cluster = cluster
        self._truth = truth
        self._clock = clock
        self._pids = itertools.count(_NO_PROCESS)
        self._runs: dict[tuple[int, int | None], Run] = {}
        self._late_records: list[tuple[float, Path, Record]] = []

    def records_come(self, until: float) -> None:
        """Those show that were late on the shared file system."""
        for late in [late for late in self._late_records if late[0] <= until]:
            self._late_records.remove(late)
            write_record(late[1], late[2])

    def kill_what_lingers(self) -> None:
        """Slurm kills what does not end by itself after SIGTERM, whatever it shows."""
        for at in self.completing():
            run, task = self._runs.get(at), self.task(at)
            if run is not None and task.told and (task.end or 0) + KILL_WAIT <= self._clock():
                del self._runs[at]
                if not task.requeues:
                    self._tell_truth(run, None, task.word)

    def waiting(self) -> list[tuple[int, int | None]]:
        return self._tasks(lambda task: task.waits)

    def running(self) -> list[tuple[int, int | None]]:
        return self._tasks(lambda task: task.word == "RUNNING" and not task.flag)

    def completing(self) -> list[tuple[int, int | None]]:
        return self._tasks(lambda task: task.flag == "COMPLETING")

    def held(self) -> list[tuple[int, int | None]]:
        return self._tasks(lambda task: bool(task.flag) and task.flag != "COMPLETING")

    def ended(self) -> list[tuple[int, int | None]]:
        return self._tasks(lambda task: task.end is not None and not task.flag)

    def _tasks(self, which: Callable[[Task], bool]) -> list[tuple[int, int | None]]:
        return [
            (job.base, task.index)
            for job in self._cluster.jobs.values()
            for task in job.tasks.values()
            if which(task)
        ]

    def task(self, at: tuple[int, int | None]) -> Task:
        return self._cluster.jobs[at[0]].tasks[at[1]]

    def attempt_of(self, folder: str, index: int | None) -> Attempt | None:
        try:
            planned = read_plan(Path(folder)).experiment(index or 1)
        except PlanError:
            return None
        return planned.id, planned.attempt

    def start(self, at: tuple[int, int | None], node: str = "n0") -> Run:
        """Start a task; its job side claims the attempt."""
        base, index = at
        job = self._cluster.jobs[base]
        variables = self._cluster.start(base, index, node, self._clock())
        folder = Path(job.folder)
        attempt = self.attempt_of(job.folder, index)
        restarts = int(variables.get("SLURM_RESTART_COUNT", "0"))
        owner = Owner(node, next(self._pids), job_id(variables), restarts, self._clock())
        run = self._runs[at] = Run(base, index, attempt, owner, False, folder)
        if attempt is not None:
            taken = take_claim(folder / "claims" / str(run.task), owner)
            path = folder / "records" / f"{run.task}.json"
            left = read_record(path, read_plan(folder), run.task)
            run.claimed = taken is not Claim.DUPLICATE and (
                left is None or (taken is Claim.TAKEN_AGAIN and make_way(path, left))
            )
        if run.claimed and attempt is not None:
            self._truth.begins(attempt)
            self._into_ledger(run, attempt)
        return run

    def _into_ledger(self, run: Run, attempt: Attempt) -> None:
        earlier = [entry for entry in self.ledger if entry[0] == attempt]
        self.ledger.append((attempt, run.owner.job_id, run.owner.restarts))
        for _, job, restarts in earlier:
            if job != run.owner.job_id or restarts >= run.owner.restarts:
                raise Broken(f"{attempt} ran twice: {earlier}, then {run.owner}")
        for other in self._runs.values():
            beside = other.attempt if other is not run and other.claimed else None
            if beside is not None and beside[0] == attempt[0]:
                raise Broken(f"{attempt} runs beside {beside} of job {other.owner.job_id}")

    def end(
        self,
        at: tuple[int, int | None],
        word: str,
        record: Reason | None = None,
        *,
        code: int = 0,
        signal: int = 0,
        step: str = "",
        delay: float = 0.0,
        requeue: bool = False,
        completing: bool = False,
    ) -> None:
        """End a running task: the job side leaves ``record``, then Slurm says ``word``."""
        run = self._runs.pop(at)
        if not run.claimed:
            record, step = None, ""
            if word in ("COMPLETED", "FAILED"):
                word, code, signal = "COMPLETED", 0, 0
        self._leave_record(run, record, code, delay)
        self._cluster.end(
            *at, word, self._clock(), code=code, signal=signal, step=step, requeue=requeue,
            completing=completing,
        )  # fmt: skip
        if not requeue:
            self._tell_truth(run, record, step or word)

    def finish(
        self, at: tuple[int, int | None], record: Reason | None, *, delay: float = 0.0
    ) -> None:
        """A task that is shown as COMPLETING is done: one that was told to end left ``record``."""
        task = self.task(at)
        requeues, word = task.requeues, task.word
        run = self._runs.pop(at, None)
        if run is not None:
            self._leave_record(run, record if run.claimed else None, 0, 0.0 if requeues else delay)
        self._cluster.completed(*at, self._clock())
        if run is not None and not requeues:
            self._tell_truth(run, record, word)

    def never_ran(self, at: tuple[int, int | None], word: str) -> None:
        """A waiting task ends without a node."""
        job = self._cluster.jobs[at[0]]
        attempt = self.attempt_of(job.folder, at[1])
        self._cluster.end(*at, word, self._clock())
        self._truth.without_a_run(attempt, *expected(None, word))

    def requeue(self, at: tuple[int, int | None], hold: str = "") -> None:
        """scontrol requeue by an administrator, of a running or an ended job."""
        self.records_come(float("inf"))
        job = self._cluster.jobs[at[0]]
        attempt = self.attempt_of(job.folder, at[1])
        if at not in self.running():
            self._truth.open_again(attempt)
        self._cluster.requeue(*at, self._clock(), hold=hold)

    def cold_start(self, *, flush: bool) -> None:
        """The controller loses its state; what ran is killed. New ids follow the old ones."""
        for at in self.waiting() + self.running() + self.completing() + self.held():
            self._truth.forgotten(self.attempt_of(self._cluster.jobs[at[0]].folder, at[1]))
        self._runs.clear()
        next_id = self._cluster.next_id
        self._cluster.cold_start(flush=flush and self._cluster.database == UP)
        self._cluster.next_id = next_id

    def _leave_record(self, run: Run, reason: Reason | None, code: int, delay: float) -> None:
        if reason is None or run.attempt is None or not run.claimed:
            return
        experiment, attempt = run.attempt
        exit_code = code if reason in (Reason.COMPLETED, Reason.PAYLOAD_EXIT) else None
        record = Record(
            run.folder.name, run.task, experiment, attempt, reason, f"ended: {reason.value}",
            exit_code=exit_code, host=run.owner.host, job_id=run.owner.job_id,
            started_at=run.owner.time, ended_at=self._clock(),
        )  # fmt: skip
        path = run.folder / "records" / f"{run.task}.json"
        if delay:
            self._late_records.append((self._clock() + delay, path, record))
        else:
            write_record(path, record)

    def _tell_truth(self, run: Run, record: Reason | None, word: str) -> None:
        if run.attempt is not None and run.claimed:
            self._truth.ended(run.attempt, record, word, self._clock())
