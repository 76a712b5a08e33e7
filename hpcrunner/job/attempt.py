"""One attempt from claim to record: the sequence that the other modules are the steps of."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job import artifacts, claim, limits
from hpcrunner.job.build import last_lines
from hpcrunner.job.clientrecord import STOPPED_BY_CLIENT, ClientRecord, StopWatch
from hpcrunner.job.ending import Ending, ending_by, ending_of, looks_killed, with_unsaved
from hpcrunner.job.environment import LOG_NAME, prepare_python
from hpcrunner.job.events import PREFIX, Events, one_line, say
from hpcrunner.job.output import Tee
from hpcrunner.job.parallel import in_parallel
from hpcrunner.job.payload import payload_environment, payload_words
from hpcrunner.job.process import PayloadProcess, own_start
from hpcrunner.job.recordfile import make_way, write_record
from hpcrunner.job.save import Saver
from hpcrunner.job.stopper import StopAsked, Stopper
from hpcrunner.job.workspace import Workspace, make_workspace, remove_tree
from hpcrunner.request.claim import Owner
from hpcrunner.request.plan import CLAIMS, EVENTS, RECORDS, Plan, read_plan
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record

LEFTOVER_GRACE = 2.0  # between SIGTERM and SIGKILL for what a payload leaves running
HEARSAY = 1.0  # how long a payload that looks killed waits for the same signal to reach us
PIPE_PATIENCE = 10.0
CLIENT_PATIENCE = 60.0
T = TypeVar("T")


def run_attempt(batch_folder: Path, index: int, environ: Mapping[str, str]) -> int:
    """Run the attempt of a task index from 1, and return the exit status (see ending.py).

    Raises PlanError where there is no such plan or task, OSError where the spool is not writable.
    """
    started_at = time.time()
    plan = read_plan(batch_folder)
    plan.experiment(index)  # before the claim: there must be such a task
    for name in (CLAIMS, EVENTS, RECORDS):
        (batch_folder / name).mkdir(mode=0o700, exist_ok=True)
    record_path = batch_folder / RECORDS / f"{index}.json"
    owner = claim.this_process(environ)
    taken = claim.take_claim(batch_folder / CLAIMS / str(index), owner)
    if taken is claim.Claim.DUPLICATE:
        say(f"task {index}: another job has this attempt; this duplicate ends and touches nothing")
        return 0
    if taken is claim.Claim.TAKEN_AGAIN and not make_way(record_path):
        say(f"task {index}: this attempt has its ending already; the restarted job ends")
        return 0
    events = Events(batch_folder / EVENTS / str(index))
    events.note("claimed", host=owner.host, pid=owner.pid, job=owner.job_id)
    counted_from = limits.job_start(environ, own_start(started_at))
    end = limits.job_end(plan.setup, counted_from, environ)
    stopper = Stopper(end, plan.setup)
    if end is not None:
        stopper.add(limits.job_deadline(plan.setup, counted_from, end))
    attempt = _Attempt(plan, index, environ, events, stopper, started_at)
    ending = attempt.run()
    say(f"ended: {ending.reason.value}: {ending.text}")
    try:
        if not write_record(record_path, attempt.record_of(ending, owner)):
            say(f"task {index}: a record was there already and stays")
        events.note("ended", reason=ending.reason.value, text=ending.text)
        attempt.tell_client(ending)
    finally:
        attempt.clean_up()
    return ending.status


@dataclass
class _Attempt:
    """The parts of a running attempt; each is None until its step has come."""

    plan: Plan
    index: int
    environ: Mapping[str, str]
    events: Events
    stopper: Stopper
    started_at: float
    workspace: Workspace | None = None
    saver: Saver | None = None
    tee: Tee | None = None
    client: ClientRecord | None = None
    payload_started_at: float | None = None

    def __post_init__(self) -> None:
        self.experiment = self.plan.experiment(self.index)

    def run(self) -> Ending:
        """All steps. Raises nothing: a fault of ours is an ending too."""
        try:
            workspace, words, environment = self._prepare()
            ending = self._run_payload(workspace, words, environment)
        except StopAsked as asked:
            ending = Ending(asked.stop.reason, asked.stop.text)
        except HpcrunnerError as error:
            ending = ending_by(error)
        except Exception as fault:
            ending = _fault(fault)
        try:
            return self._close(ending)
        except Exception as fault:
            return _fault(fault)

    def record_of(self, ending: Ending, owner: Owner) -> Record:
        """The record of this attempt, ended now."""
        return Record(
            batch=self.plan.batch,
            index=self.index,
            experiment=self.experiment.id,
            attempt=self.experiment.attempt,
            reason=ending.reason,
            text=one_line(ending.text),
            exit_code=ending.exit_code,
            signal=ending.signal,
            host=owner.host,
            job_id=owner.job_id,
            started_at=self.started_at,
            payload_started_at=self.payload_started_at,
            ended_at=time.time(),
            last_lines=self.tee.tail.last() if self.tee else (),
            saved=self.saver.saved if self.saver else (),
        )

    def tell_client(self, ending: Ending) -> None:
        """Finish the client's record; an expired experiment keeps its status, as clients expect.

        Our own record is written by now, so a store that hangs can hold up nothing but us.
        """
        if self.client is not None and ending.reason is not Reason.LIFETIME_EXPIRED:
            thread = threading.Thread(target=self.client.finish, daemon=True)
            thread.start()
            thread.join(CLIENT_PATIENCE)

    def clean_up(self) -> None:
        """Remove the experiment's folders, unless the site keeps them."""
        if self.workspace is None or self.plan.setup.keep:
            return
        try:
            remove_tree(self.workspace.home)
        except OSError as error:
            say(f"left behind: {self.workspace.home}: {error.strerror}")

    def _prepare(self) -> tuple[Workspace, Sequence[str], Mapping[str, str]]:
        """Everything before the payload; a stop breaks in with StopAsked."""
        plan, experiment, events = self.plan, self.experiment, self.events
        with self.stopper.breaking_in():
            # A lifetime that is over already stops here, before anything is fetched.
            if experiment.expires_at is not None:
                self.stopper.add(limits.lifetime_deadline(experiment.expires_at))
            if experiment.record is not None:
                self.client = ClientRecord(experiment.record, experiment.document, events)
                if _elsewhere(self.client.stopped):
                    raise StopAsked(STOPPED_BY_CLIENT)
            kept = artifacts.kept_in_folders(experiment)
            singles: dict[str, str] = {}
            self.workspace = workspace = make_workspace(
                plan.setup,
                f"{plan.batch}-{self.index}",
                experiment.name,
                [artifact.tag for artifact in kept],
                self.environ,
            )
            self.saver = Saver(
                kept,
                workspace,
                experiment.save_interval,
                artifacts.uploader(experiment, workspace, singles, events),
                events,
                on_saved=self.client.checkpoint if self.client else lambda: None,
            )
            events.note("fetching")
            singles.update(artifacts.fetch_all(experiment, workspace, events))
            events.note("environment")
            python = prepare_python(experiment, plan.setup, workspace.runner, self.environ, events)
            words = payload_words(experiment, python.python, workspace)
            environment, refused = payload_environment(experiment, workspace, python, self.environ)
            for name in refused:
                events.tell("left_out", f"config.env may not set {name}: left as the job has it")
            if self.client is not None:
                _elsewhere(self.client.start)
        return workspace, words, environment

    def _run_payload(
        self, workspace: Workspace, words: Sequence[str], environment: Mapping[str, str]
    ) -> Ending:
        """Start the payload and wait for its end, or bring it about."""
        stopper, saver = self.stopper, self.saver
        if saver is not None:
            saver.start()
        self.tee = tee = Tee(workspace.output)  # from here on the last run's output is changed
        process = PayloadProcess(words, environment, workspace.cwd)
        watch = StopWatch(self.client, stopper.ask) if self.client else None
        try:
            self.payload_started_at = time.time()
            tee.start(process.pipe)
            self.events.tell(
                "running",
                f"payload started as process {process.pid}",
                pid=process.pid,
                host=os.uname().nodename,
            )
            if self.experiment.max_duration is not None:
                stopper.add(
                    limits.run_deadline(self.experiment.max_duration, self.payload_started_at)
                )
            while (code := process.poll()) is None and stopper.asked is None:
                stopper.wait()
            if code is not None and looks_killed(code):
                self._listen(HEARSAY)
            # A payload that obeys a signal to the whole job may end well; that is no success.
            stop = stopper.asked
        finally:
            if watch is not None:
                watch.close()
            clean = self._end_tree(process)
            tee.finish(PIPE_PATIENCE)
        if not clean:
            say("some processes of the payload outlive SIGKILL; they are left to the scheduler")
        code = process.poll()
        if code is None:  # stuck in the kernel: as good as killed
            code = -signal.SIGKILL
        return ending_of(code, stop)

    def _end_tree(self, process: PayloadProcess) -> bool:
        """End the payload, or what one that ended by itself has left running."""
        setup, began = self.plan.setup, time.time()
        first = signal.Signals[f"SIG{setup.payload_signal}"]
        if process.poll() is not None:
            setup, first = replace(setup, payload_grace=LEFTOVER_GRACE), signal.SIGTERM

        def until() -> float:
            at = limits.payload_until(setup, began, self.stopper.told_at, self.stopper.kill)
            return time.monotonic() + at - time.time()

        # Slurm sends its SIGTERM to all processes of a job.
        told = self.stopper.terminated and "SLURM_JOB_ID" in self.environ
        return process.end(until, first, told)

    def _listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.stopper.asked is None and (left := until - time.monotonic()) > 0:
            self.stopper.wait(left)

    def _close(self, ending: Ending) -> Ending:
        """Save what there is to save."""
        ran = self.payload_started_at is not None
        failures = []
        if self.workspace is not None and self.saver is not None:
            self.events.note("saving")
            failures = self._output_closed(self.workspace, ending)
            began = time.time()

            def until() -> float:
                at = limits.saving_until(began, self.stopper.kill)
                return time.monotonic() + at - time.time()

            # Without a payload nothing but the output is new, and what was fetched may be torn.
            failures += self.saver.finish(until, None if ran else frozenset({"output"}))
        return with_unsaved(ending, failures)

    def _output_closed(self, workspace: Workspace, ending: Ending) -> list[str]:
        """Add the ending to the output, since clients see no more of us; returns its failures."""
        if self.tee is None:
            self.tee = Tee(workspace.output)
        if ending.reason is Reason.ENVIRONMENT_FAILED:
            with suppress(OSError):
                for line in last_lines(workspace.runner / LOG_NAME):
                    self.tee.note(line)
        if ending.reason is not Reason.COMPLETED:
            self.tee.note(PREFIX + one_line(ending.text))
        if self.tee.failure is None:
            return []
        return [f"the output was not written: {self.tee.failure.strerror}"]


def _elsewhere(task: Callable[[], T]) -> T:
    """Run a store's call on another thread, so that a stop breaks in here and not inside of it."""
    return next(in_parallel([task], workers=1))


def _fault(fault: Exception) -> Ending:
    say("a fault of hpcrunner itself:")
    import traceback

    traceback.print_exc()
    what = one_line(f"{type(fault).__name__}: {fault}")
    return Ending(Reason.JOB_SIDE_FAULT, f"hpcrunner failed on the node: {what}")
