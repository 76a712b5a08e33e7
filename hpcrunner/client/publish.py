"""Handing work in without a server: into file storage and a directory queue."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from hpcrunner.client.build import Work, local_stores
from hpcrunner.client.upload import upload_work
from hpcrunner.errors import HpcrunnerError
from hpcrunner.sync import sync_folder

_UNFINISHED = ".publishing"


class PublishError(HpcrunnerError):
    """The queue cannot be written to."""

    exit_code = 73  # EX_CANTCREAT


def store_work(work: Work, folder: Path, store: Path) -> tuple[str, bytes]:
    """Put the folder into the file store at ``store``; returns the key and the message.

    See upload_work. Nothing is published yet.
    """
    return upload_work(work, folder, local_stores(str(store.absolute())))


def publish(queue: Path, body: bytes) -> Path:
    """Put a message into a directory queue, whole at once; returns its file. Raises PublishError.

    The file is synced in ``.publishing/<queue>/`` beside the queue and then renamed: the StudioML
    client takes whatever it finds in a queue's own folder, hidden files too, for a message. Files
    are 0600 and new folders 0700, since messages hold credentials.
    """
    name = str(uuid.uuid4())
    unfinished = queue.parent / _UNFINISHED / queue.name / name
    try:
        for folder in (queue, unfinished.parent):
            _make_private(folder)
        handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            unfinished.rename(queue / name)
        except BaseException:
            with suppress(OSError):
                unfinished.unlink()
            raise
        sync_folder(queue)
    except OSError as error:
        raise PublishError(
            f"cannot be written ({error.strerror})",
            where=str(queue),
            remedy="check room and permissions of the queue's folder",
        ) from error
    return queue / name


def _make_private(folder: Path) -> None:
    # mkdir's own parents=True would use the mode for the last folder only.
    if not folder.is_dir():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
