"""The message: what the released client would have sent, and what our parser makes of it."""

from __future__ import annotations

import json
import time
import uuid
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.client.build import (
    MUTABLE_TAGS,
    Stores,
    StoreUnknown,
    Work,
    build_request,
    local_stores,
)
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials, Request, Resources, StoreConfig
from hpcrunner.request.parse import parse_message
from hpcrunner.request.resolve import resolve_artifact, resolve_record
from hpcrunner.request.storelayout import KEY, new_key

CAPTURED = Path(__file__).parents[1] / "data" / "requests" / "run_0.0.49.json"
LOCAL = local_stores("/shared/store")
KEYS = AwsCredentials("the-key", "the-secret", "the-token", "eu-west-1")
S3 = Stores(
    StoreConfig("s3", "https://s3.example.org:9000", "artifacts", "eu-west-1", KEYS),
    StoreConfig("s3", "https://s3.example.org:9000", "meta", "eu-west-1", KEYS),
)


def built(work: Work, stores: Stores = LOCAL) -> Request:
    request = parse_message(build_request(work, "1_key", "ab" * 32, stores, 1_700_000_000.5))
    assert isinstance(request, Request)
    return request


def test_a_full_order_arrives_as_it_was_meant() -> None:
    request = built(
        Work(
            "sub/train.py",
            args=("3", "a b", "", "$HOME;rm -rf /"),
            cpus=2,
            gpus=1,
            gpu_memory="16g",
            gpu_type="a100",
            ram="4g",
            hdd="20gb",
            max_duration="1h30m",
            lifetime="2h",
            python_version="3.11",
            packages=("numpy==2.0.0",),
            pip=("rich",),
            environment={"A": "1", "B": "x y"},
            owner="ada",
            project="p",
        )
    )
    assert request.filename == "sub/train.py"
    assert request.args == ("3", "a b", "", "$HOME;rm -rf /")
    assert request.resources == Resources(2, 1, 16 * 10**9, 4 * 10**9, 20 * 10**9, gpu_type="a100")
    assert (request.max_duration, request.lifetime) == (5400, 7200)
    assert request.time_added == 1_700_000_000.5
    assert (request.python_version, request.python_packages) == ("3.11", ("numpy==2.0.0",))
    assert request.pip == ("rich",)
    assert request.environment == (("A", "1"), ("B", "x y"))
    assert (request.owner, request.project) == ("ada", "p")


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_any_arguments_survive(args: list[str]) -> None:
    assert built(Work("train.py", args=tuple(args))).args == tuple(args)


def test_what_was_not_asked_for_is_left_to_the_site() -> None:
    body = build_request(Work("train.py"), "k", "ab" * 32, LOCAL, 1.0)
    assert json.loads(body)["experiment"]["resources_needed"] == {}
    request = built(Work("train.py"))
    assert request.max_duration is None
    assert request.lifetime is None


def test_artifacts_lie_where_the_clients_local_store_has_them() -> None:
    request = built(Work("train.py"))
    at = {a.tag: resolve_artifact(request, a) for a in request.artifacts}
    assert at["workspace"] == Location("file", f"/shared/store/storage/blobstore/{'ab' * 32}.tar")
    assert at["output"] == Location("file", "/shared/store/storage/experiments/1_key/output.tar")
    assert resolve_record(request) == Location(
        "file", "/shared/store/studioml-meta/experiments/1_key"
    )


def test_artifacts_in_s3_carry_endpoint_and_credentials() -> None:
    request = built(Work("train.py"), S3)
    output = request.artifact("output")
    assert output is not None
    assert resolve_artifact(request, output) == Location(
        "s3",
        "experiments/1_key/output.tar",
        "artifacts",
        "https://s3.example.org:9000",
        "eu-west-1",
        KEYS,
    )
    assert resolve_record(request) == Location(
        "s3", "experiments/1_key", "meta", "https://s3.example.org:9000", "eu-west-1", KEYS
    )


def test_s3_without_an_endpoint_is_amazons() -> None:
    store = StoreConfig("s3", "", "my.bucket", "eu-west-1", KEYS)
    request = built(Work("train.py"), Stores(store, store))
    workspace = request.artifact("workspace")
    assert workspace is not None
    found = resolve_artifact(request, workspace)
    assert found is not None
    assert (found.bucket, found.endpoint, found.region) == ("my.bucket", "", "eu-west-1")


def test_only_results_are_mutable() -> None:
    request = built(Work("train.py"))
    assert {a.tag for a in request.artifacts if a.mutable} == set(MUTABLE_TAGS)
    assert all(a.unpack for a in request.artifacts)


def test_a_container_is_named_and_not_unpacked() -> None:
    request = built(Work(None, container="/images/x.sif"))
    image = request.artifact("_singularity")
    assert image is not None
    assert (image.qualified, image.unpack, image.mutable) == ("/images/x.sif", False, False)
    assert request.filename is None


def test_the_message_has_every_member_of_the_released_clients() -> None:
    captured = json.loads(CAPTURED.read_text())["payload"]
    ours = json.loads(build_request(Work("train.py", cpus=1), "k", "ab" * 32, S3, 1.0))
    assert set(ours) == set(captured)
    assert set(captured["experiment"]) == set(ours["experiment"])
    theirs = captured["experiment"]["artifacts"]
    assert set(theirs) == set(ours["experiment"]["artifacts"])
    for tag, artifact in theirs.items():
        # A path of the client's own machine is no business of a runner.
        assert set(artifact) - {"local"} == set(ours["experiment"]["artifacts"][tag])
        assert artifact["mutable"] == ours["experiment"]["artifacts"][tag]["mutable"]


def test_no_secret_shows_in_a_repr() -> None:
    assert "the-secret" not in repr(S3)
    assert "hidden" not in repr(Work("x", environment={"TOKEN": "hidden"}))


def test_keys_are_epoch_seconds_and_a_uuid() -> None:
    assert new_key(lambda: 1700000000.9, lambda: "u-u") == "1700000000_u-u"
    assert KEY.fullmatch(new_key(time.time, uuid.uuid4).encode())


@pytest.mark.parametrize("kind", ["gcloud", "", "http"])
def test_other_stores_are_refused(kind: str) -> None:
    with pytest.raises(StoreUnknown, match="use local or s3"):
        Stores(StoreConfig(kind), StoreConfig("local", "/x"))
