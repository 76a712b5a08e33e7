"""Where the files that come with hpcrunner are: batch templates and site configs."""

from __future__ import annotations

from pathlib import Path

from hpcrunner.errors import HpcrunnerError

PACKAGE = Path(__file__).resolve().parent


class DataMissing(HpcrunnerError):
    """A folder that every installation has is not there."""

    exit_code = 78  # EX_CONFIG


def data_folder(name: str) -> Path:
    """The folder ``templates`` or ``site-configs``.

    A wheel carries them as ``hpcrunner/_data/<name>``; a source checkout has them beside the
    package. Raises DataMissing where neither is there.
    """
    candidates = (PACKAGE / "_data" / name, PACKAGE.parent / name)
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise DataMissing(
        f"no folder {name}",
        where=" or ".join(str(folder) for folder in candidates),
        remedy="the installation is incomplete: install hpcrunner again",
    )
