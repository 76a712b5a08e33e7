"""Two small container images, built from this machine's own files, without any network."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from . import files
from .errors import ClusterError
from .layout import Layout
from .process import SYSTEM_PATH, run

PYTHON = Path("/usr/bin/python3")
# Raise when the images' content changes.
EDITION = "2"
# The image's own answer to ``run``, and the mark by which tests know that they are inside.
RUNSCRIPT = '#!/bin/sh\necho "runscript of the image:" "$@"\n'
SKIPPED = ("__pycache__", "test", "tests", "idlelib", "tkinter", "EXTERNALLY-MANAGED", "config-*")

# What every image with the GNU C library has, for programs that are bound into it.
USUAL = ("libgcc_s", "librt", "libdl", "libpthread", "libutil", "libresolv", "libnss_dns")


def busybox(layout: Layout) -> Path:
    """A shell and the usual commands, no Python; a few megabytes."""
    return layout.apptainer / "images" / "busybox.sif"


def python(layout: Layout) -> Path:
    """The same with this machine's Python, venv and pip."""
    return layout.apptainer / "images" / "python.sif"


def built(layout: Layout) -> bool:
    """Whether both are there in this edition."""
    edition = busybox(layout).with_name("edition")
    return edition.exists() and edition.read_text() == EDITION


def build(layout: Layout, program: str) -> None:
    """Build both from folders."""
    if built(layout):
        return
    folder = files.folder(busybox(layout).parent)
    root = folder / "root"
    for image, fill in ((busybox(layout), _busybox), (python(layout), _python)):
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        fill(root)
        run([program, "build", "--force", str(image), str(root)], environ={"HOME": str(folder)})
        image.chmod(0o644)
    shutil.rmtree(root)
    shutil.rmtree(folder / ".apptainer", ignore_errors=True)
    (folder / "edition").write_text(EDITION)


def _busybox(root: Path) -> None:
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "var/tmp", "usr/bin", "root", "home"):
        (root / name).mkdir(parents=True)
    binary = shutil.which("busybox", path=SYSTEM_PATH)
    if binary is None:
        raise ClusterError("busybox-static was installed but busybox is not there")
    shutil.copy(binary, root / "bin/busybox")
    for applet in set(run([binary, "--list"]).stdout.split()) - {"busybox"}:
        (root / "bin" / applet).symlink_to("busybox")
    # Apptainer adds a line for its user to these.
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    (root / ".singularity.d").mkdir()
    runscript = root / ".singularity.d/runscript"
    runscript.write_text(RUNSCRIPT)
    runscript.chmod(0o755)


def _python(root: Path) -> None:
    _busybox(root)
    binary = PYTHON.resolve()
    stdlib = Path("/usr/lib") / binary.name
    shutil.copytree(
        stdlib, root / stdlib.relative_to("/"), symlinks=False, ignore=_ignored, dirs_exist_ok=True
    )
    shutil.copy(binary, root / "usr/bin" / binary.name)
    for name in ("python3", "python"):
        (root / "usr/bin" / name).symlink_to(binary.name)
    for folder in ("/usr/share/python-wheels", "/etc/ssl/certs"):
        if Path(folder).is_dir():
            shutil.copytree(folder, root / folder[1:], symlinks=False)
    modules = sorted((stdlib / "lib-dynload").glob("*.so"))
    usual = [path for name in USUAL for path in Path("/lib").glob(f"*-linux-gnu*/{name}.so.*")]
    for library in [*usual, *_libraries([binary, *modules])]:
        target = root / library.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, target)


def _ignored(_: str, names: list[str]) -> set[str]:
    return set(shutil.ignore_patterns(*SKIPPED)("", names))


def _libraries(binaries: list[Path]) -> list[Path]:
    """The shared libraries of programs, at the paths by which the loader knows them."""
    said = run(["ldd", *map(str, binaries)]).stdout
    return sorted({Path(path) for path in re.findall(r"(?:=>\s+|^\s+)(/\S+)", said, re.M)})
