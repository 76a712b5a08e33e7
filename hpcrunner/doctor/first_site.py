"""Writing a first site file: whole or not at all, sound, and over nothing that is there."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from hpcrunner.batch.script import check_templates
from hpcrunner.errors import HpcrunnerError
from hpcrunner.sites.folders import site_folders
from hpcrunner.sites.load import load_site

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@,-]*")  # as the key name of a site file has it


class BadName(HpcrunnerError):
    """No site can have that name."""

    exit_code = 64  # EX_USAGE


class CannotWrite(HpcrunnerError):
    """The file is there already, or cannot be made."""

    exit_code = 73  # EX_CANTCREAT


def already(path: Path) -> CannotWrite:
    """The error for a file that is there."""
    return CannotWrite(
        "there is such a file already",
        where=str(path),
        remedy="give another name, or --print to compare",
    )


def place_of(name: str) -> Path:
    """Where a site of that name belongs: in the user's own folder. A path is itself.

    Raises BadName.
    """
    is_path = "/" in name or name.endswith((".yaml", ".yml"))
    path = Path(name).expanduser() if is_path else site_folders()[0].path / f"{name}.yaml"
    if not _NAME.fullmatch(path.stem):
        raise BadName(
            f"no site can be called {path.stem!r}",
            where="site init",
            remedy="write letters, digits and . _ + @ , - (the first a letter or a digit)",
        )
    return path


def write_site(path: Path, text: str) -> None:
    """Write the file after it was read as a site. Raises CannotWrite, SiteError."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(".yaml", f".{path.stem}-", path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        check_templates(load_site(temporary))
        temporary.chmod(0o644)
        os.link(temporary, path)  # unlike a rename it takes the place of nothing
    except FileExistsError as error:
        raise already(path) from error
    except OSError as error:
        raise CannotWrite(f"cannot be made ({error.strerror})", where=str(path)) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
