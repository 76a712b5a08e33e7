"""The probe jobs: by the site's own backend, script and placement, as experiments go."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.script import render_script
from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.interrupts import uninterrupted
from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.model import Resources
from hpcrunner.request.plan import LOGS, SCRIPT_NAME
from hpcrunner.request.probe import (
    PROBE_NAME,
    REPORT_NAME,
    ProbeOrder,
    ProbeReport,
    report_from_json,
)
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    Scheduler,
    Sighting,
    SubmitUncertain,
)
from hpcrunner.sites.placement import place
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec
from hpcrunner.sync import sync_folder

FOLDER = "doctor"
_LONGEST = 300  # seconds that a probe asks for
_RUNS = 180.0  # seconds that one may take, once it runs
# Seconds that its report may show late, once it has ended: of a job that failed, and at most of one
# that ended well, which has left a report; twice record_wait, so as to tell how late records are.
_LATE, _LATEST = 30.0, 180.0
_TICK = 0.5
_LOOKS = 5.0  # seconds between two questions to the scheduler
_LAST_LINES = 3


@dataclass(frozen=True, slots=True)
class Probe:
    """One job to submit: ``name`` for people, ``cpu`` or ``gpu``."""

    name: str
    spec: JobSpec
    order: ProbeOrder


@dataclass(frozen=True, slots=True)
class Seen:
    """What came of a probe: its report, or ``trouble``.

    ``queued``: it has not begun to run. ``seconds`` from submission to report, and ``seen_at``
    (epoch) when the report showed here.
    """

    probe: Probe
    job: str = ""
    node: str = ""
    report: ProbeReport | None = None
    trouble: str = ""
    queued: bool = False
    seconds: float = 0.0
    seen_at: float = 0.0


def cpu_spec(site: Site) -> JobSpec:
    """The smallest experiment of this site, for a few minutes. Raises NoFit."""
    return _short(place(Resources(cpus=1), site))


def gpu_spec(site: Site) -> JobSpec:
    """The smallest with one whole GPU. Raises NoFit."""
    cards = site.model_copy(update={"gpus": site.gpus.model_copy(update={"meaning": "cards"})})
    return _short(place(Resources(cpus=1, gpus=1), cards))


def _short(spec: JobSpec) -> JobSpec:
    return replace(spec, time_limit=min(spec.time_limit or _LONGEST, _LONGEST))


@contextmanager
def probe_folder(spool: Path) -> Iterator[Path]:
    """A private folder in the spool for the time of the probes; nothing of it stays."""
    own = spool / FOLDER / secrets.token_hex(4)
    own.mkdir(mode=0o700, parents=True)
    try:
        yield own
    finally:
        with uninterrupted():
            shutil.rmtree(own, ignore_errors=True)
            with suppress(OSError):  # another doctor works beside it
                own.parent.rmdir()


def run_probes(
    probes: Sequence[Probe],
    site: Site,
    scheduler: Scheduler,
    folder: Path,
    edge: Edge,
    *,
    wait: float,
    tell: Callable[[str], None] = lambda text: None,
) -> list[Seen]:
    """Submit the probes and wait: ``wait`` seconds until each of them runs, and then for its end.

    Whatever ends this, an interrupt too, what still waits or runs is cancelled.
    """
    running: dict[str, _Running] = {}
    done: dict[str, Seen] = {}
    began = edge.clock()
    try:
        for probe in probes:
            try:
                with uninterrupted():
                    running[probe.name] = _submit(probe, site, scheduler, folder, edge)
            except HpcrunnerError as error:
                done[probe.name] = Seen(probe, trouble=error.line())
        while running:
            _look(running, scheduler, began)
            for name, job in list(running.items()):
                seen = job.judge(edge.clock(), wait, site.record_wait)
                if seen is not None:
                    done[name] = seen
                    if seen.report is None:
                        _cancel([running[name]], scheduler)
                    del running[name]
            if running:
                tell(", ".join(job.words() for job in running.values()))
                edge.pause(_TICK)
    finally:
        with uninterrupted():
            _cancel(list(running.values()), scheduler)
    return [done[probe.name] for probe in probes]


class _Running:
    """A probe that was submitted."""

    def __init__(self, probe: Probe, batch: Batch, job: Job, now: float) -> None:
        self.probe = probe
        self.batch = batch
        self.job = job
        self.sighting: Sighting | None = None
        self.looked_at = float("-inf")
        self._submitted_at = now
        self._running_since: float | None = None
        self._ended_at: float | None = None

    def judge(self, now: float, wait: float, record_wait: float) -> Seen | None:
        """What came of it, or None while nobody knows."""
        sighting, node = self.sighting, self.sighting.node if self.sighting else ""
        report = _report(self.batch.folder)
        seconds = now - self._submitted_at
        if report is not None:
            if isinstance(report, str):
                return self._failed(report, now)
            node = report.node or node or report.host
            return Seen(self.probe, self.job.id, node, report, "", False, seconds, now)
        state = sighting.state if sighting else None
        if state is JobState.ENDED:
            self._ended_at = self._ended_at or now
            since = now - self._ended_at
            if sighting and sighting.reason is Reason.COMPLETED:
                if since >= min(max(2 * record_wait, _LATE), _LATEST):
                    what = f"ended well, and its report did not show here within {since:.0f} s"
                    return self._failed(f"{what}{self._output()}", now)
            elif since >= min(record_wait, _LATE):
                word = sighting.word if sighting else ""
                return self._failed(f"ended ({word}) and left no report{self._output()}", now)
            return None
        if state in (JobState.RUNNING, JobState.COMPLETING):
            self._running_since = self._running_since or now
            if now - self._running_since > _RUNS:
                return self._failed(f"runs for {_RUNS:g} s without an end{self._output()}", now)
            return None
        if seconds > wait:
            why = sighting.pending if sighting and sighting.pending else "no word why"
            return replace(
                self._failed(f"did not start within {wait:g} s ({why})", now), queued=True
            )
        return None

    def words(self) -> str:
        """For people who wait."""
        sighting = self.sighting
        state = sighting.state.value.lower() if sighting and sighting.state else "submitted"
        pending = f" ({sighting.pending})" if sighting and sighting.pending else ""
        return f"{self.probe.name} job {self.job.id} {state}{pending}"

    def _failed(self, trouble: str, now: float) -> Seen:
        node = self.sighting.node if self.sighting else ""
        return Seen(
            self.probe, self.job.id, node, None, trouble, False, now - self._submitted_at, now
        )

    def _output(self) -> str:
        """The end of what the job printed, which is where a missing interpreter shows."""
        try:
            text = (self.batch.logs / "1.out").read_text("utf-8", "replace")
        except OSError:
            return "; no output is to be seen here: is the spool on a shared file system?"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return f"; its output ends: {' / '.join(lines[-_LAST_LINES:])}" if lines else ""


def _submit(probe: Probe, site: Site, scheduler: Scheduler, folder: Path, edge: Edge) -> _Running:
    batch_id = secrets.token_hex(6)
    batch = Batch(batch_id, probe.spec, 1, folder / batch_id)
    script = render_script(batch, site)
    batch.folder.mkdir(mode=0o700)
    (batch.folder / LOGS).mkdir(mode=0o700)
    for name, text, mode in (
        (PROBE_NAME, probe.order.to_json(), 0o600),
        (SCRIPT_NAME, script, 0o700),
    ):
        path = batch.folder / name
        path.touch(mode)
        path.write_text(text, encoding="utf-8")
    sync_folder(batch.folder)
    now = edge.clock()
    try:
        submission = scheduler.submit(batch)
    except SubmitUncertain:
        found = scheduler.seek([batch], now)[batch.id].submission
        if found is None:
            raise
        submission = found
    return _Running(probe, batch, Job(submission.job_ids[0], batch.name), now)


def _look(running: dict[str, _Running], scheduler: Scheduler, since: float) -> None:
    """Ask the scheduler now and then, all of them at once."""
    now = time.monotonic()
    due = [job for job in running.values() if now - job.looked_at >= _LOOKS]
    if not due:
        return
    seen = scheduler.look_up([job.job for job in due], since)
    for job in due:
        job.sighting = seen[job.job]
        job.looked_at = now


def _report(folder: Path) -> ProbeReport | str | None:
    """The report, why it cannot be read, or None where there is none yet."""
    path = folder / REPORT_NAME
    try:
        with suppress(OSError):  # an NFS client looks anew at a folder that is listed
            list(folder.iterdir())
        return report_from_json(path.read_text("utf-8"), where=str(path))
    except OSError:
        return None
    except HpcrunnerError as error:
        return error.line()


def _cancel(jobs: Sequence[_Running], scheduler: Scheduler) -> None:
    if jobs:
        with suppress(HpcrunnerError):
            scheduler.cancel([job.job for job in jobs])
