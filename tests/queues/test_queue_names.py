"""Whatever a queue is called, it is served or it is not: no name ends a gateway."""

from __future__ import annotations

import os
import shutil
import time
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcrunner.queues.aws import AwsAccess
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.discovery import listing
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.google import GoogleAccess
from hpcrunner.queues.management import bound_queues, ready_messages
from hpcrunner.queues.matching import DEFAULT_MATCH, QueueFilter
from hpcrunner.queues.pubsub import PubSubServer
from hpcrunner.queues.sqs import SqsServer

# Also halves of surrogate pairs, as Python has them for names that are no text.
ANY_TEXT = st.text(st.characters())
PATTERNS = st.sampled_from(["", DEFAULT_MATCH, "_", "^a|b$", "(?i)RMQ", "\udcff"])
FILTERS = st.builds(QueueFilter, PATTERNS, PATTERNS)


def sound(name: str) -> bool:
    """Whether a name may be told to people and journalled."""
    return bool(name) and name.isprintable() and not name.endswith("_response")


@given(FILTERS, st.lists(ANY_TEXT, min_size=1, max_size=3))
def test_what_is_admitted_is_sound_by_all_its_names(
    queue_filter: QueueFilter, names: list[str]
) -> None:
    if queue_filter.admits(*names):
        assert all(map(sound, names))


@given(ANY_TEXT)
def test_a_name_is_refused_or_admitted_to_the_letter(name: str) -> None:
    try:
        only = QueueFilter.only([name])
    except OptionInvalid as refused:
        assert "\n" not in refused.line()
        return
    assert only.admits(name)
    assert not only.admits(name + "x")


@given(ANY_TEXT, ANY_TEXT)
def test_any_pattern_is_one_or_refused_in_one_line(match: str, mismatch: str) -> None:
    try:
        QueueFilter(match, mismatch)
    except OptionInvalid as refused:
        assert "\n" not in refused.line()


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(ANY_TEXT, inner),
    max_leaves=8,
)
BINDINGS = st.lists(
    JSON
    | st.fixed_dictionaries(
        {
            "source": st.sampled_from(["StudioML.topic", "amq.topic"]),
            "routing_key": ANY_TEXT.map("StudioML.".__add__) | JSON,
            "destination": ANY_TEXT | JSON,
        }
    )
)


@settings(max_examples=50)
@given(BINDINGS | JSON, JSON, FILTERS)
def test_whatever_rabbitmqs_management_lists_the_queues_are_sound(
    bindings: Any, queues: Any, queue_filter: QueueFilter
) -> None:
    found = listing(bound_queues(bindings), ready_messages(queues), queue_filter)
    assert all(map(sound, found.names))
    assert found.busy <= set(found.names)


class Lister:
    """A client of SQS or Pub/Sub that lists what it is given."""

    def __init__(self, listed: list[str]) -> None:
        self.listed = listed

    def get_paginator(self, _: str) -> Lister:
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        return [{"QueueUrls": self.listed[:2]}, {}, {"QueueUrls": self.listed[2:]}]

    def list_subscriptions(self, **_: Any) -> list[Any]:
        nothing = {"detached": False, "push_config": SimpleNamespace(push_endpoint="")}
        return [SimpleNamespace(name=name, **nothing) for name in self.listed]


@given(st.lists(ANY_TEXT | ANY_TEXT.map("https://sqs/1/".__add__)), FILTERS)
def test_whatever_sqs_lists_the_queues_are_sound(
    urls: list[str], queue_filter: QueueFilter
) -> None:
    server = SqsServer(AwsAccess("a", "us-west-2"), queue_filter)
    server._client = Lister(urls)
    found = server.queues()
    assert found.keys() <= set(urls)
    assert all(map(sound, found.values()))
    assert not any(name.removesuffix(".fifo").endswith("_response") for name in found.values())


@given(st.lists(ANY_TEXT | ANY_TEXT.map("projects/p/subscriptions/{}_sub".format)), FILTERS)
def test_whatever_pubsub_lists_the_queues_are_sound(
    names: list[str], queue_filter: QueueFilter
) -> None:
    server = PubSubServer.__new__(PubSubServer)
    server._access, server._filter, server._timeout = GoogleAccess("p"), queue_filter, 1.0
    server._client = Lister(names)
    found = server.queues()
    assert found.keys() <= set(names)
    assert all(map(sound, found.values()))


FILE_NAMES = st.binary(min_size=1, max_size=40).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)


@settings(max_examples=50)
@given(st.lists(FILE_NAMES, max_size=4, unique=True))
def test_whatever_folders_there_are_the_sound_ones_are_served(
    tmp_path_factory: pytest.TempPathFactory, queues: list[bytes]
) -> None:
    root = tmp_path_factory.mktemp("queues")
    names = {os.fsdecode(queue) for queue in queues}
    for name in names:
        (root / name).mkdir()
        (root / name / "message").write_bytes(b"x")
    now = [0.0]
    source = DirectorySource(
        root, QueueFilter(""), "g", clock=lambda: time.time() + now[0], monotonic=lambda: now[0]
    )
    served = set()
    for _ in range(4):
        taken = source.take(10)
        source.accept(taken)
        served |= {delivery.queue for delivery in taken}
        now[0] += 5
    source.close()
    assert served == {name for name in names if sound(name)}
    shutil.rmtree(os.fsencode(root))
