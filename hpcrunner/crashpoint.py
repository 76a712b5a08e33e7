"""Named places where a crash would be worst, so that tests can crash exactly there.

A point does nothing unless the environment variable HPCRUNNER_CRASH names it:
``<point>:<pass>:<folder>`` kills this process with SIGKILL when it passes the point for the
``pass``-th time (from 1). A file made in ``folder`` with O_EXCL remembers the crash, so that
whoever goes on afterwards, in whatever process, is not killed again.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "HPCRUNNER_CRASH"
# The job side's, in the order in which an attempt passes them.
JOB_POINTS = (
    "claim.written",  # not linked yet; the gateway's fence passes it too
    "job.claimed",
    "job.workspace_made",
    "job.fetched",
    "job.environment_built",  # only where there is something to build
    "job.environment_ready",
    "job.payload_started",
    "job.payload_ended",
    "job.artifact_saved",  # for each artifact, while the payload runs too
    "job.before_record",
    "job.recorded",
    "job.client_told",
)
# The gateway's, room by room. Those of commands a person runs stand beside them in tests.
GATEWAY_POINTS = (
    "gateway.locked",
    "gateway.taken_over",
    "gateway.reloaded",  # after SIGHUP
    "gateway.drained",  # after SIGTERM
    "intake.taken",
    "intake.journalled",
    "intake.accepted",
    "wishes.journalled",
    "wishes.asked",  # a cancel that the scheduler has taken
    "wishes.fenced",
    "wishes.retried",
    "dispatch.folder_written",
    "dispatch.batch_begun",
    "dispatch.submitted",
    "dispatch.adopted",
    "dispatch.refused",
    "dispatch.settled",  # an uncertain batch is known not to be there
    "dispatch.batch_resumed",
    "track.judged",
    "track.fenced",
    "track.retried",
    "track.ended",
)
# The gateway's too, where it prepares experiments before it submits them, and sends their results.
PREPARING_POINTS = (
    "preparation.said",  # the client of such an attempt can read why
    "preparation.ended",  # attempts ended of which something could not be had
    "staging.begun",
    "staging.fetched",
    "staging.placed",
    "staging.prepared",
    "staging.sent",  # the store has it, and nothing says so yet
    "staging.marked",
)
# Where an image is pulled, by either side.
IMAGE_POINTS = (
    "images.pulled",  # not under its name yet
    "images.kept",  # whole, and no reference leads to it yet
)
_passes: dict[str, int] = {}


def crashpoint(name: str) -> None:
    """A place between two effects; ``name`` is ``room.what_has_just_happened``."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, count, folder = wanted.split(":", 2)
    if point != name:
        return
    _passes[name] = _passes.get(name, 0) + 1
    if _passes[name] != int(count):
        return
    try:
        os.close(os.open(f"{folder}/{point}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
