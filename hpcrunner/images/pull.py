"""An image of a registry, pulled into a folder of ours by Apptainer or Singularity."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.errors import without_colours
from hpcrunner.images.errors import PullFailed, no_room, too_large
from hpcrunner.images.runtime import program_path, runtime_environment, scratch_settings
from hpcrunner.request.image import ImageSetup, PlannedImage
from hpcrunner.request.reasons import Reason
from hpcrunner.request.units import format_bytes, format_duration
from hpcrunner.sessions import end_session

Tell = Callable[[str, str], object]  # an event's name, and one line for people
Pause = Callable[[float], object]

LONGEST = 3 * 3600.0
QUIET = 900.0  # a pull that has written nothing for so long is given up
_FIRST_LOOK, _LONGEST_LOOK = 0.05, 2.0
_TELL_EVERY = 15.0
_COUNTING = 0.1  # of the time at most goes into counting what has come
_COUNT_EVERY = 1.0
# A Docker image's layers, what is unpacked of them, and the image file that is made of that; of
# others two copies of the file.
_ON_THE_WAY = 4
_ENOUGH = 1 << 20  # bytes of the program's own lines that are read
_NOT_FOUND = re.compile(r"manifest unknown|name unknown|not found|does not exist|\b404\b", re.I)
_NO_TOOL = re.compile(r"executable file not found|mksquashfs|user namespace|newuidmap", re.I)
_DENIED = re.compile(r"unauthorized|authentication required|denied|forbidden|\b40[13]\b", re.I)
_LARGE_FILE = re.compile(r"file too large|file size limit", re.I)
_NO_ROOM = re.compile(rf"no space left|disk quota exceeded|{_LARGE_FILE.pattern}", re.I)
_OTHER_BYTES = re.compile(r"verifying sha256 checksum|digest.* (mismatch|does not match)", re.I)
# It came whole, and is no image for this machine: it would be none the next time.
_NO_IMAGE = re.compile(
    r"ORAS SIF image should have|invalid layer media ?type|no extractable OCI"
    r"|no (child with platform|image found in)|image format not recognized|read next entry",
    re.IGNORECASE,
)
_NO_LIBRARY = re.compile(r"no default remote with library client", re.IGNORECASE)
# How deep in the program it happened.
_WRAPPED = re.compile(
    r"While (pulling|making) image from oci registry: |error fetching image to cache: "
    r"|unable to Download Image: |while building SIF from layers: |conveyor failed to get: "
    r"|error writing layer: |failed to get checksum for \S+ |packer failed to pack: "
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

    What it takes on the way is bounded by ``setup.largest``: each file by the kernel, all
    together by looking. ``pause`` may raise to break it off: then nothing is left running. Raises
    PullFailed, and ImageUnusable for an image that is too large.
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
    pulled = _Pulling(image.reference, target, setup.largest, tell, pause)
    code = pulled.run(environment, log)
    said = _said(log)
    if code != 0 or not target.is_file():
        if pulled.bounded and (_LARGE_FILE.search(said) or -code == signal.SIGXFSZ):
            raise too_large(image.reference, setup.largest)
        raise _failure(image.reference, code, said, scratch)
    return target


@dataclass(frozen=True, slots=True)
class _Pulling:
    """One run of the program."""

    reference: str
    target: Path
    largest: int
    tell: Tell
    pause: Pause

    @property
    def file_limit(self) -> int:
        """The most bytes of any file that is written on the way; 0: any number."""
        docker = self.reference.startswith("docker://")
        return self.largest * (_ON_THE_WAY if docker else 1)

    @property
    def bounded(self) -> bool:
        """Whether that limit holds, and not a lower one that this process has had itself."""
        hardest = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        return self.largest > 0 and not 0 <= hardest < self.file_limit

    def run(self, environment: Mapping[str, str], log: Path) -> int:
        """Its exit code. Raises PullFailed and ImageUnusable, and what ``pause`` raises."""
        words = [self.reference, str(self.target), str(self.file_limit)]
        with log.open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-m", "hpcrunner.images.child", *words],
                env=environment,
                cwd=self.target.parent,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            return self._wait(child)
        finally:
            end_session(child.pid)
            child.wait()
            if child.stdin is not None:
                child.stdin.close()

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        began = grown_at = tell_at = count_at = time.monotonic()
        written, look = -1, _FIRST_LOOK
        while (code := child.poll()) is None:
            self.pause(look)
            look = min(look * 1.5, _LONGEST_LOOK)
            now = time.monotonic()
            if now >= count_at:
                before, written = written, written_below(self.target.parent)
                grown_at = now if written != before else grown_at
                count_at = now + max(_COUNT_EVERY, (time.monotonic() - now) / _COUNTING)
                if self.largest and written > self.largest * _ON_THE_WAY:
                    raise too_large(self.reference, self.largest)
            if now >= tell_at + _TELL_EVERY:
                tell_at = now
                self.tell("pulling", f"image {self.reference}: {format_bytes(written)} so far")
            if now - began > LONGEST or now - grown_at > QUIET:
                raise PullFailed(
                    f"given up after {format_duration(now - began)}; nothing came any more",
                    where=self.reference,
                    remedy="is the registry reached from here?",
                )
        return code


def written_below(scratch: Path) -> int:
    """About how many bytes have come, as they lie on disk: holes of sparse files are free."""
    total = 0
    for folder, _, names in os.walk(scratch):
        for name in names:
            with suppress(OSError):
                total += os.lstat(f"{folder}/{name}").st_blocks * 512
    return total


def _said(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _ENOUGH))
        return without_colours(file.read().decode("utf-8", "replace"))


def _failure(reference: str, code: int, said: str, scratch: Path) -> PullFailed:
    lines = [line for line in said.splitlines() if re.match(r"\s*(FATAL|ERROR)", line)]
    line = (lines or said.splitlines() or [f"exit code {code}"])[-1]
    text = re.sub(r"^\s*(FATAL|ERROR):?\s*", "", line)
    # Addresses of blobs are signed with what lets anybody fetch them.
    text = re.sub(r"\?[^\s\"']*", "", text).replace(f"{scratch}/", "")
    text = _WRAPPED.sub("", " ".join(text.split()))[-400:]
    reason, remedy = Reason.STORE_UNREACHABLE, "is the registry reached from here?"
    if _NO_ROOM.search(said) or -code == signal.SIGXFSZ:
        return no_room(reference, scratch)
    if _OTHER_BYTES.search(text):
        remedy = "what came is not what its digest says"
    elif _NO_TOOL.search(text):
        reason, remedy = Reason.CONTAINER_FAILED, "the program cannot make images here"
    elif _NO_IMAGE.search(text):
        reason, remedy = Reason.ARTIFACT_REFUSED, "what is there is no image for this machine"
    elif _NO_LIBRARY.search(text):
        reason = Reason.ARTIFACT_NOT_FOUND
        remedy = "have a library set up here (apptainer remote add), or name the image otherwise"
    elif _PASSING.search(text):
        pass
    elif _DENIED.search(text):
        reason, remedy = Reason.ARTIFACT_DENIED, "log in to the registry, or send credentials"
    elif _NOT_FOUND.search(text):
        reason, remedy = Reason.ARTIFACT_NOT_FOUND, "is it spelt as the registry has it?"
    return PullFailed(f"cannot be pulled: {text}", where=reference, remedy=remedy, reason=reason)
