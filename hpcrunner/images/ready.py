"""The entry to this room: an image as a path that the container runtime can run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path

from hpcrunner.images.cache import ImageCache, Mark, images_folder, key_of
from hpcrunner.images.errors import ImageUnusable, PullFailed, cannot_be_used, no_room, too_large
from hpcrunner.images.look import Found, look_at, sha256_of
from hpcrunner.images.pull import Pause, Tell, pull
from hpcrunner.images.store import fetch, no_image, query_of, version_of
from hpcrunner.images.verify import public_keys, verify
from hpcrunner.mounts import says_full
from hpcrunner.request.image import ImageSetup, PlannedImage, changes
from hpcrunner.request.plan import NodeSetup
from hpcrunner.storage.contract import ArtifactNotFound
from hpcrunner.usemark import mark_used


def ready_image(
    image: PlannedImage,
    node: NodeSetup,
    environ: Mapping[str, str],
    tell: Tell,
    *,
    mark: Mark = mark_used,
    pause: Pause = time.sleep,
    anew: bool = False,
) -> str:
    """The path of the image: pulled if need be, and of the digest and signature demanded.

    ``tell`` hears what happens (an event's name, a line). ``pause`` waits, and may raise to break
    it off. ``anew`` pulls what is there already, too. Raises StorageError of the kind, and
    NodeFolderError or OSError where the cache cannot be used.
    """
    setup = node.images
    if image.path:
        return _laid_ready(Path(image.path), image, mark)
    if image.is_file:
        path = Path(image.reference)
        found = _look(path)
        if found is Found.SANDBOX:
            _check_sandbox(image, setup)
            return image.reference
        if found is Found.IMAGE and not setup.keys:
            _check_digest(path, image)
            return image.reference
        if found is Found.NOTHING:
            raise ArtifactNotFound(
                "is not on this node, or may not be read by this user",
                where=f"container image {image.reference}",
                remedy="name a file that all nodes see",
            )
        if path.is_dir():
            raise ImageUnusable(
                "is a folder, and not the root of an image",
                where=f"container image {image.reference}",
                remedy="name an image file, or a folder that apptainer build --sandbox has made",
            )
        # A client's own packing of a file, or one whose signature is to be checked: as in a store.
    folder = images_folder(node, environ)
    try:
        cache = ImageCache(folder, setup.size, mark=mark, tell=tell, pause=pause)
    except OSError as error:
        raise cannot_be_used(folder, error) from error
    version = version_of(image.location) if image.location is not None else ""
    login = _hashed(f"{image.user}\0{image.password}") if image.user or image.password else ""
    # The normal form has no query, by which a web server may tell its images apart.
    query = query_of(image.location) if image.location is not None else ""
    keys = _keys_version(setup)
    key = key_of(image.reference, version, image.digest, login, keys, *([query] if query else []))
    make = partial(_make, image, setup, environ=environ, tell=tell, pause=pause)
    refresh = setup.refresh if not version and changes(image.reference) else None
    try:
        return str(cache.get(key, image.reference, make, refresh=refresh, anew=anew))
    except OSError as error:  # of a lock or a note, which want room too
        if says_full(error):
            raise no_room(image.reference, folder) from None
        raise


def _make(
    image: PlannedImage,
    setup: ImageSetup,
    scratch: Path,
    *,
    environ: Mapping[str, str],
    tell: Tell,
    pause: Pause,
) -> Path:
    if image.location is not None:
        file = fetch(image, scratch, setup.largest, pause)
    else:
        file = pull(image, setup, scratch, environ, tell, pause)
    if setup.largest and file.stat().st_size > setup.largest:
        raise too_large(image.reference, setup.largest)
    if look_at(file) is not Found.IMAGE:
        raise no_image(image.reference)
    _check_digest(file, image)
    if setup.keys:
        verify(file, setup, scratch, environ, image.reference)
    return file


def _laid_ready(path: Path, image: PlannedImage, mark: Mark) -> str:
    """What the gateway has pulled. It is there for as long as somebody waits for it."""
    if not image.is_file:
        with suppress(OSError):
            mark(path.with_suffix(".used"))
    if not path.exists():
        raise PullFailed(
            "is not in the cache any more",
            where=f"image {image.reference}",
            remedy=f"do the nodes see {path.parent}?",
        )
    return str(path)


def _look(path: Path) -> Found:
    try:
        return look_at(path)
    except OSError as error:
        raise ImageUnusable(
            f"cannot be read ({error.strerror})", where=str(path), remedy="check its mode"
        ) from error


def _check_sandbox(image: PlannedImage, setup: ImageSetup) -> None:
    if image.digest or setup.keys:
        raise ImageUnusable(
            "a folder, which has neither digest nor signature",
            where=image.reference,
            remedy="make a SIF file of it: apptainer build image.sif folder",
        )


def _check_digest(file: Path, image: PlannedImage) -> None:
    if not image.digest:
        return
    found = sha256_of(file)
    if found != image.digest:
        raise ImageUnusable(
            f"has the digest sha256:{found[:12]}…, not sha256:{image.digest[:12]}…",
            where=image.reference,
            remedy="this is not the image that is pinned",
        )


def _keys_version(setup: ImageSetup) -> str:
    return _hashed(public_keys(setup.keys).decode("latin-1")) if setup.keys else ""


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
