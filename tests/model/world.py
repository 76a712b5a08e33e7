"""A gateway, a queue, a fake Slurm and the job side in one process, with one clock.

What is real: the gateway and all its parts, journal and spool on disk, the plan, the claim and
the record of the job side. What is played: the queue's server, Slurm (tests/fakes/slurm), the
payloads, and the deaths of the gateway, as an exception nobody catches.

``truth`` says for each attempt how it may be told to have ended, by what the world itself did to
it; it is worked out here again and knows nothing of gateway/endings.py.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sqlite3
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from slurm.cluster import UP, Cluster, Fault, Task
from slurm.runner import FakeRunner

from hpcrunner.batch.native import sbatch_words
from hpcrunner.gateway import database
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.gateway import Gateway, Hold
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.spool import Spool, Verb
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.job.claim import Claim, job_id, take_claim
from hpcrunner.job.recordfile import make_way, read_record, write_record
from hpcrunner.queues.contract import Delivery, Served
from hpcrunner.request.claim import Owner
from hpcrunner.request.plan import PlanError, read_plan
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.sbatch_submitter import SbatchSubmitter
from hpcrunner.schedulers.slurm import Listing, Slurm
from hpcrunner.sites.site import Site

PACKAGE = Path(database.__file__).parent.parent
QUERIES = ("squeue", "sacct")
NODES = ("n0", "n1", "n2")
KILL_WAIT = 30.0
ROUND = 15.0
_NO_PROCESS = 10**8  # above Linux's highest process id, so that none is ever found alive

Ending = tuple[State, Reason]
Attempt = tuple[str, int]

_WORDS = {
    "TIMEOUT": Reason.TIME_LIMIT,
    "OUT_OF_MEMORY": Reason.OUT_OF_MEMORY,
    "NODE_FAIL": Reason.NODE_FAIL,
    "BOOT_FAIL": Reason.BOOT_FAIL,
    "LAUNCH_FAILED": Reason.LAUNCH_FAILED,
    "PREEMPTED": Reason.PREEMPTED,
    "DEADLINE": Reason.DEADLINE,
}
SUCCESS = (State.SUCCEEDED, Reason.COMPLETED)
CANCELLED = (State.CANCELLED, Reason.CANCELLED)
_REQUEUED = (Reason.NODE_FAIL, Reason.BOOT_FAIL, Reason.PREEMPTED, Reason.SCHEDULER_FAILED)
LOST = (State.LOST, Reason.LOST)


class Crash(BaseException):
    """The gateway's process dies here."""


class Broken(AssertionError):
    """The gateway broke a promise."""


class Queue:
    """A queue's server: what is taken and not settled comes back when the gateway is gone."""

    name = "queue"

    def __init__(self, boundary: Callable[[str], None]) -> None:
        self.boundary = boundary
        self.waiting: list[Delivery] = []
        self.unsettled: list[Delivery] = []
        self.settled: list[bytes] = []

    def put(self, body: bytes, *, redelivered: bool = False) -> None:
        self.waiting.append(Delivery("studioml", body, redelivered, object()))

    def take(self, most: int) -> list[Delivery]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        self.unsettled += taken
        return taken

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.settled.append(delivery.body)
            self.unsettled.remove(delivery)
            self.boundary("queue.settled_one")

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.unsettled.remove(delivery)
            self.waiting.append(delivery)

    def served(self) -> Served:
        return Served("rmq", ("studioml",))

    def cut(self) -> None:
        """The connection dies: the broker sends again what was not settled."""
        again = [Delivery(d.queue, d.body, True, object()) for d in self.unsettled]
        self.waiting, self.unsettled = again + self.waiting, []

    def close(self) -> None:
        self.cut()


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


class World:
    """All of it. ``check`` raises Broken where a promise does not hold."""

    def __init__(self, *, doubles: bool = False, **site: object) -> None:
        """``doubles``: a batch may reach Slurm twice, since an answer came after ``settle``."""
        self.doubles = doubles
        memory = Path("/dev/shm")
        where = memory if memory.is_dir() else None
        self.folder = Path(tempfile.mkdtemp(prefix="hpcrunner-model-", dir=where))
        self.now = 1_800_000_000.0
        self.site = Site.model_validate(
            {
                "name": "model",
                "scheduler": "sbatch",
                "spool": str(self.folder / "spool"),
                "requeue": False,
                "limits": {"submit_rate": "100/1s", "max_array_tasks": 4},
                "partitions": [{"name": "cpu", "max_memory": "8G"}],
                **site,
            }
        )
        self.cluster = Cluster()
        self.cluster.accounting = self.site.accounting.mode != "none"
        self.cluster.rows_of_others = ["17|N/A|RUNNING|1800000000|n2|None|odd|name", "two", "|"]
        self.queue = Queue(self.boundary)
        self.ids = itertools.count(1)
        self.pids = itertools.count(_NO_PROCESS)
        self.numbers = itertools.count(1)
        self.published: list[bytes] = []
        self.wished: set[str] = set()
        self.refusals = 0
        self.runs: dict[tuple[int, int | None], Run] = {}
        self.ledger: list[tuple[Attempt, str, int]] = []  # attempt, job id, restarts
        self.truth: dict[Attempt, set[Ending]] = {}
        self.told_by_a_run: set[Attempt] = set()
        self.by_record_alone: dict[Attempt, tuple[float, set[Ending]]] = {}
        self.outages: list[tuple[float, float | None]] = []
        self.back_at: dict[str, float] = {}
        self.late_records: list[tuple[float, Path, Record]] = []
        self.finals: dict[str, tuple[State, Reason | None, int]] = {}
        self.seen_never_started = 0
        self.crash_in: int | None = None
        self.crash_at: str | None = None
        self.passed: Counter[str] = Counter()
        self.stack = ExitStack()
        self._let_crash()
        self.spool = Spool(self.site.spool_path)
        self.spool.prepare()
        self.journal: Journal | None = None
        self.start_gateway()

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self.stack.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def clock(self) -> float:
        return self.now

    # -- the gateway and its deaths --------------------------------------------------------

    def _let_crash(self) -> None:
        """Every place between two effects asks ``boundary``: those that the code names, each
        commit of the journal, each command."""
        for name in crashpoint_modules():
            self.stack.enter_context(
                mock.patch.object(sys.modules[name], "crashpoint", self.boundary)
            )
        real = database.Database.write

        @contextmanager
        def write(file: database.Database) -> Iterator[sqlite3.Connection]:
            with real(file) as connection:
                yield connection
                self.boundary("journal.before_commit")
            self.boundary("journal.committed")

        self.stack.enter_context(mock.patch.object(database.Database, "write", write))

    def boundary(self, name: str) -> None:
        self.passed[name] += 1
        if self.crash_at == name:
            self.crash_at = None
            raise Crash(name)
        if self.crash_in is not None:
            self.crash_in -= 1
            if self.crash_in <= 0:
                self.crash_in = None
                raise Crash(name)

    def start_gateway(self) -> None:
        """What a new process does: open the journal and know nothing else."""
        if self.journal is not None:
            self.journal.close()
        self.queue.cut()
        self.journal = journal = Journal(self.spool.journal, self.clock)
        journal.take_over("login", 1)
        fake = FakeRunner(self.cluster, self.clock, self.pass_time)

        def runner(argv: Sequence[str], **how: object) -> Completed:
            self.boundary(f"before.{argv[0]}")
            done = fake(argv, **how)  # type: ignore[arg-type]
            self.boundary(f"after.{argv[0]}")
            return done

        slurm = Slurm(
            accounting=self.site.accounting.mode != "none",
            runner=runner,
            listing=Listing(self.clock),
        )
        scheduler = Backend(
            SbatchSubmitter(slurm, lambda batch: sbatch_words(batch, self.site)), slurm
        )
        make = {"clock": self.clock, "new_id": lambda: f"{next(self.ids):012x}"}
        lock = SimpleNamespace(check=lambda: None)
        self.gateway = Gateway(
            Hold(self.spool, lock, journal),  # type: ignore[arg-type]
            Intake([self.queue], journal, self.site, **make),  # type: ignore[arg-type]
            Dispatch(journal, self.spool, scheduler, self.site, **make),  # type: ignore[arg-type]
            Track(journal, self.spool, scheduler, self.site, clock=self.clock),
            Wishes(journal, self.spool, scheduler, self.site, **make),  # type: ignore[arg-type]
            max_jobs=self.site.limits.max_jobs,
            clock=self.clock,
        )

    def step(self, *, crash_in: int | None = None, crash_at: str | None = None) -> bool:
        """One round of the gateway; True where it died in it and was started again."""
        self.crash_in, self.crash_at = crash_in, crash_at
        before = len(self.cluster.calls)
        try:
            self.gateway.step()
        except Crash:
            self.start_gateway()
            died = True
        else:
            died = False
        self.crash_in = self.crash_at = None
        for program, count in Counter(self.cluster.calls[before:]).items():
            # Settling and tracking may share one; a cancel looks anew before it and after.
            if program in QUERIES and count > 4:
                raise Broken(f"{count} calls of {program} in one round")
        self.check()
        return died

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for late in [late for late in self.late_records if late[0] <= self.now]:
            self.late_records.remove(late)
            write_record(late[1], late[2])
        for server in [name for name, at in self.back_at.items() if at <= self.now]:
            self._server(server, UP)
        self.cluster.settle(self.now)
        for at in self.completing():
            run, task = self.runs.get(at), self.task(at)
            # Slurm kills what does not end by itself after SIGTERM, whatever it shows.
            if run is not None and task.told and (task.end or 0) + KILL_WAIT <= self.now:
                del self.runs[at]
                if not task.requeues:
                    self._tell_truth(run, None, task.word)

    def rounds(self, seconds: float) -> None:
        """That time with a gateway that does its rounds."""
        while seconds > 0:
            self.pass_time(min(seconds, ROUND))
            seconds -= ROUND
            self.step()

    # -- clients ---------------------------------------------------------------------------

    def publish(self, cpus: int = 1) -> bytes:
        body = message(f"experiment-{next(self.numbers)}", cpus)
        self.published.append(body)
        self.queue.put(body)
        return body

    def wish_cancel(self, experiment: str) -> None:
        self.wished.add(experiment)
        self.spool.wish(Verb.CANCEL, [experiment])

    def refuse(self, text: str, for_good: bool) -> None:
        self.refusals += for_good
        self.cluster.faults.append(Fault("sbatch", "refuse", text))

    # -- the cluster and the job side ------------------------------------------------------

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
            for job in self.cluster.jobs.values()
            for task in job.tasks.values()
            if which(task)
        ]

    def task(self, at: tuple[int, int | None]) -> Task:
        return self.cluster.jobs[at[0]].tasks[at[1]]

    def attempt_of(self, folder: str, index: int | None) -> Attempt | None:
        try:
            planned = read_plan(Path(folder)).experiment(index or 1)
        except PlanError:
            return None
        return planned.id, planned.attempt

    def start(self, at: tuple[int, int | None], node: str = "n0") -> Run:
        """Start a task; its job side claims the attempt."""
        base, index = at
        job = self.cluster.jobs[base]
        variables = self.cluster.start(base, index, node, self.now)
        folder = Path(job.folder)
        attempt = self.attempt_of(job.folder, index)
        restarts = int(variables.get("SLURM_RESTART_COUNT", "0"))
        owner = Owner(node, next(self.pids), job_id(variables), restarts, self.now)
        run = self.runs[at] = Run(base, index, attempt, owner, False, folder)
        if attempt is not None:
            taken = take_claim(folder / "claims" / str(run.task), owner)
            path = folder / "records" / f"{run.task}.json"
            left = read_record(path, read_plan(folder), run.task)
            run.claimed = taken is not Claim.DUPLICATE and (
                left is None or (taken is Claim.TAKEN_AGAIN and make_way(path, left))
            )
        if run.claimed and attempt is not None:
            self.truth.pop(attempt, None)
            self._into_ledger(run, attempt)
        return run

    def _into_ledger(self, run: Run, attempt: Attempt) -> None:
        earlier = [entry for entry in self.ledger if entry[0] == attempt]
        self.ledger.append((attempt, run.owner.job_id, run.owner.restarts))
        for _, job, restarts in earlier:
            if job != run.owner.job_id or restarts >= run.owner.restarts:
                raise Broken(f"{attempt} ran twice: {earlier}, then {run.owner}")
        for other in self.runs.values():
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
        run = self.runs.pop(at)
        if not run.claimed:
            record, step = None, ""
            if word in ("COMPLETED", "FAILED"):
                word, code, signal = "COMPLETED", 0, 0
        self._leave_record(run, record, code, delay)
        self.cluster.end(
            *at, word, self.now, code=code, signal=signal, step=step, requeue=requeue,
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
        run = self.runs.pop(at, None)
        if run is not None:
            self._leave_record(run, record if run.claimed else None, 0, 0.0 if requeues else delay)
        self.cluster.completed(*at, self.now)
        if run is not None and not requeues:
            self._tell_truth(run, record, word)

    def never_ran(self, at: tuple[int, int | None], word: str) -> None:
        """A waiting task ends without a node."""
        job = self.cluster.jobs[at[0]]
        attempt = self.attempt_of(job.folder, at[1])
        self.cluster.end(*at, word, self.now)
        if attempt is not None and attempt not in self.told_by_a_run:
            self.truth.setdefault(attempt, set()).update(expected(None, word))

    def requeue(self, at: tuple[int, int | None], hold: str = "") -> None:
        """scontrol requeue by an administrator, of a running or an ended job."""
        for _, path, record in self.late_records:
            write_record(path, record)
        self.late_records.clear()
        job = self.cluster.jobs[at[0]]
        attempt = self.attempt_of(job.folder, at[1])
        if attempt is not None and at not in self.running():
            # It may now end otherwise, or be told by what it left.
            self.told_by_a_run.discard(attempt)
            if attempt in self.by_record_alone:
                self.truth[attempt] |= self.by_record_alone[attempt][1]
        self.cluster.requeue(*at, self.now, hold=hold)

    def cold_start(self, *, flush: bool) -> None:
        """The controller loses its state; what ran is killed. New ids follow the old ones."""
        for at in self.waiting() + self.running() + self.completing() + self.held():
            attempt = self.attempt_of(self.cluster.jobs[at[0]].folder, at[1])
            if attempt is not None:
                # One that was to be requeued may keep the account of its first end.
                told = {(State.FAILED, reason) for reason in _REQUEUED}
                self.truth.setdefault(attempt, set()).update({LOST, CANCELLED} | told)
        self.runs.clear()
        next_id = self.cluster.next_id
        self.cluster.cold_start(flush=flush and self.cluster.database == UP)
        self.cluster.next_id = next_id

    def outage(self, server: str, how: str, seconds: float) -> None:
        """``controller`` or ``database`` is away for so long."""
        self._server(server, how)
        self.back_at[server] = self.now + seconds

    def _server(self, server: str, state: str) -> None:
        if server == "database":
            if self.cluster.database == UP and state != UP:
                self.outages.append((self.now, None))
            if self.cluster.database != UP and state == UP:
                self.outages[-1] = (self.outages[-1][0], self.now)
        setattr(self.cluster, server, state)
        self.back_at.pop(server, None)

    def blind(self, since: float) -> bool:
        """Whether accounting was away for longer than the site waits for it, after that time."""
        if not self.cluster.accounting:
            return True
        ends = [(max(a, since), self.now if b is None else b) for a, b in self.outages]
        return any(b - a >= self.site.accounting.wait for a, b in ends)

    def _leave_record(self, run: Run, reason: Reason | None, code: int, delay: float) -> None:
        if reason is None or run.attempt is None or not run.claimed:
            return
        experiment, attempt = run.attempt
        exit_code = code if reason in (Reason.COMPLETED, Reason.PAYLOAD_EXIT) else None
        record = Record(
            run.folder.name, run.task, experiment, attempt, reason, f"ended: {reason.value}",
            exit_code=exit_code, host=run.owner.host, job_id=run.owner.job_id,
            started_at=run.owner.time, ended_at=self.now,
        )  # fmt: skip
        path = run.folder / "records" / f"{run.task}.json"
        if delay:
            self.late_records.append((self.now + delay, path, record))
        else:
            write_record(path, record)

    def _tell_truth(self, run: Run, record: Reason | None, word: str) -> None:
        if run.attempt is None or not run.claimed:
            return
        self.told_by_a_run.add(run.attempt)
        self.truth[run.attempt] = expected(record, word)
        if record is not None:
            self.by_record_alone[run.attempt] = (self.now, expected(record, "COMPLETED"))

    # -- the promises ----------------------------------------------------------------------

    def experiments(self) -> list[Experiment]:
        if self.journal is None:
            raise Broken("no journal")
        return self.journal.recent(10**6)

    def check(self) -> None:
        """What must hold at any time."""
        for folder, index in self.cluster.never_started[self.seen_never_started :]:
            attempt = self.attempt_of(folder, index)
            if attempt is not None and attempt not in self.told_by_a_run:
                self.truth.setdefault(attempt, set()).add(CANCELLED)
        self.seen_never_started = len(self.cluster.never_started)
        if self.cluster.complaints:
            raise Broken(f"not what Slurm takes: {self.cluster.complaints}")
        doubled = [name for name, count in Counter(self.cluster.taken).items() if count > 1]
        if doubled and not self.doubles:
            raise Broken(f"submitted again though Slurm had it: {doubled}")
        known = Counter(self._digests())
        for body in self.queue.settled:
            if digest(body) not in known:
                raise Broken("a message was settled that the journal does not have")
        twice = [d for d, count in known.items() if count > 1]
        if twice:
            raise Broken(f"{len(twice)} message(s) became several experiments")
        for e in self.experiments():
            was = self.finals.get(e.id)
            if was is not None and was != (e.state, e.reason, e.attempt):
                raise Broken(f"{e.id} was {was} and is {e.state}, {e.reason}, {e.attempt}")
            if e.state.final and was is None:
                self._check_final(e)
                self.finals[e.id] = (e.state, e.reason, e.attempt)

    def _digests(self) -> list[str]:
        with sqlite3.connect(self.spool.journal) as db:
            rows = db.execute("SELECT digest FROM experiments").fetchall()
        db.close()
        return [row[0] for row in rows]

    def _check_final(self, e: Experiment) -> None:
        said = (e.state, e.reason)
        truth = self.truth.get((e.id, e.attempt), set())
        if said in truth:
            return
        since, alone = self.by_record_alone.get((e.id, e.attempt), (0.0, set()))
        if said in alone and self.blind(since):
            return
        forgotten = LOST if e.id not in self.wished else CANCELLED
        if said == forgotten and truth and not self.cluster.accounting:
            return  # it left no record, and the controller has forgotten it
        if said == CANCELLED and e.id in self.wished and not e.job_id:
            return
        if e.reason is Reason.SUBMIT_REFUSED and self.refusals:
            return
        raise Broken(
            f"{e.id} attempt {e.attempt} (job {e.job_id}): told as {e.state.value}, "
            f"{e.reason and e.reason.value} ({e.text}); true is "
            f"{sorted(f'{s.value}, {r.value}' for s, r in truth) or 'that it has not ended'}"
        )

    # -- the end ---------------------------------------------------------------------------

    def play_out(self, rounds: int = 400) -> None:
        """All faults over, everything that waits runs and ends well: then all must be final."""
        cluster = self.cluster
        cluster.faults.clear()
        self._server("controller", UP)
        self._server("database", UP)
        cluster.lag = 0.0
        self.rounds(150.0)
        for e in self.experiments():
            base, _, index = e.job_id.partition("_")
            job = cluster.jobs.get(int(base or 0))
            task = job.tasks.get(int(index) if index else None) if job else None
            live = task is not None and not task.told and (task.waits or task.word == "RUNNING")
            if live and e.id in self.wished and not e.state.final:
                raise Broken(f"{e.id}: the wish to cancel {e.job_id} never reached Slurm")
        for number in range(rounds):
            self.step()
            if not self.queue.waiting and self.journal and not self.journal.count_live():
                break
            for at in self.completing():
                self.finish(at, Reason.CANCELLED)
            for at in self.held():
                cluster.release(*at)
            for at in self.running():
                self.end(at, "COMPLETED", Reason.COMPLETED)
            for at in self.waiting():
                self.start(at, NODES[number % len(NODES)])
            self.pass_time(20.0)
        else:
            left = [f"{e.id} {e.state.value} {e.job_id} {e.pending}" for e in self.experiments()
                    if not e.state.final]  # fmt: skip
            raise Broken(f"not at its end after {rounds} rounds: {left}, {self.queue.waiting}")
        lost = {digest(body) for body in self.published} - set(self._digests())
        if lost:
            raise Broken(f"{len(lost)} message(s) were lost")


def expected(record: Reason | None, word: str) -> set[Ending]:
    """How a run may be told to have ended, by its record and Slurm's word (or a step's)."""
    contrary = _WORDS.get(word)
    if contrary and record in (
        None, Reason.COMPLETED, Reason.PAYLOAD_EXIT, Reason.PAYLOAD_SIGNAL, Reason.CANCELLED,
    ):  # fmt: skip
        return {(State.FAILED, contrary)}
    if record is Reason.COMPLETED:
        return {SUCCESS}
    if record is Reason.CANCELLED:
        return {CANCELLED}
    if record is not None:
        return {(State.FAILED, record)}
    return {CANCELLED} if word == "CANCELLED" else {(State.FAILED, Reason.SCHEDULER_FAILED)}


def crashpoints() -> list[str]:
    """The places that the package names, from its own text: those of the gateway's rounds."""
    found: set[str] = set()
    for path in (PACKAGE / "gateway").glob("*.py"):
        found.update(re.findall(r'crashpoint\("([a-z_.]+)"\)', path.read_text()))
    return sorted(found)


def crashpoint_modules() -> list[str]:
    """Gateway modules with such places, loaded here."""
    return [
        name
        for name, module in list(sys.modules.items())
        if name.startswith("hpcrunner.gateway.") and hasattr(module, "crashpoint")
    ]


def digest(body: bytes) -> str:
    import hashlib

    return hashlib.sha256(body).hexdigest()


def message(key: str, cpus: int = 1) -> bytes:
    """A sound request; nobody fetches its code here."""
    return json.dumps(
        {
            "config": {"storage": {"type": "local", "endpoint": "/tmp/store", "bucket": "b"}},
            "experiment": {
                "key": key,
                "filename": "train.py",
                "resources_needed": {"cpus": cpus, "gpus": 0, "ram": "1g", "hdd": "1g"},
                "artifacts": {
                    "workspace": {
                        "mutable": False,
                        "unpack": True,
                        "key": "x.tar",
                        "qualified": "file:///tmp/store/b/x.tar",
                    }
                },
            },
        }
    ).encode()
