"""S3 over TLS: an authority of the site's own, and client certificates, on a real server."""

from __future__ import annotations

import datetime
import io
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hpcrunner.request.location import Location, TlsFiles
from hpcrunner.storage import s3
from hpcrunner.storage.contract import StorageError, StoreUnreachable
from hpcrunner.storage.s3 import S3Store

if TYPE_CHECKING:
    from conftest import S3


class Authority:
    """A certificate authority for a test, and its files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._signed(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(made)

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a host at 127.0.0.1, or of a client."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate, secret = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        certificate.write_bytes(self._signed(subject, key, here))
        secret.touch(mode=0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, secret

    def _signed(self, subject: x509.Name, key: Any, extension: Any) -> bytes:
        now = datetime.datetime.now(datetime.timezone.utc)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(extension, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)


@dataclass(frozen=True)
class Tls:
    """Two servers with certificates of one authority; ``strict`` wants the client's as well."""

    plain: S3
    strict: S3
    folder: Path
    files: TlsFiles

    def at(self, server: S3, tls: TlsFiles | None) -> Location:
        return server.at("dir/k", tls=tls)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory, serve_s3: Any) -> Iterator[Tls]:
    root = tmp_path_factory.mktemp("tls")
    authority = Authority(root, "authority")
    Authority(root, "stranger")
    host, host_key = authority.issue("host")
    mine, my_key = authority.issue("client")
    files = TlsFiles(str(authority.file), str(mine), str(my_key))
    words = ("--cert", str(host), "--key", str(host_key))
    for name in ("plain", "strict"):
        (root / name).mkdir()
    with (
        serve_s3(root / "plain", *words) as plain,
        serve_s3(root / "strict", *words, "--client-ca", str(authority.file)) as strict,
    ):
        yield Tls(plain, strict, root, files)


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "MOST_ATTEMPTS", 1)
    monkeypatch.setattr(s3, "_clients", {})


def there_and_back(location: Location) -> bytes:
    S3Store().put(location, io.BytesIO(b"content"), 7)
    with S3Store().open(location) as found:
        return found.stream.read()


def test_a_server_is_trusted_by_the_sites_own_authority(tls: Tls) -> None:
    only_ca = TlsFiles(ca=tls.files.ca)
    assert there_and_back(tls.at(tls.plain, only_ca)) == b"content"


def test_a_server_of_an_unknown_authority_is_not_trusted(tls: Tls) -> None:
    for files in (None, TlsFiles(ca=str(tls.folder / "stranger.pem"))):
        with pytest.raises(StoreUnreachable, match=r"certificate verify failed.*s3\.ca"):
            there_and_back(tls.at(tls.plain, files))


def test_a_client_certificate_is_shown_to_a_server_that_wants_one(tls: Tls) -> None:
    assert there_and_back(tls.at(tls.strict, tls.files)) == b"content"
    with pytest.raises(StorageError):
        there_and_back(tls.at(tls.strict, TlsFiles(ca=tls.files.ca)))


def test_files_that_are_not_there_or_open_to_others_are_named(tls: Tls) -> None:
    gone = replace(tls.files, ca=str(tls.folder / "gone.pem"))
    with pytest.raises(StorageError, match=r"gone\.pem cannot be read here"):
        there_and_back(tls.at(tls.plain, gone))
    open_key = tls.folder / "open.key"
    open_key.write_bytes(Path(tls.files.key).read_bytes())
    open_key.chmod(0o644)
    with pytest.raises(StorageError, match="others may use it"):
        there_and_back(tls.at(tls.strict, replace(tls.files, key=str(open_key))))
