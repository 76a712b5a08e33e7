"""An image of a registry, pulled into a folder of ours by Apptainer or Singularity."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from hpcrunner.images.errors import PullFailed, no_room
from hpcrunner.images.runtime import program_path, runtime_environment, scratch_settings
from hpcrunner.request.image import ImageSetup, PlannedImage
from hpcrunner.request.reasons import Reason
from hpcrunner.request.units import format_bytes, format_duration

Tell = Callable[[str, str], object]  # an event's name, and one line for people
Pause = Callable[[float], object]

LONGEST = 3 * 3600.0
QUIET = 900.0  # a pull that has written nothing for so long is given up
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 2.0
_TELL_EVERY = 15.0
_COUNTING = 0.1  # of the time at most goes into counting what has come
_ENOUGH = 1 << 20  # bytes of the program's own lines that are read
_NOT_FOUND = re.compile(r"manifest unknown|name unknown|not found|does not exist|\b404\b", re.I)
_NO_TOOL = re.compile(r"executable file not found|mksquashfs|user namespace|newuidmap", re.I)
_DENIED = re.compile(r"unauthorized|authentication required|denied|forbidden|\b40[13]\b", re.I)
_NO_ROOM = re.compile(r"no space left|disk quota exceeded|file too large|File size limit", re.I)
_OTHER_BYTES = re.compile(r"verifying sha256 checksum|digest.* (mismatch|does not match)", re.I)
# How deep in the program it happened.
_WRAPPED = re.compile(
    r"While (pulling|making) image from oci registry: |error fetching image to cache: "
    r"|unable to Download Image: |while building SIF from layers: |conveyor failed to get: "
    r"|error writing layer: |failed to get checksum for \S+ "
)
# Answers of a server that is not well, and lines that are cut: another attempt may help.
_PASSING = re.compile(
    r"\b50[0-9]\b|timeout|reset by peer|refused|unexpected EOF|no such host", re.IGNORECASE
)


def pull(
    image: PlannedImage,
    setup: ImageSetup,
    scratch: Path,
    environ: Mapping[str, str],
    tell: Tell,
    pause: Pause = time.sleep,
) -> Path:
    """Pull into ``scratch``, a private folder that is removed after; returns the image's file.

    ``pause`` may raise to break it off: then nothing is left running. Raises PullFailed.
    """
    program = program_path(setup.runtime, environ)
    target = scratch / "image.sif"
    settings = scratch_settings(scratch) | {"ALLOW_UNSIGNED": "1"}
    host = image.reference.partition("://")[2].partition("/")[0]
    if host in setup.plain_http:
        settings["NOHTTPS"] = "1"
    if image.user or image.password:
        settings |= {"DOCKER_USERNAME": image.user, "DOCKER_PASSWORD": image.password}
    environment = runtime_environment(program, environ, settings)
    # spython calls the program by this name alone.
    names = scratch / "bin"
    names.mkdir(mode=0o700)
    (names / "singularity").symlink_to(program)
    environment["PATH"] = f"{names}:{environment['PATH']}"
    log = scratch / "log"
    code = _run(image.reference, target, environment, log, tell, pause)
    said = _said(log)
    if code != 0 or not target.is_file():
        raise _failure(image.reference, code, said)
    return target


def _run(
    reference: str,
    target: Path,
    environment: Mapping[str, str],
    log: Path,
    tell: Tell,
    pause: Pause,
) -> int:
    with log.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, "-m", "hpcrunner.images.child", reference, str(target)],
            env=environment,
            cwd=target.parent,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        return _wait(child, reference, target.parent, tell, pause)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def _wait(
    child: subprocess.Popen[bytes], reference: str, scratch: Path, tell: Tell, pause: Pause
) -> int:
    began = grown_at = time.monotonic()
    tell_at, written = began + _TELL_EVERY, -1
    look = _FIRST_LOOK
    while (code := child.poll()) is None:
        pause(look)
        look = min(look * 1.5, _LONGEST_LOOK)
        now = time.monotonic()
        if now >= tell_at:
            before, written = written, written_below(scratch)
            grown_at = now if written != before else grown_at
            tell_at = now + max(_TELL_EVERY, (time.monotonic() - now) / _COUNTING)
            tell("pulling", f"image {reference}: {format_bytes(written)} so far")
        if now - began > LONGEST or now - grown_at > QUIET:
            raise PullFailed(
                f"given up after {format_duration(now - began)}; nothing came any more",
                where=reference,
                remedy="is the registry reached from here?",
            )
    return code


def written_below(scratch: Path) -> int:
    """About how many bytes have come."""
    total = 0
    for folder, _, names in os.walk(scratch):
        for name in names:
            with suppress(OSError):
                total += Path(folder, name).lstat().st_size
    return total


def _said(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _ENOUGH))
        return file.read().decode("utf-8", "replace")


def _failure(reference: str, code: int, said: str) -> PullFailed:
    lines = [line for line in said.splitlines() if re.match(r"\s*(FATAL|ERROR)", line)]
    line = (lines or said.splitlines() or [f"exit code {code}"])[-1]
    text = re.sub(r"\x1b\[[0-9;]*m|^\s*(FATAL|ERROR):?\s*", "", line)
    # Addresses of blobs are signed with what lets anybody fetch them.
    text = _WRAPPED.sub("", " ".join(re.sub(r"\?[^\s\"']*", "", text).split()))[-400:]
    reason, remedy = Reason.STORE_UNREACHABLE, "is the registry reached from here?"
    if _NO_ROOM.search(said) or -code == signal.SIGXFSZ:
        return no_room(reference)
    if _OTHER_BYTES.search(text):
        remedy = "what came is not what its digest says"
    elif _NO_TOOL.search(text):
        reason, remedy = Reason.CONTAINER_FAILED, "the program cannot make images here"
    elif _PASSING.search(text):
        pass
    elif _DENIED.search(text):
        reason, remedy = Reason.ARTIFACT_DENIED, "log in to the registry, or send credentials"
    elif _NOT_FOUND.search(text):
        reason, remedy = Reason.ARTIFACT_NOT_FOUND, "is it spelt as the registry has it?"
    return PullFailed(f"cannot be pulled: {text}", where=reference, remedy=remedy, reason=reason)
