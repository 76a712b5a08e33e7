"""A gateway, a queue, a fake Slurm and the job side in one process, with one clock.

What is real: the gateway and all its parts, journal and spool on disk, the plan, the claim and
the record of the job side. What is played: the queue's server (clients.py), Slurm
(tests/fakes/slurm), the payloads (nodes.py), and the deaths of the gateway, as an exception nobody
catches (deaths.py). How an attempt may be told to have ended is in truth.py.
"""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from clients import Queue, digest, message
from deaths import Crash, Deaths
from nodes import NODES, Nodes
from slurm.cluster import UP, Cluster, Fault
from slurm.runner import FakeRunner
from truth import CANCELLED, LOST, Broken, Truth

from hpcrunner.batch.native import sbatch_words
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.gateway import Gateway, Hold
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.spool import Spool, Verb
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.backend import Backend
from hpcrunner.schedulers.command import Completed
from hpcrunner.schedulers.sbatch_submitter import SbatchSubmitter
from hpcrunner.schedulers.slurm import Listing, Slurm
from hpcrunner.sites.site import Site

QUERIES = ("squeue", "sacct")
ROUND = 15.0


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
        self.deaths = Deaths()
        self.queue = Queue(self.deaths.boundary)
        self.truth = Truth()
        self.nodes = Nodes(self.cluster, self.truth, self.clock)
        self.ids = itertools.count(1)
        self.numbers = itertools.count(1)
        self.published: list[bytes] = []
        self.wished: set[str] = set()
        self.refusals = 0
        self.outages: list[tuple[float, float | None]] = []
        self.back_at: dict[str, float] = {}
        self.finals: dict[str, tuple[State, Reason | None, int]] = {}
        self.seen_never_started = 0
        self.spool = Spool(self.site.spool_path)
        self.spool.prepare()
        self.journal: Journal | None = None
        self.start_gateway()

    def close(self) -> None:
        if self.journal is not None:
            self.journal.close()
        self.deaths.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def clock(self) -> float:
        return self.now

    # -- the gateway and its deaths --------------------------------------------------------

    def start_gateway(self) -> None:
        """What a new process does: open the journal and know nothing else."""
        if self.journal is not None:
            self.journal.close()
        self.queue.cut()
        self.journal = journal = Journal(self.spool.journal, self.clock)
        journal.take_over("login", 1)
        fake = FakeRunner(self.cluster, self.clock, self.pass_time)

        def runner(argv: Sequence[str], **how: object) -> Completed:
            self.deaths.boundary(f"before.{argv[0]}")
            done = fake(argv, **how)  # type: ignore[arg-type]
            self.deaths.boundary(f"after.{argv[0]}")
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
        self.deaths.within, self.deaths.at = crash_in, crash_at
        before = len(self.cluster.calls)
        try:
            self.gateway.step()
        except Crash:
            self.start_gateway()
            died = True
        else:
            died = False
        self.deaths.within = self.deaths.at = None
        for program, count in Counter(self.cluster.calls[before:]).items():
            # Settling and tracking may share one; a cancel looks anew before it and after.
            if program in QUERIES and count > 4:
                raise Broken(f"{count} calls of {program} in one round")
        self.check()
        return died

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.nodes.records_come(self.now)
        for server in [name for name, at in self.back_at.items() if at <= self.now]:
            self._server(server, UP)
        self.cluster.settle(self.now)
        self.nodes.kill_what_lingers()

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

    # -- the servers -----------------------------------------------------------------------

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

    # -- the promises ----------------------------------------------------------------------

    def experiments(self) -> list[Experiment]:
        if self.journal is None:
            raise Broken("no journal")
        return self.journal.recent(10**6)

    def check(self) -> None:
        """What must hold at any time."""
        for folder, index in self.cluster.never_started[self.seen_never_started :]:
            self.truth.without_a_run(self.nodes.attempt_of(folder, index), CANCELLED)
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
        truth = self.truth.of((e.id, e.attempt))
        if said in truth | self.truth.by_record_alone((e.id, e.attempt), self.blind):
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
            for at in self.nodes.completing():
                self.nodes.finish(at, Reason.CANCELLED)
            for at in self.nodes.held():
                cluster.release(*at)
            for at in self.nodes.running():
                self.nodes.end(at, "COMPLETED", Reason.COMPLETED)
            for at in self.nodes.waiting():
                self.nodes.start(at, NODES[number % len(NODES)])
            self.pass_time(20.0)
        else:
            left = [f"{e.id} {e.state.value} {e.job_id} {e.pending}" for e in self.experiments()
                    if not e.state.final]  # fmt: skip
            raise Broken(f"not at its end after {rounds} rounds: {left}, {self.queue.waiting}")
        lost = {digest(body) for body in self.published} - set(self._digests())
        if lost:
            raise Broken(f"{len(lost)} message(s) were lost")
