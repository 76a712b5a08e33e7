"""What of a client's ``pip freeze`` is installed on a node, and under which key."""

from __future__ import annotations

import pytest

from hpcrunner.job.environment import environment_key
from hpcrunner.job.interpreter import Interpreter
from hpcrunner.job.requirements import EnvironmentFailed, groom, pinned_version

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
