"""The probe job: by the local scheduler for real, and by one that says what it is told to."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcrunner import __version__
from hpcrunner.batch.batch import Batch
from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.examine import Wishes, examine
from hpcrunner.doctor.finding import Finding, Verdict
from hpcrunner.doctor.node import judge_probe
from hpcrunner.doctor.probe import Probe, Seen, cpu_spec, run_probes
from hpcrunner.job.probe import run_probe
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.request.probe import (
    PROBE_NAME,
    REPORT_NAME,
    CommandSeen,
    FolderSeen,
    ProbeCommand,
    ProbeOrder,
    ProbeReport,
    StoreSeen,
    order_from_json,
    report_from_json,
)
from hpcrunner.request.reasons import Reason
from hpcrunner.schedulers.contract import (
    Job,
    JobState,
    Sighting,
    Sought,
    Submission,
    SubmitRefused,
    SubmitUncertain,
)
from hpcrunner.schedulers.contract import (
    Verdict as Witness,
)
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

ORDER = ProbeOrder("HPCRUNNER_DOCTOR_X")
REPORT = ProbeReport(
    host="host",
    node="n1",
    job_id="7",
    python="3.11.2",
    executable="/venv/bin/python",
    hpcrunner=__version__,
    leaked=False,
    devices=(),
    folders=(FolderSeen("scratch", "/tmp", "", "xfs", 5 << 30),),
    commands=(CommandSeen("step", 0, ""),),
    stores=(StoreSeen("s3://store/b", ""),),
    skew=0.0,
    written_at=1000.0,
)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site.model_validate(
        {
            "scheduler": "local",
            "spool": str(tmp_path / "spool"),
            "scratch": str(tmp_path / "scratch"),
            "cache": str(tmp_path / "cache"),
            "accounting": {"mode": "none"},
        }
    )


def wishes(**changes: Any) -> Wishes:
    return Wishes(queues=QueueOptions(gateway_id="doctor"), **changes)


def by_check(findings: Sequence[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


# The whole round on this machine.


def test_a_sound_machine_has_no_faults_and_nothing_of_the_round_stays(
    site: Site, tmp_path: Path
) -> None:
    (tmp_path / "scratch").mkdir()
    before = dict(os.environ)
    found = list(examine(site, wishes(), Edge()))
    assert [f.line() for f in found if f.verdict is Verdict.FAULT] == []
    seen = by_check(found)
    for check in ("probe", "node.python", "node.environment", "node.scratch", "record"):
        assert seen[check].verdict is Verdict.OK, seen[check]
    assert dict(os.environ) == before
    # The local scheduler's daemon may still be looking at a folder that is gone.
    assert [p.name for p in tmp_path.iterdir()] in (["scratch"], ["scratch", "spool"])
    assert list((tmp_path / "scratch").iterdir()) == []


def test_the_doctor_uses_a_spool_that_is_there_and_leaves_it_as_it_was(site: Site) -> None:
    site.spool_path.mkdir(mode=0o750)
    (site.spool_path / "journal.db").write_text("not to be touched")
    found = by_check(list(examine(site, wishes(job=False), Edge())))
    assert found["spool"].verdict is Verdict.FAULT
    assert "is open to others (mode 0750)" in found["spool"].line()
    assert found["probe"].verdict is Verdict.NOT_TRIED
    assert [p.name for p in site.spool_path.iterdir()] == ["journal.db"]
    assert stat.S_IMODE(site.spool_path.stat().st_mode) == 0o750


def test_a_spool_that_cannot_be_made_hinders_the_probe(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    there = Site.model_validate({**dict(site), "spool": str(tmp_path / "file" / "spool")})
    found = by_check(list(examine(there, wishes(), Edge())))
    assert found["spool"].verdict is Verdict.FAULT
    assert found["probe"].line() == "the spool cannot be used"


def test_a_broken_template_is_told_and_gone_round(site: Site, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "batch.sh.j2").write_text("{% if %}")
    broken = Site.model_validate({**dict(site), "templates": str(tmp_path / "templates")})
    found = by_check(list(examine(broken, wishes(), Edge())))
    assert found["templates"].verdict is Verdict.FAULT
    assert found["probe"].verdict is Verdict.OK
    assert "with the shipped template" in found["probe"].line()


def test_a_python_without_hpcrunner_is_told_with_what_the_job_printed(
    site: Site, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named hpcrunner' >&2\nexit 1\n")
    python.chmod(0o755)
    other = Site.model_validate({**dict(site), "python": str(python)})
    now = [0.0]

    def pause(seconds: float) -> None:
        import time

        time.sleep(0.05)
        now[0] += 5.0  # what it waits for after the job's end passes quickly

    found = by_check(list(examine(other, wishes(), Edge(clock=lambda: now[0], pause=pause))))
    assert "No module named hpcrunner" in found["python"].line()
    assert found["probe"].verdict is Verdict.FAULT
    assert "its output ends: No module named hpcrunner" in found["probe"].line()


def test_a_backend_that_hands_the_environment_on_is_found_out(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hpcrunner.schedulers.local.job_environment", dict)
    found = by_check(list(examine(site, wishes(), Edge())))
    assert found["node.environment"].verdict is Verdict.FAULT


def test_of_an_offline_nodes_stores_the_folders_alone_are_asked_from_there(
    site: Site, tmp_path: Path
) -> None:
    own = Site.model_validate({**dict(site), "staging": "gateway"})
    stores = (f"file://{tmp_path}", "http://127.0.0.1:1/x.tar")
    found = list(examine(own, wishes(stores=stores), Edge()))
    here = [f.verdict for f in found if f.check == "store"]
    assert here == [Verdict.OK, Verdict.FAULT]
    (there,) = (f for f in found if f.check == "node.store")
    assert (there.verdict, there.what) == (Verdict.OK, "reached")
    assert by_check(found)["node.staging_dir"].verdict is Verdict.OK


def test_a_secret_that_a_start_file_hands_to_jobs_too_is_named_and_not_told(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = "export HUB_TOKEN=hunter2-hunter2 SHORT_KEY=x OTHER_KEY=aaaaaaaa\n"
    (tmp_path / "profile").write_text(exported)
    for name, value in (
        ("HUB_TOKEN", "hunter2-hunter2"),
        ("SHORT_KEY", "x"),
        ("OTHER_KEY", "bbbbbbbb"),
        ("ABSENT_SECRET", "hunter3-hunter3"),
    ):
        monkeypatch.setenv(name, value)
    own = Site.model_validate({**dict(site), "prologue": [f". {tmp_path}/profile"]})
    finding = by_check(list(examine(own, wishes(), Edge())))["node.environment"]
    assert finding.verdict is Verdict.WARNING
    assert finding.what.startswith("HUB_TOKEN of this login session has the same value in the job")
    assert "hunter" not in finding.line()


# On the node.


def run(folder: Path, order: ProbeOrder, environ: Mapping[str, str]) -> ProbeReport:
    (folder / PROBE_NAME).write_text(order.to_json())
    assert run_probe(folder, environ) == 0
    path = folder / REPORT_NAME
    assert stat.S_IMODE(path.stat().st_mode) & 0o400
    return report_from_json(path.read_text(), where=str(path))


def test_the_node_tells_what_it_sees(tmp_path: Path) -> None:
    order = ProbeOrder(
        planted="PLANTED",
        folders=(("scratch", "$SOMEWHERE"), ("cache", str(tmp_path / "a" / "b"))),
        commands=(
            ProbeCommand("good", (sys.executable, "-c", "print('first'); print('last')")),
            ProbeCommand("bad", (sys.executable, "-c", "raise SystemExit('why')")),
            ProbeCommand("none", ("/nowhere/program",)),
            ProbeCommand("slow", (sys.executable, "-c", "import time; time.sleep(60)"), 0.2),
            ProbeCommand("filled", ("ls", "-d", "@ENVIRONMENT@", "@BINDS@")),
        ),
        stores=(Location("s3", "key", "bucket", endpoint="http://127.0.0.1:1"),),
        gpus=2,
    )
    report = run(tmp_path, order, {"CUDA_VISIBLE_DEVICES": "0,3", "PLANTED": "1"})
    assert report.leaked and report.devices == ("0", "3")
    assert [f.trouble for f in report.folders] == [
        "is no absolute path here: is its variable set?",
        "",
    ]
    assert not (tmp_path / "a").exists()  # what it made it has taken away
    assert [(c.name, c.code, c.line) for c in report.commands[:4]] == [
        ("good", 0, "last"),
        ("bad", 1, "why"),
        ("none", None, "No such file or directory"),
        ("slow", None, "no end within 0.2 s"),
    ]
    assert report.commands[4].code == 0 and report.commands[4].line.endswith("/environment")
    assert "Connection refused" in report.stores[0].trouble
    assert not run(tmp_path, replace(ORDER, planted="OTHER"), {"PLANTED": "1"}).leaked


def test_an_order_survives_json_and_damage_is_told(tmp_path: Path) -> None:
    keys = AwsCredentials("k", "secret")
    order = ProbeOrder(
        "X",
        (("scratch", "/tmp"),),
        (ProbeCommand("c", ("a", "b"), 1.5),),
        (Location("s3", "key", "bucket", credentials=keys),),
        2,
        1,
    )
    assert order_from_json(order.to_json(), where="x") == order
    assert "secret" not in repr(order)
    named = replace(order, secrets=(("HUB_TOKEN", "digest"),))
    assert order_from_json(named.to_json(), where="x") == named
    for report in (REPORT, replace(REPORT, secrets=("HUB_TOKEN",))):
        assert report_from_json(report.to_json(), where="x") == report
    for text in ("", "[]", "{}", '{"planted": 1', json.dumps({"folders": 3})):
        with pytest.raises(Exception, match="not a probe's"):
            order_from_json(text, where="x")
        with pytest.raises(Exception, match="not a probe's"):
            report_from_json(text, where="x")


# With a scheduler that says what it is told to.


class Scheduler:
    """Takes every batch as job 7; ``states`` are its answers, the last one for ever."""

    name = "told"

    def __init__(
        self, *states: JobState, report: str | None = None, reason: Reason | None = None
    ) -> None:
        self.states = list(states)
        self.reason = reason
        self.folder: Path | None = None
        self.report = report
        self.cancelled: list[str] = []
        self.error: Exception | None = None
        self.found: Submission | None = None

    def submit(self, batch: Batch) -> Submission:
        if self.error is not None:
            raise self.error
        self.folder = batch.folder
        if self.report is not None:
            (batch.folder / REPORT_NAME).write_text(self.report)
        return Submission(("7",))

    def seek(self, batches: Sequence[Batch], since: float) -> Mapping[str, Sought]:
        verdict = Witness.FOUND if self.found else Witness.NOT_FOUND
        return {batch.id: Sought(verdict, self.found) for batch in batches}

    def look_up(self, jobs: Sequence[Job], since: float) -> Mapping[Job, Sighting]:
        state = self.states[0] if len(self.states) == 1 else self.states.pop(0)
        seen = Sighting(Witness.FOUND, state, state.value, reason=self.reason, pending="Priority")
        return dict.fromkeys(jobs, seen)

    def cancel(self, jobs: Sequence[Job]) -> None:
        self.cancelled += [job.id for job in jobs]

    def close(self) -> None:
        pass


@pytest.fixture
def probed(site: Site, tmp_path: Path) -> Iterator[Callable[[Scheduler], Seen]]:
    """Run one probe with such a scheduler; a pause is a second that passes."""
    now = [1000.0]

    def pause(seconds: float) -> None:
        now[0] += 1.0

    def go(scheduler: Scheduler) -> Seen:
        probe = Probe("cpu", cpu_spec(site), ORDER)
        edge = Edge(clock=lambda: now[0], pause=pause)
        (seen,) = run_probes([probe], site, scheduler, tmp_path, edge, wait=20.0)
        return seen

    yield go


def test_a_job_that_does_not_start_in_time_is_cancelled(
    probed: Callable[[Scheduler], Seen], site: Site
) -> None:
    scheduler = Scheduler(JobState.QUEUED)
    seen = probed(scheduler)
    assert seen.queued and scheduler.cancelled == ["7"]
    (finding,) = judge_probe(seen, site, 0.0, ())
    assert finding.verdict is Verdict.WARNING
    assert finding.line() == (
        "cpu job 7: did not start within 20 s (Priority); the queue is long: give it more time "
        "with --wait"
    )


def test_a_report_ends_the_wait_and_nothing_is_cancelled(
    probed: Callable[[Scheduler], Seen],
) -> None:
    scheduler = Scheduler(JobState.QUEUED, report=REPORT.to_json())
    seen = probed(scheduler)
    assert seen.report == REPORT and scheduler.cancelled == []


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (20, "warning: the node's report showed here after 20.0 s"),
        (
            100,
            "fault: the node's report showed here after 100.0 s; endings would be judged without",
        ),
        (200, "fault: ended well, and its report did not show here within 180 s"),
    ],
)
def test_a_report_that_shows_late_is_waited_for_and_told(
    late: int, words: str, site: Site, tmp_path: Path
) -> None:
    scheduler = Scheduler(JobState.ENDED, reason=Reason.COMPLETED)
    now = [1000.0]

    def pause(seconds: float) -> None:
        now[0] += 1.0
        if now[0] == 1000.0 + late and scheduler.folder is not None:
            (scheduler.folder / REPORT_NAME).write_text(REPORT.to_json())

    probe, edge = Probe("cpu", cpu_spec(site), ORDER), Edge(clock=lambda: now[0], pause=pause)
    (seen,) = run_probes([probe], site, scheduler, tmp_path, edge, wait=20.0)
    told = [f"{f.verdict.value}: {f.what}; {f.remedy}" for f in judge_probe(seen, site, 0.0, ())]
    assert len([line for line in told if line.startswith(words)]) == 1, told


def test_a_job_that_failed_is_not_waited_for_as_long(probed: Callable[[Scheduler], Seen]) -> None:
    scheduler = Scheduler(JobState.ENDED, reason=Reason.SCHEDULER_FAILED)
    seen = probed(scheduler)
    assert "ended (ENDED) and left no report" in seen.trouble and seen.seconds <= 31


def test_a_report_that_cannot_be_read_is_told(probed: Callable[[Scheduler], Seen]) -> None:
    assert "not a probe's report" in probed(Scheduler(JobState.RUNNING, report="{}")).trouble


def test_a_refusal_is_told(probed: Callable[[Scheduler], Seen]) -> None:
    scheduler = Scheduler(JobState.QUEUED)
    scheduler.error = SubmitRefused("refused (Invalid account)", where="sbatch")
    assert "refused (Invalid account)" in probed(scheduler).trouble


def test_a_submission_that_nobody_is_sure_of_is_looked_up(
    probed: Callable[[Scheduler], Seen],
) -> None:
    scheduler = Scheduler(JobState.QUEUED)
    scheduler.error = SubmitUncertain("timed out", where="sbatch")
    assert "timed out" in probed(scheduler).trouble
    scheduler.found = Submission(("8",))
    assert probed(scheduler).job == "8" and scheduler.cancelled == ["8"]


def test_an_interrupt_cancels_the_job(site: Site, tmp_path: Path) -> None:
    scheduler = Scheduler(JobState.RUNNING)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    probe = Probe("cpu", JobSpec(), ORDER)
    with pytest.raises(KeyboardInterrupt):
        run_probes([probe], site, scheduler, tmp_path, Edge(pause=interrupt), wait=20.0)
    assert scheduler.cancelled == ["7"]


def test_interrupts_in_the_midst_of_a_submission_and_of_the_cancellation_leave_no_job(
    tmp_path: Path, site: Site
) -> None:
    class Interrupted(Scheduler):
        def submit(self, batch: Batch) -> Submission:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            return super().submit(batch)

        def cancel(self, jobs: Sequence[Job]) -> None:
            signal.raise_signal(signal.SIGINT)
            super().cancel(jobs)

    scheduler = Interrupted(JobState.RUNNING)
    endings = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(ending, signal.default_int_handler) for ending in endings]
    try:
        with pytest.raises(KeyboardInterrupt):
            run_probes(
                [Probe("cpu", JobSpec(), ORDER)], site, scheduler, tmp_path, Edge(), wait=20.0
            )
    finally:
        for ending, handler in zip(endings, before, strict=True):
            signal.signal(ending, handler)
    assert scheduler.cancelled == ["7"]


def test_an_order_with_a_stores_keys_is_private(site: Site, tmp_path: Path) -> None:
    modes: list[int] = []

    class Looking(Scheduler):
        def submit(self, batch: Batch) -> Submission:
            for path in (batch.folder, batch.folder / PROBE_NAME):
                modes.append(stat.S_IMODE(path.stat().st_mode))
            return super().submit(batch)

    mask = os.umask(0)
    try:
        scheduler = Looking(JobState.QUEUED, report=REPORT.to_json())
        run_probes([Probe("cpu", JobSpec(), ORDER)], site, scheduler, tmp_path, Edge(), wait=1.0)
    finally:
        os.umask(mask)
    assert modes == [0o700, 0o600]


# What is made of a report.


@pytest.mark.parametrize(
    ("change", "check", "verdict", "words"),
    [
        ({"leaked": True}, "node.environment", "fault", "reached the job"),
        ({"hpcrunner": "0.0.1"}, "node.python", "fault", "runs hpcrunner 0.0.1"),
        (
            {"folders": (FolderSeen("cache", "/c", "Permission denied", "", 0),)},
            "node.cache",
            "fault",
            "cannot be written (Permission denied)",
        ),
        (
            {"folders": (FolderSeen("scratch", "/c", "", "xfs", 1000),)},
            "node.scratch",
            "warning",
            "free",
        ),
        (
            {"commands": (CommandSeen("step", 1, "srun: error: denied"),)},
            "node.steps",
            "warning",
            "srun: error: denied",
        ),
        (
            {"commands": (CommandSeen("container version", None, "No such file"),)},
            "node.container",
            "fault",
            "does not start (No such file)",
        ),
        (
            {"commands": (CommandSeen("container version", 0, "apptainer version 1.0.3"),)},
            "node.container",
            "fault",
            "does not know --no-eval",
        ),
        (
            {"commands": (CommandSeen("container exec", 255, "FATAL: no image"),)},
            "node.container",
            "fault",
            "does not run (FATAL: no image)",
        ),
        (
            {"stores": (StoreSeen("s3://store/b", "no connection"),)},
            "node.store",
            "fault",
            "not reached from the node (no connection)",
        ),
        ({"skew": 20.0}, "node.clock", "warning", "20.0 s ahead"),
        ({"skew": -300.0}, "node.clock", "fault", "300.0 s behind"),
        ({"written_at": 980.0}, "record", "warning", "after 21.0 s"),
        ({"written_at": 800.0}, "record", "fault", "record_wait: 402"),
    ],
)
def test_what_a_node_lacks_is_told(
    change: dict[str, Any], check: str, verdict: str, words: str, site: Site
) -> None:
    report = replace(REPORT, **change)
    if "skew" in change:  # the clock of the node is off, and so are its times
        report = replace(report, written_at=report.written_at + report.skew)
    seen = Seen(Probe("cpu", JobSpec(), ORDER), "7", "n1", report, seconds=2.0, seen_at=1001.0)
    found = [f for f in judge_probe(seen, site, 0.0, ()) if f.verdict is not Verdict.OK]
    assert [(f.check, f.verdict.value) for f in found] == [(check, verdict)]
    assert words in found[0].line() and "node n1" in found[0].line()


@pytest.mark.parametrize(
    ("devices", "verdict"), [(("0",), "ok"), ((), "fault"), (("0", "1"), "fault")]
)
def test_a_job_gets_the_gpus_it_asked_for(
    devices: tuple[str, ...], verdict: str, site: Site
) -> None:
    probe = Probe("gpu", JobSpec(gpus=1, gpu_type="a100"), ORDER)
    seen = Seen(probe, "7", "n1", replace(REPORT, devices=devices), seen_at=1000.0)
    assert by_check(judge_probe(seen, site, 0.0, ()))["node.gpus"].verdict.value == verdict
