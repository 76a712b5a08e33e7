"""The experiment's artifacts: which of them have folders, how they come, and how they go."""

from __future__ import annotations

import time
from pathlib import Path

from hpcrunner.job.events import Events, size
from hpcrunner.job.parallel import in_parallel
from hpcrunner.job.requirements import pinned_version
from hpcrunner.job.save import Upload
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.record import SavedArtifact
from hpcrunner.storage.contract import ArtifactNotFound

IMAGE = "_singularity"  # what the payload runs in, not what it works on
NOT_FETCHED = frozenset({"_metadata", IMAGE})
WORKERS = 4


def kept_in_folders(experiment: PlannedExperiment) -> tuple[PlannedArtifact, ...]:
    """The artifacts that stand as folders beside the workspace."""
    return tuple(a for a in experiment.artifacts if a.tag != IMAGE)


def fetch_all(experiment: PlannedExperiment, workspace: Workspace, events: Events) -> None:
    """Fetch every artifact into its folder, several at once.

    A mutable artifact may be missing: the first attempt makes it. Any other failure raises the
    StorageError of its kind, for mutable ones too: a run that goes on without the model it was
    to resume would start over unnoticed, and at its end replace that model.
    """
    from hpcrunner.storage.transfer import download

    def fetch(artifact: PlannedArtifact) -> None:
        began = time.monotonic()
        try:
            got = download(artifact.location, workspace.tag(artifact.tag), artifact.unpack)
        except ArtifactNotFound:
            if not artifact.mutable:
                raise
            events.note("not_there", tag=artifact.tag)
            return
        took = time.monotonic() - began
        events.tell(
            "fetched",
            f"fetched {artifact.tag}, {size(got)} in {took:.1f} s",
            tag=artifact.tag,
            size=got,
        )

    wanted = [a for a in experiment.artifacts if a.tag not in NOT_FETCHED]
    for _ in in_parallel([lambda a=a: fetch(a) for a in wanted], WORKERS):
        pass


def uploader(experiment: PlannedExperiment, workspace: Workspace) -> Upload:
    """What packs and stores one artifact, in the tar habits of the request's own client."""

    def upload(artifact: PlannedArtifact, path: Path) -> SavedArtifact:
        from hpcrunner.storage.transfer import upload as up

        return up(artifact, path, workspace.runner)

    return upload
