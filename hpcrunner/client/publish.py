"""Handing work in: the workspace into file storage, the message into a directory queue."""

from __future__ import annotations

import json
import os
import tempfile
import time
import uuid
from pathlib import Path

from hpcrunner.client.build import (
    ARTIFACTS_BUCKET,
    RECORDS_BUCKET,
    Work,
    build_request,
    new_key,
    workspace_key,
)
from hpcrunner.client.workspace import pack_workspace
from hpcrunner.errors import HpcrunnerError
from hpcrunner.request.model import StoreConfig


class PublishError(HpcrunnerError):
    """The store or the queue cannot be written to."""

    exit_code = 73  # EX_CANTCREAT


def store_work(work: Work, folder: Path, store: Path) -> tuple[str, bytes]:
    """Put the folder into the file store at ``store``; returns the key and the message.

    The message is not published yet. Raises WorkspaceError or PublishError.
    """
    key = new_key(time.time, uuid.uuid4)
    config = StoreConfig(type="local", endpoint=str(store), bucket=ARTIFACTS_BUCKET)
    try:
        bucket = store / ARTIFACTS_BUCKET
        bucket.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=bucket, delete=False) as packed:
            try:
                digest = pack_workspace(folder, packed)
                packed.flush()
                os.fsync(packed.fileno())
                target = bucket / workspace_key(digest)
                target.parent.mkdir(mode=0o700, exist_ok=True)
                Path(packed.name).replace(target)
            except BaseException:
                Path(packed.name).unlink(missing_ok=True)
                raise
        body = build_request(work, key, digest, config, time.time())
        record = store / RECORDS_BUCKET / "experiments" / key
        record.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        record.write_text(json.dumps(json.loads(body)["experiment"]), encoding="utf-8")
        record.chmod(0o600)
    except OSError as error:
        raise PublishError(
            f"cannot be written ({error.strerror})",
            where=str(error.filename or store),
            remedy="check room and permissions of the spool",
        ) from error
    return key, body


def publish(queue: Path, body: bytes) -> None:
    """Put a message into a directory queue, whole at once. Raises PublishError.

    Written beside the waiting messages under a name that no reader takes, then renamed, as the
    queue's readers expect.
    """
    name = str(uuid.uuid4())
    hidden = queue / f".{name}"
    try:
        queue.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(queue / name)
    except OSError as error:
        raise PublishError(
            f"cannot be written ({error.strerror})",
            where=str(queue),
            remedy="check room and permissions of the queue's folder",
        ) from error
