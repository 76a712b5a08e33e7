"""The container program's own failures, told from the payload's by its last words.

Its two halves speak differently: ``FATAL:`` and exit code 255, or, from the part in C that sets up
namespaces, a coloured ``ERROR  :`` and exit code 1 (Apptainer's and SingularityCE's sources, sylog
and starter/c/message.c). Either code may be the payload's own, too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpcrunner.errors import without_colours
from hpcrunner.request.reasons import Reason

_REMARK = re.compile(r"(?:INFO|WARNING)\s*:|ERROR:")
_FATAL = re.compile(r"FATAL:\s+(.*)")
_STARTER = re.compile(r"ERROR  : (.*)")
_USAGE = re.compile(r"Run '(?:apptainer|singularity) --help'")
_NO_PROGRAM = re.compile(
    r'"([^"]*)": executable file not found|exec .* failed: .* no such file|^permission denied$'
)
_BAD_IMAGE = re.compile(
    r"image format not recognized|unknown image format|not a valid SIF|no .*partition found"
    r"|trying to read the squashfs image|while loading SIF|architecture .* could not run"
    r"|exec format error|image is empty|bad superblock"
    r"|destination /(?:dev|proc|sys) doesn.t exist in container"
)


@dataclass(frozen=True, slots=True)
class RuntimeFault:
    """Why the program never came to what it was to run."""

    reason: Reason
    text: str


def runtime_fault(code: int, last: Sequence[str]) -> RuntimeFault | None:
    """The failure that an exit code and the last lines of output mean; None where it is none."""
    lines = [without_colours(line).strip() for line in reversed(last)]
    words = [text for text in lines if text and not _REMARK.match(text)]
    line = next((text for text in words if code == 1 or not _STARTER.match(text)), "")
    fatal, starter = _FATAL.fullmatch(line), _STARTER.fullmatch(line)
    if code == 255 and fatal:
        what = fatal[1].strip()
    elif code == 1 and starter:
        what = starter[1].strip()
    elif code == 1 and _USAGE.match(line):
        what = "it does not know an option; is it too old, or container.options at fault?"
    else:
        return None
    if _NO_PROGRAM.search(what):
        text = f"the container image cannot run the payload: {what}"
        return RuntimeFault(Reason.PAYLOAD_NOT_STARTED, text)
    if _BAD_IMAGE.search(what):
        return RuntimeFault(Reason.ARTIFACT_REFUSED, f"the container image cannot be run: {what}")
    return RuntimeFault(Reason.CONTAINER_FAILED, f"the container did not start: {what}")
