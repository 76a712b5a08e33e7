"""Finding a site config by name or path, and reading it."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpcrunner.data import data_folder
from hpcrunner.sites.problems import SiteError, validation_problems
from hpcrunner.sites.site import Site
from hpcrunner.sites.yamltext import YamlProblem, read

_SUFFIX = ".yaml"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+@-]*")


def load_site(name_or_path: str | Path) -> Site:
    """The site of a path, or of a name.

    A text with a slash or the ending ``.yaml`` or ``.yml`` is a path. A name is looked for in
    the user's folder (``$XDG_CONFIG_HOME/hpcrunner/sites``, by default below ``~/.config``),
    then among the shipped sites. Raises SiteError with a line for each mistake.
    """
    if isinstance(name_or_path, Path):
        return read_site(name_or_path)
    return read_site(site_file(name_or_path))


def site_file(name_or_path: str) -> Path:
    """The file that ``load_site`` reads for a name. Raises SiteError for an unknown one."""
    text = name_or_path
    if "/" in text or text.endswith((_SUFFIX, ".yml")):
        return Path(text)
    folders = site_folders()
    for folder in folders:
        path = folder / f"{text}{_SUFFIX}"
        if _NAME.fullmatch(text) and path.is_file():
            return path
    known = site_names()
    near = difflib.get_close_matches(text, known, n=1)
    hint = f", nearest: {near[0]}" if near else ""
    looked = " and ".join(str(folder) for folder in folders)
    raise SiteError(
        [f"no site {text!r} in {looked}{hint}; allowed: {', '.join(known)}, or a path to a file"]
    )


def read_site(path: Path) -> Site:
    """Read one file. Raises SiteError with a line for each mistake."""
    where = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SiteError([f"{where}: cannot be read ({error.strerror})"]) from error
    except UnicodeDecodeError as error:
        raise SiteError([f"{where}: not UTF-8 text (byte {error.start})"]) from error
    try:
        document = read(text)
    except YamlProblem as problem:
        raise SiteError([f"{where} (line {problem.line}): {problem.problem}"]) from problem
    # A file's stem that is no good name is refused like a bad name, and mended by the key.
    named = {"name": path.stem, **document.data}
    try:
        return Site.model_validate(named)
    except ValidationError as error:
        raise SiteError(validation_problems(error, Site, where, document.line)) from None


def with_spool(site: Site, spool: str) -> Site:
    """The site with another spool, say the command line's. Raises SiteError."""
    return with_changes(site, {"spool": spool})


def with_changes(site: Site, changes: Mapping[str, Any]) -> Site:
    """The site with other values of some keys, judged like the file's. Raises SiteError."""
    try:
        return Site.model_validate({**dict(site), **changes})
    except ValidationError as error:
        problems = validation_problems(error, Site, f"site {site.name}", lambda place: 1)
        raise SiteError([problem.replace(" (line 1)", "") for problem in problems]) from None


def site_folders() -> tuple[Path, ...]:
    """Where names are looked for, in that order."""
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "hpcrunner" / "sites", data_folder("site-configs")


def site_names() -> list[str]:
    """All names that can be loaded."""
    return sorted({path.stem for folder in site_folders() for path in folder.glob(f"*{_SUFFIX}")})
