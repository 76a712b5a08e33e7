"""Apptainer for the cluster's jobs: the machine's own, or Debian's newest in a folder of ours.

Debian's stable releases have no Apptainer. Its package of the suite ``sid`` runs on them from a
folder of its own with the C library of that suite beside it: the program finds its parts and its
configuration from where it lies. Nothing of that suite is installed in the system.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

from . import files, images
from .errors import CannotHere, ClusterError
from .install import install_packages
from .layout import USER, Layout
from .process import SYSTEM_PATH, run

# What it calls to open images without root, and what puts it and its first image together.
HELPERS = {
    "mksquashfs": "squashfs-tools",
    "squashfuse": "squashfuse",
    "fuse2fs": "fuse2fs",
    "newuidmap": "uidmap",
    "patchelf": "patchelf",
    "busybox": "busybox-static",
}
LIBRARIES = ("libseccomp2", "libsqlite3-0")
FUSE = Path("/dev/fuse")
SYSTEM_LINK = Path("/usr/local/bin/apptainer")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RETRY = 3600.0  # seconds until a machine that could not have it is asked again


def install(layout: Layout) -> bool:
    """Install program and images where they can be had; says whether there was anything to do.

    Where they cannot, the reason is written down for the facts, and nothing fails.
    """
    if _ready(layout) or _given_up(layout):
        return False
    files.folder(layout.apptainer)
    reason = layout.apptainer / "unavailable"
    try:
        _install(layout)
    except (ClusterError, OSError, subprocess.SubprocessError) as error:
        reason.write_text(f"{' '.join(str(error).split())[:500]}\n")
        print(f"no Apptainer: {reason.read_text().strip()}", file=sys.stderr)
    else:
        reason.unlink(missing_ok=True)
    return True


def allow_fuse() -> None:
    """Let ordinary users mount images; devices are made anew at each boot."""
    if FUSE.exists() and stat.S_IMODE(FUSE.stat().st_mode) != 0o666:
        FUSE.chmod(0o666)


def facts(layout: Layout) -> dict[str, str | None]:
    """The part of cluster.json: all None but the reason where it cannot be had."""
    reason = layout.apptainer / "unavailable"
    missing = reason.read_text().strip() if reason.exists() else None
    if missing is None and _ready(layout):
        allow_fuse()
        missing = _tried(layout)
    if missing is not None or not _ready(layout):
        return dict.fromkeys(("program", "busybox_image", "python_image")) | {
            "unavailable": missing or "not installed"
        }
    return {
        "program": str(_program(layout)),
        "busybox_image": str(images.busybox(layout)),
        "python_image": str(images.python(layout)),
        "unavailable": None,
    }


def remove(layout: Layout) -> None:
    """Take our link out of the system's folder."""
    if SYSTEM_LINK.is_symlink() and SYSTEM_LINK.readlink() == _own(layout):
        SYSTEM_LINK.unlink()


def _install(layout: Layout) -> None:
    missing = [
        package
        for program, package in HELPERS.items()
        if shutil.which(program, path=SYSTEM_PATH) is None
    ]
    if not _program(layout).exists():
        install_packages([*missing, *LIBRARIES])
        _unpack(layout)
    elif missing:
        install_packages(missing)
    if not SYSTEM_LINK.exists() and _program(layout) == _own(layout):
        SYSTEM_LINK.unlink(missing_ok=True)
        SYSTEM_LINK.symlink_to(_own(layout))
    images.build(layout, str(_program(layout)))


def _unpack(layout: Layout) -> None:
    """Download the packages and make one folder of them that the program runs from."""
    folder = layout.apptainer
    new = folder / "new"
    shutil.rmtree(new, ignore_errors=True)
    for package in _download(folder / "apt"):
        run(["dpkg-deb", "-x", str(package), str(new)])
    shutil.rmtree(folder / "apt")
    prefix = new / "usr"
    # It looks for its configuration and mount point below its own prefix, once as the program
    # in usr/bin and once as the starter in usr/lib/<architecture>/apptainer/bin.
    (new / "etc").rename(prefix / "etc")
    (prefix / "var/lib/apptainer/mnt/session").mkdir(parents=True)
    for name in ("etc", "var"):
        (prefix / "lib" / name).symlink_to(Path("..") / name)
    libraries = next((prefix / "lib").glob("*-linux-gnu*"))
    final = folder / libraries.relative_to(new)
    loader = next(libraries.glob("ld-linux*.so.*"))
    path = f"{final}:/lib/{libraries.name}:/usr/lib/{libraries.name}"
    for binary in (prefix / "bin/apptainer", libraries / "apptainer/bin/starter"):
        loader_words = ["--set-interpreter", str(final / loader.name)]
        run(["patchelf", *loader_words, "--set-rpath", path, str(binary)])
    shutil.rmtree(folder / "usr", ignore_errors=True)
    prefix.rename(folder / "usr")
    shutil.rmtree(new)


def _download(folder: Path) -> list[Path]:
    """Fetch packages of ``sid`` with lists and settings of their own, so that nothing stays."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("lists/partial", "cache/archives/partial", "packages"):
        (folder / name).mkdir(parents=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} sid main\n")
    options = {
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::Etc::Preferences": "/dev/null",
        "Dir::Etc::PreferencesParts": "/dev/null",
        "Dir::State::Lists": folder / "lists",
        "Dir::State::Status": "/dev/null",
        "Dir::Cache": folder / "cache",
        "APT::Sandbox::User": "root",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    print("fetching apptainer", file=sys.stderr)
    _apt(["apt-get", *words, "--quiet", "update"], folder)
    packages = folder / "packages"
    _apt(["apt-get", *words, "--quiet", "download", "apptainer", "libc6"], packages)
    return sorted(packages.glob("*.deb"))


def _mirror() -> str:
    """Where this machine has Debian from, by its own sources."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    if release.get("ID") != "debian" or shutil.which("apt-get") is None:
        raise CannotHere("Apptainer is neither installed, nor is this Debian; install it by hand")
    codename = release.get("VERSION_CODENAME", "")
    shape = "$(RELEASE) $(COMPONENT) $(REPO_URI)"
    said = run(["apt-get", "indextargets", "--format", shape, "Created-By: Packages"]).stdout
    for line in said.splitlines():
        found, component, address = line.split(" ", 2)
        if (found, component) == (codename, "main"):
            return address
    raise CannotHere(f"this machine's package sources have no main of {codename}")


def _apt(argv: list[str], cwd: Path) -> None:
    # The environment is passed on whole: it may name a proxy.
    done = subprocess.run(
        argv, cwd=cwd, env=dict(os.environ), capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(argv[-2:])}: {(done.stderr or done.stdout).strip()[-400:]}")


def _own(layout: Layout) -> Path:
    return layout.apptainer / "usr/bin/apptainer"


def _program(layout: Layout) -> Path:
    """The machine's own where it has one, else ours, there or not."""
    for name in ("apptainer", "singularity"):
        found = shutil.which(name, path=SYSTEM_PATH)
        if found and Path(found).resolve() != _own(layout):
            return Path(found)
    return _own(layout)


def _ready(layout: Layout) -> bool:
    return _program(layout).exists() and images.built(layout)


def _given_up(layout: Layout) -> bool:
    reason = layout.apptainer / "unavailable"
    return reason.exists() and time.time() - reason.stat().st_mtime < RETRY


def _tried(layout: Layout) -> str | None:
    """Why the ordinary user cannot run a container, or None."""
    words = [str(_program(layout)), "exec", "--containall", str(images.busybox(layout)), "true"]
    done = run(words, user=USER, environ={"HOME": str(layout.home)}, check=False)
    if done.returncode == 0:
        return None
    return f"a first container failed: {' '.join(done.stderr.split())[-400:]}"
