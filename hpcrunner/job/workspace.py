"""The experiment's folders on the node.

One layout serves the StudioML client library and scripts written for its other runners::

    <scratch>/hpcrunner-<uid>/<batch>-<index>/     STUDIOML_HOME, private
        owner                                      the node of the job: see leftovers.py
        tmp/                                       TMPDIR of the payload
        _runner/                                   ours: no payload in a container sees it
        experiments/<name>/                        root of the experiment
            <tag>/                                 one folder an artifact
            workspace/                             working directory
            output/output                          what the payload printed (see below)

Without an ``output`` artifact the printed output goes to ``_runner/output``: the completion
service hands every other folder it finds beside the workspace to the task as one of its files.
TMPDIR lies near the top because Unix sockets made in it must keep their path under 108 bytes
(unix(7)); Python's multiprocessing makes such sockets.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hpcrunner.nodefolders import NodeFolderError, expand, private_folder, remove_tree
from hpcrunner.request.plan import NodeSetup

RUNNER = "_runner"
OWNER = "owner"
_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+=,-]{0,199}")
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Workspace:
    """Paths of one attempt. ``home`` is STUDIOML_HOME, ``root`` the experiment's folder.

    ``run`` is a name that no other run of the attempt has.
    """

    home: Path
    root: Path
    has_output: bool
    run: str = ""

    @property
    def cwd(self) -> Path:
        """The payload's working directory."""
        return self.root / "workspace"

    @property
    def runner(self) -> Path:
        """Our own scratch. What a container writes never lies on a path of ours through it."""
        return self.home / RUNNER

    @property
    def tmp(self) -> Path:
        """TMPDIR of the payload."""
        return self.home / "tmp"

    @property
    def output(self) -> Path:
        """The file of the payload's output."""
        return (self.root / "output" if self.has_output else self.runner) / "output"

    @property
    def mark(self) -> Path:
        """A file that says whose the folder is."""
        return self.runner / f"of-{self.run}"

    @property
    def is_ours(self) -> bool:
        """False where another run of the attempt has made the folder anew: see make_workspace."""
        try:
            self.mark.lstat()
        except FileNotFoundError:
            return False
        except OSError:
            return True  # nobody can tell
        return True

    def tag(self, tag: str) -> Path:
        """The folder of an artifact. Raises NodeFolderError for a tag that is no plain name."""
        if not is_plain_name(tag) or tag == RUNNER:
            raise NodeFolderError(
                f"{tag!r} cannot name a folder",
                where="artifact",
                remedy="rename the artifact's tag to letters, digits, '.', '-' and '_'",
            )
        return self.root / tag


def is_plain_name(name: str) -> bool:
    """Whether a name can stand as one path component of ours."""
    return _SAFE_NAME.fullmatch(name) is not None


def make_workspace(
    setup: NodeSetup, task: str, name: str, tags: Collection[str], environ: Mapping[str, str]
) -> Workspace:
    """Make the folders of a task (``<batch>-<index>``), empty and private; one for each tag.

    What a requeued job left on the same node is removed, though it may still run. The folder is
    locked for as long as this process lives. Raises NodeFolderError.
    """
    for word in (task, name):
        if not is_plain_name(word):
            raise NodeFolderError(f"{word!r} cannot name a folder", where="plan")
    scratch = expand(setup.scratch, environ, what="scratch")
    try:
        scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = private_folder(scratch / f"hpcrunner-{os.getuid()}") / task
        _clear(home)
        home.mkdir(mode=0o700)
        _own(home)
        run = f"{os.uname().nodename}.{os.getpid()}.{time.time_ns():x}"
        workspace = Workspace(home, home / "experiments" / name, "output" in tags, run)
        workspace.root.mkdir(mode=0o700, parents=True)
        own = {workspace.tmp, workspace.runner, workspace.cwd}
        for folder in own | {workspace.tag(tag) for tag in tags}:
            folder.mkdir(mode=0o700)
        workspace.mark.touch(mode=0o600)
    except OSError as error:
        raise NodeFolderError(
            f"cannot make the experiment's folders ({error.strerror})",
            where=f"scratch {scratch}",
            remedy="name a folder with room that the job may write as 'scratch' in the site file",
        ) from error
    return workspace


def keep_home(workspace: Workspace) -> None:
    """Leave the experiment's folder to people: no later job takes it for a dead one's."""
    (workspace.home / OWNER).unlink(missing_ok=True)


def _clear(home: Path) -> None:
    """Remove what stands in the way, though another job's sweep may be at it as well."""
    for _ in range(_TRIES):
        if not os.path.lexists(home):
            return
        with suppress(FileNotFoundError):
            remove_tree(home)


def _own(home: Path) -> None:
    """Lock the folder, then name its node: in this order it never looks like a dead one's."""
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)  # no such locks here: it stays without an owner, and nobody sweeps it
        return
    (home / OWNER).write_text(os.uname().nodename)  # fd stays open until this process ends
