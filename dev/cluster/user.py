"""The ordinary user whom the jobs belong to."""

from __future__ import annotations

import pwd

from . import files
from .layout import USER, Layout
from .process import run


def ensure(layout: Layout) -> pwd.struct_passwd:
    """Create the user, or bring its home to this state directory."""
    files.folder(layout.home.parent)
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        run(
            [
                "useradd",
                "--create-home",
                "--home-dir",
                str(layout.home),
                "--shell",
                "/bin/bash",
                USER,
            ]
        )
    else:
        if entry.pw_dir != str(layout.home):
            run(["usermod", "--home", str(layout.home), USER])
    files.folder(layout.home, USER)
    return pwd.getpwnam(USER)


def remove(layout: Layout) -> None:
    """Delete the user if its home is in this state directory."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        return
    if entry.pw_dir == str(layout.home):
        run(["userdel", USER])
