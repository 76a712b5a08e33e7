"""The login node: what would end a gateway, and what its folders are like."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from hpcrunner.doctor.edge import Edge
from hpcrunner.doctor.finding import Finding, Verdict, fault, ok
from hpcrunner.doctor.folders import (
    FolderFacts,
    folder_facts,
    judge_shared,
    judge_skew,
    judge_spool,
)
from hpcrunner.doctor.login import (
    Interpreter,
    LimitsHere,
    Session,
    interpreter,
    judge_environment,
    judge_holder,
    judge_interpreter,
    judge_limits,
    judge_session,
    judge_versions,
    session,
)
from hpcrunner.doctor.slurm.cluster import TRAPS
from hpcrunner.gateway.lock import Contender
from hpcrunner.mounts import Mount, holder
from hpcrunner.request.probe import skew
from hpcrunner.schedulers.command import Completed
from hpcrunner.sites.site import Site

GOOD = FolderFacts(Path("/spool"), mount=Mount("/", "nfs4"), free=1 << 40, files=1_000_000)


def lines(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(f.verdict.value, f.line()) for f in findings if f.verdict is not Verdict.OK]


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        ({"mine": False}, "fault", "belongs to another user"),
        ({"mode": 0o750}, "fault", "is open to others (mode 0750)"),
        ({"mode": 0o701}, "fault", "is open to others (mode 0701)"),
        ({"trouble": "Read-only file system"}, "fault", "cannot be used (Read-only file system)"),
        ({"lock": None}, "fault", "no locks"),
        ({"free": 1000}, "warning", "free"),
        ({"files": 5}, "warning", "only 5 files more fit"),
        ({"sync": 3.0}, "warning", "slow: 3000 ms to sync a file"),
    ],
)
def test_a_spool_that_does_not_do_is_told(
    change: dict[str, object], verdict: str, words: str
) -> None:
    found = lines(list(judge_spool(replace(GOOD, **change))))  # type: ignore[arg-type]
    assert [v for v, _ in found] == [verdict]
    assert words in found[0][1] and "spool /spool" in found[0][1]


def test_a_good_spool_is_told_with_its_pace() -> None:
    (finding,) = judge_spool(replace(GOOD, sync=0.012, files=None, free=None))
    assert finding.verdict is Verdict.OK
    assert "sync 12 ms, rename under 1 ms, lock under 1 ms, on nfs4" in finding.line()


def test_a_folder_is_measured_and_left_empty(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    facts = folder_facts(tmp_path)
    assert (facts.trouble, facts.mine, facts.mode) == ("", True, 0o700)
    assert facts.sync > 0 and facts.lock is not None and (facts.free or 0) > 0
    assert abs(facts.skew) < 60
    assert list(tmp_path.iterdir()) == []
    assert folder_facts(tmp_path / "none").trouble == "No such file or directory"


def test_a_file_system_without_locks_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(handle: int, kind: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert folder_facts(tmp_path).lock is None


@pytest.mark.parametrize(
    ("path", "kind", "shared"),
    [
        ("/home/me/spool", "nfs4", True),
        ("/home", "nfs4", True),
        ("/homes", "ext4", False),
        ("/scratch/x y/z", "lustre", True),
        ("/tmp", "tmpfs", False),
        ("/weird", "fuse.new", None),
        ("/sshd", "fuse.sshfs", None),
    ],
)
def test_the_mount_of_a_path_is_the_deepest(path: str, kind: str, shared: bool | None) -> None:
    table = (
        "/dev/sda / ext4 rw 0 0\n"
        "server:/h /home nfs4 rw 0 0\n"
        "disk /scratch/x\\040y ext4 rw 0 0\n"
        "l@tcp:/l /scratch/x\\040y lustre rw 0 0\n"  # over the other
        "tmpfs /tmp tmpfs rw 0 0\n"
        "new /weird fuse.new rw 0 0\n"
        "s /sshd fuse.sshfs rw 0 0\n"
        "broken\n"
    )
    found = holder(path, table)
    assert (found.type, found.shared) == (kind, shared)


@pytest.mark.parametrize(
    ("kind", "hosts", "verdict", "words"),
    [
        ("ext4", ["n1"], "ok", "other hosts see it"),
        ("ext4", ["login"], "ok", "on this very host"),
        ("ext4", [], "warning", "a disk of one machine"),
        ("nfs4", [], "ok", "on nfs4"),
        ("odd", [], "ok", "a probe job shows"),
    ],
)
def test_whether_nodes_see_the_spool(kind: str, hosts: list[str], verdict: str, words: str) -> None:
    found = judge_shared(Path("/spool"), Mount("/", kind), hosts, "login")
    assert found.verdict.value == verdict and words in found.line()


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(0.2, "ok"), (-5, "ok"), (-11, "warning"), (250, "fault")]
)
def test_clocks_far_apart_are_told(seconds: float, verdict: str) -> None:
    assert judge_skew(seconds, "a clock").verdict.value == verdict


def test_limits_that_would_end_a_gateway_are_told() -> None:
    assert lines(list(judge_limits(LimitsHere()))) == []
    assert lines(list(judge_limits(LimitsHere(None, 4096, 1024, None)))) == []
    found = lines(list(judge_limits(LimitsHere(600, 20, 64, 1 << 30))))
    assert [v for v, _ in found] == ["warning"] * 4
    assert "after 10m of CPU time (ulimit -t)" in found[0][1]


@pytest.mark.parametrize(
    ("seen", "verdict"),
    [
        (Session(None, None), "not tried"),
        (Session(False, False), "ok"),
        (Session(True, True), "ok"),
        (Session(False, True), "warning"),
    ],
)
def test_a_logout_that_ends_the_gateway_is_told(seen: Session, verdict: str) -> None:
    assert judge_session(seen).verdict.value == verdict


def test_systemd_is_asked_where_it_is(edge: Callable[..., Edge]) -> None:
    answers = {"loginctl": Completed("yes\n", "", 0), "busctl": Completed("b true\n", "", 0)}
    assert session(edge(answers)) == Session(True, True)
    assert session(edge({})) == Session(None, None)


def test_variables_that_bend_commands_are_named_and_not_their_values() -> None:
    environ = {"SBATCH_PARTITION": "secret", "SLURM_CONF": "/etc", "PATH": "/bin", "SLURM_X": "1"}
    found = judge_environment(environ, TRAPS)
    assert "SBATCH_PARTITION, SLURM_X: kept from" in found.line()
    assert "secret" not in found.line() and "SLURM_CONF" not in found.line()


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (Completed('["3.11.2", "0.0.1", "/p"]\n', "", 0), ""),
        (Completed("", "x\nModuleNotFoundError: no hpcrunner\n", 1), "ModuleNotFoundError: no hp"),
        (Completed("", "", 3), "ended with 3"),
    ],
)
def test_the_interpreter_of_the_jobs_is_asked(
    reply: Completed, trouble: str, edge: Callable[..., Edge], tmp_path: Path
) -> None:
    python = tmp_path / "py"
    python.touch(0o755)
    there = interpreter(Site.model_validate({"python": str(python)}), edge({"-I -c": reply}))
    assert there.trouble.startswith(trouble) and bool(there.trouble) is bool(trouble)
    verdicts: Mapping[bool, Verdict] = {True: Verdict.FAULT, False: Verdict.OK}
    assert judge_interpreter(there).verdict is verdicts[bool(trouble)]
    if not trouble:
        found = lines(list(judge_versions(there)))
        assert "jobs would run hpcrunner 0.0.1" in found[0][1]


def test_an_interpreter_that_only_nodes_have_is_a_warning() -> None:
    there = Interpreter("/nodes/python", missing=True)
    assert judge_interpreter(there).verdict is Verdict.WARNING


def test_a_gateway_on_the_spool_is_seen(tmp_path: Path) -> None:
    assert "none runs" in judge_holder(tmp_path).line()
    lock = Contender(tmp_path / "gateway.lock").try_take()
    assert lock is not None
    try:
        assert "one runs on this spool (host" in judge_holder(tmp_path).line()
    finally:
        lock.close()


def test_no_finding_shows_a_secret() -> None:
    found = fault("broker", "refused", "amqp://me:hunter2@broker/", "see amqp://me:hunter2@broker/")
    assert "hunter2" not in found.line() and "hunter2" not in str(found.parts())
    assert ok("x", "two\nlines").line() == "two lines"


@pytest.mark.parametrize(
    ("before", "stamped", "after", "apart"),
    [
        (100.0, 100.0, 100.0, 0.0),
        (100.0, 107.0, 112.0, 0.0),  # it took long, and the clocks may well agree
        (100.0, 60.0, 112.0, 40.0),
        (100.0, 130.0, 112.0, -18.0),
    ],
)
def test_a_slow_file_system_is_no_difference_of_clocks(
    before: float, stamped: float, after: float, apart: float
) -> None:
    assert skew(before, stamped, after) == apart
