"""The kinds of values a site config holds, each with the words that say what it allows.

Every kind takes the text of the file; numbers are taken too, already in the model's units
(bytes, seconds), so that a site can also be built in Python. The ``Allowed`` beside a kind is
what errors, docs/site-config.md and the schema for editors print: the rule and its explanation
stay together. A ValueError carries a text only where it says more than ``Allowed`` does. A kind
whose value is no longer the file's text writes it as that again (``model_dump(mode="json")``).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer

from hpcrunner.sites.slurmtime import FORMS, PATTERN, parse_time, time_text

MIB = 1024**2
_MEMORY_UNITS = {"K": 1024, "": MIB, "M": MIB, "G": 1024**3, "T": 1024**4}
_RATE_UNITS = {"s": 1, "m": 60, "h": 3600}
_AGE_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DAY = 86400.0
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNSET_VARIABLE = re.compile(r"\$(\w+|\{\w+\})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Allowed:
    """What a value may be, in words. Metadata for ``Annotated``; it checks nothing.

    ``pattern`` is for editors: a regular expression, in what Python and ECMAScript have in
    common, that every text fits which the kind takes. Empty: any text.
    """

    words: str
    pattern: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``count`` events in any ``seconds``."""

    count: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.count}/{self.seconds:g}s"


def any_case(word: str) -> str:
    """A pattern for a word in any mixture of cases; ECMAScript has no flag inside a pattern."""
    return "".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in word)


_MEMORY = "^[0-9]{1,12}[KMGTkmgt]?$"
_RATE = "^[1-9][0-9]{0,5}/([1-9][0-9]{0,5})?[smh]$"
_AGE = f"^([0-9]{{1,9}}[smhdwSMHDW]|0|{any_case('unlimited')})$"
_SLURM_NAME = "^[A-Za-z0-9][A-Za-z0-9._+@,-]*$"
_GPU_TYPE = "^([A-Za-z0-9][A-Za-z0-9._+-]*)?$"
_VARIABLE = "^[A-Za-z_][A-Za-z0-9_]*$"
_VERSION = "^[0-9]+[.][0-9]+$"


def memory_text(size: int) -> str:
    """A size as the file has it, in the largest unit that fits whole; less than 1K rounds up."""
    for name, unit in (("T", 1024**4), ("G", 1024**3), ("M", MIB)):
        if size and size % unit == 0:
            return f"{size // unit}{name}"
    return f"{-(-size // 1024)}K" if size else "0"


def _memory(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d{1,12})([KMGT]?)", value.upper(), re.ASCII)
    if match is None:
        raise ValueError
    return int(match[1]) * _MEMORY_UNITS[match[2]]


def _time(value: Any) -> Any:
    try:
        return parse_time(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError from None


def _finite_time(value: Any) -> Any:
    time = _time(value)
    if time is None:
        raise ValueError
    return time


def _rate(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})?([smh])", value, re.ASCII)
    if match is None:
        raise ValueError
    return Rate(int(match[1]), float(int(match[2] or 1) * _RATE_UNITS[match[3]]))


def parse_age(text: str) -> float | None:
    """Seconds of ``30d``, ``12h`` or ``0``; None for UNLIMITED. Raises ValueError.

    A bare number other than 0 is refused: it could be meant as days or as seconds.
    """
    if text.upper() == "UNLIMITED":
        return None
    match = re.fullmatch(r"(\d{1,9})([smhdw])|0", text.lower(), re.ASCII)
    if match is None:
        raise ValueError(f"not an age: {text!r}")
    return float(int(match[1]) * _AGE_UNITS[match[2]]) if match[1] else 0.0


def age_text(seconds: float | None) -> str:
    """An age as ``parse_age`` reads it, in the largest unit that fits whole."""
    if seconds is None:
        return "UNLIMITED"
    if not seconds:
        return "0"
    units = sorted(_AGE_UNITS.items(), key=lambda unit: -unit[1])
    name, size = next(u for u in units if (u[0] != "w" and seconds % u[1] == 0) or u[0] == "s")
    return f"{seconds / size:g}{name}"


def _age(value: Any) -> Any:
    try:
        return parse_age(value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError from None


def _not_negative(value: float | None) -> float | None:
    if value is not None and not 0 <= value < float("inf"):
        raise ValueError
    return value


def _a_day_or_more(value: float | None) -> float | None:
    if value is not None and value < _DAY:
        raise ValueError("less than a day")
    return value


def _one_line(value: str) -> str:
    if _CONTROL.search(value):
        raise ValueError("control characters or line breaks")
    return value


def _lines(value: str) -> str:
    if _CONTROL.search(value.replace("\n", "").replace("\t", "")):
        raise ValueError("control characters")
    return value


def is_slurm_name(value: str) -> bool:
    """Whether a site file takes it for the name of a partition, account or QOS."""
    return re.fullmatch(_SLURM_NAME, value) is not None


def is_gpu_type(value: str) -> bool:
    """Whether a site file takes it for a type of GPUs, "" included."""
    # A colon or comma would end the type inside ``gpu:type:count``.
    return re.fullmatch(_GPU_TYPE, value) is not None


def _slurm_name(value: str) -> str:
    if not is_slurm_name(value):
        raise ValueError
    return value


def _gpu_type(value: str) -> str:
    if not is_gpu_type(value):
        raise ValueError
    return value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError):
        raise ValueError from None
    return value


def _variable(value: str) -> str:
    if not re.fullmatch(_VARIABLE, value):
        raise ValueError
    return value


def _version(value: str) -> str:
    if not re.fullmatch(_VERSION, value):
        raise ValueError
    return value


def _home(value: Any) -> Any:
    return str(os.path.expanduser(value)) if isinstance(value, str) else value  # noqa: PTH111


def _login_path(value: Any) -> Any:
    if not isinstance(value, str | os.PathLike):
        return value
    path = os.path.expandvars(_home(os.fspath(value)))
    if _UNSET_VARIABLE.search(path):
        raise ValueError("a variable that is not set here")
    # Slurm gives up all %-replacement in an output path that holds a backslash.
    if not path.startswith("/") or "\\" in path:
        raise ValueError("not a usable path")
    return _one_line(path)


def _store_address(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(("s3:", "gs:")):
        if not re.fullmatch(r"(s3|gs)://[A-Za-z0-9][A-Za-z0-9._-]+(/[^\x00-\x20\x7f?#]*)?", value):
            raise ValueError
        return value
    return _login_path(value)


def _node_path(value: str) -> str:
    if not value.startswith(("/", "$")):
        raise ValueError("a relative path")
    return _one_line(value)


def _program(value: str) -> str:
    # A relative path with a slash would depend on the job's working directory.
    if not value or value.startswith("-") or ("/" in value and not value.startswith("/")):
        raise ValueError("neither a name nor an absolute path")
    return _one_line(value)


Pattern = Annotated[str, AfterValidator(_pattern), Allowed("a regular expression of Python")]
Text = Annotated[str, AfterValidator(_one_line), Allowed("one line of text")]
Lines = Annotated[str, AfterValidator(_lines), Allowed("text, one or more lines of bash")]
Switch = Annotated[bool, Allowed("true, false")]
Count = Annotated[int, Field(ge=1), Allowed("a whole number from 1")]
Budget = Annotated[int, Field(ge=0), Allowed("a whole number from 0")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False), Allowed("a number of seconds from 0")]
Period = Annotated[
    float, Field(ge=0.05, allow_inf_nan=False), Allowed("a number of seconds from 0.05")
]
_AsSize = PlainSerializer(memory_text, when_used="json-unless-none")
_AsTime = PlainSerializer(time_text, when_used="json-unless-none")
_AsAge = PlainSerializer(age_text, when_used="json")
Memory = Annotated[
    int,
    BeforeValidator(_memory),
    Field(ge=1),
    _AsSize,
    Allowed("a size in Slurm's binary units: 512M, 64G, 1T; a bare number is MiB", _MEMORY),
]
MemoryOrNone = Annotated[
    int,
    BeforeValidator(_memory),
    Field(ge=0),
    _AsSize,
    Allowed(
        "a size in Slurm's binary units: 512M, 64G, 1T; a bare number is MiB; 0 for none", _MEMORY
    ),
]
TimeLimit = Annotated[
    int | None, BeforeValidator(_time), _AsTime, Allowed(f"a Slurm time: {FORMS}", PATTERN)
]
Allowance = Annotated[
    int,
    BeforeValidator(_finite_time),
    Field(ge=0),
    _AsTime,
    Allowed("a Slurm time: 10 (minutes), 00:10:00", PATTERN),
]
Age = Annotated[
    float | None,
    BeforeValidator(_age),
    AfterValidator(_not_negative),
    _AsAge,
    Allowed("an age: 30d, 12h, 90m, 0; UNLIMITED keeps for ever", _AGE),
]
LongAge = Annotated[
    float | None,
    BeforeValidator(_age),
    AfterValidator(_a_day_or_more),
    _AsAge,
    Allowed("an age from 1d: 30d, 2w; UNLIMITED keeps for ever", _AGE),
]
SubmitRate = Annotated[
    Rate,
    BeforeValidator(_rate),
    PlainSerializer(str, when_used="json"),
    Allowed("count/time: 10/1s, 60/1m, 500/h", _RATE),
]
SlurmName = Annotated[
    str,
    AfterValidator(_slurm_name),
    Allowed("a name of letters, digits and . _ + @ , -", _SLURM_NAME),
]
GpuName = Annotated[
    str,
    AfterValidator(_gpu_type),
    Allowed(
        "the type's name in gres.conf, of letters, digits and . _ + -; empty for untyped GPUs",
        _GPU_TYPE,
    ),
]
Variable = Annotated[
    str, AfterValidator(_variable), Allowed("a variable's name of letters, digits and _", _VARIABLE)
]
PythonVersion = Annotated[str, AfterValidator(_version), Allowed("major.minor, as 3.11", _VERSION)]
LoginPath = Annotated[
    str,
    BeforeValidator(_login_path),
    Allowed(
        "an absolute path without backslashes; ~ and $NAME are expanded when the file is read, "
        "where NAME must be set"
    ),
]
StoreAddress = Annotated[
    str,
    BeforeValidator(_store_address),
    Allowed("an absolute path, `s3://bucket/prefix` or `gs://bucket/prefix`"),
]
NodePath = Annotated[
    str,
    BeforeValidator(_home),
    AfterValidator(_node_path),
    Allowed("an absolute path; ~ is expanded when the file is read, $NAME on the node"),
]
Program = Annotated[
    str,
    BeforeValidator(_home),
    AfterValidator(_program),
    Allowed("an absolute path or a command's name; ~ is expanded when the file is read"),
]
