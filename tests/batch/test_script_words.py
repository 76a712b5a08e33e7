"""Whatever bytes a path or a site's word holds, real bash runs the intended words and no other."""

import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.dialect import GRID_ENGINE, LOCAL, SLURM
from hpcrunner.batch.script import render_script
from hpcrunner.batch.words import WordRefused
from hpcrunner.sites.site import Site
from hpcrunner.sites.spec import JobSpec

MakeBatch = Callable[..., Batch]
MakeSite = Callable[..., Site]

FAKE_PYTHON = """#!/bin/bash
printf '%s\\0' "$$" "$@" "${VALUE-unset}" > "$OUT/called"
env -0 > "$OUT/env"
"""
# Stands for the site's module command; exported as bash exports functions.
FAKE_MODULE = """() { printf '%s\\0' "$@" >> "$OUT/modules"; [ "$2" != missing ]; }"""

# What bash could take for more than text, and some that is more than ASCII.
words = st.text(
    st.sampled_from(" '\"$`(){}[]<>|&;!*?~#%^=,.:/-\\aZ0é💥")
    | st.characters(exclude_categories=("Cc", "Cs")),
    min_size=1,
    max_size=30,
)
names = words.filter(lambda text: "/" not in text and text not in (".", ".."))


class Ran:
    """A script that was run by bash in an empty folder, and what the fakes saw."""

    def __init__(self, script: str, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        work, self.out = folder / "work", folder / "out"
        work.mkdir()
        self.out.mkdir()
        path = folder / "script"
        path.write_text(script)
        path.chmod(0o700)
        variables = {"PATH": os.environ["PATH"], "OUT": str(self.out), **(environ or {})}
        self.process = subprocess.Popen(
            [str(path)],
            cwd=work,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.stdout, self.stderr = self.process.communicate(timeout=60)
        self.left_behind = list(work.iterdir())

    def seen(self, name: str) -> list[str]:
        path = self.out / name
        return path.read_text().split("\0")[:-1] if path.exists() else []

    @property
    def arguments(self) -> list[str]:
        return self.seen("called")[1:-1]

    @property
    def environ(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.seen("env"))


def fake_python(folder: Path, name: str = "python") -> Path:
    path = folder / name
    path.write_text(FAKE_PYTHON)
    path.chmod(0o700)
    return path


@settings(max_examples=60, deadline=None)
@given(
    folder=names,
    python=names,
    module=words,
    value=words,
    scheduler=st.sampled_from(["local", "sbatch"]),
)
def test_only_the_intended_words_run(
    folder: str, python: str, module: str, value: str, scheduler: str
) -> None:
    with tempfile.TemporaryDirectory() as base:
        home = Path(base, "bin")
        home.mkdir()
        site = Site.model_validate(
            {
                "scheduler": scheduler,
                "python": str(fake_python(home, python)),
                "modules": [module],
                "environment": {"VALUE": value},
            }
        )
        batch = Batch("ab", JobSpec(cpus=2), 1, Path("/spool", folder))
        ran = Ran(render_script(batch, site), Path(base), {"BASH_FUNC_module%%": FAKE_MODULE})
        assert ran.arguments == ["-I", "-m", "hpcrunner.job", f"/spool/{folder}", "1"], ran.stderr
        assert ran.seen("called")[-1] == value
        assert ran.seen("modules") == ["load", module]
        assert (ran.stdout, ran.stderr, ran.left_behind) == ("", "", [])


@pytest.mark.parametrize("character", ["\n", "\r", "\0", "\x1b", "\x7f"])
@pytest.mark.parametrize("scheduler", ["local", "sbatch"])
def test_control_characters_in_the_spools_path_are_refused(
    batch: MakeBatch, site: MakeSite, scheduler: str, character: str
) -> None:
    with pytest.raises(WordRefused, match="control characters"):
        render_script(batch(folder=Path(f"/a{character}b")), site(scheduler=scheduler))


@pytest.mark.parametrize(
    ("scheduler", "variable"),
    [("local", LOCAL.index), ("sbatch", SLURM.index), ("gridengine", GRID_ENGINE.index)],
)
def test_a_task_of_an_array_passes_its_index(
    batch: MakeBatch, site: MakeSite, tmp_path: Path, scheduler: str, variable: str
) -> None:
    here = site(scheduler=scheduler, python=str(fake_python(tmp_path)))
    ran = Ran(render_script(batch(size=20), here), tmp_path, {variable: "17"})
    assert ran.arguments[-1] == "17"


def test_a_task_without_its_index_runs_nothing(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    here = site(python=str(fake_python(tmp_path)))
    ran = Ran(render_script(batch(size=20), here), tmp_path)
    assert ran.process.returncode != 0
    assert "SLURM_ARRAY_TASK_ID: is not set: not started as an array" in ran.stderr
    assert ran.seen("called") == []


def test_a_single_job_does_not_listen_to_an_index_that_leaked_in(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    here = site(python=str(fake_python(tmp_path)))
    ran = Ran(render_script(batch(), here), tmp_path, {SLURM.index: "5"})
    assert ran.arguments[-1] == "1"


def test_the_job_side_is_the_process_that_was_started(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    here = site(python=str(fake_python(tmp_path)), prologue=["true"])
    ran = Ran(render_script(batch(), here), tmp_path)
    assert ran.seen("called")[0] == str(ran.process.pid)


def test_a_signal_reaches_the_job_side_and_its_ending_is_the_scripts(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\nkill -TERM $$\n")
    python.chmod(0o700)
    ran = Ran(render_script(batch(), site(python=str(python))), tmp_path)
    assert ran.process.returncode == -signal.SIGTERM


def test_what_must_not_leak_is_unset_and_what_srun_needs_is_set(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    leaks = {
        "BASH_ENV": "/dev/null",
        "ENV": "/dev/null",
        "DRMAA_LIBRARY_PATH": "/x",
        "SLURM_DRMAA_CONF": "/x",
        "SBATCH_ACCOUNT": "x",
        "SBATCH_EXPORT": "NONE",
    }
    here = site(python=str(fake_python(tmp_path)))
    environ = {**leaks, "SLURM_EXPORT_ENV": "NONE", "SLURM_JOB_ID": "7", "HOME": "/h"}
    ran = Ran(render_script(batch(cpus=6), here), tmp_path, environ)
    assert not set(leaks) & set(ran.environ)
    assert ran.environ["SLURM_EXPORT_ENV"] == "ALL"
    assert ran.environ["SRUN_CPUS_PER_TASK"] == ran.environ["SLURM_CPUS_PER_TASK"] == "6"
    assert (ran.environ["SLURM_JOB_ID"], ran.environ["HOME"]) == ("7", "/h")


def test_a_bare_environment_gets_a_home_and_a_path(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    here = site(python=str(fake_python(tmp_path)))
    script = render_script(batch(), here)
    work = tmp_path / "out"
    work.mkdir()
    path = tmp_path / "script"
    path.write_text(script)
    subprocess.run(["/bin/bash", str(path)], env={"OUT": str(work)}, check=True, timeout=60)
    seen = dict(line.split("=", 1) for line in (work / "env").read_text().split("\0")[:-1])
    assert Path(seen["HOME"]).is_absolute()
    assert "/bin" in seen["PATH"]


def test_files_of_the_job_are_private(batch: MakeBatch, site: MakeSite, tmp_path: Path) -> None:
    here = site(python=str(fake_python(tmp_path)))
    ran = Ran(render_script(batch(), here), tmp_path)
    assert (ran.out / "called").stat().st_mode & 0o777 == 0o600


def test_a_module_that_cannot_be_loaded_ends_the_job_with_its_name(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    here = site(python=str(fake_python(tmp_path)), modules=["cuda", "missing"])
    ran = Ran(render_script(batch(), here), tmp_path, {"BASH_FUNC_module%%": FAKE_MODULE})
    assert ran.process.returncode == 78
    assert ran.stderr == "hpcrunner: cannot load the module missing\n"
    assert ran.seen("called") == []


def test_the_prologue_is_the_operators_own_bash(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    prologue = ["VALUE=$((6 * 7))", "if true; then\n  export VALUE\nfi"]
    here = site(python=str(fake_python(tmp_path)), prologue=prologue)
    ran = Ran(render_script(batch(), here), tmp_path)
    assert ran.seen("called")[-1] == "42"


def test_the_limits_announcement_kills_no_job_that_is_just_starting(
    batch: MakeBatch, site: MakeSite, tmp_path: Path
) -> None:
    """sbatch(1): the signal may be sent up to a minute earlier than asked for."""
    python = tmp_path / "python"
    python.write_text("#!/bin/bash\nkill -USR1 $$\nexit 7\n")
    python.chmod(0o700)
    here = site(python=str(python), prologue=["kill -USR1 $$"])
    ran = Ran(render_script(batch(), here), tmp_path)
    assert ran.process.returncode == 7
