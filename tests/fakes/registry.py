"""A real registry (Debian's docker-registry) on loopback, and small images pushed into it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
import secrets
import shutil
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PROGRAM = "docker-registry"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_SIF_CONFIG = "application/vnd.sylabs.sif.config.v1+json"
_SIF_LAYER = "application/vnd.sylabs.sif.layer.v1.sif"


class Registry:
    """``host`` is ``localhost:port``; ``password`` is a pair with the user's name, if it wants one.

    What is asked of it is read from its own log.
    """

    def __init__(self, host: str, log: Path) -> None:
        self.host = host
        self.password: tuple[str, str] | None = None
        self._log = log

    def push_sif(self, name: str, sif: bytes) -> str:
        """Push an image file as ``oras://`` does; returns the manifest's digest."""
        layer = self._blob(name, sif)
        config = self._blob(name, b"{}")
        return self._manifest(
            name,
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {"mediaType": _SIF_CONFIG, "digest": config, "size": 2},
                "layers": [
                    {
                        "mediaType": _SIF_LAYER,
                        "digest": layer,
                        "size": len(sif),
                        "annotations": {"org.opencontainers.image.title": "image.sif"},
                    }
                ],
            },
        )

    def push_docker(self, name: str, files: dict[str, bytes], program: tuple[str, ...] = ()) -> str:
        """Push a Docker image of one layer with these executable files; returns its digest."""
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as archive:
            for path, content in files.items():
                member = tarfile.TarInfo(path)
                member.size, member.mode = len(content), 0o755
                archive.addfile(member, io.BytesIO(content))
        packed = gzip.compress(tar.getvalue(), mtime=0)
        layer = self._blob(name, packed)
        config = json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["PATH=/bin"], "Cmd": list(program)},
                "rootfs": {"type": "layers", "diff_ids": [_digest(tar.getvalue())]},
            }
        ).encode()
        return self._manifest(
            name,
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": {
                    "mediaType": _CONFIG,
                    "digest": self._blob(name, config),
                    "size": len(config),
                },
                "layers": [{"mediaType": _LAYER, "digest": layer, "size": len(packed)}],
            },
        )

    def pulls(self, name: str) -> int:
        """How often the image itself was fetched (its largest blob, by GET)."""
        repository = name.partition(":")[0]
        found = re.findall(
            rf'"GET /v2/{re.escape(repository)}/blobs/sha256:[0-9a-f]+ HTTP/1\.[01]" 200 (\d+)',
            self._told(),
        )
        sizes = [int(size) for size in found]
        return sizes.count(max(sizes)) if sizes else 0

    def looks(self, name: str) -> int:
        """How often its manifest was asked for."""
        repository = name.partition(":")[0]
        return len(
            re.findall(
                rf'"(?:GET|HEAD) /v2/{re.escape(repository)}/manifests/\S+ HTTP',
                self._told(),
            )
        )

    def _told(self) -> str:
        """Its log, once a question of this moment stands there: each is noted after its answer."""
        mark = secrets.token_hex(8)
        with suppress(urllib.error.HTTPError):  # it wants a password
            self._ask("GET", f"/v2/?{mark}", b"")
        until = time.monotonic() + 120
        while mark not in (log := self._log.read_text("utf-8", "replace")):
            assert time.monotonic() < until, log[-500:]
            time.sleep(0.02)
        return log

    def _blob(self, name: str, content: bytes) -> str:
        repository, digest = name.partition(":")[0], _digest(content)
        started = self._ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        place = started.headers["Location"]
        place = place if place.startswith("http") else f"http://{self.host}{place}"
        mark = "&" if "?" in place else "?"
        self._ask("PUT", f"{place}{mark}digest={digest}", content)
        return digest

    def _manifest(self, name: str, manifest: dict[str, object]) -> str:
        repository, _, tag = name.partition(":")
        body = json.dumps(manifest).encode()
        self._ask("PUT", f"/v2/{repository}/manifests/{tag or 'latest'}", body, _MANIFEST)
        return _digest(body)

    def _ask(self, method: str, path: str, body: bytes, kind: str = "application/octet-stream"):  # type: ignore[no-untyped-def]
        url = path if path.startswith("http") else f"http://{self.host}{path}"
        request = urllib.request.Request(url, data=body, method=method)
        request.add_header("Content-Type", kind)
        request.add_header("Content-Length", str(len(body)))
        if self.password:
            word = base64.b64encode(":".join(self.password).encode()).decode()
            request.add_header("Authorization", f"Basic {word}")
        with urllib.request.urlopen(request, timeout=120) as answer:
            answer.read()
            return answer


@contextmanager
def running_registry(folder: Path, port: int, *, password_file: str = "") -> Iterator[Registry]:
    """A registry over ``folder`` for as long as the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    auth = f"auth: {{htpasswd: {{realm: test, path: {password_file}}}}}\n" if password_file else ""
    settings = folder / "config.yml"
    settings.write_text(
        "version: 0.1\n"
        "log: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: 127.0.0.1:{port}}}\n{auth}"
    )
    log = folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen([PROGRAM, "serve", str(settings)], stdout=output, stderr=output)
    try:
        _wait(f"http://127.0.0.1:{port}/v2/", log, server)
        yield Registry(f"localhost:{port}", log)
    finally:
        server.terminate()
        server.wait(60)


def is_installed() -> bool:
    """Whether this machine has the registry's program."""
    return shutil.which(PROGRAM) is not None


def _wait(url: str, log: Path, server: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while server.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return  # it wants a password
        except OSError:
            time.sleep(0.05)
    raise AssertionError(f"no registry: {log.read_text()[-500:]}")


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
