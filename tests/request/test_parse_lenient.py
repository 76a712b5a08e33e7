"""What real clients are loose about is read, not refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.request.model import AwsCredentials, Request, Resources, SealedRequest
from hpcrunner.request.parse import parse_message

Messages = Callable[..., bytes]
PAIR = AwsCredentials("AK", "SK")


def read(body: bytes) -> Request:
    request = parse_message(body)
    assert isinstance(request, Request)
    return request


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (None, Resources()),
        ({}, Resources()),
        ({"cpus": None, "gpus": None, "ram": None, "hdd": None, "gpuMem": None}, Resources()),
        ({"cpus": "", "ram": "", "gpuMem": ""}, Resources()),
        ({"cpus": 0}, Resources(cpus=1)),
        ({"cpus": "4", "gpus": "2"}, Resources(cpus=4, gpus=2)),
        ({"cpus": 4.0, "gpus": "2.0"}, Resources(cpus=4, gpus=2)),
        ({"ram": 1024, "hdd": "1,024"}, Resources(ram=1024, hdd=1024)),
        ({"ram": "2g", "gpuMem": "4GiB"}, Resources(ram=2 * 10**9, gpu_memory=2**32)),
        ({"CPUS": 3, "gpumem": "1g"}, Resources(cpus=3, gpu_memory=10**9)),
        # What they count is for the site to say.
        ({"gpuCount": "1"}, Resources(gpu_count=1)),
        ({"gpus": "2", "gpuCount": 8.0}, Resources(gpus=2, gpu_count=8)),
        ({"gpus": 1, "gpuType": " a100 "}, Resources(gpus=1, gpu_type="a100")),
        ({"gpus": 1, "gpuType": None}, Resources(gpus=1)),
    ],
)
def test_resources_are_read_from_numbers_text_and_nulls(
    message: Messages, sent: Any, expected: Resources
) -> None:
    assert read(message(experiment__resources_needed=sent)).resources == expected


@pytest.mark.parametrize(
    ("sent", "version"),
    [(2, "2"), (3.8, "3.8"), ("3.11", "3.11"), (3.1, "3.10"), (None, ""), ("3.12.1", "3.12.1")],
)
def test_pythonver_may_be_a_number(message: Messages, sent: Any, version: str) -> None:
    assert read(message(experiment__pythonver=sent)).python_version == version


@pytest.mark.parametrize(
    "store",
    [
        {"credentials": {"aws": {"access_key": "AK", "secret_access_key": "SK"}}},
        {"credentials": {"aws": {"access_key": "AK", "secret_key": "SK"}}},
        {"credentials": {"AWS": {"Access_Key": "AK", "Secret_Access_Key": "SK"}}},
        {"credentials": {"aws_access_key": "AK", "aws_secret_key": "SK"}},
        {"credentials": {"access_user": "AK", "access_password": "SK"}},
        {"credentials": {"aws": None, "plain": None, "jwt": None}, "aws_access_key": "AK"}
        | {"aws_secret_key": "SK"},
        {"aws_access_key": "AK", "aws_secret_key": "SK"},
    ],
)
def test_credentials_are_read_in_every_dialect_of_stores_and_artifacts(
    message: Messages, store: dict[str, Any]
) -> None:
    request = read(
        message(
            config__storage={"type": "s3", "bucket": "b", **store},
            experiment__artifacts={"workspace": {"key": "k", **store}},
        )
    )
    assert request.storage is not None
    assert request.storage.credentials == PAIR
    assert request.artifacts[0].credentials == PAIR


@pytest.mark.parametrize("sent", [None, {}, "none", {"aws": None}, {"aws": {"profile": "me"}}])
def test_credentials_that_name_no_keys_are_none(message: Messages, sent: Any) -> None:
    request = read(message(config__storage__credentials=sent))
    assert request.storage is not None
    assert request.storage.credentials is None


def test_two_empty_keys_ask_for_anonymous_access(message: Messages) -> None:
    empty = {"aws": {"access_key": "", "secret_access_key": ""}}
    request = read(message(config__storage__credentials=empty))
    assert request.storage is not None
    assert request.storage.credentials == AwsCredentials()


def test_session_token_and_region_come_along(message: Messages) -> None:
    aws = {"access_key": "AK", "secret_access_key": "SK", "session_token": "T"}
    request = read(
        message(config__storage__credentials={"aws": {**aws, "region_name": "eu-west-3"}})
    )
    assert request.storage is not None
    assert request.storage.credentials == AwsCredentials("AK", "SK", "T", "eu-west-3")
    assert request.storage.region == "eu-west-3"


def test_environment_values_become_text_and_nulls_are_skipped(message: Messages) -> None:
    env = {"A": 1, "B": 0.5, "C": True, "D": None, "E": "", "f_": "$(x) `y`\n'\""}
    assert read(message(config__env=env)).environment == (
        ("A", "1"),
        ("B", "0.5"),
        ("C", "True"),
        ("E", ""),
        ("f_", "$(x) `y`\n'\""),
    )


def test_environment_names_that_the_runner_sets_itself_are_dropped(message: Messages) -> None:
    ours = ["STUDIOML_EXPERIMENT", "STUDIOML_HOME", "STUDIOML_ARTIFACT_MAPPING", "SLURM_JOB_ID"]
    ours += ["HPCRUNNER_SPOOL", "CUDA_VISIBLE_DEVICES"]
    request = read(message(config__env={**dict.fromkeys(ours, "x"), "PATH": "%PATH%:./bin"}))
    assert request.environment == (("PATH", "%PATH%:./bin"),)


def test_unknown_members_are_ignored_and_duplicates_count_last(message: Messages) -> None:
    body = message(experiment__shiny={"new": [1]}, config__optimizer={"x": 1}, extra=[None])
    assert read(body[:-1] + b',"config":{"experimentLifetime":"1h"}}').lifetime == 3600


def test_member_names_are_found_in_another_case(message: Messages) -> None:
    body = message().replace(b'"experiment"', b'"Experiment"').replace(b'"filename"', b'"FileName"')
    assert read(body).filename == "train.py"


def test_the_exact_member_name_wins_over_another_case(message: Messages) -> None:
    assert read(message(experiment__FILENAME="other.py")).filename == "train.py"


@pytest.mark.parametrize("absent", [None, ..., ""])
def test_what_is_not_set_is_none(message: Messages, absent: Any) -> None:
    request = read(
        message(
            experiment__max_duration=absent,
            experiment__time_added=absent,
            config__experimentLifetime=absent,
            config__saveWorkspaceFrequency=absent,
        )
    )
    assert request.max_duration is request.lifetime is request.time_added is None
    assert request.save_interval is request.expires_at is None


def test_a_message_without_config_is_read(message: Messages) -> None:
    request = read(message(config=None, experiment__args=None, experiment__pythonenv=None))
    assert (request.storage, request.args, request.python_packages) == (None, (), ())


def test_a_negative_lifetime_means_expired(message: Messages) -> None:
    request = read(message(config__experimentLifetime="-10m", experiment__time_added=1000.0))
    assert request.expires_at == 400.0


@pytest.mark.parametrize(
    ("sent", "seconds"), [("30s", 30), (45, 45), ("0", 1), ("-1m", 1), ("1ms", 1), ("1m", 60)]
)
def test_a_save_interval_below_a_second_is_a_second(
    message: Messages, sent: Any, seconds: float
) -> None:
    assert read(message(config__saveWorkspaceFrequency=sent)).save_interval == seconds


@pytest.mark.parametrize(
    ("sent", "seconds"), [(None, None), (0, None), (-5, None), (90, 90), ("2m", 120), (0.1, 1)]
)
def test_an_artifacts_own_save_frequency(message: Messages, sent: Any, seconds: Any) -> None:
    request = read(message(experiment__artifacts__output__saveFrequency=sent))
    output = request.artifact("output")
    assert output is not None
    assert output.save_frequency == seconds


@pytest.mark.parametrize(("sent", "text"), [(None, ""), ("p", "p"), (7, "7"), ({"a": 1}, "")])
def test_a_project_of_any_type_is_taken(message: Messages, sent: Any, text: str) -> None:
    assert read(message(experiment__project=sent)).project == text


def test_a_container_needs_no_script(message: Messages) -> None:
    image = {"qualified": "shub://vsoch/hello-world", "mutable": False}
    request = read(
        message(experiment__filename=None, experiment__artifacts={"_singularity": image})
    )
    assert request.filename is None


def test_a_module_is_named_by_the_first_argument(message: Messages) -> None:
    request = read(message(experiment__filename="-m", experiment__args=["pkg.mod", "x"]))
    assert (request.filename, request.args) == ("-m", ("pkg.mod", "x"))


def test_comments_of_pip_freeze_are_left_out_and_editable_urls_spelt_one_way(
    message: Messages,
) -> None:
    sent = ["# Editable install", " ", "numpy==1.0", " -e  git+https://h/o/r@1#egg=r"]
    sent += ["--editable=git+ssh://git@h/o/r", 'x ; python_version < "3.9"', "y @ file:///s/y.whl"]
    assert read(message(experiment__pythonenv=sent, config__pip="torch")).python_packages == (
        "numpy==1.0",
        "-e git+https://h/o/r@1#egg=r",
        "-e git+ssh://git@h/o/r",
        'x ; python_version < "3.9"',
        "y @ file:///s/y.whl",
    )


def test_null_artifacts_are_left_out(message: Messages) -> None:
    request = read(message(experiment__artifacts__output=None))
    assert [a.tag for a in request.artifacts] == ["workspace"]


def test_the_document_is_the_experiment_as_sent(message: Messages) -> None:
    body = message(experiment__info={"ü": [1.5, None, "\u2028", "\ud800"]})
    request = read(body)
    assert json.loads(request.document) == json.loads(body)["experiment"]
    assert request.document.isascii()


def test_an_envelope_is_a_message_object_with_a_payload() -> None:
    assert parse_message(b'{"message": {"payload": ""}}') == SealedRequest(Resources())


def test_no_secret_stands_in_the_repr_of_a_request(message: Messages) -> None:
    request = read(
        message(
            config__storage__credentials={
                "aws": {"access_key": "AK", "secret_access_key": "hush1", "session_token": "hush2"}
            },
            config__storage__endpoint="http://u:hush3@10.0.0.7:9000/",
            config__env={"TOKEN": "hush4"},
            experiment__artifacts__output__url="https://u:hush5@h/x?sig=hush6",
            experiment__artifacts__workspace__qualified="s3://u:hush7@h:1/b/k",
        )
    )
    assert "hush" not in repr(request)
