"""Run the samples the way all work goes: directory queue, gateway, local scheduler, file store."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish, store_work
from hpcrunner.gateway.assemble import open_gateway, spool_of
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.gateway import Limits
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.gateway.reader import Reader
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.sites.load import load_site
from hpcrunner.sites.site import Site

SAMPLES = Path(__file__).parent / "samples"
QUEUE = "local_demo"
WORK = (
    Work("train.py", args=("20",), project="demo"),
    Work("fail.py", project="demo"),
    Work("endless.py", max_duration="5s", project="demo"),
)
_PAUSE = 0.1


def demo_site(folder: Path) -> Site:
    """The shipped local site, with all its files below ``folder``."""
    return load_site("local").model_copy(
        update={
            "name": "demo",
            "spool": str(folder / "spool"),
            "scratch": str(folder / "scratch"),
            "cache": str(folder / "cache"),
        }
    )


def run_demo(folder: Path, show: Callable[[Sequence[Experiment]], None]) -> list[Experiment]:
    """Publish the samples, run a gateway until all have ended, and return them.

    ``show`` is called with the experiments now and then. Everything stays below ``folder``,
    an existing folder of the user.
    """
    site = demo_site(folder)
    (folder / "scratch").mkdir(mode=0o700, exist_ok=True)
    spool_of(site).prepare()
    logging.getLogger("hpcrunner").addHandler(logging.FileHandler(folder / "gateway.log"))
    logging.getLogger("hpcrunner").setLevel(logging.INFO)
    for work in WORK:
        _, body = store_work(work, SAMPLES, spool_of(site).store)
        publish(folder / "queue" / QUEUE, body)
    options = GatewayOptions(
        queues=QueueOptions(gateway_id="demo", queue_root=str(folder / "queue")),
        limits=Limits(tasks=len(WORK)),
    )
    with open_gateway(site, options) as (gateway, journal):
        for _ in itertools.count():
            gateway.step()
            show(_all(journal))
            if gateway.finished():
                return _all(journal)
            time.sleep(min(_PAUSE, gateway.wait()))
    raise AssertionError("unreachable")


def _all(journal: Reader) -> list[Experiment]:
    return journal.recent(len(WORK))
