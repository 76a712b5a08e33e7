"""Every message that a real client was seen to send."""

from __future__ import annotations

import json
from collections.abc import Callable

from hpcrunner.request.model import AwsCredentials, Request, Resources, SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.plan_experiment import plan_experiment

Captured = Callable[[str], bytes]

DEMO_KEYS = AwsCredentials("demo-access-key", "demo-secret-key")


def read(body: bytes) -> Request:
    request = parse_message(body)
    assert isinstance(request, Request)
    return request


def test_every_captured_message_is_read_and_can_be_planned(each_captured: bytes) -> None:
    request = parse_message(each_captured)
    if isinstance(request, Request):
        planned = plan_experiment(request, id="x", attempt=1)
        assert {a.tag for a in planned.artifacts} == {a.tag for a in request.artifacts}
        assert planned.record is not None
        assert planned.record.key == f"experiments/{request.key}"
        sent = json.loads(each_captured)["experiment"]
        assert json.loads(request.document) == sent
        assert len(request.python_packages) == len(sent["pythonenv"])
    else:
        assert isinstance(request, SealedRequest)


def test_studio_run_with_a_quoted_argument(captured: Captured) -> None:
    request = read(captured("run_0.0.49"))
    assert request.key == "demo_run_1795222872"
    assert request.args == ("3", "4", "a b")
    assert request.filename == "train.py"
    assert request.resources == Resources(cpus=1, ram=256_000_000, hdd=1_000_000_000)
    assert request.environment == (("DEMO_FLAG", "from-config-env"),)
    assert request.max_duration is None
    assert request.lifetime == 86400
    assert request.save_interval == 60
    assert request.python_version == "3.11"
    workspace, modeldir = request.artifact("workspace"), request.artifact("modeldir")
    assert workspace and not workspace.mutable and workspace.credentials == DEMO_KEYS
    assert modeldir and modeldir.mutable and modeldir.unpack is True
    assert request.storage and request.storage.credentials == DEMO_KEYS


def test_a_hyperparameter_run_has_a_mutable_workspace_of_unsaid_packing(captured: Captured) -> None:
    workspace = read(captured("hyperparam_0.0.49")).artifact("workspace")
    assert workspace is not None
    assert workspace.mutable
    assert workspace.unpack is None


def test_a_completion_service_task_uses_the_storages_keys_and_a_plain_url(
    captured: Captured,
) -> None:
    request = read(captured("completion_service_files_0.0.44.post6"))
    planned = {a.tag: a for a in plan_experiment(request, id="x", attempt=1).artifacts}
    assert planned["workspace"].location.credentials == DEMO_KEYS
    assert planned["workspace"].location.endpoint == "http://127.0.0.1:39000"
    url = planned["url"]
    assert (url.location.scheme, url.unpack, url.mutable) == ("http", False, False)
    assert url.location.endpoint == "http://127.0.0.1:39000/studioml-artifacts/public/url.bin"
    assert url.location.credentials is None


def test_a_message_of_2018_uses_keys_of_its_environment_on_aws(captured: Captured) -> None:
    request = read(captured("keras_cifar10_2018"))
    assert request.python_version == "2"
    assert request.resources.gpus == 1
    assert request.resources.gpu_memory == 4_000_000_000
    assert request.max_duration == 1200
    assert [p for p in request.python_packages if p.startswith("-e ")]
    location = plan_experiment(request, id="x", attempt=1).artifacts[0].location
    assert (location.endpoint, location.region) == ("", "us-west-2")
    assert location.credentials == AwsCredentials("EXAMPLE-ACCESS-KEY", "EXAMPLE-SECRET-KEY")


def test_of_a_sealed_message_the_header_is_read(captured: Captured) -> None:
    body = captured("encrypted_0.0.49")
    sealed = parse_message(body)
    message = json.loads(body)["message"]
    assert sealed == SealedRequest(
        resources=Resources(cpus=1, ram=256_000_000, hdd=1_000_000_000),
        payload=message["payload"],
        signature=message["signature"],
        python_version="3.11",
        fingerprint="SHA256:k78dJ8iK4P6NnATz98QJcFzB3Vp1F0NWQFApYAdWNmU",
        time_added=1795222899.8203974,
    )
