"""What an attempt that could not be prepared leaves its client, and when its ending is told."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway import lastwords
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.lastwords import LastWords
from hpcrunner.gateway.preparation import LEAVING, Failed, Preparations
from hpcrunner.request.faults import RetriesLeft
from hpcrunner.request.hosts import HostRule
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.resolve import StoreRules
from hpcrunner.storage.contract import StoreUnreachable

ASKED = Experiment("0" * 12, "key", "queue", State.ACCEPTED, 0.0)
AWAY = Failed(Reason.STORE_UNREACHABLE, "s3://x/b/k: no answer")


@pytest.fixture
def words(monkeypatch: pytest.MonkeyPatch) -> Iterator[LastWords]:
    monkeypatch.setattr(lastwords, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(lastwords, "LONGEST_PAUSE", 0.02)
    made = LastWords(longest=60.0)
    yield made
    made.close()


def planned(folder: Path, *, record: bool = False, **more: Any) -> PlannedExperiment:
    def at(name: str) -> Location:
        return Location("file", str(folder / name))

    artifacts = tuple(
        PlannedArtifact(tag, at(f"{tag}.tar"), mutable=True, unpack=True)
        for tag in ("output", "_metadata")
    )
    return PlannedExperiment(
        *(ASKED.id, "key", "name", 1, "run.py", ()),
        artifacts,
        record=at("record") if record else None,
        **more,
    )


def told(words: LastWords, plan: PlannedExperiment, failure: Failed = AWAY) -> Failed:
    until = time.monotonic() + 60
    while not (out := words.said([(ASKED, failure)], lambda _: plan)):
        assert time.monotonic() < until
        time.sleep(0.01)
    ((e, said),) = out
    assert e is ASKED
    return said


def output(folder: Path) -> str:
    with tarfile.open(folder / "output.tar") as tar:
        (member,) = tar.getmembers()
        assert member.name == "./output", "a file, as the client has it"
        return tar.extractfile(member).read().decode()  # type: ignore[union-attr]


def test_the_reason_is_in_the_output_and_the_record_waits_where_another_attempt_follows(
    words: LastWords, tmp_path: Path
) -> None:
    (tmp_path / "record").write_text(json.dumps({"key": "key", "status": "waiting"}))
    failure = Failed(Reason.ENVIRONMENT_FAILED, "no such\npackage", ("pip said", "this"))
    followed = planned(tmp_path, record=True, retries=RetriesLeft(payload=1))
    assert told(words, followed, failure) == failure
    assert output(tmp_path) == "pip said\nthis\nhpcrunner: no such package\n"
    record = json.loads((tmp_path / "record").read_text())
    assert (record["status"], record["hpcrunner"]["attempt"]) == ("waiting", 1)
    (document,) = (tmp_path / "metadata").glob("scrape-host-*.json")
    ours = json.loads(document.read_text())["studioml"]
    assert (ours["status"], ours["error"]) == ("environment_failed", "no such package")
    assert [entry["msg"] for entry in ours["log"]][:3] == ["Init", "pip said", "this"]
    assert document.name == f"scrape-host-{ours['accession']}.json"


def test_the_last_attempts_record_is_left_to_who_tells_endings(
    words: LastWords, tmp_path: Path
) -> None:
    told(words, planned(tmp_path, record=True))
    assert not (tmp_path / "record").exists()


def test_a_store_that_is_away_is_waited_for(
    words: LastWords, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, tries = lastwords.write_output, []

    def sometimes(*given: Any) -> None:
        tries.append(given)
        if len(tries) < 4:
            raise StoreUnreachable("no answer", where="here")
        write(*given)

    monkeypatch.setattr(lastwords, "write_output", sometimes)
    assert told(words, planned(tmp_path)) == AWAY
    assert len(tries) == 4 and "hpcrunner: s3://x/b/k: no answer" in output(tmp_path)
    assert len(list((tmp_path / "metadata").glob("scrape-*"))) == 1, "written once"


def test_a_store_that_stays_away_is_not_waited_for_for_ever_and_the_ending_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise StoreUnreachable("no answer", where="here")

    monkeypatch.setattr(lastwords, "write_output", away)
    monkeypatch.setattr(lastwords, "FIRST_PAUSE", 0.01)
    impatient = LastWords(longest=0.05, documented=False)
    said = told(impatient, planned(tmp_path))
    assert said.reason is AWAY.reason
    assert said.text.startswith(f"{AWAY.text}; artifact output was not saved: ")
    assert not list(tmp_path.iterdir())
    impatient.close()


def test_the_gateway_leaves_them_by_its_own_rules_whoever_was_to_fetch(tmp_path: Path) -> None:
    rules = StoreRules(hosts=HostRule(), lends=False)
    store = Location("s3", "output.tar", "b", endpoint="http://127.0.0.1:9")
    output = PlannedArtifact("output", store, mutable=True, unpack=True)
    bound = LastWords(rules=rules)
    said = told(bound, replace(planned(tmp_path), artifacts=(output,)))
    assert "; artifact output was not saved: gateway_hosts: " in said.text
    bound.close()


def test_what_is_not_wanted_any_more_is_forgotten(words: LastWords, tmp_path: Path) -> None:
    told(words, planned(tmp_path))
    assert words.said([], lambda _: None) == []
    (tmp_path / "output.tar").unlink()
    told(words, planned(tmp_path))  # the same attempt once more, after a crash or a mistake
    assert output(tmp_path)


def test_an_ending_is_told_after_the_words_are_out(
    parts: Any, message: Callable[..., bytes]
) -> None:
    class Slow:
        done = False

        def said(self, failed: Sequence[Any], plan: Callable[..., Any]) -> list[Any]:
            assert all(plan(e) is not None for e, _ in failed)
            return list(failed) if self.done else []

        def close(self) -> None:
            pass

    class Kind:
        def want(self, *_: object) -> None: ...
        def standing(self, _: object) -> Failed:
            return AWAY

        def apply(self, _: object, p: Any) -> Any:
            return p

        def step(self, _: object) -> None: ...
        def close(self) -> None: ...

    slow = Slow()
    preparations = Preparations([Kind()], clock=parts.clock, farewell=slow)
    parts.pile.put(message("a"))
    parts.intake.drain(1)
    (e,) = parts.journal.find("a")
    plan = planned(Path("/"))

    def look() -> Any:
        return preparations.look([e], lambda _: plan)

    held = look()
    assert (held.failed, held.go, held.preparing) == ((), (), True)
    assert held.remarks == ((e.id, LEAVING),)
    slow.done = True
    over = look()
    assert [f for _, f in over.failed] == [AWAY] and not over.preparing
