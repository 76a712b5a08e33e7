"""Packages made in an image whose every program writes wherever it can, on the login node."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.staging import wheelhouse
from hpcrunner.gateway.staging.inside import Inside, interpreter_of
from hpcrunner.gateway.staging.wheelhouse import USED, Wanted
from hpcrunner.request.requirements import PINS, EnvironmentFailed, groom

HOSTILE = """#!/bin/busybox sh
export PATH=/bin
for folder in $(find "@STAGING@" -type d); do
    for name in log .log requirements.txt requirements-1.txt pins.json used; do
        ln -sf "@VICTIM@" "$folder/$name"
    done
done
for file in $(find "@STAGING@" -type f -name '*.txt'); do echo evil > "$file"; done
for word; do
    case "$before $word" in
    *" -m venv "*|*/venv) mkdir -p "$word/bin"; cp /bin/python3 "$word/bin/python";;
    "--wheel-dir "*)
        echo a wheel > "$word/alpha-1.0-py3-none-any.whl"
        ln -s "@VICTIM@" "$word/beta-1.0-py3-none-any.whl"
        @MORE@
    esac
    before=$word
done
printf '3.11.2\\n/usr/bin/python3\\n'
"""


@pytest.mark.parametrize("moved", [False, True])
def test_an_image_changes_nothing_but_the_packages_that_are_made_in_it(
    tmp_path: Path, containers: Any, moved: bool
) -> None:
    victim, staging = tmp_path / "victim", tmp_path / "staging"
    victim.write_text("of the user")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "gamma-1.0-py3-none-any.whl").write_text("another's")
    staging.mkdir()
    root = tmp_path / "image"
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev", "var/tmp", "root", "home"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "find", "ln", "mv", "mkdir", "cp", "printf"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    more = f'mv "$word" "$word.old"; ln -s "{tmp_path}/others" "$word"' if moved else ""
    script = HOSTILE.replace("@STAGING@", str(staging)).replace("@VICTIM@", str(victim))
    (root / "bin/python3").write_text(script.replace("@MORE@", more))
    (root / "bin/python3").chmod(0o755)
    look = staging / "look"
    look.mkdir()
    inside = Inside(containers.program, str(root), "1", userns=True)
    interpreter = interpreter_of(inside, look, os.environ)
    wanted = Wanted(interpreter, (groom(["alpha==1.0"]), groom(["beta==1.0"])), (), inside)
    folder = staging / "made"
    if moved:
        with pytest.raises(EnvironmentFailed, match="taken away"):
            wheelhouse.build(wanted, folder, os.environ, lambda: False)
        assert os.listdir(staging) == ["look"]
    else:
        wheelhouse.build(wanted, folder, os.environ, lambda: False)
        assert sorted(os.listdir(folder)) == ["alpha-1.0-py3-none-any.whl", PINS, USED]
        assert not any(path.is_symlink() for path in folder.iterdir())
    assert victim.read_text() == "of the user"
    assert len(os.listdir(tmp_path / "others")) == 1
