"""A payload from its start to its end, whoever brings that about."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hpcrunner.crashpoint import crashpoint
from hpcrunner.job import limits
from hpcrunner.job.container import Container, as_signal, failure_of
from hpcrunner.job.diskwatch import DiskWatch
from hpcrunner.job.ending import Ending, ending_of, looks_killed
from hpcrunner.job.events import Events, say
from hpcrunner.job.metadata import Metadata
from hpcrunner.job.output import Tee
from hpcrunner.job.process import PayloadProcess
from hpcrunner.job.stopper import Stopper
from hpcrunner.job.stopwatch import Source, StopWatch
from hpcrunner.job.usage import metrics_of
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.plan import NodeSetup, PlannedExperiment
from hpcrunner.request.scheduler_words import words_of

LEFTOVER_GRACE = 2.0  # between SIGTERM and SIGKILL for what a payload leaves running
HEARSAY = 1.0  # how long a payload that looks killed waits for the same signal to reach us
PIPE_PATIENCE = 10.0


@dataclass
class PayloadRun:
    """What a running payload needs. ``started_at`` is epoch seconds, None before its start."""

    experiment: PlannedExperiment
    setup: NodeSetup
    workspace: Workspace
    environ: Mapping[str, str]
    stopper: Stopper
    events: Events
    tee: Tee
    metadata: Metadata | None = None
    container: Container | None = None
    started_at: float | None = None

    def until_end(
        self, words: Sequence[str], environment: Mapping[str, str], sources: Sequence[Source]
    ) -> Ending:
        """Start the payload and wait for its end, or bring it about.

        ``sources`` are where somebody may write that it is to stop. None of its processes is
        left. Raises PayloadNotStarted.
        """
        stopper, metadata, tee = self.stopper, self.metadata, self.tee
        metrics = metrics_of(self.experiment, self.workspace, self.environ)
        process = PayloadProcess(
            words,
            environment,
            self.workspace.cwd,
            contained=self.container is not None,
            spared=words_of(self.environ).spared,
        )
        watch = StopWatch([*sources, *self._disk_watch()], stopper.ask)
        crashpoint("job.payload_started")
        try:
            self.started_at = time.time()
            if metadata is not None:
                metadata.started()
            tee.start(process.pipe)
            if metrics is not None:
                metrics.start()
            self.events.tell(
                "running",
                f"payload started as process {process.pid}",
                pid=process.pid,
                host=os.uname().nodename,
            )
            if self.experiment.max_duration is not None:
                stopper.add(limits.run_deadline(self.experiment.max_duration, self.started_at))
            while (code := process.poll()) is None and stopper.asked is None:
                stopper.wait()
            if code is not None and looks_killed(code):
                self._listen(HEARSAY)
            # A payload that obeys a signal to the whole job may end well; that is no success.
            stop = stopper.asked
            if stop is not None:
                self.events.note("stopping", reason=stop.reason.value, text=stop.text)
        finally:
            watch.close()
            if metrics is not None:
                metrics.close()
            clean = self._end_tree(process)
            tee.finish(PIPE_PATIENCE)
            if metadata is not None:
                metadata.stopped()
        crashpoint("job.payload_ended")
        if not clean:
            say("some processes of the payload outlive SIGKILL; they are left to the scheduler")
        code = process.poll()
        if code is None:  # stuck in the kernel: as good as killed
            code = -signal.SIGKILL
        if self.container is not None:
            self.container.close()
            code = as_signal(code)
            failed = failure_of(code, tee.tail.last()) if stop is None else None
            if failed is not None:
                return failed
        return ending_of(code, stop)

    def _disk_watch(self) -> list[Source]:
        budget = self.experiment.disk_budget if self.setup.disk_watched else 0
        return [DiskWatch(self.workspace.home, budget)] if budget else []

    def _end_tree(self, process: PayloadProcess) -> bool:
        """End the payload, or what one that ended by itself has left running."""
        setup, began = self.setup, time.time()
        first = signal.Signals[f"SIG{setup.payload_signal}"]
        if process.poll() is not None:
            setup, first = replace(setup, payload_grace=LEFTOVER_GRACE), signal.SIGTERM

        def until() -> float:
            at = limits.payload_until(setup, began, self.stopper.told_at, self.stopper.kill)
            return time.monotonic() + at - time.time()

        # Slurm sends its SIGTERM to all processes of a job.
        told = self.stopper.terminated and words_of(self.environ).tells_all
        return process.end(until, first, told)

    def _listen(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while self.stopper.asked is None and (left := until - time.monotonic()) > 0:
            self.stopper.wait(left)
