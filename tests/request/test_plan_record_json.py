"""Plans and records come back as they were written, and damage is named as such."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.request.faults import RetriesLeft
from hpcrunner.request.image import ImageSetup, PlannedImage
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.request.plan import (
    NodeSetup,
    Plan,
    PlanError,
    PlannedArtifact,
    PlannedExperiment,
    plan_from_json,
    read_plan,
)
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record, RecordError, SavedArtifact, record_from_json

TEXT = st.text(st.characters(exclude_categories=()), max_size=12)
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple)
NUMBERS = st.floats(allow_nan=False)
MAYBE = st.none() | NUMBERS

KEYS = st.builds(AwsCredentials, TEXT, TEXT, TEXT, TEXT)
LOCATIONS = st.builds(
    Location,
    scheme=st.sampled_from(["s3", "gs", "file", "http"]),
    key=TEXT,
    bucket=TEXT,
    endpoint=TEXT,
    region=TEXT,
    credentials=st.none() | KEYS,
)
ARTIFACTS = st.builds(
    PlannedArtifact, TEXT, LOCATIONS, st.booleans(), st.none() | st.booleans(), MAYBE
)
IMAGES = st.builds(PlannedImage, TEXT, st.none() | LOCATIONS, TEXT, TEXT, TEXT, TEXT)
EXPERIMENTS = st.builds(
    PlannedExperiment,
    id=TEXT,
    key=TEXT,
    name=TEXT,
    attempt=st.integers(),
    filename=st.none() | TEXT,
    args=TEXTS,
    artifacts=st.lists(ARTIFACTS, max_size=3).map(tuple),
    python_packages=TEXTS,
    pip=TEXTS,
    environment=PAIRS,
    max_duration=MAYBE,
    expires_at=MAYBE,
    disk_budget=st.integers(),
    save_interval=NUMBERS,
    exec_words=TEXTS,
    record=st.none() | LOCATIONS,
    document=TEXT,
    gpus=st.integers(),
    retries=st.builds(RetriesLeft, st.integers(), st.integers(), NUMBERS, NUMBERS),
    image=st.none() | IMAGES,
)
IMAGE_SETUPS = st.builds(ImageSetup, TEXT, TEXT, st.integers(), st.integers(), MAYBE, TEXT, TEXTS)
SETUPS = st.builds(NodeSetup, TEXT, TEXT, PAIRS, MAYBE, NUMBERS, st.booleans(), images=IMAGE_SETUPS)
PLANS = st.builds(Plan, TEXT, SETUPS, st.lists(EXPERIMENTS, max_size=3).map(tuple))
RECORDS = st.builds(
    Record,
    batch=TEXT,
    index=st.integers(),
    experiment=TEXT,
    attempt=st.integers(),
    reason=st.sampled_from(Reason),
    text=TEXT,
    exit_code=st.none() | st.integers(),
    signal=st.none() | st.integers(),
    started_at=NUMBERS,
    payload_started_at=MAYBE,
    ended_at=NUMBERS,
    last_lines=TEXTS,
    saved=st.lists(st.builds(SavedArtifact, TEXT, TEXT, st.integers(), TEXT), max_size=3).map(
        tuple
    ),
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(PLANS)
def test_a_plan_comes_back_as_it_was_written(plan: Plan) -> None:
    written = plan.to_json()
    assert written.isascii()
    assert plan_from_json(written) == plan


@given(RECORDS)
def test_a_record_comes_back_as_it_was_written(record: Record) -> None:
    assert record_from_json(record.to_json()) == record


@given(PLANS, st.data())
def test_a_damaged_plan_raises_nothing_but_a_plan_error(plan: Plan, data: st.DataObject) -> None:
    raw = json.loads(plan.to_json())
    places: list[Any] = [raw, raw["setup"], *raw["experiments"]]
    places += [a for e in raw["experiments"] for a in (*e["artifacts"], e["record"]) if a]
    place = data.draw(st.sampled_from(places))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(JSON_VALUES)
    with contextlib.suppress(PlanError):
        plan_from_json(json.dumps(raw))


@given(RECORDS, st.data())
def test_a_damaged_record_raises_nothing_but_a_record_error(
    record: Record, data: st.DataObject
) -> None:
    raw = json.loads(record.to_json())
    raw[data.draw(st.sampled_from(sorted(raw)))] = data.draw(JSON_VALUES)
    with contextlib.suppress(RecordError):
        record_from_json(json.dumps(raw))


@pytest.mark.parametrize("text", ["", "{", "[]", "1", "null", '{"version": 1}', "[" * 100_000])
def test_what_is_no_plan_or_record_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not a plan"):
        plan_from_json(text)
    with pytest.raises(RecordError, match="not a record"):
        record_from_json(text)


def test_another_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"version": 99}', encoding="utf-8")
    with pytest.raises(PlanError, match="plan version 99"):
        read_plan(tmp_path)


def test_a_plan_that_cannot_be_read_is_named_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"plan\.json: cannot read"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match=r"plan\.json: not a plan \(not UTF-8\)"):
        read_plan(tmp_path)


@pytest.mark.parametrize("index", [0, 2, -1])
def test_a_task_that_the_batch_has_not_is_refused(index: int) -> None:
    setup = NodeSetup("/s", "/c")
    planned = PlannedExperiment("i", "k", "k", 1, "x.py", (), ())
    with pytest.raises(PlanError, match=f"task {index} of a batch of 1"):
        Plan("b", setup, (planned,)).experiment(index)
