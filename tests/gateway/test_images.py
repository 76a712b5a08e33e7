"""Images pulled by the gateway before anything is submitted."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.images import Images, open_images
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.preparation import READY, Failed, Standing, Waiting
from hpcrunner.gateway.spool import Spool
from hpcrunner.images.errors import PullFailed
from hpcrunner.images.ready import ready_image
from hpcrunner.request.image import ImageSetup, PlannedImage
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.request.plan import NodeSetup, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.site import Site

KEYS = AwsCredentials("access", "s3cr3t")
SIF = b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0"


def experiment(number: int, attempt: int = 1) -> Experiment:
    return Experiment(f"{number:012x}", "key", "queue", State.ACCEPTED, 0.0, attempt=attempt)


def planned(image: PlannedImage | None) -> PlannedExperiment:
    return PlannedExperiment("", "key", "name", 1, "a.py", (), (), image=image)


@pytest.fixture
def promised() -> list[PlannedImage]:
    """Images of jobs that are with the scheduler."""
    return []


@pytest.fixture
def images(tmp_path: Path, promised: list[PlannedImage]) -> Iterator[Images]:
    node = NodeSetup("/none", str(tmp_path / "cache"), images=ImageSetup("apptainer", size=10**9))
    made = Images(node, os.environ, promised=lambda: lambda: promised)
    yield made
    made.close()


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., PlannedImage]:
    """``stored("a", content)``: an image in a store, which wants credentials."""

    def make(name: str = "a", content: bytes | None = SIF) -> PlannedImage:
        path = tmp_path / f"{name}.sif"
        if content is not None:
            path.write_bytes(content)
        return PlannedImage(
            f"s3://store.example/b/{name}.sif",
            Location("file", str(path), credentials=KEYS),
        )

    return make


def settled(images: Images, e: Experiment) -> Standing:
    """How it stands once it is not under way any more."""
    until = time.monotonic() + 60
    while isinstance(standing := images.standing(e), Waiting):
        assert "image s3://" in standing.text
        assert time.monotonic() < until
        time.sleep(0.01)
    assert standing is not None
    return standing


def test_all_that_want_an_image_share_one_pull_and_no_key_goes_to_the_node(
    images: Images, stored: Callable[..., PlannedImage], tmp_path: Path
) -> None:
    image, group = stored(), [experiment(n) for n in range(50)]
    assert images.standing(group[0]) is None
    for e in group:
        images.want(e, planned(image))
    assert {settled(images, e) for e in group} == {READY}
    applied = {images.apply(e, planned(image)).image for e in group}
    assert len(applied) == 1
    (ready,) = applied
    assert ready is not None
    assert Path(ready.path).read_bytes() == SIF
    assert (ready.location, ready.password) == (None, "")
    assert "s3cr3t" not in repr(ready)
    assert len(list((tmp_path / "cache" / "images").glob("*.lock"))) == 1


def test_an_experiment_without_an_image_or_with_a_file_of_the_nodes_waits_for_nothing(
    images: Images,
) -> None:
    for number, image in enumerate((None, PlannedImage("/apps/a.sif"))):
        images.want(experiment(number), planned(image))
        assert images.standing(experiment(number)) == READY
        assert images.apply(experiment(number), planned(image)) == planned(image)


def test_a_failure_ends_the_attempt_with_its_reason_and_the_next_one_pulls_anew(
    images: Images, stored: Callable[..., PlannedImage]
) -> None:
    image = stored(content=None)
    images.want(experiment(1), planned(image))
    failed = settled(images, experiment(1))
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.ARTIFACT_NOT_FOUND
    assert "a.sif" in failed.text
    images.step({(experiment(1).id, 2)})
    assert images.standing(experiment(1)) is None
    stored()
    images.want(experiment(1, attempt=2), planned(image))
    assert settled(images, experiment(1, attempt=2)) == READY


def test_a_fault_of_ours_is_a_failure_and_no_silence(
    images: Images, stored: Callable[..., PlannedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> str:
        raise ValueError("a fault")

    monkeypatch.setattr("hpcrunner.gateway.images.ready_image", fault)
    images.want(experiment(1), planned(stored()))
    failed = settled(images, experiment(1))
    assert isinstance(failed, Failed)
    assert failed.reason is Reason.JOB_SIDE_FAULT


def test_a_pull_that_nobody_wants_any_more_is_stopped(
    images: Images, stored: Callable[..., PlannedImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    began, stopped = threading.Event(), threading.Event()

    def endless(*_: object, pause: Callable[[float], None], **__: object) -> str:
        began.set()
        try:
            while True:
                pause(0.01)
        finally:
            stopped.set()

    monkeypatch.setattr("hpcrunner.gateway.images.ready_image", endless)
    images.want(experiment(1), planned(stored()))
    images.want(experiment(2), planned(stored()))
    assert began.wait(60)
    images.step({(experiment(2).id, 1)})
    assert not stopped.is_set()
    images.step(())
    assert stopped.wait(60)


def test_images_of_jobs_that_wait_with_the_scheduler_are_kept(
    images: Images, stored: Callable[..., PlannedImage], promised: list[PlannedImage]
) -> None:
    images.want(experiment(1), planned(stored()))
    settled(images, experiment(1))
    ready = images.apply(experiment(1), planned(stored())).image
    assert ready is not None
    mark = Path(ready.path).with_suffix(".used")
    os.utime(mark, (0, 0))
    promised += [ready, PlannedImage("docker://docker.io/library/x:latest", path="/none/x.sif")]
    images.step(())
    until = time.monotonic() + 60
    while mark.stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert mark.stat().st_mtime > 0
    assert not Path("/none/x.used").exists()


def test_an_image_that_is_ready_is_kept_for_those_who_wait_for_other_reasons(
    images: Images, stored: Callable[..., PlannedImage]
) -> None:
    images.want(experiment(1), planned(stored()))
    settled(images, experiment(1))
    ready = images.apply(experiment(1), planned(stored())).image
    assert ready is not None
    mark = Path(ready.path).with_suffix(".used")
    os.utime(mark, (0, 0))
    images.step([(experiment(1).id, 1)])
    until = time.monotonic() + 60
    while mark.stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert mark.stat().st_mtime > 0


def test_a_registry_that_hangs_holds_up_no_other_image_and_no_mark(
    images: Images,
    stored: Callable[..., PlannedImage],
    promised: list[PlannedImage],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    let_go = threading.Event()

    def pull(image: PlannedImage, *rest: Any, **how: Any) -> str:
        if "slow.example" in image.reference:
            let_go.wait(120)
            raise PullFailed("let go", where=image.reference)
        return ready_image(image, *rest, **how)

    monkeypatch.setattr("hpcrunner.gateway.images.ready_image", pull)
    slow = range(1, 6)
    for number in slow:
        image = PlannedImage(f"docker://slow.example/team/image:{number}")
        images.want(experiment(number), planned(image))
    images.want(experiment(0), planned(stored()))
    assert settled(images, experiment(0)) == READY
    ready = images.apply(experiment(0), planned(stored())).image
    assert ready is not None
    mark = Path(ready.path).with_suffix(".used")
    os.utime(mark, (0, 0))
    promised.append(ready)
    third = PlannedImage("docker://other.slow.example/team/image:1")  # all threads are held now
    images.want(experiment(9), planned(third))
    images.step([(experiment(n).id, 1) for n in (*slow, 9)])
    until = time.monotonic() + 60
    while mark.stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.01)
    let_go.set()
    assert mark.stat().st_mtime > 0


@pytest.mark.parametrize(
    ("keys", "here"),
    [
        ({"container": {"runtime": "apptainer"}}, False),
        ({"container": {"runtime": "apptainer", "pull": "gateway"}}, True),
        ({"container": {"runtime": "apptainer"}, "staging": "gateway"}, True),
        ({"staging": "gateway"}, False),
    ],
)
def test_a_site_says_who_pulls(keys: dict[str, object], here: bool, tmp_path: Path) -> None:
    site = Site.model_validate({"name": "s", "scheduler": "local", "spool": str(tmp_path), **keys})
    spool = Spool(tmp_path)
    spool.prepare()
    journal = Journal(spool.journal, time.time)
    try:
        made = open_images(journal, spool, site)
        assert (made is not None) == here
        if made is not None:
            made.close()
    finally:
        journal.close()
