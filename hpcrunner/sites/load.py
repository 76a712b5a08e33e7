"""Reading a site by name or path: its file with what that starts from, validated."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpcrunner.sites.folders import files, find, is_path, site_folders
from hpcrunner.sites.layers import Merged, read_layers
from hpcrunner.sites.problems import Origin, SiteError, validation_problems
from hpcrunner.sites.site import Site


def load_site(name_or_path: str | Path) -> Site:
    """The site of a path, or of a name, which is looked for as ``sites.folders`` says.

    A text with a slash or the ending ``.yaml`` or ``.yml`` is a path. Raises SiteError with a
    line for each mistake.
    """
    if isinstance(name_or_path, Path):
        return read_site(name_or_path)
    return read_site(site_file(name_or_path))


def site_file(name_or_path: str) -> Path:
    """The file that ``load_site`` reads for a name. Raises SiteError for an unknown one."""
    return Path(name_or_path) if is_path(name_or_path) else find(name_or_path, site_folders())


def read_site(path: Path) -> Site:
    """Read one file and its bases. Raises SiteError with a line for each mistake."""
    return validated(read_layers(path))


def validated(merged: Merged) -> Site:
    """The site of a merged document. Raises SiteError with a line for each mistake."""
    # A file's stem that is no good name is refused like a bad name, and mended by the key.
    named = {"name": merged.files[0].stem, **merged.data}
    try:
        return Site.model_validate(named)
    except ValidationError as error:
        raise SiteError(validation_problems(error, Site, merged.origin)) from None


def with_spool(site: Site, spool: str) -> Site:
    """The site with another spool, say the command line's. Raises SiteError."""
    return with_changes(site, {"spool": spool})


def with_changes(site: Site, changes: Mapping[str, Any]) -> Site:
    """The site with other values of some keys, judged like the file's. Raises SiteError."""
    try:
        return Site.model_validate({**dict(site), **changes})
    except ValidationError as error:
        nowhere = Origin(f"site {site.name}", 0)
        raise SiteError(validation_problems(error, Site, lambda place: nowhere)) from None


def site_names() -> list[str]:
    """All names that can be loaded."""
    return sorted({path.stem for path, _ in files(site_folders())})
