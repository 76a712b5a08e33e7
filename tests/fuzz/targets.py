"""Places where bytes of strangers come in, each as one function of bytes.

A target comes back for every input, or raises what a person would call a defect: an exception
nobody documented, a text that is not one line, a file where none may be. Bounds on time and memory
are the fuzzer's affair. Nothing here needs atheris.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import client_seal as client

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.jsoneditor import MAX_DOCUMENT, DirectiveRefused, Editor
from hpcrunner.job.scraper import Scraper
from hpcrunner.keys.folder import KeyFolder, NoKey
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.request.documents import as_text
from hpcrunner.request.envelope import open_envelope
from hpcrunner.request.errors import KeyInvalid, RequestError
from hpcrunner.request.model import Request, SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.plan_experiment import plan_experiment
from hpcrunner.request.rsakey import load_private_rsa, load_public_rsa
from hpcrunner.request.seal import SealError, seal, unseal
from hpcrunner.request.signature import SignatureRefused, load_signing_key, verify
from hpcrunner.request.trust import planned_image
from hpcrunner.storage.contract import ArchiveRefused, DiskBudgetExceeded
from hpcrunner.storage.unpack import unpack

LONGEST_LINE = 4000
BUDGET = 1 << 20  # bytes on disk of an archive
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def said(error: HpcrunnerError) -> None:
    """A reason must be one line of a length that a person reads."""
    line = error.line()
    assert line and "\n" not in line and len(line) < LONGEST_LINE, line[:200]


def message(data: bytes) -> None:
    """A message off a queue, in clear or not."""
    try:
        found = parse_message(data)
        if isinstance(found, Request):
            image = planned_image(found)
            plan_experiment(found, id="0" * 12, attempt=1, image=image)
            json.loads(found.document)
    except RequestError as error:
        said(error)
    except HpcrunnerError as error:  # an address that leads nowhere
        said(error)


KEY, SIGNER = client.rsa_key(), client.signing_key()
PUBLIC, SIGNS = KEY.public_key(), SIGNER.public_key()


def envelope(data: bytes) -> None:
    """A sealed message: the envelope as it comes, and with a good signature in it."""
    try:
        sealed = parse_message(data)
    except RequestError as error:
        said(error)
        return
    if not isinstance(sealed, SealedRequest):
        return
    signature = ""
    with suppress(UnicodeEncodeError):
        signature = base64.b64encode(SIGNER.sign(sealed.payload.encode())).decode()
    signed = SealedRequest(sealed.resources, sealed.payload, signature, "SHA256:x")
    for one in (sealed, signed):
        try:
            open_envelope(one, SIGNS, [KEY])
        except (SignatureRefused, SealError, RequestError) as error:
            said(error)


def sealed_inside(data: bytes) -> None:
    """What somebody who may sign has sealed: a first line is the header, the rest is inside."""
    header, _, inside = data.partition(b"\n")
    body = {"message": {"payload": seal(inside, PUBLIC), "fingerprint": "x"}}
    with suppress(ValueError, RecursionError):
        body["message"]["resources_needed"] = json.loads(header)
    payload = body["message"]["payload"]
    body["message"]["signature"] = base64.b64encode(SIGNER.sign(payload.encode())).decode()
    try:
        sealed = parse_message(json.dumps(body).encode())
        assert isinstance(sealed, SealedRequest)
        _, clear = open_envelope(sealed, SIGNS, [KEY])
        assert clear == inside
    except RequestError as error:
        said(error)


def seal_text(data: bytes) -> None:
    """A payload and a signature as texts."""
    payload, _, signature = data.decode("utf-8", "surrogateescape").partition("\n")
    with suppress(SealError):
        unseal(payload, [KEY])
    with suppress(SignatureRefused):
        verify(payload, signature, SIGNS)


def key_file(data: bytes) -> None:
    """A key file of any kind, read as each of them."""
    for load in (load_public_rsa, load_signing_key, load_private_rsa):
        try:
            load(data)
        except KeyInvalid as error:
            said(error)


def metadata_lines(data: bytes) -> None:
    """A payload's output: every directive is folded, refused, or a line of the log."""
    editor = Editor()
    for line in data.split(b"\n"):
        before = as_text(editor.document)
        try:
            editor.apply(line.decode("utf-8", "replace"))
        except DirectiveRefused:
            assert as_text(editor.document) == before
    assert len(as_text(editor.document)) <= MAX_DOCUMENT
    scraper = Scraper(clock=lambda: 0)
    for at in range(0, len(data), 61):
        scraper.feed(data[at : at + 61])
    scraper.finish(5.0)
    json.dumps(scraper.document())
    json.dumps(scraper.log())


def archive(data: bytes) -> None:
    """An archive from a store: nothing outside its folder, no link that leads out."""
    outer = Path(tempfile.mkdtemp(prefix="fuzz", dir=MEMORY))
    try:
        box = outer / "box"
        with suppress(ArchiveRefused, DiskBudgetExceeded):
            unpack(io.BytesIO(data), box, budget=BUDGET)
        assert {path.name for path in outer.iterdir()} <= {"box"}
        root = os.path.realpath(box)
        for path in box.rglob("*"):
            inside = os.path.realpath(path)
            assert inside == root or inside.startswith(root + "/"), path
            assert path.is_symlink() or path.is_dir() or path.is_file(), path
    finally:
        shutil.rmtree(outer)


KINDS = (
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.FIFOTYPE,
    tarfile.CHRTYPE,
    tarfile.GNUTYPE_SPARSE,
)


def archive_members(data: bytes) -> None:
    """A tar whose members are the input's lines: kind, name, and where it links to."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", errors="surrogateescape") as out:
        for line in data.split(b"\n")[:50]:
            name, _, target = line[1:].decode("utf-8", "surrogateescape").partition(">")
            info = tarfile.TarInfo(name)
            info.type = KINDS[line[0] % len(KINDS)] if line else tarfile.DIRTYPE
            info.linkname, info.mode = target, len(line) * 37 % 0o10000
            info.size = len(target) if info.isreg() else 0
            with suppress(ValueError, UnicodeError):
                content = target.encode("utf-8", "surrogateescape")[: info.size]
                info.size = len(content)
                out.addfile(info, io.BytesIO(content))
    archive(buffer.getvalue())


ANY = QueueFilter(match=".")


def queue_name(data: bytes) -> None:
    """A queue's name as a server lists it, and the choice of its key."""
    name = data.decode("utf-8", "surrogateescape")
    if ANY.admits(name):
        assert name.isprintable() and not name.endswith("_response")
        try:
            assert QueueFilter.only([name]).admits(name)
        except HpcrunnerError as error:
            said(error)
    FOLDER.refresh()
    try:
        assert name.startswith(FOLDER.choose(name))
    except NoKey as error:
        said(error)


def _key_folder() -> KeyFolder[str]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-keys"))
    for name in ("rmq_", "rmq_a", "rmq_ab", "local_", "ü"):
        (folder / name).write_text(name)
    keys = KeyFolder(folder, bytes.decode, "--request-signatures-dir")
    keys.refresh()
    shutil.rmtree(folder)
    return keys


FOLDER = _key_folder()
TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        message,
        envelope,
        sealed_inside,
        seal_text,
        key_file,
        metadata_lines,
        archive,
        archive_members,
        queue_name,
    )
}
