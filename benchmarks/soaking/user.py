"""Processes of the cluster's ordinary user, started by root without anything between."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class User:
    """The ordinary user; ``bin`` is where hpcrunner is installed for them."""

    name: str
    bin: Path

    @property
    def entry(self) -> pwd.struct_passwd:
        return pwd.getpwnam(self.name)

    def folder(self, path: Path) -> Path:
        """Make a private folder of theirs."""
        path.mkdir(mode=0o700, exist_ok=True)
        os.chown(path, self.entry.pw_uid, self.entry.pw_gid)
        return path

    def write(self, path: Path, text: str) -> None:
        path.touch(0o600)
        path.write_text(text)
        os.chown(path, self.entry.pw_uid, self.entry.pw_gid)

    def start(
        self, *argv: str | Path, log: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """The process itself, so that its pid may be killed; output is added to ``log``."""
        with log.open("ab") as out:
            return subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                **self._as(env),
            )

    def run(self, *argv: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in argv],
            capture_output=True,
            text=True,
            timeout=timeout,
            **self._as(None),
        )

    def _as(self, env: Mapping[str, str] | None) -> dict[str, Any]:
        entry = self.entry
        return {
            "user": entry.pw_uid,
            "group": entry.pw_gid,
            "extra_groups": os.getgrouplist(self.name, entry.pw_gid),
            "cwd": entry.pw_dir,
            "env": {
                "HOME": entry.pw_dir,
                "USER": self.name,
                "LOGNAME": self.name,
                "PATH": f"{self.bin}:/usr/bin:/bin",
                "LANG": "C.UTF-8",
                **(env or {}),
            },
        }
