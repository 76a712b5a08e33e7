"""Debian's Grid Engine without installing it: its packages unpacked below the state folder.

Installed, they would bring a mail server and ask questions. What they cannot be unpacked from is
one path: the programs look for their spooling library in /usr/lib/gridengine, which therefore is a
link to ours, unless the machine has Grid Engine of its own, whose programs are then used.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from .. import files, process
from ..errors import CannotHere
from ..layout import Layout

PACKAGES = (
    "gridengine-common",
    "gridengine-client",
    "gridengine-master",
    "gridengine-exec",
    "gridengine-drmaa1.0",
)
FIXED = Path("/usr/lib/gridengine")
INSTALLED_DRMAA = Path("/usr/lib/gridengine-drmaa/lib/libdrmaa.so.1.0")
_PROGRAMS = (
    *("sge_qmaster", "sge_execd", "sge_shepherd", "spoolinit", "spooldefaults.bin", "libspoolc.so"),
    *("qacct", "qconf", "qdel", "qhost", "qmod", "qstat", "qsub"),
)
_DEPENDENCY = re.compile(r"^(lib[a-z0-9.+-]+)", re.ASCII)


def unpacked(layout: Layout) -> Path:
    """Where the packages lie as they would in ``/``."""
    return layout.gridengine / "packages"


def resources(layout: Layout) -> Path:
    """The shipped complexes and user sets."""
    shipped = Path("usr/share/gridengine/util/resources")
    return (unpacked(layout) if _linked(layout) else Path("/")) / shipped


def drmaa_library(layout: Layout) -> Path:
    """Grid Engine's own libdrmaa."""
    ours = unpacked(layout) / INSTALLED_DRMAA.relative_to("/")
    return ours if _linked(layout) else INSTALLED_DRMAA


def install(layout: Layout) -> None:
    """Fetch and unpack what is missing. Raises CannotHere where it cannot be had."""
    needed = [*(FIXED / name for name in _PROGRAMS), drmaa_library(layout)]
    needed += [resources(layout) / name for name in ("centry", "usersets")]
    if all(path.exists() for path in needed):
        return
    if (FIXED.exists() or FIXED.is_symlink()) and not _linked(layout):
        raise CannotHere(f"{FIXED} is somebody else's and has no Grid Engine of Debian's")
    if shutil.which("apt-get") is None:
        raise CannotHere("no apt-get here to fetch Grid Engine with")
    files.folder(layout.gridengine)
    with tempfile.TemporaryDirectory(dir=layout.gridengine) as folder:
        downloaded = _download(Path(folder))
        missing = sorted({name for path in downloaded for name in _libraries(path)})
        if missing:
            environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            words = ["apt-get", "install", "--yes", "--no-install-recommends", *missing]
            process.run(words, environ=environ, timeout=600)
        shutil.rmtree(unpacked(layout), ignore_errors=True)
        files.folder(unpacked(layout))
        for path in downloaded:
            process.run(["dpkg-deb", "--extract", str(path), str(unpacked(layout))])
    FIXED.unlink(missing_ok=True)
    FIXED.symlink_to(unpacked(layout) / FIXED.relative_to("/"))


def remove(layout: Layout) -> None:
    """Take the link away; the rest goes with the state folder."""
    if _linked(layout):
        FIXED.unlink()


def _linked(layout: Layout) -> bool:
    return FIXED.is_symlink() and FIXED.readlink().is_relative_to(layout.state)


def _download(folder: Path) -> list[Path]:
    # apt fetches as a user of its own, who needs a folder that it may enter.
    folder.chmod(0o755)
    shutil.chown(folder, "_apt")
    words = ["env", f"--chdir={folder}", "apt-get", "download", *PACKAGES]
    done = process.run(words, environ=dict(os.environ), timeout=300, check=False)
    if done.returncode != 0:
        # Most often the package lists are absent or stale.
        process.run(["apt-get", "update"], environ=dict(os.environ), timeout=300, check=False)
        done = process.run(words, environ=dict(os.environ), timeout=300, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise CannotHere(f"apt-get has no Grid Engine here: {' '.join(last)}")
    return sorted(folder.glob("*.deb"))


def _libraries(package: Path) -> list[str]:
    """The shared libraries that a package needs and this machine does not have."""
    words = ["dpkg-deb", "--field", str(package), "Depends"]
    named = (_DEPENDENCY.match(part.strip()) for part in process.run(words).stdout.split(","))
    status = ["dpkg-query", "--show", "--showformat=${db:Status-Status}"]
    return [
        match[1]
        for match in named
        if match and process.run([*status, match[1]], check=False).stdout.strip() != "installed"
    ]
