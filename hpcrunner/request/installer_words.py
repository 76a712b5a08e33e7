"""What installers (uv, pip, venv) print, and what of it a person needs: which requirement, and why.
Pure. tests/data/installers has what they really print.

uv ends with ``error: …`` and ``cause: …`` below it, older ones with ``Caused by: …``, or with a
cross and arrows. pip has ``ERROR: …``, often several, and what led to it before and behind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TAIL_LINES = 200
_WIDEST = 500  # characters of the one line
_PART = 240  # of each of its parts, of which there are three at most
# What the installers say when pins contradict each other: ``pip freeze`` of a real environment
# often does, and the environment works all the same.
_CONFLICT = re.compile(rb"No solution found|ResolutionImpossible|conflicting dependencies")
_UV_HEAD = re.compile(r"error: (.*)|  \u00d7 (.*)")
_UV_CAUSE = re.compile(r"\s+(?:cause: |Caused by: |[├╰]─▶ )(.*)")
_UV_STREAM = re.compile(r"\s*\[(?:stdout|stderr)\]")
_CONCLUSION = re.compile(r",? we can conclude that your requirements are unsatisfiable\.?$")
_PIP_ERROR = "ERROR: "
_PIP_STEP = re.compile(r"\s*\u00d7 (.* did not run successfully)")
_PIP_OUTPUT = re.compile(r"\[\d+ lines of output\]")
_PIP_SOURCE = re.compile(r"(?:Collecting|Processing|Obtaining) (\S+)")
_PIP_VERSIONS = re.compile(r"\(from versions: (.*)\)")
_PIP_BROKEN = re.compile(r"connection broken by .*?([^:\[\]'\"()]+)['\")]+: /")
# A compiler's or an interpreter's own word, among all that a build prints.
_TELLING = re.compile(r"\w*(?:error|Error|Exception):|fatal: |not created successfully")


def says_conflict(printed: bytes) -> bool:
    """Whether an installer says that the pins of its list contradict each other."""
    return _CONFLICT.search(printed) is not None


def readable_tail(printed: bytes) -> tuple[str, ...]:
    """The last lines of an installer's output, without the credentials of URLs."""
    return tuple(_lines(printed)[-_TAIL_LINES:])


def essence(printed: bytes) -> str:
    """What one failed command printed, as one line; "" where it printed nothing."""
    lines = _lines(printed)
    told: list[str] = []
    for part in _of_pip(lines) or _of_uv(lines) or [_telling(lines)]:
        plain = _cut(_CONCLUSION.sub("", " ".join(part.split())).rstrip(".:"), _PART)
        if plain and not any(plain in known for known in told):
            told.append(plain)
    return _cut(": ".join(told), _WIDEST)


def _lines(printed: bytes) -> list[str]:
    text = re.sub(r"://[^/@\s]+@", "://****@", printed.decode("utf-8", "replace"))
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _of_uv(lines: Sequence[str]) -> list[str]:
    """The error, its first cause and its last; of a build what that has printed."""
    start = next((at for at, line in enumerate(lines) if _UV_HEAD.match(line)), None)
    if start is None:
        return []
    head = "".join(_UV_HEAD.findall(lines[start])[0])
    causes: list[str] = []
    for at, line in enumerate(lines[start + 1 :], start + 1):
        cause = _UV_CAUSE.match(line)
        if cause:
            causes.append(cause[1])
        elif _UV_STREAM.match(line):
            errors = (n for n in range(len(lines) - 1, at, -1) if lines[n].strip() == "[stderr]")
            return [head, *causes[:1], _telling(lines[next(errors, at) + 1 :])]
        elif causes and line.startswith("   "):
            causes[-1] += " " + line.strip()
        else:
            break
    if head.startswith("No solution found") and causes:
        return causes[:1]
    return [head, *causes[:1], *causes[-1:]]


def _of_pip(lines: Sequence[str]) -> list[str]:
    """The error that names a requirement, and the reason that stands elsewhere."""
    for at, line in enumerate(lines):
        step = _PIP_STEP.match(line)
        if step:
            source = [m[1] for m in map(_PIP_SOURCE.match, lines[:at]) if m][-1:]
            named = [] if any(word in step[1] for word in ("wheel for", "clone")) else source
            return [*named, step[1], _telling(_printed_by_step(lines, at))]
    errors = [at for at, line in enumerate(lines) if line.startswith(_PIP_ERROR)]
    if not errors:
        return []
    first, last = (lines[at].removeprefix(_PIP_ERROR) for at in (errors[0], errors[-1]))
    below = [line.strip() for line in lines[errors[0] + 1 :]]
    if "DO NOT MATCH THE HASHES" in first:
        return ["the hash is not the requirement's", *(b.partition(" from ")[0] for b in below[:1])]
    if "conflicting dependencies" in first:
        causes = [line for line in below if " requested " in line or " depends on " in line]
        return [first, "; ".join(causes)]
    versions = next((m[1] for m in map(_PIP_VERSIONS.search, lines) if m), None)
    return [last] if versions is None else [last, _why_absent(lines, versions)]


def _printed_by_step(lines: Sequence[str], at: int) -> Sequence[str]:
    """What a step has printed whose failure is told at that line: behind it, or "above"."""
    begin = next((n for n in range(at, len(lines)) if _PIP_OUTPUT.search(lines[n])), None)
    if begin is None:
        return [line for line in lines[:at] if "subprocess-exited-with-error" not in line]
    end = next((n for n in range(begin, len(lines)) if "[end of output]" in lines[n]), len(lines))
    return lines[begin + 1 : end]


def _why_absent(lines: Sequence[str], versions: str) -> str:
    broken = next((m[1].strip() for m in map(_PIP_BROKEN.search, lines) if m), "")
    if broken:
        return f"the index cannot be reached ({broken})"
    if versions == "none":
        return "none was found that fits"
    return "there is " + ", ".join(versions.split(", ")[-3:])


def _telling(lines: Sequence[str]) -> str:
    """Of what a build printed the first error; its last line where none looks like one."""
    return next((line for line in lines if _TELLING.search(line)), lines[-1] if lines else "")


def _cut(text: str, most: int) -> str:
    """At most that much of it: begin and end, since both tell."""
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
