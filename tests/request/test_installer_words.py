"""What is told in one line of an installer that failed: uv 0.13, uv 0.4 and pip 23 as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpcrunner.request.installer_words import essence, readable_tail, says_conflict

PRINTED = Path(__file__).parents[1] / "data" / "installers"

UNKNOWN = (
    "Because no-such-package-hpcr was not found in the package registry and you require "
    "no-such-package-hpcr==1.0"
)
VERSION = "Because there is no version of six==99.0 and you require six==99.0"
GCC = "x.c:1:10: fatal error: libfoo.h: No such file or directory"
UNRESOLVED = "failed to lookup address information: Name or service not known"


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("uv-new-unknown", UNKNOWN),
        ("uv-old-unknown", UNKNOWN),
        (
            "pip-unknown",
            "No matching distribution found for no-such-package-hpcr==1.0: none was found that "
            "fits",
        ),
        ("uv-new-version", VERSION),
        ("uv-old-version", VERSION),
        (
            "pip-version",
            "No matching distribution found for six==99.0: there is 1.15.0, 1.16.0, 1.17.0",
        ),
        (
            "uv-new-build",
            "Failed to build `badthree @ file:///home/ada/code/bad3`: The build backend returned "
            f"an error: {GCC}",
        ),
        (
            "uv-old-build",
            "Failed to prepare distributions: Failed to build `badthree @ "
            f"file:///home/ada/code/bad3`: {GCC}",
        ),
        (
            "pip-build",
            f"Building wheel for badthree (pyproject.toml) did not run successfully: {GCC}",
        ),
        (
            "pip-metadata",
            "./bad: Getting requirements to build wheel did not run successfully: error: command "
            "'gcc' failed: No such file or directory",
        ),
        (
            "uv-new-network",
            "Request failed after 1 retry in 1.7s: Failed to fetch: "
            f"https://nohost.invalid/simple/six/: {UNRESOLVED}",
        ),
        (
            "uv-old-network",
            "Failed to fetch: `https://nohost.invalid/simple/six/`: Could not connect, are you "
            f"offline?: {UNRESOLVED}",
        ),
        (
            "pip-network",
            "No matching distribution found for six==1.15.0: the index cannot be reached (Name or "
            "service not known)",
        ),
        (
            "uv-old-disk",
            "Failed to write to the client cache: failed to write to file "
            "`/home/ada/code/c/simple-v13/pypi/.tmpyQw9wG`: No space left on device (os error 28)",
        ),
        (
            "pip-disk",
            "Could not install packages due to an OSError: [Errno 28] No space left on device",
        ),
        ("pip-python", "Package 'pyreqpkg' requires a different Python: 3.11.7 not in '>=3.99'"),
        ("uv-old-hash", "Failed to prepare distributions: Failed to download `six==1.17.0`: Hash "
                        "mismatch for `six==1.17.0`"),
        ("pip-hash", "the hash is not the requirement's: six==1.17.0"),
        ("pip-conflict", "Cannot install -r r5 (line 1) and six==1.17.0 because these package "
                         "versions have conflicting dependencies: The user requested six==1.17.0; "
                         "goodpkg 1.0 depends on six==1.0"),
        ("pip-git", "git clone --filter=blob:none --quiet 'https://****@nohost.invalid/x.git' "
                    "/tmp/pip-req-build-9h0bz5g7 did not run successfully: fatal: unable to access "
                    "'https://nohost.invalid/x.git/': Could not resolve host: nohost.invalid"),
    ],
)  # fmt: skip
def test_one_line_has_the_requirement_and_the_reason(name: str, line: str) -> None:
    assert essence((PRINTED / f"{name}.txt").read_bytes()) == line


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("uv-new-hash", ("six==1.17.0", "Hash mismatch", "Expected", "Computed")),
        ("uv-new-disk", ("numpy==2.4.6", "No space left on device")),
        ("uv-new-git", ("Git operation failed", "Could not resolve host: nohost.invalid")),
        ("uv-new-python", ("pyreqpkg==1.0 depends on Python>=3.99",)),
        ("uv-old-conflict", ("goodpkg==1.0 depends on six==1.0", "you require six==1.17.0")),
        ("uv-new-metadata", ("ModuleNotFoundError: No module named 'setuptools'",)),
    ],
)
def test_longer_words_keep_both_ends(name: str, words: tuple[str, ...]) -> None:
    line = essence((PRINTED / f"{name}.txt").read_bytes())
    assert len(line) <= 500
    assert all(word in line for word in words), line


@pytest.mark.parametrize("path", sorted(PRINTED.iterdir()), ids=lambda path: path.stem)
def test_a_line_is_one_line_and_holds_no_password(path: Path) -> None:
    printed = path.read_bytes().replace(b"user:****@", b"user:hush@")
    line = essence(printed)
    assert line and "\n" not in line and "hush" not in line
    assert not any("hush" in kept for kept in readable_tail(printed))


def test_pins_that_contradict_each_other_are_told_from_a_build_that_fails() -> None:
    told = {path.stem for path in PRINTED.iterdir() if says_conflict(path.read_bytes())}
    assert {"pip-conflict", "uv-new-conflict", "uv-old-conflict"} <= told
    assert not {word for word in told if word.endswith(("-build", "-network", "-disk", "-git"))}


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"Killed\n", "Killed"),
        (b"some words\nmore words\n", "more words"),
        (
            b"The virtual environment was not created successfully because ensurepip is not\n"
            b"available.\n\nFailing command: /x/bin/python3\n",
            "The virtual environment was not created successfully because ensurepip is not",
        ),
        (b"Traceback (most recent call last):\n  x\nOSError: no\nbye\n", "OSError: no"),
        (b"error: \xff\n", "\ufffd"),
    ],
)
def test_words_of_no_known_form_are_still_told(printed: bytes, line: str) -> None:
    assert essence(printed) == line
