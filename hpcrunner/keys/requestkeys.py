"""The private keys that requests are sealed for: a folder of them, for keys are replaced.

``encryption/ssh-privatekey`` and ``passphrase/ssh-passphrase`` is StudioML's layout. More keys
are more files beside the first, ``ssh-privatekey-2027``, each with a passphrase of the same
ending, or else the one of ``ssh-passphrase``. Both kinds may also lie in the folder itself, as
systemd's credentials do.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from hpcrunner.keys.folder import RESCAN, NoKey
from hpcrunner.keys.keyfile import MAX_BYTES, NO_STAMP, Found, Stamp, find
from hpcrunner.notices import Notices
from hpcrunner.privatefile import SecretRefused, read_private
from hpcrunner.request.errors import KeyInvalid
from hpcrunner.request.rsakey import load_private_rsa

log = logging.getLogger(__name__)

OPTION = "--encrypt-dir"
KEY_FILE = "ssh-privatekey"
PASSPHRASE_FILE = "ssh-passphrase"  # noqa: S105 - a file's name
KEY_FOLDER, PASSPHRASE_FOLDER = "encryption", "passphrase"
MOST_KEYS = 16


@dataclass(frozen=True, slots=True)
class _Loaded:
    stamps: tuple[Stamp, Stamp]  # of the key and its passphrase
    key: RSAPrivateKey | None
    trouble: str = ""


class RequestKeys:
    """The keys of one folder. They come, change and go while it is used."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._environ = environ
        self._loaded: dict[Path, _Loaded] = {}
        self._scan_at = float("-inf")
        self._notices = Notices(log)

    def refresh(self) -> None:
        """Look at the folder again where the last look is ten seconds old. Raises nothing."""
        now = self._clock()
        if now < self._scan_at:
            return
        self._scan_at = now + RESCAN
        paths = self._paths()
        for path in self._loaded.keys() - set(paths):
            log.info("%s: %s is gone", OPTION, path)
            self._notices.over(path)
        self._loaded = {path: self._load(path) for path in paths}
        if paths:
            self._notices.over("none", f"{OPTION} {self._folder}: there is a key")
        else:
            self._notices.warn("none", f"{OPTION} {self._folder}: no {KEY_FILE} in it yet")

    def usable(self) -> list[RSAPrivateKey]:
        """Those that can be used, by file name. Raises NoKey where there are none."""
        usable = [loaded.key for loaded in self._loaded.values() if loaded.key is not None]
        if not usable:
            troubles = [loaded.trouble for loaded in self._loaded.values()]
            raise NoKey(
                troubles[0] if troubles else f"no key to open requests with in {self._folder}",
                where=OPTION,
                remedy="put one there, then 'hpcrunner dead retry'",
            )
        return usable

    def listed(self) -> list[tuple[str, RSAPrivateKey | None, str]]:
        """Every file by name: its key, or None and why it cannot be used."""
        return [(path.name, loaded.key, loaded.trouble) for path, loaded in self._loaded.items()]

    def _paths(self) -> list[Path]:
        paths: list[Path] = []
        for folder in (self._folder / KEY_FOLDER, self._folder):
            try:
                names = sorted(os.listdir(folder))
            except OSError:
                continue  # said as "none", if there is none anywhere
            # ssh-keygen leaves the public half beside it.
            paths += [
                folder / name
                for name in names
                if name.startswith(KEY_FILE) and not name.endswith(".pub")
            ]
        if len(paths) > MOST_KEYS:
            self._notices.warn("many", f"{OPTION} {self._folder}: only {MOST_KEYS} keys are used")
        return [path for path in paths if not path.is_dir()][:MOST_KEYS]

    def _load(self, path: Path) -> _Loaded:
        known = self._loaded.get(path)
        passphrase: Found | None = None
        stamps = (NO_STAMP, NO_STAMP)
        try:
            key = find(path)
            passphrase = self._passphrase(path.name.removeprefix(KEY_FILE))
            stamps = (
                key.stamp if key else NO_STAMP,
                passphrase.stamp if passphrase else NO_STAMP,
            )
            if known is not None and known.stamps == stamps and key is not None:
                return known
            secret = self._read(passphrase.path) if passphrase else b""
            loaded = _Loaded(stamps, load_private_rsa(self._read(path), secret))
        except SecretRefused as error:
            loaded = _Loaded((NO_STAMP, NO_STAMP), None, error.line())  # it may pass
        except KeyInvalid as error:
            loaded = _Loaded(stamps, None, f"{path}: {error.line()}")
        except OSError as error:
            loaded = _Loaded((NO_STAMP, NO_STAMP), None, f"{path}: {error.strerror}")
        if loaded.key is None:
            self._notices.warn(path, f"{OPTION} {loaded.trouble}")
        else:
            self._notices.over(path)
            log.info("%s: %s is %s", OPTION, path, "read again" if known else "read")
        return loaded

    def _read(self, path: Path) -> bytes:
        return read_private(path, MAX_BYTES, self._environ)

    def _passphrase(self, ending: str) -> Found | None:
        names = dict.fromkeys((PASSPHRASE_FILE + ending, PASSPHRASE_FILE))
        for name in names:
            for folder in (self._folder / PASSPHRASE_FOLDER, self._folder):
                found = find(folder / name)
                if found is not None:
                    return found
        return None
