"""Whether this run still has its attempt: where another may run by now, ours must not save.

The gateway may have given the attempt up. Or the scheduler has started the job again without this
run's having ended, as when a host that it cannot reach goes on working.
"""

from __future__ import annotations

from pathlib import Path

from hpcrunner.errors import HpcrunnerError
from hpcrunner.job.limits import Stop
from hpcrunner.job.save import Upload
from hpcrunner.request.claim import Owner, claims, is_fenced
from hpcrunner.request.plan import PlannedArtifact
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import SavedArtifact

GIVEN_UP = Stop(Reason.CANCELLED, "the gateway has given this attempt up")
TAKEN_OVER = Stop(Reason.CANCELLED, "the scheduler has started this job again elsewhere")


class Fence:
    """The claims of an attempt, of which ``owner`` made ours; request/claim.py has their format."""

    def __init__(self, claim: Path, owner: Owner) -> None:
        self._claim = claim
        self._owner = owner

    def stands(self) -> Stop | None:
        """Why to stop, where the job was taken for dead; else None."""
        try:
            held = claims(self._claim)
        except OSError:  # the spool is not to be seen just now
            return None
        if is_fenced(held):
            return GIVEN_UP
        last = held[-1] if held else None
        return TAKEN_OVER if last not in (None, self._owner) else None

    def guards(self, upload: Upload) -> Upload:
        """The upload, refused where another attempt may have results there by now."""

        def guarded(artifact: PlannedArtifact, folder: Path) -> SavedArtifact:
            if (stop := self.stands()) is not None:
                raise HpcrunnerError(stop.text)
            return upload(artifact, folder)

        return guarded
