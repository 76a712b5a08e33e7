"""The ordinary user whom the jobs belong to."""

from __future__ import annotations

import pwd

from . import files
from .errors import CannotHere
from .layout import USER, Layout
from .process import run

# In the account's comment field: tells our user from a person of the same name.
OURS = "hpcrunner development cluster"


def ensure(layout: Layout) -> None:
    """Create the user, or bring its home to this state directory."""
    files.folder(layout.home.parent)
    home = str(layout.home)
    entry = _entry()
    if entry is None:
        words = ["--create-home", "--home-dir", home, "--shell", "/bin/bash", "--comment", OURS]
        run(["useradd", *words, USER])
    elif entry.pw_gecos != OURS:
        raise CannotHere(f"the user {USER} exists and is not the development cluster's")
    elif entry.pw_dir != home:
        run(["usermod", "--home", home, USER])
    files.folder(layout.home, USER)


def remove(layout: Layout) -> None:
    """Delete the user if it is ours and its home is in this state directory."""
    entry = _entry()
    if entry and entry.pw_gecos == OURS and entry.pw_dir == str(layout.home):
        run(["userdel", USER])


def _entry() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None
