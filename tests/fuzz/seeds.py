"""What the fuzzer begins with: real inputs of each target."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import client_seal as client

REQUESTS = Path(__file__).parents[1] / "data" / "requests"
KEYS = Path(__file__).parents[1] / "data" / "keys"
FOUND = Path(__file__).parent / "found"  # inputs that once were a defect, by target

DIRECTIVES = b"""\
epoch 1 loss 0.5
{"experiment": {"name": "testExpr", "max_run_length": 24, "run_length": 3.21}}
[{"op": "replace", "path": "/experiment/name", "value": "testExpr1"}]
[{"op": "remove", "path": "/experiment/max_run_length"}]
{"experiment": [{"name": "a"}, {"name":"b"}]}
[{"op": "add", "path": "/experiment/-", "value": {"name":"c"}}]
[{"op": "copy", "from": "/experiment", "path": "/a"}, {"op": "move", "from": "/a", "path": "/b"}]
[{"op": "add", "path": "/studioml/-", "value": {"name":"c"}}]
"""


def captured() -> list[bytes]:
    bodies = []
    for path in sorted(REQUESTS.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        found = document.get("payload", document)
        if "experiment" in found:
            del found["experiment"]["pythonenv"][3:]
        bodies.append(json.dumps(found).encode())
    return bodies


def small() -> bytes:
    """A sound request, and little more."""
    store = {"type": "local", "endpoint": "/tmp/store"}
    workspace = {"mutable": False, "unpack": True, "key": "k.tar", "qualified": "file:///s/k.tar"}
    return json.dumps(
        {
            "experiment": {
                "key": "k",
                "filename": "train.py",
                "resources_needed": {"cpus": 1, "ram": "1g"},
                "artifacts": {"workspace": workspace},
            },
            "config": {"storage": store, "env": {"A": "1"}, "experimentLifetime": "1h30m"},
        }
    ).encode()


def envelopes() -> list[bytes]:
    key, signer = client.rsa_key().public_key(), client.signing_key()
    return [
        json.dumps(client.envelope(body, key, signer, ssh=ssh)).encode()
        for body in (small(), b"{}")
        for ssh in (False, True)
    ]


def seal_texts() -> list[bytes]:
    found = []
    for body in envelopes():
        sealed = json.loads(body)["message"]
        found.append(f"{sealed['payload']}\n{sealed['signature']}".encode())
    return [*found, b"YQ==,YQ==\nYQ==", b",\n", b""]


def keys() -> list[bytes]:
    rsa, signer = client.rsa_key(), client.signing_key()
    private, public = client.serialization.PrivateFormat, client.serialization.PublicFormat
    return [
        *(p.read_bytes() for p in sorted(KEYS.iterdir())),
        *(
            rsa.private_bytes(client.PEM, form, client.NO_ENCRYPTION)
            for form in (private.TraditionalOpenSSL, private.PKCS8, private.OpenSSH)
        ),
        *(
            rsa.public_key().public_bytes(client.PEM, form)
            for form in (public.PKCS1, public.SubjectPublicKeyInfo)
        ),
        rsa.public_key().public_bytes(*client.OPENSSH),
        client.public_line(signer),
    ]


def tars() -> list[bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, kind, target in (
            ("./one", tarfile.REGTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
            ("folder/link", tarfile.SYMTYPE, "../one"),
            ("hard", tarfile.LNKTYPE, "./one"),
            ("n" * 200, tarfile.REGTYPE, ""),
            ("ü", tarfile.REGTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            info.size = 3 if info.isreg() else 0
            out.addfile(info, io.BytesIO(b"abc"))
    plain = buffer.getvalue()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as zip_:
        zip_.writestr("a/b", b"abc" * 50)
        zip_.writestr("c", b"")
    return [plain, gzip.compress(plain, mtime=0), zipped.getvalue(), plain[:512]]


MEMBERS = b"""\
\x00./one>abc
\x01folder
\x02folder/link>../one
\x03hard>./one
\x02up>..
\x00up/escaped>x
\x02loop>loop
\x05device
\x04pipe
\x00../outside>x
\x00/absolute>x
"""

SEEDS = {
    "message": [*captured(), small(), b"", b"{}"],
    "envelope": [*envelopes(), captured()[0], b'{"message": {"payload": ""}}'],
    "sealed_inside": [b'{"cpus": 1, "ram": "1g"}\n' + small(), b"\n", b"{}\n{}"],
    "seal_text": seal_texts(),
    "key_file": keys(),
    "metadata_lines": [DIRECTIVES, *DIRECTIVES.splitlines()],
    "archive": tars(),
    "archive_members": [MEMBERS, *MEMBERS.splitlines()],
    "queue_name": [b"rmq_a", b"rmq_abc_response", "local_ü".encode(), b"\x00", b"\xff", b"rmq_a\n"],
}
"""By target."""


def words(target: str) -> list[bytes]:
    """Words of the seeds that a mutation may put in: names in quotes, and paths."""
    found: set[bytes] = set()
    for seed in SEEDS[target]:
        found.update(re.findall(rb'"[A-Za-z_]{2,24}"', seed))
    return sorted(found | {b"../", b"null", b"-1", b"1e400", b"\\ud800", b'{"', b'"}', b"[{"})


def kept(target: str) -> list[bytes]:
    """Inputs that once were a defect."""
    folder = FOUND / target
    return [p.read_bytes() for p in sorted(folder.iterdir())] if folder.is_dir() else []
