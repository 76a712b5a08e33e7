"""A folder with all the packages that a list of requirements needs, for one interpreter.

Each is a wheel, so that nothing is built on a node. What a list names by a URL or a repository is
installed there by name and version: ``pins.json`` says which (request/requirements.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hpcrunner.gateway.staging.inside import Inside
from hpcrunner.gateway.staging.installer import run
from hpcrunner.installers import InstallerFailed, last_lines, write_list
from hpcrunner.interpreter import Interpreter, uv_here
from hpcrunner.nodefolders import remove_tree
from hpcrunner.request.requirements import (
    PINS,
    EnvironmentFailed,
    Requirements,
    is_source,
)
from hpcrunner.sync import sync_folder

_LAYOUT = 1  # part of the key
_TOOLS = ("setuptools", "wheel")  # with which the client library that comes with code is built
USED = "used"
_WHEELS = "wheels"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be in the folder. ``settings`` steer pip, and may hold an index's token.

    ``inside`` is the image that the interpreter is in, None for one of this machine.
    """

    interpreter: Interpreter
    phases: tuple[Requirements, ...]
    settings: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    inside: Inside | None = None

    @property
    def key(self) -> str:
        """The same for all who want the same."""
        content = [
            _LAYOUT,
            self.interpreter.real,
            self.interpreter.version,
            [phase.canonical for phase in self.phases],
            self.settings,
            *([self.inside.identity] if self.inside else ()),
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def complete(folder: Path) -> bool:
    """Whether the folder is there, with all in it."""
    return (folder / PINS).is_file()


def build(
    wanted: Wanted, folder: Path, environ: Mapping[str, str], stopped: Callable[[], bool]
) -> None:
    """Make the folder, whole or not at all.

    Raises EnvironmentFailed with the essential of what pip printed, Stopped, OSError.
    """
    made = folder.with_name(f".{folder.name[:16]}.{secrets.token_hex(4)}")
    made.mkdir(mode=0o700)
    work, lists, log = made / ".work", made / ".lists", made / ".log"
    for inner in (work, lists):
        inner.mkdir(mode=0o700)
    log.touch(mode=0o600)
    try:
        try:
            # pip is killed where it must end, and leaves what it had in there.
            with tempfile.TemporaryDirectory(
                prefix="hpcrunner-wheels-", dir=environ.get("TMPDIR"), ignore_cleanup_errors=True
            ) as temporary:
                private = {**environ, "TMPDIR": temporary}
                pins = _Build(wanted, work, lists, log, private, stopped).all()
                _take_wheels(work / _WHEELS, made)
        except InstallerFailed as error:
            raise EnvironmentFailed(
                str(error),
                where="Python packages, on the login node",
                remedy="can it reach the package index, and does that have these versions?",
                lines=last_lines(log),
            ) from error
        for inner in (work, lists):
            remove_tree(inner)  # in which builds leave what may not be written, as Go's do
        log.unlink()
        (made / USED).mkdir(mode=0o700)
        (made / PINS).write_text(json.dumps(pins), "utf-8")
        for path in made.iterdir():
            _sync(path)
        sync_folder(made)
        with suppress(OSError):
            remove_tree(folder)  # what a crash has left
        made.rename(folder)
        sync_folder(folder.parent)
    finally:
        with suppress(OSError):
            remove_tree(made)


class _Build:
    """The steps of one build, all in ``work``, with the wheels in its folder ``wheels``.

    An image sees and writes that folder, and what it has made a link of is not followed.
    """

    def __init__(
        self,
        wanted: Wanted,
        work: Path,
        lists: Path,
        log: Path,
        environ: Mapping[str, str],
        stopped: Callable[[], bool],
    ) -> None:
        self._wanted = wanted
        self._target = work / _WHEELS
        self._target.mkdir()
        self._work = work
        self._lists = lists
        self._log = log
        self._environ = environ
        self._line: list[str] = []
        self._uv = uv_here(environ)
        if wanted.inside is not None:
            tmp = work / "tmp"
            tmp.mkdir()
            self._environ = wanted.inside.environment(os.environ, environ, tmp)
            self._line = wanted.inside.line(work, lists)
            self._uv = wanted.inside.uv
        self._stopped = stopped
        self._python = str(work / "venv" / "bin" / "python")

    def all(self) -> dict[str, str]:
        """Fill the target; returns the pin for each line that names a source."""
        self._make_venv()
        pins: dict[str, str] = {}
        for phase in self._wanted.phases:
            for line in phase.lines:
                if is_source(line) and line not in pins:
                    pins[line] = self._pinned(line)
        for phase in self._wanted.phases:
            self._fill([pins.get(line, line) for line in phase.lines], frozen=phase.frozen)
        names = [line for phase in self._wanted.phases for line in phase.lines]
        if any("studioml" in line.lower() for line in names):
            self._fill(_TOOLS, frozen=False)
        return pins

    def _make_venv(self) -> None:
        """An environment of that interpreter with a pip, its own or, where it has none, uv's."""
        path, target = self._wanted.interpreter.path, self._work / "venv"
        try:
            self._run([path, "-I", "-m", "venv", str(target)])
        except InstallerFailed:
            if not self._uv:
                raise
            shutil.rmtree(target, ignore_errors=True)
            self._run([self._uv, "venv", "--no-project", "--seed", "--python", path, str(target)])

    def _pinned(self, line: str) -> str:
        """Build one line's wheel; returns the requirement by name and version."""
        alone = Path(tempfile.mkdtemp(prefix="source-", dir=self._work))
        self._wheel([line], alone, "--no-deps")
        (wheel,) = alone.glob("*.whl")
        name, version = wheel.name.split("-")[:2]
        wheel.rename(self._target / wheel.name)
        shutil.rmtree(alone, ignore_errors=True)
        return f"{name}=={version}"

    def _fill(self, lines: Sequence[str], *, frozen: bool) -> None:
        """The wheels of a list and of what it needs, as the node would choose them."""
        if not lines:
            return
        try:
            self._wheel(lines, self._target)
        except InstallerFailed as error:
            if error.conflict and not frozen:
                raise
            self._wheel(lines, self._target, *(["--no-deps"] if error.conflict else []))

    def _wheel(self, lines: Sequence[str], target: Path, *more: str) -> None:
        listed = write_list(self._lists / "requirements.txt", lines)
        pip = [self._python, "-I", "-m", "pip", "wheel", "--use-pep517"]
        pip += ["--find-links", str(self._target)]
        self._run([*pip, "--wheel-dir", str(target), *more, "--requirement", str(listed)])
        for folder in (self._target, target):
            if folder.is_symlink() or not folder.is_dir():
                raise InstallerFailed("pip's folder was taken away by what it has run")

    def _run(self, words: Sequence[str]) -> None:
        run([*self._line, *words], self._environ, self._log, self._stopped)


def _take_wheels(source: Path, target: Path) -> None:
    """Move what was made, and no links. Raises InstallerFailed, OSError."""
    try:
        if source.is_symlink():
            raise InstallerFailed("pip's folder was taken away by what it has run")
        found = list(os.scandir(source))
    except PermissionError:  # of no disk of ours, for which one would wait
        raise InstallerFailed("pip's folder was closed by what it has run") from None
    for entry in found:
        if entry.name.endswith(".whl") and entry.is_file(follow_symlinks=False):
            wheel = Path(entry.path)
            wheel.chmod(0o600)
            wheel.rename(target / entry.name)


def _sync(path: Path) -> None:
    if path.is_file():
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
