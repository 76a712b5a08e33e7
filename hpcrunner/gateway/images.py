"""Container images pulled on the login node before what needs them is submitted.

All that want one image share one pull. Nothing is remembered: after a crash the same images are
wanted again, and found in the cache or pulled anew.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hpcrunner.errors import HpcrunnerError, one_line
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.preparation import (
    READY,
    Attempt,
    Failed,
    Standing,
    Waiting,
    failure_of,
)
from hpcrunner.gateway.reader import Reader
from hpcrunner.gateway.spool import Spool
from hpcrunner.gateway.staging.sending import server_of
from hpcrunner.gateway.staging.workers import Workers
from hpcrunner.images.bounds import MARK
from hpcrunner.images.ready import ready_image
from hpcrunner.request.hosts import HostRule
from hpcrunner.request.image import PlannedImage, parse_image, registry_of
from hpcrunner.request.plan import NodeSetup, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.node_setup import host_rule, node_setup
from hpcrunner.sites.site import Site
from hpcrunner.storage.guard import check_url
from hpcrunner.usemark import MARK_EVERY, touch_mark

log = logging.getLogger(__name__)

# Of which one registry or store may hold all but one. Few: login nodes end what burns their CPUs,
# and turning layers into an image does.
THREADS = 3
# Gives the images of all that is with the scheduler; called from a thread.
Promised = Callable[[], Iterable[PlannedImage]]


class _Stopped(Exception):
    """Nobody wants it any more."""


@dataclass
class _Pull:
    """One image on its way. A thread writes what the loop reads."""

    image: PlannedImage
    standing: Standing
    path: str = ""
    stopped: threading.Event = field(default_factory=threading.Event)


class Images:
    """The preparation of images. What lies where the nodes see it is left to them.

    ``promised`` names the images of jobs that were submitted and may not have begun: they are
    kept in the cache by a mark every hour, since their jobs could not pull them again. So are
    those that are ready, for experiments that wait for other reasons. ``hosts`` is the rule for
    registries (None: any), but for those that the site has ``known``.
    """

    def __init__(
        self,
        node: NodeSetup,
        environ: Mapping[str, str],
        *,
        promised: Callable[[], Promised],
        clock: Callable[[], float] = time.time,
        threads: int = THREADS,
        hosts: HostRule | None = None,
        known: Collection[str] = (),
    ) -> None:
        self._hosts = hosts
        self._known = known
        self._node = node
        self._environ = environ
        self._promised = promised
        self._clock = clock
        self._workers = Workers("images", threads)
        self._keeper = Workers("images-kept", 1)  # a mark waits for no pull
        self._wanted: dict[Attempt, PlannedImage | None] = {}
        self._pulls: dict[PlannedImage, _Pull] = {}
        self._mark_at = 0.0

    def want(self, experiment: Experiment, planned: PlannedExperiment) -> None:
        """See Preparation."""
        image = planned.image
        if image is not None and image.is_file:
            image = None
        self._wanted[experiment.id, experiment.attempt] = image
        if image is not None and image not in self._pulls:
            text = f"waits for a turn to pull image {image.reference}"
            pull = self._pulls[image] = _Pull(image, Waiting(text))
            self._workers.give(partial(self._pull, pull), _place(image))

    def standing(self, experiment: Experiment) -> Standing | None:
        """See Preparation."""
        attempt = (experiment.id, experiment.attempt)
        if attempt not in self._wanted:
            return None
        image = self._wanted[attempt]
        return READY if image is None else self._pulls[image].standing

    def apply(self, experiment: Experiment, planned: PlannedExperiment) -> PlannedExperiment:
        """See Preparation. Credentials for the image's store or registry stay behind."""
        pull = self._pulls.get(planned.image) if planned.image else None
        if planned.image is None or pull is None:
            return planned
        ready = PlannedImage(planned.image.reference, digest=planned.image.digest, path=pull.path)
        return replace(planned, image=ready)

    def step(self, wanted: Collection[Attempt]) -> None:
        """See Preparation."""
        for attempt in [a for a in self._wanted if a not in wanted]:
            del self._wanted[attempt]
        used = set(self._wanted.values())
        for image in [i for i in self._pulls if i not in used]:
            self._pulls.pop(image).stopped.set()
        if self._clock() >= self._mark_at:
            self._mark_at = self._clock() + MARK_EVERY
            ready = [pull.path for pull in self._pulls.values() if pull.standing is READY]
            self._keeper.give(partial(self._keep, self._promised(), ready))

    def close(self) -> None:
        """See Preparation."""
        self._workers.close()
        self._keeper.close()
        for pull in self._pulls.values():
            pull.stopped.set()

    def _pull(self, pull: _Pull) -> None:
        if pull.stopped.is_set():
            return

        def tell(_: str, text: str) -> None:
            log.info("%s", text)
            pull.standing = Waiting(text)

        def pause(seconds: float) -> None:
            if pull.stopped.wait(seconds):
                raise _Stopped

        try:
            self._check(pull.image)
            pull.path = ready_image(
                pull.image, self._node, self._environ, tell, mark=touch_mark, pause=pause
            )
            pull.standing = READY
        except _Stopped:
            pull.standing = Failed(Reason.STORE_UNREACHABLE, "the gateway ended")
        except HpcrunnerError as error:
            pull.standing = failure_of(error)
        except Exception as fault:
            log.exception("image %s", pull.image.reference)
            what = one_line(f"{type(fault).__name__}: {fault}")
            pull.standing = Failed(
                Reason.JOB_SIDE_FAULT, f"image {pull.image.reference} could not be pulled: {what}"
            )

    def _check(self, image: PlannedImage) -> None:
        """A registry by its name; of a store each connection is checked. Raises AddressRefused."""
        registry = registry_of(image.reference)
        if self._hosts is None or image.location is not None or registry in self._known:
            return
        check_url(self._hosts, f"//{registry}")

    def _keep(self, promised: Promised, ready: Iterable[str]) -> None:
        for path in {*ready, *(image.path for image in promised() if image.path)}:
            with suppress(OSError):
                if Path(path).exists():
                    touch_mark(Path(path).with_suffix(MARK))


def _place(image: PlannedImage) -> str:
    """The store or registry that it comes from."""
    return server_of(image.location) if image.location else registry_of(image.reference)


def open_images(journal: Reader, spool: Spool, site: Site) -> Images | None:
    """The preparation of images, None where each node pulls its own."""
    if site.container.runtime == "none" or not site.gateway_fetches:
        return None

    def promised() -> Promised:
        """Asked in the loop, whose journal this is; the plans are read by a thread."""
        waiting = journal.in_state(State.SUBMITTING, State.PENDING)
        batches = {experiment.batch for experiment in waiting}
        return lambda: (
            planned.image
            for batch in batches
            if (plan := spool.plan(batch)) is not None
            for planned in plan.experiments
            if planned.image is not None
        )

    # Where the site names the images that run, it has named their registries.
    hosts = host_rule(site) if site.container.trusted is None else None
    default = site.container.image
    known = {registry_of(parse_image(default).text)} if default else set()
    return Images(
        node_setup(site, 0),
        os.environ,
        promised=promised,
        hosts=hosts,
        known=known | set(site.container.plain_http),
    )
