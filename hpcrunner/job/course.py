"""What one attempt does, from its workspace to its last save; the other modules are the steps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from hpcrunner.crashpoint import crashpoint
from hpcrunner.errors import HpcrunnerError, one_line
from hpcrunner.installers import last_lines
from hpcrunner.job import artifacts, limits
from hpcrunner.job.clientrecord import ClientRecord
from hpcrunner.job.container import Container, open_container
from hpcrunner.job.containerpython import prepare_inside
from hpcrunner.job.ending import (
    Ending,
    Outlook,
    ending_by,
    outlook_of,
    with_memory,
    with_unsaved,
)
from hpcrunner.job.environment import LOG_NAME, prepare_python
from hpcrunner.job.events import Events, say
from hpcrunner.job.fence import TAKEN_OVER, Fence
from hpcrunner.job.leftovers import start_sweep
from hpcrunner.job.memory import MemoryWitness
from hpcrunner.job.metadata import Metadata
from hpcrunner.job.metadatafiles import MetadataFiles, accession_of
from hpcrunner.job.output import Tee
from hpcrunner.job.packages import read_packages
from hpcrunner.job.parallel import in_parallel
from hpcrunner.job.payload import PythonHome, payload_environment, payload_words
from hpcrunner.job.payloadrun import PayloadRun
from hpcrunner.job.results import save_results
from hpcrunner.job.save import Saver, Until, Upload
from hpcrunner.job.stopper import StopAsked, Stopper
from hpcrunner.job.stopwatch import STATUS, Source, status_artifact
from hpcrunner.job.workspace import Workspace, keep_home, make_workspace
from hpcrunner.mounts import one_nodes_own, says_full
from hpcrunner.nodefolders import remove_tree
from hpcrunner.request.claim import Owner
from hpcrunner.request.documents import METADATA, PREFIX
from hpcrunner.request.plan import Plan
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record, SavedArtifact

T = TypeVar("T")


@dataclass
class Course:
    """The parts of a running attempt; each is None until its step has come."""

    plan: Plan
    index: int
    environ: Mapping[str, str]
    events: Events
    stopper: Stopper
    started_at: float
    fence: Fence
    client: ClientRecord | None
    workspace: Workspace | None = None
    container: Container | None = None
    metadata: Metadata | None = None
    upload: Upload | None = None
    saver: Saver | None = None
    tee: Tee | None = None
    running: PayloadRun | None = None
    results_saved: tuple[SavedArtifact, ...] = ()

    def __post_init__(self) -> None:
        self.experiment = self.plan.experiment(self.index)
        self.memory = MemoryWitness.of_this_job(self.environ)

    @property
    def payload_started_at(self) -> float | None:
        """When the payload was started, in epoch seconds; None before."""
        return self.running.started_at if self.running else None

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

    def outlook(self, ending: Ending) -> Outlook:
        """Whether another attempt follows this ending."""
        return outlook_of(ending.reason, ending.text, self.experiment, time.time())

    def record_of(self, ending: Ending, owner: Owner) -> Record:
        """The record of this attempt, ended now."""
        staged = self.events.staged
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
            saved=(self.saver.saved if self.saver else ()) + self.results_saved,
            fetched_bytes=staged.fetched_bytes,
            saved_bytes=staged.saved_bytes,
            cache_hits=staged.cache_hits,
            cache_misses=staged.cache_misses,
        )

    def clean_up(self) -> None:
        """Remove the experiment's folders, unless the site keeps them.

        Not where another run has them: this job's, started again on this node or on one that
        shares the scratch folder.
        """
        if self.workspace is None or not self.workspace.is_ours:
            return
        if self.container is not None:
            self.container.close()
        try:
            if self.plan.setup.keep:
                keep_home(self.workspace)
            else:
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
            kept = artifacts.kept_in_folders(experiment)
            singles: dict[str, str] = {}
            self.workspace = workspace = make_workspace(
                plan.setup,
                f"{plan.batch}-{self.index}",
                experiment.name,
                [artifact.tag for artifact in kept],
                self.environ,
            )
            crashpoint("job.workspace_made")
            start_sweep(workspace.home)
            for source in self._sources(workspace):
                if (stop := _elsewhere(source)) is not None:
                    raise StopAsked(stop)
            if experiment.gpus:
                from hpcrunner.job.gpucheck import check_gpus

                check_gpus(experiment, self.environ, plan.setup.gpu_check, os.uname().nodename)
            confined = bool(experiment.exec_words) and plan.setup.container.isolation
            upload = artifacts.uploader(experiment, workspace, singles, events, confined=confined)
            files = self._metadata_files(workspace)
            self.upload = self.fence.guards(
                files.uploading(upload, tar=lambda: self.payload_started_at is not None)
            )
            self.saver = Saver(
                artifacts.saved(experiment),
                workspace,
                experiment.save_interval,
                self.upload,
                events,
                on_saved=self.client.checkpoint if self.client else lambda: None,
                before=files.refresh,
            )
            events.note("fetching")
            cache = artifacts.cache_settings(plan.setup, self.environ, events)
            singles.update(artifacts.fetch_all(experiment, workspace, events, cache))
            crashpoint("job.fetched")
            events.note("environment")
            self.container = _elsewhere(
                partial(open_container, experiment, plan.setup, workspace, self.environ, events)
            )
            if self.container is None:
                python = prepare_python(experiment, plan.setup, workspace, self.environ, events)
                if self.metadata is not None and python.venv:
                    self.metadata.packages = read_packages(Path(python.venv))
            else:
                python = prepare_inside(self.container, experiment, plan.setup, events)
            crashpoint("job.environment_ready")
            words, environment = self._command(workspace, python)
            if self.client is not None:
                _elsewhere(self.client.start)
        return workspace, words, environment

    def _command(
        self, workspace: Workspace, python: PythonHome
    ) -> tuple[Sequence[str], Mapping[str, str]]:
        """What is executed, and with which environment."""
        experiment, events, container = self.experiment, self.events, self.container
        words = payload_words(experiment, python.python, workspace)
        if container is None:
            environment, refused = payload_environment(experiment, workspace, python, self.environ)
        else:
            environment, refused = payload_environment(
                experiment, workspace, PythonHome(python.python), container.passed, container.tmp
            )
        for name in refused:
            events.tell("left_out", f"config.env may not set {name}: left as the job has it")
        if container is None:
            return words, environment
        return container.start(words, environment, python, events)

    def _run_payload(
        self, workspace: Workspace, words: Sequence[str], environment: Mapping[str, str]
    ) -> Ending:
        """Run the payload, saving meanwhile."""
        if self.saver is not None:
            self.saver.start()
        metadata = self.metadata
        # From here on the last run's output is changed.
        self.tee = Tee(workspace.output, metadata.scraper.feed if metadata else None)
        self.running = PayloadRun(
            self.experiment,
            self.plan.setup,
            workspace,
            self.environ,
            self.stopper,
            self.events,
            self.tee,
            metadata=metadata,
            container=self.container,
        )
        return with_memory(
            self.running.until_end(words, environment, self._sources(workspace)),
            self.memory.says(),
        )

    def _metadata_files(self, workspace: Workspace) -> MetadataFiles:
        """Begin the metadata of this attempt, under a name of its own."""
        experiment, setup, events = self.experiment, self.plan.setup, self.events
        name = _elsewhere(partial(accession_of, experiment, self.started_at))
        events.note("accession", accession=name)
        self.metadata = Metadata(experiment, name, self.environ, events, logs=setup.schema_logs)
        folder, wanted = workspace.tag(METADATA), setup.generate_metadata
        return MetadataFiles(self.metadata, experiment, folder, events, wanted=wanted)

    def _sources(self, workspace: Workspace) -> list[Source]:
        """Where somebody may have written that this attempt is to stop."""
        sources: list[Source] = [self.fence.stands]
        if self.client is not None:
            sources.append(self.client.stopped)
        sources += [
            status_artifact(artifact, workspace.runner)
            for artifact in self.experiment.artifacts
            if artifact.tag == STATUS
        ]
        return sources

    def _close(self, ending: Ending) -> Ending:
        """Save what there is to save."""
        if self._folders_are_anothers():
            if self.saver is not None:
                self.saver.finish(time.monotonic, frozenset())
            return ending
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
            tags = None if ran else frozenset({"output", METADATA})
            self._tell_metadata(ending)
            failures += self.saver.finish(until, tags)
            ending = with_unsaved(ending, failures)
            if failures:
                self._tell_metadata(ending)
                self.saver.finish(until, frozenset({METADATA}))
            failures = self._save_results(self.workspace, self.saver, ending, until)
        return with_unsaved(ending, failures)

    def _folders_are_anothers(self) -> bool:
        """Whether all that we wrote now would be another run's; a payload that removes our mark
        makes it nobody's.
        """
        lost = self.workspace is not None and not self.workspace.is_ours
        return lost and self.fence.stands() is TAKEN_OVER

    def _save_results(
        self, workspace: Workspace, saver: Saver, ending: Ending, until: Until
    ) -> list[str]:
        """The ``_results`` artifact, after all others; returns why it was not saved, if so."""
        if self.upload is None or self.outlook(ending) is not Outlook.FINAL:
            return []
        error = "" if ending.reason is Reason.COMPLETED else one_line(ending.text)
        tags = [artifact.tag for artifact in saver.saved]
        failures, self.results_saved = save_results(
            self.experiment, workspace, error, tags, self.upload, self.events, until
        )
        return failures

    def _tell_metadata(self, ending: Ending) -> None:
        if self.metadata is not None:
            self.metadata.ended(ending.reason, one_line(ending.text))

    def _output_closed(self, workspace: Workspace, ending: Ending) -> list[str]:
        """Add the ending to the output, since clients see no more of us; returns its failures."""
        if self.tee is None:
            self.tee = Tee(workspace.output)
        if ending.reason is Reason.ENVIRONMENT_FAILED:
            with suppress(OSError):
                for line in last_lines(workspace.runner / LOG_NAME):
                    self.tee.note(line)
                    if self.metadata is not None:
                        self.metadata.say(line)
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
    full = isinstance(fault, OSError) and says_full(fault) and bool(fault.filename)
    if full and not one_nodes_own(Path(fault.filename)):  # type: ignore[attr-defined]
        return Ending(Reason.NO_ROOM, f"no room on a file system that the nodes share: {what}")
    return Ending(Reason.JOB_SIDE_FAULT, f"hpcrunner failed on the node: {what}")
