"""A site that wants signatures runs what its keys have signed, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.images.errors import ImageUnusable
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.location import Location

Cache = Any  # of this folder's conftest


class Signer:
    """Somebody with a key pair of his own."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program, self._folder = program, folder
        folder.mkdir(mode=0o700)
        who = ("-N", "a", "-E", "a@example.org", "-C", "", "-P", "", "-b", "2048", "-U=false")
        self._run("key", "newpair", *who)
        self.public = folder / "public.asc"
        self._run("key", "export", "--armor", str(self.public), given="0\n")

    def sign(self, image: Path) -> None:
        self._run("sign", str(image))

    def _run(self, *words: str, given: str = "") -> None:
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self._folder),
            "APPTAINER_KEYSDIR": str(self._folder / "keys"),
        }
        done = subprocess.run(
            [self._program, *words], env=environment, input=given, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


def stored(path: Path) -> PlannedImage:
    return PlannedImage("s3://store.example/b/a.sif", Location("file", str(path)))


def test_only_what_a_key_of_the_site_has_signed_runs(
    cache: Cache, containers: Any, tmp_path: Path
) -> None:
    ours, stranger = (Signer(containers.program, tmp_path / n) for n in ("ours", "stranger"))
    unsigned, signed, foreign = (tmp_path / f"{n}.sif" for n in ("unsigned", "signed", "foreign"))
    for image in (unsigned, signed, foreign):
        shutil.copyfile(containers.busybox, image)
    ours.sign(signed)
    stranger.sign(foreign)
    cache.change(runtime=containers.program, keys=str(ours.public))
    assert cache.get(stored(signed)).read_bytes() == signed.read_bytes()
    # A file that is run from where it lies could change after the look: it is copied first.
    assert cache.get(str(signed)).parent == cache.images
    for image in (unsigned, foreign):
        with pytest.raises(ImageUnusable, match="not signed by a key of this site"):
            cache.get(stored(image))
    # Signed, and changed after that: a byte in the middle of its file system.
    content = bytearray(signed.read_bytes())
    content[len(content) // 2] ^= 1
    signed.write_bytes(content)
    with pytest.raises(ImageUnusable, match="not signed by a key of this site"):
        cache.get(stored(signed))
    assert len(cache.files()) == 1


def test_a_site_that_begins_to_demand_signatures_trusts_nothing_it_has(
    cache: Cache, containers: Any, tmp_path: Path
) -> None:
    shutil.copyfile(containers.busybox, tmp_path / "a.sif")
    cache.get(stored(tmp_path / "a.sif"))
    keys = tmp_path / "keys.asc"
    keys.write_text("nothing of a key")
    cache.change(runtime=containers.program, keys=str(keys))
    with pytest.raises(ImageUnusable, match=r"container\.verify"):
        cache.get(stored(tmp_path / "a.sif"))
    cache.change(keys=str(tmp_path / "none"))
    with pytest.raises(ImageUnusable, match=r"container\.verify .*none: cannot be read"):
        cache.get(stored(tmp_path / "a.sif"))


def test_a_key_in_pem_does_as_well(cache: Cache, containers: Any, tmp_path: Path) -> None:
    private, public = tmp_path / "private.pem", tmp_path / "public.pem"
    words = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out"]
    subprocess.run([*words, str(private)], check=True)
    words = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(words, check=True, capture_output=True)
    image = tmp_path / "a.sif"
    shutil.copyfile(containers.busybox, image)
    cache.change(runtime=containers.program, keys=str(public))
    with pytest.raises(ImageUnusable):
        cache.get(stored(image))
    sign = [containers.program, "sign", "--key", str(private), str(image)]
    subprocess.run(sign, check=True, capture_output=True)
    assert cache.get(stored(image)).exists()
