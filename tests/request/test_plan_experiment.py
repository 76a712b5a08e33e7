from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hpcrunner.request.errors import RequestError
from hpcrunner.request.image import PlannedImage
from hpcrunner.request.model import Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.plan_experiment import plan_experiment

Messages = Callable[..., bytes]


def read(body: bytes) -> Request:
    request = parse_message(body)
    assert isinstance(request, Request)
    return request


def test_a_planned_experiment_has_all_that_the_job_side_needs(message: Messages) -> None:
    request = read(message(experiment__key="a/b", experiment__args=["'a b'"]))
    planned = plan_experiment(request, id="x7", attempt=2, exec_words=("apptainer", "exec"))
    assert (planned.id, planned.attempt, planned.exec_words) == ("x7", 2, ("apptainer", "exec"))
    assert (planned.key, planned.name[:4]) == ("a/b", "a_b-")
    assert (planned.filename, planned.args) == ("train.py", ("a b",))
    assert [a.tag for a in planned.artifacts] == ["workspace", "output"]
    assert [a.mutable for a in planned.artifacts] == [False, True]
    assert str(planned.artifacts[0].location) == "s3://10.0.0.7:9000/store/blobstore/abc.tar"
    assert (planned.cpus, planned.disk_budget) == (2, 3 * 10**9)
    assert planned.max_duration == 1200
    assert planned.expires_at == pytest.approx(1530054413.134781 + 1800)
    assert planned.save_interval == 180
    assert planned.environment == (("DEMO", "1"),)
    assert str(planned.record) == "s3://10.0.0.7:9000/meta/experiments/a/b"
    assert planned.document == request.document


def test_results_are_saved_every_ten_minutes_where_the_client_says_nothing(
    message: Messages,
) -> None:
    request = read(message(config__saveWorkspaceFrequency=None))
    assert plan_experiment(request, id="x", attempt=1).save_interval == 600


def test_a_container_image_is_no_artifact_of_the_plan(message: Messages) -> None:
    image = {"qualified": "s3://10.0.0.7:9000/store/image.sif"}
    request = read(message(experiment__artifacts___singularity=image))
    planned = plan_experiment(request, id="x", attempt=1)
    assert [a.tag for a in planned.artifacts] == ["workspace", "output"]


def test_packages_go_into_a_container_only_if_the_site_or_the_request_says_so(
    message: Messages,
) -> None:
    def planned(**runner: str) -> PlannedExperiment:
        return plan_experiment(read(message(config__runner=runner)), id="x", attempt=1)

    inside = PlannedImage("/a.sif")
    assert planned().installs("image")
    assert not replace(planned(), image=inside).installs("image")
    assert replace(planned(), image=inside).installs("install")
    assert replace(planned(pythonenv="install"), image=inside).installs("image")
    assert not replace(planned(pythonenv="image"), image=inside).installs("install")
    assert not replace(planned(), image=inside, filename=None).installs("install")
    with pytest.raises(RequestError, match=r"config\.runner\.pythonenv.*neither image nor install"):
        planned(pythonenv="conda")


def test_an_artifact_without_an_address_is_left_out(message: Messages) -> None:
    request = read(message(experiment__artifacts__output={"mutable": True}))
    planned = plan_experiment(request, id="x", attempt=1)
    assert [a.tag for a in planned.artifacts] == ["workspace"]


def test_code_without_an_address_is_refused(message: Messages) -> None:
    request = read(message(experiment__artifacts={"workspace": {"mutable": False}}))
    with pytest.raises(RequestError) as caught:
        plan_experiment(request, id="x", attempt=1)
    assert caught.value.where == "experiment.artifacts.workspace.qualified"


def test_no_secret_stands_in_the_repr_of_a_plan(message: Messages) -> None:
    request = read(
        message(
            config__storage__credentials={
                "aws": {"access_key": "AK", "secret_access_key": "hush1"}
            },
            config__env={"TOKEN": "hush2"},
            experiment__artifacts__data={"url": "https://u:hush3@h/x?sig=hush4"},
        )
    )
    assert "hush" not in repr(plan_experiment(request, id="x", attempt=1))
