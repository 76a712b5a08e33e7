"""Whether an image has a good signature by one of the site's keys."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path

from hpcrunner.images.errors import ImageUnusable
from hpcrunner.images.runtime import program_path, runtime_environment, scratch_settings
from hpcrunner.request.image import ImageSetup

_LONGEST = 1800.0
_PEM = b"-----BEGIN PUBLIC KEY-----"


def verify(
    image: Path, setup: ImageSetup, scratch: Path, environ: Mapping[str, str], where: str
) -> None:
    """Check every part of the image, by the keys in the file ``setup.keys`` and no others.

    The file holds OpenPGP public keys as ``apptainer key export`` writes them, or one public key
    in PEM. No key server is asked. Raises ImageUnusable.
    """
    program = program_path(setup.runtime, environ)
    folder = scratch / "keys"
    folder.mkdir(mode=0o700)
    settings = scratch_settings(scratch) | {"KEYSDIR": str(folder), "SYPGPDIR": str(folder)}
    environment = runtime_environment(program, environ, settings)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, *words],
            env=environment,
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST,
            check=False,
        )

    pem = public_keys(setup.keys).lstrip().startswith(_PEM)
    imported = None if pem else run("key", "import", setup.keys)
    if imported is not None and imported.returncode != 0:
        raise ImageUnusable(
            f"no public keys ({_last(imported.stderr)})",
            where=f"container.verify {setup.keys}",
            remedy="write it with: apptainer key export",
        )
    words = ["--key", setup.keys] if pem else ["--local"]
    done = run("verify", "--all", *words, str(image))
    if done.returncode != 0:
        raise ImageUnusable(
            f"not signed by a key of this site ({_last(done.stderr)})",
            where=where,
            remedy="sign it (apptainer sign), or ask the site to take your key up",
        )


def public_keys(file: str) -> bytes:
    """What the site's file of public keys holds. Raises ImageUnusable."""
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise ImageUnusable(
            f"cannot be read ({error.strerror})",
            where=f"container.verify {file}",
            remedy="name a file of public keys that the nodes see",
        ) from error


def _last(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[-200:] if lines else "no word why"
