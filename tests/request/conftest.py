"""A small valid message to bend, and the captured ones."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

CAPTURED = Path(__file__).parents[1] / "data" / "requests"

SMALL: dict[str, Any] = {
    "experiment": {
        "key": "1530054412_70d7eaf4",
        "filename": "train.py",
        "args": ["10"],
        "pythonver": "3.11",
        "pythonenv": ["numpy==2.0.0"],
        "resources_needed": {"cpus": 2, "gpus": 1, "ram": "2g", "hdd": "3gb", "gpuMem": "4gb"},
        "time_added": 1530054413.134781,
        "max_duration": "20m",
        "owner": "guest",
        "project": None,
        "artifacts": {
            "workspace": {
                "bucket": "store",
                "key": "blobstore/abc.tar",
                "qualified": "s3://10.0.0.7:9000/store/blobstore/abc.tar",
                "mutable": False,
                "unpack": True,
            },
            "output": {
                "bucket": "store",
                "key": "experiments/e/output.tar",
                "qualified": "s3://10.0.0.7:9000/store/experiments/e/output.tar",
                "mutable": True,
                "unpack": True,
            },
        },
    },
    "config": {
        "experimentLifetime": "30m",
        "saveWorkspaceFrequency": "3m",
        "storage": {
            "type": "s3",
            "endpoint": "http://10.0.0.7:9000",
            "bucket": "store",
            "credentials": {"aws": {"access_key": "AK", "secret_access_key": "SK"}},
        },
        "database": {"type": "s3", "endpoint": "http://10.0.0.7:9000", "bucket": "meta"},
        "env": {"DEMO": "1"},
    },
}

Messages = Callable[..., bytes]


@pytest.fixture
def message() -> Messages:
    """``message(experiment__args=["x"])``: the small message, one member changed, as bytes.

    Parts of a member's path are joined by ``__``; the value ``...`` removes the member.
    """

    def build(**changes: Any) -> bytes:
        root = copy.deepcopy(SMALL)
        for path, value in changes.items():
            *parents, name = path.split("__")
            place = root
            for parent in parents:
                place = place.setdefault(parent, {})
            if value is ...:
                place.pop(name, None)
            else:
                place[name] = value
        return json.dumps(root).encode()

    return build


def captured_body(path: Path) -> bytes:
    """The message of a capture file: wrapped with the delivery's properties, or bare."""
    document = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps(document.get("payload", document)).encode()


@pytest.fixture
def captured() -> Callable[[str], bytes]:
    """The captured message of that file name, without ``.json``."""
    return lambda name: captured_body(CAPTURED / f"{name}.json")


@pytest.fixture(params=sorted(CAPTURED.glob("*.json")), ids=lambda path: path.stem)
def each_captured(request: pytest.FixtureRequest) -> bytes:
    """Every captured message."""
    return captured_body(request.param)
