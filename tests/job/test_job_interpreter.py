"""Which Python runs a payload."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from hpcrunner.interpreter import choose_interpreter
from hpcrunner.request.requirements import EnvironmentFailed

OURS = "{}.{}".format(*sys.version_info)


def executable(path: Path, text: str = "#!/bin/sh\nexit 1\n") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_the_sites_map_goes_first_by_prefix(tmp_path: Path) -> None:
    paths = [(v, executable(tmp_path / v / "python")) for v in ("3.9", "3.11", "3.10")]
    chosen = dict(paths)
    for version, expected in [("3.11", "3.11"), ("3.10.4", "3.10"), ("3", "3.11")]:
        assert choose_interpreter(version, paths, {}) == chosen[expected]


def test_a_missing_interpreter_of_the_site_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed, match="not there on this node"):
        choose_interpreter("3.11", [("3.11", str(tmp_path / "gone"))], {})


@pytest.mark.parametrize("version", ["", "2", "3", OURS])
def test_any_version_and_our_own_are_served_by_the_python_that_runs_us(version: str) -> None:
    assert choose_interpreter(version, [], {"PATH": ""}) == sys._base_executable  # type: ignore[attr-defined]


def test_a_python_on_path_that_does_not_answer_as_asked_is_passed_over(tmp_path: Path) -> None:
    executable(tmp_path / "python3.5")
    with pytest.raises(EnvironmentFailed, match=r"no Python 3\.5 on this node"):
        choose_interpreter("3.5", [], {"PATH": str(tmp_path)})


def test_a_python_on_path_is_asked_and_taken(tmp_path: Path) -> None:
    path = executable(tmp_path / "python3.5", "#!/bin/sh\necho 3.5.2\necho /opt/python\n")
    assert choose_interpreter("3.5.1", [], {"PATH": str(tmp_path)}) == path


def test_the_error_names_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        choose_interpreter("3.5", [("3.9", "/x")], {"PATH": str(tmp_path)})
    assert "3.9" in caught.value.line()
    assert OURS in caught.value.line()
