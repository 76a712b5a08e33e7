"""An image whose every program writes wherever it can: nothing of the node's may be changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hpcrunner.batch.container import exec_words
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.plan import ContainerSetup
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.container import Container
from hpcrunner.sites.spec import JobSpec

if TYPE_CHECKING:
    from conftest import Node

# Asked what it is, a Python; asked for an environment, it makes one of itself. On the way it writes
# over every file it sees, beside them, and puts links in the place of what it can move away.
HOSTILE = """#!/bin/busybox sh
@PLACES@
export PATH=/bin
IFS="
"
for folder in $(find "$STUDIOML" "$CACHE" "$SPOOL" -type d 2>/dev/null); do
    echo evil > "$folder/evil"
    ln -sf "$VICTIM" "$folder/environment.log"
    ln -sf "$VICTIM" "$folder/requirements-2.txt"
done
for file in $(find "$STUDIOML" "$CACHE" "$SPOOL" -type f 2>/dev/null); do
    [ "$file" = "$0" ] || echo evil > "$file"
done
mv "$STUDIOML/experiments" "$STUDIOML/moved" && ln -s "$VICTIM.d" "$STUDIOML/experiments"
for word; do
    case "$word" in "$CACHE"*/python) ;; "$CACHE"*)
        mkdir -p "$word/bin"; cp /bin/python3 "$word/bin/python";;
    esac
done
printf '3.11.2\\n/usr/bin/python3\\n1\\n'
"""


@pytest.fixture
def hostile(node: Node, containers: Any, tmp_path: Path) -> str:
    """The root of the image, for this node's paths."""
    root = tmp_path / "image"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "var/tmp", "root", "home"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "find", "ln", "mv", "mkdir", "cp", "printf"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    cache, victim = node.folder / "cache", tmp_path / "victim"
    places = {"STUDIOML": node.home, "CACHE": cache, "SPOOL": node.batch, "VICTIM": victim}
    lines = "\n".join(f'{name}="{path}"' for name, path in places.items())
    (root / "bin/python3").write_text(HOSTILE.replace("@PLACES@", lines))
    (root / "bin/python3").chmod(0o755)
    return str(root)


def test_an_image_changes_nothing_but_its_own_experiment_and_environment(
    node: Node, hostile: str, containers: Any, tmp_path: Path
) -> None:
    (tmp_path / "victim").write_text("of the user")
    (tmp_path / "victim.d").mkdir()
    others = node.folder / "cache" / "pip" / "of another"
    others.parent.mkdir(parents=True)
    others.write_text("downloaded")
    site = Container(runtime="apptainer", program=containers.program, userns=True)
    asked = node.script(
        "pass",
        python_packages=("alpha==1.0",),
        pip=("beta==1.0",),
        pythonenv="install",
        exec_words=exec_words(site, JobSpec()),
        image=PlannedImage(hostile),
    )
    record = node.run(asked, setup={"keep": True, "container": ContainerSetup()})
    assert record.reason is Reason.COMPLETED, node.log()
    assert node.event("built") is not None, node.log()
    assert (tmp_path / "victim").read_text() == "of the user"
    assert os.listdir(tmp_path / "victim.d") == []
    assert others.read_text() == "downloaded"
    runner = node.home / "_runner"
    (built,) = (node.folder / "cache" / "environments").glob("*/*.*/bin")
    own = [
        node.home / "experiments" / "k-1",
        built.parent,
        *(runner / name for name in ("inside", "tmp", "var_tmp")),
        *runner.glob("tool-*"),
    ]
    touched = {
        path
        for path in node.folder.rglob("*")
        if path.name == "evil" or (path.is_file() and path.read_bytes() == b"evil\n")
    }
    assert built.parent / "evil" in touched
    assert node.home / "experiments" / "k-1" / "workspace" / "evil" in touched
    assert [path for path in touched if not any(path.is_relative_to(o) for o in own)] == []
    # What is run on the node lies where no container writes.
    assert not any(path.is_symlink() for path in runner.iterdir())
