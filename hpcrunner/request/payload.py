"""What a payload is started with: its file, arguments, environment and Python packages.

The bounds are Linux's: ``execve(2)`` takes no single string of 128 KiB or more.
"""

from __future__ import annotations

import posixpath
import re
import shlex

from hpcrunner.request import scheduler_words
from hpcrunner.request.errors import RequestError
from hpcrunner.request.lenient import Member

MAX_WORDS_BYTES = 1024 * 1024  # of all arguments, and again of the whole environment
MAX_WORD_BYTES = 128 * 1024 - 1

MODULE = "-m"  # the filename of a payload that is a Python module, named by its first argument

# What the runner or the batch system sets itself; a message's own values are dropped.
SET_BY_US = frozenset(
    {
        "STUDIOML_EXPERIMENT",
        "STUDIOML_HOME",
        "STUDIOML_ARTIFACT_MAPPING",  # would lead the client's library away from the real folders
        # The allocation's own, as Slurm's gres/gpu sets them.
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "ZE_AFFINITY_MASK",
        "GPU_DEVICE_ORDINAL",
    }
)
SET_BY_US_PREFIXES = (*scheduler_words.PREFIXES, "HPCRUNNER_")

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_SHELL_MARKS = re.compile(r"[\s'\"\\]|^$")
_EDITABLE = re.compile(r"(?:-e|--editable)(?:\s+|=)((?:git|hg|svn|bzr)\+\S+)")
_OPTION_INSIDE = re.compile(r"\s--?[A-Za-z]")
_PYTHON_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_-]{0,31}")


def read_filename(member: Member, args: tuple[str, ...], *, containerised: bool) -> str | None:
    """The script's path inside the workspace, ``-m`` for a module, None for a container's own.

    Raises RequestError for a path that is absolute, climbs out of the workspace, or would be
    read as an option of the interpreter.
    """
    name = member.line()
    remedy = "name the script by its path inside the workspace, such as train.py or src/train.py"
    if not name:
        if containerised:
            return None
        raise member.error("no script to run", remedy=f"{remedy}, or send a _singularity artifact")
    if name == MODULE:
        if not args or not _MODULE.fullmatch(args[0]):
            raise member.error("-m without a module", remedy="send its dotted name as args[0]")
        return name
    if name.startswith("-"):
        raise member.error("starts with -", remedy=f"{remedy}; only -m is allowed")
    if "\\" in name:
        raise member.error("holds a backslash", remedy="write / between folders")
    if name.startswith("/"):
        raise member.error("is an absolute path", remedy=remedy)
    path = posixpath.normpath(name)
    if path == ".." or path.startswith("../"):
        raise member.error("climbs out of the workspace", remedy=remedy)
    if path == "." or name.endswith("/"):
        raise member.error("is a folder", remedy=remedy)
    return name


def read_args(member: Member) -> tuple[str, ...]:
    """The payload's arguments as plain words, the client's shell quoting undone."""
    words: list[str] = []
    total = 0
    for element in member.elements():
        text = element.text()
        total += len(text.encode()) + 1
        if "\0" in text:
            raise element.error("holds a NUL", remedy="no process can be given one")
        if total > MAX_WORDS_BYTES:
            raise _too_many_bytes(member)
        found = unquoted(text)
        if any(len(word.encode()) > MAX_WORD_BYTES for word in found):
            raise _too_long(element)
        words += found
    return tuple(words)


def unquoted(argument: str) -> list[str]:
    """The words of one entry of ``experiment.args``.

    Clients send ``shlex.quote(word)``; old ones sent several words in one entry, and runners
    have always put the entries through a shell. Quotes, backslashes and blanks are therefore
    read as a shell does, nothing is ever expanded, and an entry that is no shell text (an
    unbalanced quote) stands for itself.
    """
    if not _SHELL_MARKS.search(argument):
        return [argument]
    inner = argument[1:-1].replace("'\"'\"'", "'")
    if shlex.quote(inner) == argument:
        return [inner]
    try:
        return shlex.split(argument)
    except ValueError:
        return [argument]


def read_environment(member: Member) -> tuple[tuple[str, str], ...]:
    """``config.env`` in message order. Nulls, and names that the runner itself sets, are dropped.

    Numbers and booleans become text as the Python client writes them (``True``).
    """
    environment: list[tuple[str, str]] = []
    total = 0
    for name, entry in member.entries():
        if not _ENV_NAME.fullmatch(name):
            raise entry.error(
                "is no name for a variable", remedy="use letters, digits and _, no digit first"
            )
        if entry.missing or name in SET_BY_US or name.startswith(SET_BY_US_PREFIXES):
            continue
        value = entry.text()
        if "\0" in value:
            raise entry.error("holds a NUL", remedy="no process can be given one")
        size = len(name) + 1 + len(value.encode())
        total += size
        if size > MAX_WORD_BYTES:
            raise _too_long(entry)
        if total > MAX_WORDS_BYTES:
            raise _too_many_bytes(member)
        environment.append((name, value))
    return tuple(environment)


def read_packages(member: Member) -> tuple[str, ...]:
    """pip requirements: ``name==1.0``, ``name @ URL``, ``-e git+URL`` (always in that spelling).

    Options are refused, since these become words of a pip command line or lines of a
    requirements file. Blank entries and the comments of ``pip freeze`` are left out.
    """
    packages: list[str] = []
    total = 0
    for element in member.elements():
        entry = element.line().strip()
        if not entry or entry.startswith("#"):
            continue
        editable = _EDITABLE.fullmatch(entry)
        if editable:
            entry = f"-e {editable[1]}"
        elif entry.startswith("-") or _OPTION_INSIDE.search(entry):
            raise element.error(
                "is an option of pip",
                remedy="send requirements only (name==1.0, name @ URL, -e git+URL)",
            )
        total += len(entry.encode()) + 1
        if total > MAX_WORDS_BYTES:
            raise _too_many_bytes(member)
        packages.append(entry)
    return tuple(packages)


def read_python_version(member: Member) -> str:
    """``experiment.pythonver`` as text: ``3.11``, ``2``, or "" where none is named."""
    # A YAML 3.10 that was never quoted arrives as the number 3.1, a Python of 2009.
    version = "3.10" if isinstance(member.value, float) and member.value == 3.1 else member.line()
    if version and not _PYTHON_VERSION.fullmatch(version):
        raise member.error("is no version of Python", remedy="send major.minor, such as 3.11")
    return version


def _too_long(member: Member) -> RequestError:
    return member.error(
        f"a word of more than {MAX_WORD_BYTES} bytes", remedy="pass large values in an artifact"
    )


def _too_many_bytes(member: Member) -> RequestError:
    return member.error(
        f"more than {MAX_WORDS_BYTES} bytes in all", remedy="pass large values in an artifact"
    )
