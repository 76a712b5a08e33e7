"""``hpcrunner site``: what people see of site files, in one process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from hpcrunner.cli.main import app
from hpcrunner.cli.table import console
from hpcrunner.data import data_folder
from hpcrunner.errors import HpcrunnerError
from hpcrunner.sites import folders
from hpcrunner.sites.load import load_site

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command of a person whose own and institution's sites lie below ``tmp_path``."""
    for name in ("hpcrunner/sites", "centre"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("HPCRUNNER_SITES", str(tmp_path / "centre"))
    monkeypatch.setenv("USER", "someone")
    monkeypatch.setattr(folders, "SYSTEM", tmp_path / "nothing")
    monkeypatch.setattr(console, "_width", 240)

    def run(*words: str) -> Result:
        return CliRunner().invoke(app, ["site", *words])

    return run


@pytest.fixture
def centre(tmp_path: Path, run: Run) -> Path:
    """An institution's site, and the person's own overlay of the same name."""
    base = tmp_path / "centre" / "big.yaml"
    base.write_text(
        "description: Our cluster\npartitions:\n  - name: cpu\n    max_memory: 64G\n"
        "limits:\n  max_jobs: 7\nprologue:\n  - |\n    ulimit -c 0\n    umask 077\n"
    )
    (tmp_path / "hpcrunner" / "sites" / "big.yaml").write_text(
        "extends: big\naccount: 0042\nlimits: {max_array_tasks: 9}\n"
    )
    return base


def test_list_says_whose_each_site_is_and_a_broken_one_hides_no_other(
    run: Run, centre: Path
) -> None:
    bad = centre.parent / "bad.yaml"
    bad.write_text("spol: /x\n")
    shown = json.loads(run("list", "--json").stdout)
    sites = {site["name"]: site for site in shown}
    assert sites["big"]["from"] == "own"
    assert (sites["big"]["description"], sites["big"]["extends"]) == ("Our cluster", [str(centre)])
    assert sites["bad"]["problems"][0].startswith(f"{bad}: spol (line 1): unknown key")
    assert (sites["local"]["from"], sites["local"]["problems"]) == ("shipped", [])
    table = run("list").stdout
    assert "Our cluster" in table
    assert "spol (line 1)" in table


def test_show_is_a_site_file_that_comes_to_the_same(run: Run, centre: Path, tmp_path: Path) -> None:
    shown = tmp_path / "big.yaml"
    for words in ([], ["--defaults"], ["--defaults", "--origin"]):
        shown.write_text(run("show", "big", *words).stdout)
        assert "extends" not in shown.read_text()
        assert load_site(shown) == load_site("big")
    assert run("show", "big").stdout == (
        "name: big\ndescription: Our cluster\npartitions:\n  - name: cpu\n    max_memory: 64G\n"
        "limits:\n  max_jobs: 7\n  max_array_tasks: 9\nprologue:\n  - |\n    ulimit -c 0\n"
        "    umask 077\naccount: 0042\n"
    )
    assert run("show", "big", "--source").stdout.startswith("extends: big\n")


def test_a_key_without_a_value_is_shown_with_its_default(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "here.yaml"
    path.write_text("grace:\nlimits:\n")
    lines = run("show", str(path), "--defaults", "--origin").stdout.splitlines()
    assert {"grace: 30  # default", "  max_jobs: 1000  # default"} <= set(lines)


def test_show_says_where_each_key_comes_from(run: Run, centre: Path, tmp_path: Path) -> None:
    own = tmp_path / "hpcrunner" / "sites" / "big.yaml"
    lines = run("show", "big", "--defaults", "--origin").stdout.splitlines()
    assert "name: big  # the file's name" in lines
    assert f"account: 0042  # {own} (line 2)" in lines
    assert f"  max_jobs: 7  # {centre} (line 6)" in lines
    assert f"  max_array_tasks: 9  # {own} (line 3)" in lines
    assert "  submit_rate: 10/1s  # default" in lines
    assert f"partitions:  # {centre} (line 2)" in lines
    assert "tmp: false  # default" in lines


@pytest.mark.parametrize("name", sorted(p.stem for p in data_folder("site-configs").glob("*.yaml")))
def test_what_show_prints_of_a_shipped_site_comes_to_the_same(
    run: Run, name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"{name}.yaml"
    path.write_text(run("show", name, "--defaults", "--origin").stdout)
    assert load_site(path) == load_site(name)


def test_check_tells_all_mistakes_of_all_files_and_ends_with_78(
    run: Run, centre: Path, tmp_path: Path
) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "batch.sh.j2").write_text("#!/bin/bash\n\n{% if %}\n")
    (centre.parent / "torn.yaml").write_text(f"templates: {tmp_path}/templates\n")
    (centre.parent / "bad.yaml").write_text("spol: /x\ngrace: soon\n")
    done = run("check", "big", "torn", "bad", "nowhere")
    assert f"{tmp_path}/hpcrunner/sites/big.yaml: sound (1 partition(s), on {centre})" in (
        done.stdout
    )
    assert isinstance(done.exception, HpcrunnerError)
    assert done.exception.exit_code == 78
    torn, first, second, unknown = done.exception.line().splitlines()
    assert torn.startswith(f"{tmp_path}/templates/batch.sh.j2 (line 3): ")
    assert "bad.yaml: spol (line 1): unknown key, nearest: spool" in first
    assert "bad.yaml: grace (line 2): got 'soon'" in second
    assert unknown.startswith("no site 'nowhere'")


def test_check_without_names_reads_all(run: Run, centre: Path) -> None:
    done = run("check")
    assert done.exit_code == 0
    assert {"big.yaml", "local.yaml", "generic-slurm.yaml"} <= {
        Path(line.split(": ")[0]).name for line in done.stdout.splitlines()
    }


def test_diff_names_the_keys_that_come_to_something_else(run: Run, centre: Path) -> None:
    done = run("diff", str(centre), "big", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [
        {"key": "account", "left": None, "right": "0042"},
        {"key": "limits.max_array_tasks", "left": "500", "right": "9"},
    ]
    assert "not set" in run("diff", str(centre), "big").stdout
    same = run("diff", "big", "big")
    assert (same.exit_code, same.stdout) == (0, "")


def test_diff_goes_into_lists(run: Run, centre: Path) -> None:
    (centre.parent / "more.yaml").write_text(
        "extends: ./big.yaml\npartitions:\n  - {name: cpu, max_memory: 128G}\n  - name: gpu\n"
    )
    found = json.loads(run("diff", str(centre), "more", "--json").stdout)
    assert {"key": "partitions[cpu].max_memory", "left": "64G", "right": "128G"} in found
    assert {"key": "partitions[gpu].name", "left": None, "right": "gpu"} in found


def test_the_schema_is_json(run: Run) -> None:
    assert json.loads(run("schema").stdout)["properties"]["spool"]["description"]
