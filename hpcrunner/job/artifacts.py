"""The experiment's artifacts: which of them have folders, how they come, and how they go."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING

from hpcrunner.job.events import Events, size
from hpcrunner.job.parallel import in_parallel
from hpcrunner.job.save import Upload
from hpcrunner.job.stopwatch import STATUS
from hpcrunner.job.workspace import Workspace
from hpcrunner.nodefolders import NodeFolderError, expand, remove_tree
from hpcrunner.request.location import promised
from hpcrunner.request.plan import NodeSetup, PlannedArtifact, PlannedExperiment
from hpcrunner.request.record import SavedArtifact
from hpcrunner.request.requirements import is_old_client
from hpcrunner.request.results import RESULTS
from hpcrunner.storage.contract import (
    ArtifactNotFound,
    DiskBudgetExceeded,
    StorageError,
)

if TYPE_CHECKING:
    from hpcrunner.storage.transfer import Fetched

IMAGE = "_singularity"  # what the payload runs in, not what it works on
NOT_FETCHED = frozenset({"_metadata", STATUS, RESULTS, IMAGE})
WORKERS = 4
_MOST_OF_THE_DISK = 0.9  # of what is free
# The completion service takes a result only if it is later than the end of its submission, by
# its own clock, and that can be a second after the job has run.
_LATER = 5.0


def kept_in_folders(experiment: PlannedExperiment) -> tuple[PlannedArtifact, ...]:
    """The artifacts that stand as folders beside the workspace."""
    return tuple(a for a in experiment.artifacts if a.tag != IMAGE)


def saved(experiment: PlannedExperiment) -> tuple[PlannedArtifact, ...]:
    """The artifacts that go back to their store, but for ``_results``, which follows them all.

    ``_status`` is the client's word to us.
    """
    apart = (IMAGE, STATUS, RESULTS)
    return tuple(a for a in experiment.artifacts if a.mutable and a.tag not in apart)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Where immutable artifacts are kept for other jobs, and at most how many bytes of them."""

    folder: Path
    limit: int


def cache_settings(
    setup: NodeSetup, environ: Mapping[str, str], events: Events
) -> CacheSettings | None:
    """The site's artifact cache on this node; None where it has none, or names a bad folder."""
    if not setup.artifact_cache_size:
        return None
    try:
        folder = expand(setup.artifact_cache or setup.cache, environ, what="artifact_cache.path")
    except NodeFolderError as error:
        events.tell("cache_failed", f"no artifact cache: {error.line()}")
        return None
    return CacheSettings(folder, setup.artifact_cache_size)


def fetch_all(
    experiment: PlannedExperiment,
    workspace: Workspace,
    events: Events,
    cache: CacheSettings | None = None,
) -> Mapping[str, str]:
    """Fetch every artifact into its folder, several at once.

    Returns, by tag, the names of files that the client packed as single files. A mutable
    artifact may be missing: the first attempt makes it. Any other failure raises the
    StorageError of its kind, for mutable ones too: a run that went on without the model it was
    to resume would start over unnoticed, and replace that model at its end.

    The disk budget holds for all together; a request without one may fill most of what is free,
    so that a bomb does not take the disk from others. While several come at once they may exceed
    it between them; the last one of these then raises DiskBudgetExceeded.
    """
    singles: dict[str, str] = {}
    spent, lock = 0, threading.Lock()
    budget = experiment.disk_budget or int(_MOST_OF_THE_DISK * disk_usage(workspace.root).free)

    def fetch(artifact: PlannedArtifact) -> None:
        nonlocal spent
        began = time.monotonic()
        folder = workspace.tag(artifact.tag)
        try:
            got, outcome = _download(artifact, folder, max(0, budget - spent), cache, events)
        except ArtifactNotFound as error:
            if not artifact.mutable:
                raise _at_its_store(error, artifact) from None
            events.note("not_there", tag=artifact.tag)
            return
        except StorageError as error:
            raise _at_its_store(error, artifact) from None
        with lock:
            spent += got.bytes
            if spent > budget:
                raise DiskBudgetExceeded(
                    f"{size(spent)} with the others, more than the {size(budget)} it may use",
                    where=artifact.address,
                    remedy="ask for more with resources_needed.hdd",
                )
        if got.single is not None:
            singles[artifact.tag] = got.single
        took = time.monotonic() - began
        text = f"fetched {artifact.tag}, {size(got.size)} in {took:.1f} s"
        from_cache = {"cache": outcome} if outcome else {}
        events.tell(
            "fetched", text, tag=artifact.tag, size=got.size, sha256=got.sha256, **from_cache
        )

    wanted = [a for a in experiment.artifacts if a.tag not in NOT_FETCHED]
    for _ in in_parallel([partial(fetch, artifact) for artifact in wanted], WORKERS):
        pass
    return singles


def _at_its_store(error: StorageError, artifact: PlannedArtifact) -> StorageError:
    """The error with the address that people know, also of what the gateway has carried here."""
    where = error.where.replace(str(artifact.location), artifact.address)
    return type(error)(error.what, where=where, remedy=error.remedy)


def _download(
    artifact: PlannedArtifact,
    folder: Path,
    budget: int,
    cache: CacheSettings | None,
    events: Events,
) -> tuple[Fetched, str]:
    """Fetch one artifact; also ``hit`` or ``miss`` of the cache, "" where it had no part in it."""
    from hpcrunner.storage.stores import looker_for
    from hpcrunner.storage.transfer import download

    store = looker_for(artifact.location)
    if artifact.mutable or cache is None or store is None:
        name = artifact.staged.name if artifact.staged else ""
        return download(artifact.location, folder, artifact.unpack, budget=budget, name=name), ""
    from hpcrunner.job.artifactcache import CacheDamaged, CachedStore

    cached = CachedStore(store, cache.folder, cache.limit)
    try:
        got = download(artifact.location, folder, artifact.unpack, budget=budget, store=cached)
    except CacheDamaged as error:
        events.tell("cache_failed", f"{artifact.tag} is fetched again: {error.line()}")
        remove_tree(folder)  # what was unpacked of it
        folder.mkdir(mode=0o700)
        return download(artifact.location, folder, artifact.unpack, budget=budget), "miss"
    promise = promised(artifact.location)
    if promise and got.sha256 != promise:
        what = f"{artifact.tag} is not the content that its key promises; it is taken as it is"
        events.tell("mismatch", what, tag=artifact.tag, sha256=got.sha256)
    return got, cached.outcome


def uploader(
    experiment: PlannedExperiment,
    workspace: Workspace,
    singles: Mapping[str, str],
    events: Events,
    *,
    confined: bool = False,
) -> Upload:
    """What packs and stores one artifact, in the tar habits of the request's own client.

    ``confined``: the payload sees nothing but its folders, so a link that it makes is not to be
    followed out of them here.

    ``singles`` is read when an artifact is stored, not before. What has the same content as at
    its last upload here is not sent again: the upload then returns what it returned last time.
    """
    old_client = is_old_client(experiment.python_packages)
    last: dict[str, tuple[str, SavedArtifact]] = {}  # by tag: digest of the content, and what

    def upload(artifact: PlannedArtifact, folder: Path) -> SavedArtifact:
        from hpcrunner.storage.transfer import upload as pack_and_put

        path = as_it_came(folder, singles.get(artifact.tag))
        known, before = last.get(artifact.tag, ("", None))
        packed = pack_and_put(
            path,
            artifact.location,
            workspace.runner,
            newest_mtime_floor=None if path.is_dir() else time.time() + _LATER,
            old_client=old_client,
            stored=known,
            within=workspace.root if confined else None,
        )
        if before is not None and packed.content == known:
            return before
        for left_out in packed.left_out:
            events.tell("left_out", f"not saved with {artifact.tag}: {left_out}", tag=artifact.tag)
        done = SavedArtifact(artifact.tag, artifact.address, packed.size, packed.sha256)
        last[artifact.tag] = packed.content, done
        return done

    return upload


def as_it_came(folder: Path, single: str | None) -> Path:
    """What to pack of an artifact's folder: a file alone where the client knows it as a file.

    That is a file named as its folder (``retval/retval``, ``output/output``), or the file that
    came alone (``single``), as long as nothing stands beside it.
    """
    from hpcrunner.storage.transfer import as_packed

    if single is not None:
        try:
            alone = os.listdir(folder) == [single]
        except OSError:
            alone = False
        if alone and (folder / single).is_file() and not (folder / single).is_symlink():
            return folder / single
    return as_packed(folder)
