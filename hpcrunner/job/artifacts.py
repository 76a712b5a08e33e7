"""The experiment's artifacts: which of them have folders, how they come, and how they go."""

from __future__ import annotations

from pathlib import Path

from hpcrunner.job.events import Events
from hpcrunner.job.save import Upload
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.record import SavedArtifact

IMAGE = "_singularity"  # what the payload runs in, not what it works on
NOT_FETCHED = frozenset({"_metadata", IMAGE})
WORKERS = 4


def kept_in_folders(experiment: PlannedExperiment) -> tuple[PlannedArtifact, ...]:
    """The artifacts that stand as folders beside the workspace."""
    return tuple(a for a in experiment.artifacts if a.tag != IMAGE)


def fetch_all(experiment: PlannedExperiment, workspace: Workspace, events: Events) -> None:
    return


def uploader(experiment: PlannedExperiment, workspace: Workspace) -> Upload:
    def upload(artifact: PlannedArtifact, path: Path) -> SavedArtifact:
        raise NotImplementedError

    return upload
