"""Whether the gateway has given this attempt up: another may run by now, so ours must not save."""

from __future__ import annotations

from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.limits import Stop
from hpcrunner.job.save import Upload
from hpcrunner.request.claim import claims, is_fenced
from hpcrunner.request.plan import PlannedArtifact
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import SavedArtifact

GIVEN_UP = Stop(Reason.CANCELLED, "the gateway has given this attempt up")


class Fence:
    """The fence of the attempt with this claim; request/claim.py has its format."""

    def __init__(self, claim: Path) -> None:
        self._claim = claim

    def stands(self) -> Stop | None:
        """Why to stop, where the gateway took the job for dead; else None."""
        try:
            return GIVEN_UP if is_fenced(claims(self._claim)) else None
        except OSError:  # the spool is not to be seen just now
            return None

    def guards(self, upload: Upload) -> Upload:
        """The upload, refused where another attempt may have results there by now."""

        def guarded(artifact: PlannedArtifact, folder: Path) -> SavedArtifact:
            if (stop := self.stands()) is not None:
                raise HpcrunnerError(stop.text)
            return upload(artifact, folder)

        return guarded
