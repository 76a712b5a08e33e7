"""Commands for real: bounded in time and output, with no environment but the given one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from hpcrunner.schedulers import command
from hpcrunner.schedulers.command import CommandFailed, run
from hpcrunner.schedulers.environment import job_environment
from hpcrunner.schedulers.slurm_environment import query_environment

PATH = {"PATH": "/usr/bin:/bin"}


def test_outputs_and_exit_code_come_apart() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=60, environment=PATH)
    assert (done.stdout, done.stderr, done.returncode) == ("out\n", "err\n", 3)


def test_a_command_gets_no_input_and_no_variable_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_SECRET", "x")
    done = run(["sh", "-c", "cat; env; pwd"], timeout=60, environment=PATH)
    assert "GATEWAY_SECRET" not in done.stdout
    assert done.stdout.endswith("/\n")


def test_words_are_words() -> None:
    done = run(["printf", "%s", "$(id) ; `id` '"], timeout=60, environment=PATH)
    assert done.stdout == "$(id) ; `id` '"


def test_a_command_out_of_time_is_killed_with_its_children(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(CommandFailed) as failed:
        run(["sh", "-c", f"sleep 600 & echo $! > {note}; wait"], timeout=5.0, environment=PATH)
    assert failed.value.started
    pid = int(note.read_text())
    until = time.monotonic() + 120
    while _alive(pid):  # SIGKILL is sent; when the other CPU obeys is its own affair
        assert time.monotonic() < until, f"process {pid} outlives its time-out"
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """Whether it still runs: not gone, and not dead but unwaited for by whoever inherited it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_a_child_that_keeps_the_output_open_does_not_hang_us() -> None:
    with pytest.raises(CommandFailed):
        run(["sh", "-c", "setsid sleep 5 & exit 0"], timeout=0.5, environment=PATH)


def test_output_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "STDOUT_LIMIT", 100_000)
    with pytest.raises(CommandFailed) as failed:
        run(["yes"], timeout=60, environment=PATH)
    assert failed.value.started


def test_long_errors_are_cut_not_kept() -> None:
    done = run(["sh", "-c", "yes | head -c 300000 >&2"], timeout=60, environment=PATH)
    assert len(done.stderr) == command.STDERR_LIMIT


def test_bytes_that_are_no_text_do_no_harm() -> None:
    done = run(["printf", r"a\377\000b"], timeout=60, environment=PATH)
    assert done.stdout == "a�\0b"


@pytest.mark.parametrize("argv", [["/nonexistent/sbatch"], ["/"], ["a\0b"]])
def test_a_command_that_cannot_start_never_started(argv: list[str]) -> None:
    with pytest.raises(CommandFailed) as failed:
        run(argv, timeout=5, environment=PATH)
    assert not failed.value.started


HOSTILE = {
    "PATH": "/opt/slurm/bin:/usr/bin",
    "HOME": "/home/ada",
    "USER": "ada",
    "SLURM_CONF": "/etc/slurm.conf",
    "SLURM_JOB_ID": "5",
    "SLURM_CPU_BIND": "quiet",
    "SBATCH_PARTITION": "nope",
    "SQUEUE_FORMAT": "%i",
    "SACCT_FORMAT": "JobID",
    "LC_ALL": "de_DE.UTF-8",
    "XDG_RUNTIME_DIR": "/run/user/1",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "LD_PRELOAD": "/tmp/x.so",
}


def test_a_job_inherits_who_the_user_is_and_nothing_else() -> None:
    assert job_environment(HOSTILE) == {
        "PATH": "/opt/slurm/bin:/usr/bin",
        "HOME": "/home/ada",
        "USER": "ada",
        "LOGNAME": job_environment({})["LOGNAME"],
        "SHELL": job_environment({})["SHELL"],
        "LANG": "C.UTF-8",
        "SLURM_CONF": "/etc/slurm.conf",
    }


def test_who_the_user_is_does_not_need_variables() -> None:
    bare = job_environment({})
    assert Path(bare["HOME"]).is_absolute()
    assert bare["USER"] == bare["LOGNAME"]
    assert "/usr/bin" in bare["PATH"].split(os.pathsep)


def test_queries_are_asked_in_the_c_locale_with_epoch_times() -> None:
    environment = query_environment(HOSTILE)
    assert environment["LC_ALL"] == "C"
    assert environment["SLURM_TIME_FORMAT"] == "%s"
    assert not {"SQUEUE_FORMAT", "SACCT_FORMAT", "SLURM_JOB_ID"} & set(environment)
