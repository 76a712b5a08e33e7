"""A virtual environment of the ordinary user, with wheels under development in it."""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import sys
from pathlib import Path

from . import files, process
from .errors import CannotHere
from .layout import USER, Layout

OLDEST_PYTHON = (3, 10)
# Where packages come from, and through what, is the machine's business: handed on as it is.
KEPT_PREFIXES = ("PIP_", "UV_")
KEPT = {f"{name}{suffix}" for name in ("http", "https", "no", "all") for suffix in ("_proxy",)} | {
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
}


def update(layout: Layout, requests: list[str]) -> list[str]:
    """Install wheels (each a path, with extras in brackets if wanted); returns the changed."""
    if not (layout.venv / "bin" / "python").exists():
        _create(layout)
    files.folder(layout.wheels)
    record = layout.venv / ".wheels.json"
    installed: dict[str, str] = json.loads(record.read_text()) if record.exists() else {}
    changed = []
    for request in requests:
        path, extras = _split(request)
        digest = hashlib.sha256(path.read_bytes()).hexdigest() + extras
        project = path.name.split("-")[0]
        if installed.get(project) == digest:
            continue
        copy = layout.wheels / path.name
        shutil.copyfile(path, copy)
        copy.chmod(0o644)
        _pip(layout, "install", f"{copy}{extras}")
        if project in installed:
            # pip takes a wheel of the same version for installed, whatever is in it.
            _pip(layout, "install", *_anew(layout), "--no-deps", str(copy))
        installed[project] = digest
        files.write(record, json.dumps(installed, indent=2) + "\n", USER)
        changed.append(path.name)
    return changed


def _split(request: str) -> tuple[Path, str]:
    text, bracket, extras = request.partition("[")
    path = Path(text).absolute()
    if path.suffix != ".whl" or not path.is_file():
        raise CannotHere(f"not a wheel: {path}")
    return path, bracket + extras


def _create(layout: Layout) -> None:
    files.folder(layout.venv, USER)
    python = _python()
    uv = shutil.which("uv")
    if uv and _usable(uv, "--version"):
        _as_user([uv, "venv", "--clear", "--seed", f"--python={python}", str(layout.venv)])
    else:
        _as_user([python, "-m", "venv", "--clear", str(layout.venv)])


def _python() -> str:
    """A Python that is new enough and that the user can run; root's own is often neither."""
    for python in ("/usr/bin/python3", sys.executable):
        if _usable(python, "-c", f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"):
            return python
    wanted = ".".join(map(str, OLDEST_PYTHON))
    raise CannotHere(f"no Python {wanted} or newer that {USER} can run: install one in /usr")


def _pip(layout: Layout, verb: str, *words: str) -> None:
    python = str(layout.venv / "bin" / "python")
    uv = shutil.which("uv")
    if uv and _usable(uv, "--version"):
        _as_user([uv, "pip", verb, "--quiet", f"--python={python}", *words])
    else:
        _as_user([python, "-m", "pip", verb, "--quiet", *words])


def _anew(layout: Layout) -> list[str]:
    uv = shutil.which("uv")
    return ["--reinstall"] if uv and _usable(uv, "--version") else ["--force-reinstall"]


def _usable(*argv: str) -> bool:
    try:
        return process.run(argv, user=USER, check=False).returncode == 0
    except OSError:
        return False


def _as_user(argv: list[str]) -> None:
    home = pwd.getpwnam(USER).pw_dir
    environ = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(KEPT_PREFIXES) or name in KEPT or name.lower() in KEPT
    }
    process.run(argv, user=USER, environ={**environ, "HOME": home}, timeout=1800)
