"""What of a client's ``pip freeze`` is installed on a node, and under which key."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcrunner.interpreter import Interpreter
from hpcrunner.job.environment import environment_key, studioml_of
from hpcrunner.request.requirements import EnvironmentFailed, groom, pinned_version

PYTHON = Interpreter("/usr/bin/python3.11", "3.11.2", "/usr/bin/python3.11")


def test_lines_of_a_freeze_are_kept_in_order() -> None:
    lines = ["numpy==1.26.4", "  pip==23.0 ", "studioml==0.0.49", "x[extra]==1.0"]
    groomed = groom(lines)
    assert groomed.lines == ("numpy==1.26.4", "pip==23.0", "studioml==0.0.49", "x[extra]==1.0")
    assert groomed.left_out == ()
    assert groomed.frozen


@pytest.mark.parametrize(
    "line",
    [
        "mine @ file:///home/me/mine",
        "mine[x] @ file:///home/me/mine.whl",
        "-e /home/me/mine",
        "-e file:///home/me/mine",
        "-e git+file:///home/me/mine#egg=mine",
        "--editable=../mine",
        "-e .",
        "/home/me/mine.whl",
        "./mine",
        "~/mine",
        "file:///home/me/mine.tar.gz",
        "pkg-resources==0.0.0",
        "pkg_resources==0.0.0",
    ],
)
def test_what_exists_on_the_clients_machine_only_is_left_out_with_a_word(line: str) -> None:
    groomed = groom([line, "six==1.17.0"])
    assert groomed.lines == ("six==1.17.0",)
    assert groomed.left_out[0][0] == line


def test_comments_and_blanks_of_a_freeze_mean_nothing() -> None:
    groomed = groom(["# Editable install with no version control (mine==1.0)", "", "  "])
    assert groomed.lines == groomed.left_out == ()


@pytest.mark.parametrize(
    ("line", "installed"),
    [
        ("-e git+https://h/x.git@abc#egg=x", "x @ git+https://h/x.git@abc"),
        (
            "-e git+https://h/x.git@abc#egg=x&subdirectory=py",
            "x @ git+https://h/x.git@abc#subdirectory=py",
        ),
        ("-e git+ssh://git@h/x.git", "git+ssh://git@h/x.git"),
        ("x @ https://h/x-1.0-py3-none-any.whl", "x @ https://h/x-1.0-py3-none-any.whl"),
    ],
)
def test_sources_of_version_control_are_installed_plainly(line: str, installed: str) -> None:
    assert groom([line]).lines == (installed,)
    assert groom([line]).frozen


@pytest.mark.parametrize(
    "line",
    ["six\n--index-url http://evil", "six\r-r x", "six \\", "six\0", "-r /etc/passwd", "--pre"],
)
def test_an_entry_that_is_more_than_a_requirement_is_refused(line: str) -> None:
    with pytest.raises(EnvironmentFailed):
        groom([line])


def test_a_list_with_a_range_is_not_a_freeze() -> None:
    assert not groom(["six>=1.0", "numpy==1.26.4"]).frozen
    assert not groom(["six"]).frozen


def test_a_pinned_version_is_found_whatever_the_spelling() -> None:
    assert pinned_version(["a==1", "StudioML == 0.0.38"], "studioml") == "0.0.38"
    assert pinned_version(["studioml>=0.0.38"], "studioml") is None


@pytest.mark.parametrize(
    ("line", "with_gpus", "without"),
    [
        ("tensorflow==1.14.0", "tensorflow-gpu==1.14.0", "tensorflow==1.14.0"),
        ("TensorFlow==2.0.1", "tensorflow-gpu==2.0.1", "TensorFlow==2.0.1"),
        ("tensorflow==2.15.0", "tensorflow==2.15.0", "tensorflow==2.15.0"),
        ("tensorflow", "tensorflow", "tensorflow"),
        # What released clients make of tensorflow where GPUs are asked for.
        ("tensorflow-gpu==2.15.0", "tensorflow==2.15.0", "tensorflow==2.15.0"),
        ("tensorflow_gpu==2.4.1", "tensorflow==2.4.1", "tensorflow==2.4.1"),
        ("tf-nightly-gpu==2.16.0.dev20240101", "tf-nightly==2.16.0.dev20240101", None),
        ("tensorflow-gpu", "tensorflow", "tensorflow"),
        ("tensorflow-gpu[x]>=2.3", "tensorflow[x]>=2.3", "tensorflow[x]>=2.3"),
        ("tensorflow-gpu==1.15.5", "tensorflow-gpu==1.15.5", "tensorflow-gpu==1.15.5"),
        ("tensorflow-gpu<2", "tensorflow-gpu<2", "tensorflow-gpu<2"),
        ("tensorflow-gpu @ https://h/tensorflow_gpu-2.3-py3-none-any.whl", None, None),
        ("tensorflow-estimator==1.14.0", "tensorflow-estimator==1.14.0", None),
        ("torch==2.1.0", "torch==2.1.0", "torch==2.1.0"),
    ],
)
def test_tensorflow_is_the_build_that_there_is_for_the_jobs_gpus(
    line: str, with_gpus: str | None, without: str | None
) -> None:
    assert groom([line], gpus=True).lines == (with_gpus or line,)
    assert groom([line], gpus=False).lines == (without or with_gpus or line,)


@pytest.mark.parametrize("other", ["tensorflow-gpu==1.14.0", "tensorflow_gpu==1.14.0"])
def test_who_names_the_build_for_gpus_gets_no_second_one(other: str) -> None:
    lines = ("tensorflow==1.14.0", other)
    assert groom(lines, gpus=True).lines == lines


def test_a_line_that_stands_twice_is_installed_once() -> None:
    twice = ["tensorflow==2.15.0", "six==1.17.0", "tensorflow-gpu==2.15.0", "Six == 1.17.0"]
    groomed = groom(twice, gpus=True)
    assert sorted(groomed.canonical) == ["six==1.17.0", "tensorflow==2.15.0"]
    assert groomed.changed == (("tensorflow-gpu==2.15.0", "tensorflow==2.15.0"),)


@pytest.mark.parametrize(
    ("line", "python", "installed"),
    [
        ("pip==20.1", "3.11.2", "pip==20.1"),
        ("pip==18.1", "3.11.2", "pip>=19.3"),
        ("pip==23.0", "3.12.0", "pip>=23.1.2"),
        ("pip==23.1.2", "3.12.0", "pip==23.1.2"),
        ("setuptools==44.0.0", "3.11.2", "setuptools==44.0.0"),
        ("setuptools==44.0.0", "3.13.1", "setuptools>=66.1,<81"),
        ("setuptools==40.8.0", "3.9.1", "setuptools==40.8.0"),
        ("setuptools==40.8.0", "", "setuptools==40.8.0"),
        ("setuptools>=40", "3.12.0", "setuptools>=40"),
        ("six==1.0", "3.12.0", "six==1.0"),
    ],
)
def test_a_pin_of_the_clients_tools_is_raised_where_it_cannot_work(
    line: str, python: str, installed: str
) -> None:
    groomed = groom([line], python)
    assert groomed.lines == (installed,)
    assert groomed.frozen is ("==" in line)  # as it came: its pins may contradict each other


def test_a_client_library_that_comes_with_the_code_stands_for_any_other(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    assert studioml_of(tmp_path) == ""
    for name in ("studioml-0.0.9.tar.gz", "studioml-0.0.10.tar.gz", "other-1.0.tar.gz"):
        (tmp_path / "dist" / name).write_text(name)
    own = studioml_of(tmp_path)
    assert own.startswith("studioml @ file:///")
    assert "/dist/studioml-0.0.10.tar.gz#sha256=" in own
    groomed = groom(["six==1.17.0", "studioml==0.0.49", "studioml-cs==1.0"], studioml=own)
    assert groomed.lines == (own, "six==1.17.0", "studioml-cs==1.0")
    assert groomed.left_out == (("studioml==0.0.49", "the code brings its own"),)


def test_the_key_holds_what_the_code_brings_and_not_where_it_lies(tmp_path: Path) -> None:
    keys = []
    for folder, content in (("a", "x"), ("b b", "x"), ("c", "y")):
        (tmp_path / folder / "dist").mkdir(parents=True)
        (tmp_path / folder / "dist" / "studioml-1.tar.gz").write_text(content)
        phase = groom([], studioml=studioml_of(tmp_path / folder))
        keys.append(environment_key(PYTHON, (phase,), ()))
    assert keys[0] == keys[1] != keys[2]


def test_order_and_spelling_do_not_change_the_key_and_all_else_does() -> None:
    none = groom([])

    def key(
        *lines: str, python: Interpreter = PYTHON, settings: tuple[str, str] | None = None
    ) -> str:
        return environment_key(python, (groom(lines), none), (settings,) if settings else ())

    base = key("Foo_Bar==1.0", "six==1.17.0")
    assert key("six==1.17.0", "foo-bar == 1.0") == base
    assert key("six==1.17.0", "foo-bar==1.1") != base
    assert key("six==1.17.0", "foo-bar==1.0", python=Interpreter("", "3.11.3", "")) != base
    assert key("six==1.17.0", "foo-bar==1.0", settings=("PIP_INDEX_URL", "https://i")) != base
    assert environment_key(PYTHON, (none, groom(["six"])), ()) != environment_key(
        PYTHON, (groom(["six"]), none), ()
    )
