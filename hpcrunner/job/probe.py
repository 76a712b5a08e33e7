"""The probe of ``hpcrunner doctor`` on the node: it looks, and runs no experiment.

The formats are those of request/probe.py. Standard library only, but for the stores it is to ask.
"""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from hpcrunner import __version__
from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.allocation import allocation_of
from hpcrunner.job.claim import this_process
from hpcrunner.mounts import mount_of
from hpcrunner.request.location import Location
from hpcrunner.request.probe import (
    PROBE_NAME,
    REPORT_NAME,
    CommandSeen,
    FolderSeen,
    ProbeCommand,
    ProbeOrder,
    ProbeReport,
    StoreSeen,
    digest,
    order_from_json,
    skew,
)
from hpcrunner.request.scheduler_words import words_of
from hpcrunner.sessions import end_session
from hpcrunner.sync import sync_folder

_LONGEST_LINE = 300
_FOLDER = re.compile(r"@[A-Z_]+@")


def is_probe(folder: Path) -> bool:
    """Whether the folder is a probe's."""
    return (folder / PROBE_NAME).exists()


def run_probe(folder: Path, environ: Mapping[str, str]) -> int:
    """Look at what the order says, and leave the report. Raises ProbeError and OSError."""
    order = order_from_json((folder / PROBE_NAME).read_text("utf-8"), where=str(folder))
    report = _report(order, folder, environ)
    unfinished = folder / f".{REPORT_NAME}"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(report.to_json())
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(folder / REPORT_NAME)
    sync_folder(folder)
    return 0


def _report(order: ProbeOrder, folder: Path, environ: Mapping[str, str]) -> ProbeReport:
    allocation = allocation_of(environ, order.cpus, order.gpus)
    return ProbeReport(
        host=socket.gethostname(),
        node=words_of(environ).said(environ).get("node", ""),
        job_id=this_process(environ).job_id,
        python=platform.python_version(),
        executable=sys.executable,
        hpcrunner=__version__,
        leaked=order.planted in environ,
        devices=allocation.devices,
        folders=tuple(_folder(name, path) for name, path in order.folders),
        commands=_commands(order, folder),
        stores=tuple(_store(location) for location in order.stores),
        skew=_skew(folder),
        written_at=time.time(),
        secrets=tuple(
            name
            for name, value in order.secrets
            if name in environ and digest(order.planted, environ[name]) == value
        ),
    )


def _folder(name: str, text: str) -> FolderSeen:
    """Write into a folder as an experiment would: into one of its own, made where it is missing."""
    path = Path(os.path.expandvars(text))
    if not path.is_absolute():
        return FolderSeen(name, text, "is no absolute path here: is its variable set?", "", 0)
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    trouble, free = "", 0
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="hpcrunner-probe-", dir=path) as own:
            file = Path(own) / "file"
            file.write_bytes(b"probe")
            if file.read_bytes() != b"probe":
                trouble = "does not give back what was written"
        found = os.statvfs(path)
        free = found.f_bavail * found.f_frsize
    except OSError as error:
        trouble = error.strerror or str(error)
    seen = FolderSeen(name, str(path), trouble, mount_of(path).type, free)
    with suppress(OSError):  # what was not there before goes again, where nobody uses it by now
        for folder in made:
            folder.rmdir()
    return seen


def _commands(order: ProbeOrder, folder: Path) -> tuple[CommandSeen, ...]:
    """Run the commands in a folder of their own: on the scratch, as experiments are, if it can be
    written.
    """
    beside = next(
        (os.path.expandvars(path) for name, path in order.folders if name == "scratch"), ""
    )
    writable = Path(beside).is_dir() and os.access(beside, os.W_OK | os.X_OK)
    with tempfile.TemporaryDirectory(
        prefix="hpcrunner-probe-", dir=beside if writable else folder
    ) as own:
        (Path(own) / "environment").touch(0o600)
        return tuple(_command(command, Path(own)) for command in order.commands)


def _words(argv: Sequence[str], own: Path) -> list[str]:
    """The words of a container's exec line, filled in as an experiment's are."""
    words = [os.path.expandvars(_own_word(word, own)) for word in argv]
    return [word for word in words if word != "@BINDS@"]


def _own_word(word: str, own: Path) -> str:
    """All folders that an experiment has are one here."""
    if word == "@ENVIRONMENT@":
        return str(own / "environment")
    return str(own) if _FOLDER.fullmatch(word) and word != "@BINDS@" else word


def _command(command: ProbeCommand, own: Path) -> CommandSeen:
    try:
        process = subprocess.Popen(
            _words(command.argv, own),
            cwd=own,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        return CommandSeen(command.name, None, error.strerror or str(error))
    try:
        output, _ = process.communicate(timeout=command.timeout)
    except subprocess.TimeoutExpired:
        end_session(process.pid)
        process.communicate()
        return CommandSeen(command.name, None, f"no end within {command.timeout:g} s")
    lines = output.decode("utf-8", "replace").strip().splitlines()
    return CommandSeen(command.name, process.returncode, lines[-1][:_LONGEST_LINE] if lines else "")


def _store(location: Location) -> StoreSeen:
    from hpcrunner.storage.reach import reach  # boto3 and alike, where there is a store to ask

    try:
        reach(location)
    except HpcrunnerError as error:
        return StoreSeen(str(location), error.what)
    except Exception as error:  # a library that does not load here is a finding, too
        return StoreSeen(str(location), f"{type(error).__name__}: {error}"[:_LONGEST_LINE])
    return StoreSeen(str(location), "")


def _skew(folder: Path) -> float:
    """This clock less that of the file system's server, which stamps the file."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        before = time.time()
        file.write(b"probe")
        file.flush()
        os.fsync(file.fileno())
        return skew(before, os.fstat(file.fileno()).st_mtime, time.time())
