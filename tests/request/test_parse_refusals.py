"""What would harm is refused in one line: what, where, what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from hpcrunner.errors import HpcrunnerError
from hpcrunner.request import decode
from hpcrunner.request.parse import RequestError, parse_message

Messages = Callable[..., bytes]


def refusal(body: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_message(body)
    error = caught.value
    assert isinstance(error, HpcrunnerError)
    assert error.exit_code == 65
    assert error.where
    assert error.remedy
    assert error.line().isprintable()
    assert len(error.line()) < 400
    return error


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"\xff{}", "byte 0 is not UTF-8"),
        ("{}".encode("utf-16"), "not UTF-8"),
        (b"{", "not JSON"),
        (b"hello", "not JSON"),
        (b"{'a': 1}", "not JSON"),
        (b'{"a": "\n"}', "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"42", "not a JSON object"),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": 1e999}', "a number beyond all use"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number beyond all use"),
        (b"[" * 100_000, "nested more than"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "nested more than"),
        (b'{"a":[' + b"[]," * 1_000_000 + b"1]}", "more than 1000000 values"),
    ],
)
def test_bytes_that_are_no_message_are_refused(body: bytes, what: str) -> None:
    error = refusal(body)
    assert error.where == "message"
    assert what in error.what


def test_a_message_above_the_size_bound_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(decode, "MAX_MESSAGE_BYTES", 10)
    assert "more than 10" in refusal(b"\xff" * 11).what


def test_a_message_of_20_megabytes_is_read_where_its_shape_is_sound(message: Messages) -> None:
    parse_message(message(experiment__info={"notes": "x" * 20_000_000}))


BAD_MEMBERS: list[tuple[str, Any, str]] = [
    # The experiment itself.
    ("experiment", ..., "experiment"),
    ("experiment", None, "experiment"),
    ("experiment", [], "experiment"),
    ("experiment", "x", "experiment"),
    ("config", "x", "config"),
    # The key.
    ("experiment__key", ..., "experiment.key"),
    ("experiment__key", "", "experiment.key"),
    ("experiment__key", "  ", "experiment.key"),
    ("experiment__key", "k" * 1025, "experiment.key"),
    ("experiment__key", "a\0b", "experiment.key"),
    ("experiment__key", "a\nb", "experiment.key"),
    ("experiment__key", "a\x1b[31m", "experiment.key"),
    ("experiment__key", "a\u202eb", "experiment.key"),
    ("experiment__key", "a\ud800", "experiment.key"),
    ("experiment__key", {"a": 1}, "experiment.key"),
    ("experiment__project", "a\nb", "experiment.project"),
    ("experiment__owner", ["x"], "experiment.owner"),
    # The file.
    ("experiment__filename", ..., "experiment.filename"),
    ("experiment__filename", None, "experiment.filename"),
    ("experiment__filename", "../../x", "experiment.filename"),
    ("experiment__filename", "a/../../x", "experiment.filename"),
    ("experiment__filename", "..", "experiment.filename"),
    ("experiment__filename", ".", "experiment.filename"),
    ("experiment__filename", "src/", "experiment.filename"),
    ("experiment__filename", "/etc/passwd", "experiment.filename"),
    ("experiment__filename", "a\\b.py", "experiment.filename"),
    ("experiment__filename", "a\0.py", "experiment.filename"),
    ("experiment__filename", "a\n.py", "experiment.filename"),
    ("experiment__filename", "-c", "experiment.filename"),
    ("experiment__filename", "-m", "experiment.filename"),  # args[0] is "10"
    ("experiment__filename", ["x"], "experiment.filename"),
    # Arguments.
    ("experiment__args", {"a": 1}, "experiment.args"),
    ("experiment__args", 3, "experiment.args"),
    ("experiment__args", [["x"]], "experiment.args[0]"),
    ("experiment__args", ["ok", "a\0b"], "experiment.args[1]"),
    ("experiment__args", ["\ud800"], "experiment.args[0]"),
    ("experiment__args", ["x" * 131_072], "experiment.args[0]"),
    ("experiment__args", ["x" * 1000] * 1100, "experiment.args"),
    # Packages.
    ("experiment__pythonenv", ["--index-url=https://evil"], "experiment.pythonenv[0]"),
    ("experiment__pythonenv", ["numpy", "-r /etc/passwd"], "experiment.pythonenv[1]"),
    ("experiment__pythonenv", [" -r x"], "experiment.pythonenv[0]"),
    ("experiment__pythonenv", ["numpy --global-option=x"], "experiment.pythonenv[0]"),
    ("experiment__pythonenv", ["numpy\n--index-url=x"], "experiment.pythonenv[0]"),
    ("experiment__pythonenv", ["-e /home/me/src"], "experiment.pythonenv[0]"),
    ("experiment__pythonenv", ["-e git+https://h/r --pre"], "experiment.pythonenv[0]"),
    ("experiment__pythonenv", [{"name": "x"}], "experiment.pythonenv[0]"),
    ("experiment__pythonenv", ["x" * 4000] * 300, "experiment.pythonenv"),
    ("config__pip", ["--extra-index-url", "https://evil"], "config.pip[0]"),
    ("experiment__pythonver", "3.11; rm -rf", "experiment.pythonver"),
    ("experiment__pythonver", "--help", "experiment.pythonver"),
    ("experiment__pythonver", [3], "experiment.pythonver"),
    # The environment.
    ("config__env", ["A=1"], "config.env"),
    ("config__env", {"A B": "1"}, "config.env.'A B'"),
    ("config__env", {"A=B": "1"}, "config.env.'A=B'"),
    ("config__env", {"": "1"}, "config.env.''"),
    ("config__env", {"1A": "1"}, "config.env.1A"),
    ("config__env", {"A\n": "1"}, "config.env.'A\\n'"),
    ("config__env", {"A": "a\0b"}, "config.env.A"),
    ("config__env", {"A": {"b": 1}}, "config.env.A"),
    ("config__env", {"A": "x" * 131_072}, "config.env.A"),
    ("config__env", {f"A{n}": "x" * 1000 for n in range(1100)}, "config.env"),
    # Resources.
    ("experiment__resources_needed", [], "experiment.resources_needed"),
    ("experiment__resources_needed__cpus", -1, "experiment.resources_needed.cpus"),
    ("experiment__resources_needed__cpus", 10**7, "experiment.resources_needed.cpus"),
    ("experiment__resources_needed__cpus", 0.5, "experiment.resources_needed.cpus"),
    ("experiment__resources_needed__cpus", True, "experiment.resources_needed.cpus"),
    ("experiment__resources_needed__cpus", "many", "experiment.resources_needed.cpus"),
    ("experiment__resources_needed__gpus", "-1", "experiment.resources_needed.gpus"),
    ("experiment__resources_needed__ram", "lots", "experiment.resources_needed.ram"),
    ("experiment__resources_needed__ram", "-1g", "experiment.resources_needed.ram"),
    ("experiment__resources_needed__ram", "2eb", "experiment.resources_needed.ram"),
    ("experiment__resources_needed__hdd", 1e30, "experiment.resources_needed.hdd"),
    ("experiment__resources_needed__gpuMem", ["4g"], "experiment.resources_needed.gpuMem"),
    # Times.
    ("experiment__max_duration", "soon", "experiment.max_duration"),
    ("experiment__max_duration", "1d", "experiment.max_duration"),
    ("experiment__max_duration", "0s", "experiment.max_duration"),
    ("experiment__max_duration", "-10m", "experiment.max_duration"),
    ("experiment__max_duration", {}, "experiment.max_duration"),
    ("experiment__time_added", "yesterday", "experiment.time_added"),
    ("experiment__time_added", 1e15, "experiment.time_added"),
    ("experiment__time_added", True, "experiment.time_added"),
    ("experiment__time_added", "nan", "experiment.time_added"),
    ("config__experimentLifetime", "a while", "config.experimentLifetime"),
    ("config__saveWorkspaceFrequency", [1], "config.saveWorkspaceFrequency"),
    # Artifacts.
    ("experiment__artifacts", ..., "experiment.artifacts"),
    ("experiment__artifacts", {}, "experiment.artifacts"),
    ("experiment__artifacts", [], "experiment.artifacts"),
    ("experiment__artifacts", {"output": {}}, "experiment.artifacts"),
    ("experiment__artifacts__workspace", None, "experiment.artifacts"),
    ("experiment__artifacts__workspace", "s3://x", "experiment.artifacts.workspace"),
    ("experiment__artifacts___runner", {}, "experiment.artifacts._runner"),
    ("experiment__artifacts__..", {}, "experiment.artifacts"),
    ("experiment__artifacts__a/b", {}, "experiment.artifacts"),
    ("experiment__artifacts__-x", {}, "experiment.artifacts"),
    ("experiment__artifacts__a\nb", {}, "experiment.artifacts"),
    (f"experiment__artifacts__{'a' * 129}", {}, "experiment.artifacts"),
    (
        "experiment__artifacts",
        {"workspace": {}, **{f"a{n}": {} for n in range(256)}},
        "experiment.artifacts",
    ),
    ("experiment__artifacts__output__mutable", "maybe", "experiment.artifacts.output.mutable"),
    ("experiment__artifacts__output__unpack", [], "experiment.artifacts.output.unpack"),
    ("experiment__artifacts__output__key", "a\0b", "experiment.artifacts.output.key"),
    ("experiment__artifacts__output__key", {}, "experiment.artifacts.output.key"),
    (
        "experiment__artifacts__output__saveFrequency",
        "often",
        "experiment.artifacts.output.saveFrequency",
    ),
    (
        "experiment__artifacts__output__credentials",
        {"aws": {"access_key": "AK"}},
        "experiment.artifacts.output.credentials.aws.secret_access_key",
    ),
    # Stores.
    ("config__storage", [], "config.storage"),
    ("config__storage__endpoint", {}, "config.storage.endpoint"),
    ("config__storage__region", "evil.example/", "config.storage.region"),
    (
        "config__storage__credentials",
        {"aws": {"access_key": "A\r\nB", "secret_access_key": "S"}},
        "config.storage.credentials.aws.access_key",
    ),
    (
        "config__database__credentials",
        {"aws": {"access_key": "", "secret_access_key": "S"}},
        "config.database.credentials.aws.access_key",
    ),
]


@pytest.mark.parametrize(("member", "value", "where"), BAD_MEMBERS, ids=lambda v: repr(v)[:40])
def test_a_harmful_member_is_refused_by_its_name(
    message: Messages, member: str, value: Any, where: str
) -> None:
    assert refusal(message(**{member: value})).where == where


def test_a_file_that_climbs_out_is_told_so(message: Messages) -> None:
    assert refusal(message(experiment__filename="../../x")).line() == (
        "experiment.filename: climbs out of the workspace; name the script by its path inside "
        "the workspace, such as train.py or src/train.py"
    )


def test_an_unparsable_duration_says_what_it_was(message: Messages) -> None:
    assert refusal(message(experiment__max_duration="2 days")).line() == (
        "experiment.max_duration: '2 days' is not a duration; write hours, minutes and seconds "
        "such as 1h30m, 90s or 500ms, or plain seconds"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"config__storage__credentials": {"aws": {"access_key": "A", "secret_key": "hush\n"}}},
        {"config__storage__credentials": {"aws": {"secret_access_key": "hush"}}},
        {"config__storage__endpoint": "x://u:hush@h", "config__storage__region": "/"},
        {"config__env": {"TOKEN": "hush\0"}},
        {"config__env": {"TOKEN": "hush" * 40_000}},
        {"experiment__args": ["--token=hush\0"]},
        {"experiment__pythonenv": ["--extra-index-url=https://u:hush@h"]},
        {"experiment__artifacts__output__url": "https://u:hush@h\n"},
    ],
)
def test_a_refusal_holds_no_secret(message: Messages, change: dict[str, Any]) -> None:
    error = refusal(message(**change))
    assert "hush" not in error.line()
    assert error.__cause__ is None
