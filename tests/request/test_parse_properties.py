"""Whatever the bytes are, the parser answers with a request or a RequestError."""

from __future__ import annotations

import contextlib
import copy
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from hpcrunner.request.errors import RequestError
from hpcrunner.request.model import Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.payload import unquoted
from hpcrunner.request.plan import NodeSetup, Plan, plan_from_json
from hpcrunner.request.plan_experiment import plan_experiment
from hpcrunner.request.redact import redact_document
from hpcrunner.request.resolve import StoreRules

CAPTURED = Path(__file__).parents[1] / "data" / "requests"

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=()), max_size=20)
    | st.sampled_from(["", "../..", "s3://", "s3://h:1", "file://", "http://[", "1h", "3gb", "~"]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def messages() -> list[Any]:
    """The captured messages, with few packages: a hundred say no more than three."""
    found = []
    for path in sorted(CAPTURED.glob("*.json")):
        document = json.loads(path.read_text(encoding="utf-8"))
        message = document.get("payload", document)
        if "experiment" in message:
            del message["experiment"]["pythonenv"][3:]
        found.append(message)
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every member of a document."""
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


MESSAGES = messages()
PLACES = [(number, path) for number, m in enumerate(MESSAGES) for path in places(m) if path]


def run_whole_way(body: bytes) -> None:
    """Parse, plan, write and redact, as the gateway does."""
    with contextlib.suppress(RequestError):
        request = parse_message(body)
        if isinstance(request, Request):
            json.dumps(redact_document(json.loads(request.document)))
            planned = plan_experiment(request, id="i", attempt=1, rules=StoreRules(home="/home/me"))
            plan = Plan("b", NodeSetup("/s", "/c"), (planned,))
            written = plan.to_json().encode()
            assert plan_from_json(written.decode()) == plan
            for word in (*planned.args, *(v for _, v in planned.environment)):
                assert "\0" not in word
                word.encode()


@given(st.binary())
@example(b"\x00")
@example(b"\xef\xbb\xbf{}")
@example(b'{"\\ud800": 1}')
def test_arbitrary_bytes_raise_nothing_but_a_request_error(body: bytes) -> None:
    run_whole_way(body)


@given(JSON_VALUES)
def test_arbitrary_json_raises_nothing_but_a_request_error(value: Any) -> None:
    run_whole_way(json.dumps(value).encode())


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from(PLACES), JSON_VALUES), min_size=1, max_size=3))
def test_captured_messages_with_changed_members_raise_nothing_but_a_request_error(
    changes: list[tuple[tuple[int, tuple[Any, ...]], Any]],
) -> None:
    message = copy.deepcopy(MESSAGES[changes[0][0][0]])
    for (_, path), value in changes:
        place = message
        with contextlib.suppress(KeyError, IndexError, TypeError):  # a path of another message
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value
    run_whole_way(json.dumps(message).encode())


@given(st.data())
def test_captured_messages_with_changed_bytes_raise_nothing_but_a_request_error(
    data: st.DataObject,
) -> None:
    body = bytearray(json.dumps(data.draw(st.sampled_from(MESSAGES))).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    run_whole_way(bytes(body))


@given(st.text(st.characters(exclude_categories=["Cs"])))
@example("")
@example("a b")
@example("'")
@example("'\"'\"'")
@example("'a'")
@example('"')
@example("\\")
@example("$(rm -rf /)\n`x`")
def test_an_argument_that_the_client_quoted_arrives_as_it_was(word: str) -> None:
    assert unquoted(shlex.quote(word)) == [word]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_unquoting_never_fails(text: str) -> None:
    assert all(isinstance(word, str) for word in unquoted(text))
