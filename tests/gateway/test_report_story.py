"""What is told of an experiment, from its row and its files, in which order."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from hpcrunner.gateway.experiment import EndedAttempt, Experiment, State
from hpcrunner.gateway.reports.lines import LONGEST, lines_of
from hpcrunner.gateway.reports.position import Position, Stage, position_from
from hpcrunner.gateway.reports.story import Chunk, Facts, Step, files_of, story
from hpcrunner.request.reasons import Reason

NOW = 1_800_000_000.0
ROW = Experiment(
    "0123456789ab", "exp", "rmq_q", State.RUNNING, NOW - 60, batch="b1", task=3, attempt=1
)
CLAIM = {"time": NOW - 9, "event": "claimed", "host": "n7", "accession": "n7-abb"}
NAMED = {"time": NOW - 8, "event": "accession", "accession": "n7-abc"}
CLAIMED = (CLAIM, NAMED)
WAITING = Position(attempt=1, stage=Stage.WAITING)
RUNNING = Position(attempt=1, stage=Stage.STARTED, host="n7", unique="n7-abc")


def events(*noted: object) -> bytes:
    lines = [e if isinstance(e, bytes) else json.dumps(e).encode() for e in noted]
    return b"".join(line + b"\n" for line in lines)


def former(attempt: int, **changes: Any) -> EndedAttempt:
    ended = EndedAttempt(
        *(attempt, f"b{attempt}", 3, "7_3", State.FAILED, Reason.PAYLOAD_EXIT, "ended with 3"),
        *(3, "n7", NOW - 30, NOW - 20, NOW - 10),
    )
    return replace(ended, **changes)


def told(
    row: Experiment = ROW,
    position: Position = WAITING,
    *,
    log: Chunk | bytes = b"",
    noted: Chunk | bytes = b"",
    attempts: tuple[EndedAttempt, ...] = (),
) -> list[Step]:
    chunks = [c if isinstance(c, Chunk) else Chunk(c) for c in (noted, log)]
    return list(story(Facts(row, attempts, "login", NOW, *chunks), position))


def words(steps: list[Step]) -> list[str]:
    """Each report in a word or two, as the tables below have them."""
    found = []
    for step in steps:
        if step.report is None:
            continue
        document = json.loads(step.report.to_json())
        if "progress" in document:
            found.append(document["progress"].get("state", "Prestart"))
        else:
            entry = document["logging"]
            found.append(f"{entry['severity']}: {entry['message']}")
    return found


def documents(steps: list[Step]) -> list[dict[str, Any]]:
    return [json.loads(s.report.to_json()) for s in steps if s.report is not None]


def over(state: State = State.SUCCEEDED, text: str = "well", code: int | None = 0) -> Experiment:
    return replace(ROW, state=state, text=text, exit_code=code, reason=Reason.COMPLETED)


def test_at_first_it_is_said_that_the_queue_was_looked_at_by_the_gateways_host_alone() -> None:
    steps = told(position=Position())
    (document,) = documents(steps)
    assert document["logging"]["fields"] == {"queue_name": "rmq_q"}
    assert document["executorId"] == "login"
    assert not {"experimentId", "uniqueId"} & document.keys()
    assert steps[-1].after == WAITING


ATTEMPTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "it has not started": ({}, []),
    "it has started": ({"noted": events(*CLAIMED)}, ["Started", "Info: start"]),
    "its name is still to come": ({"noted": events(CLAIM), "log": b"one\n"}, []),
    "whatever comes next, it has started": (
        {"noted": events(CLAIM, {"event": "running"})},
        ["Started", "Info: start"],
    ),
    "it ended before it had a name": (
        {"row": over(State.FAILED, "bad", 1), "noted": events(CLAIM), "log": b"one\n"},
        ["Started", "Info: start", "Info: one", "Info: stop", "Failed"],
    ),
    "it talks": (
        {"noted": events(*CLAIMED), "log": b"one\n\ntwo\nthr"},
        ["Started", "Info: start", "Info: one", "Info: ", "Info: two"],
    ),
    "it talks on": ({"position": RUNNING, "log": b"three\n"}, ["Info: three"]),
    "its metadata change": (
        {"position": RUNNING, "noted": events({"event": "metadata", "json": '{"a":1}'})},
        ["Started"],
    ),
    "it is told to end": (
        {"position": RUNNING, "noted": events({"event": "stopping"})},
        ["Stopping"],
    ),
    "it is started again": (
        {"position": RUNNING, "noted": events(*CLAIMED), "log": b"x\n"},
        ["Started", "Info: start", "Info: x"],
    ),
    "it ends well": (
        {"row": over(), "position": RUNNING, "log": b"last\nno end"},
        ["Info: last", "Info: no end", "Info: stop", "Success"],
    ),
    "it ends badly": (
        {"row": over(State.FAILED, "bad", 3), "position": RUNNING},
        ["Info: stop", "Failed"],
    ),
    "it is over before anybody looked": (
        {"row": over(), "noted": events(*CLAIMED), "log": b"a\n"},
        ["Started", "Info: start", "Info: a", "Info: stop", "Success"],
    ),
    "it is over and there is more to read": (
        {"row": over(), "position": RUNNING, "log": Chunk(b"a\nb", whole=False)},
        ["Info: a"],
    ),
    "it is over and its events are not read to the end": (
        {"row": over(), "position": RUNNING, "noted": Chunk(events({}), whole=False)},
        [],
    ),
    "it never started": ({"row": over(State.LOST, "gone", None)}, ["Failed"]),
    "it was cancelled": (
        {"row": over(State.CANCELLED, "was cancelled", None), "position": RUNNING},
        ["Info: stop", "Failed"],
    ),
    "it was rejected": (
        {"row": replace(over(State.REJECTED, "no room", None), batch="", task=0)},
        ["Failed"],
    ),
    "another attempt waits": (
        {
            "row": replace(ROW, attempt=2, state=State.ACCEPTED, batch=""),
            "attempts": (former(1),),
            "position": RUNNING,
            "log": b"traceback\n",
        },
        ["Info: traceback", "Info: stop", "Failed", "Prestart"],
    ),
    "the attempt ended between two looks at the journal": (
        {"attempts": (former(1),), "position": RUNNING},
        ["Info: stop", "Failed", "Prestart"],
    ),
}


@pytest.mark.parametrize("case", ATTEMPTS)
def test_what_is_told_when(case: str) -> None:
    given, expected = ATTEMPTS[case]
    assert words(told(**given)) == expected


def test_what_was_told_is_not_told_again() -> None:
    noted, log = events(*CLAIMED, {"event": "metadata", "json": "{}"}), b"one\ntwo\n"
    position = told(noted=noted, log=log)[-1].after
    assert (position.events, position.log) == (len(noted), len(log))
    rest = told(position=position, noted=noted[position.events :], log=log[position.log :])
    assert words(rest) == []


@pytest.mark.parametrize("told_before", range(9))
def test_broken_off_after_any_report_it_goes_on_with_the_next(told_before: int) -> None:
    noted = events(*CLAIMED, {"event": "fetching"}, {"event": "metadata", "json": '{"a":1}'})
    log, row = b"one\ntwo\n\xff\n", over()
    whole = told(row, noted=noted, log=log)
    assert len(documents(whole)) == 8
    position, said = WAITING, []
    for step in whole:
        if step.report is not None and len(said) == told_before:
            break
        said += words([step])
        position = step.after
    rest = told(row, position, noted=noted[position.events :], log=log[position.log :])
    again = words(rest)
    # Of Started and start, only both together are behind one.
    repeated = 1 if told_before == 1 else 0
    assert said[: len(said) - repeated] + again == words(whole)
    assert (rest[-1].after if rest else position).stage is Stage.DONE


def test_a_report_of_an_attempt_names_experiment_host_and_accession() -> None:
    for document in documents(told(over(), noted=events(*CLAIMED), log=b"x\n")):
        assert document["experimentId"] == "exp"
        assert (document["executorId"], document["uniqueId"]) == ("n7", "n7-abc")


def test_the_reports_of_a_second_attempt_name_its_own_host() -> None:
    row = replace(ROW, attempt=2, batch="b2")
    steps = told(row, RUNNING, attempts=(former(1),))
    assert steps[-1].after == Position(attempt=2, stage=Stage.WAITING)
    other = ({**CLAIM, "host": "n8"}, {**NAMED, "accession": "n8-abd"})
    (started, _) = documents(told(row, steps[-1].after, noted=events(*other)))
    assert (started["executorId"], started["uniqueId"]) == ("n8", "n8-abd")


def test_an_ending_is_told_with_its_words_and_code() -> None:
    stop, failed = documents(told(over(State.FAILED, "ended with 3", 3), RUNNING))
    assert stop["logging"]["fields"] == {"success": "False", "error": "ended with 3"}
    assert failed["progress"]["error"] == {"msg": "ended with 3", "code": 3}
    stop, won = documents(told(over(), RUNNING))
    assert stop["logging"]["fields"] == {"success": "True"}
    assert "error" not in won["progress"]
    (_, killed) = documents(told(over(State.FAILED, "out of memory", None), RUNNING))
    assert killed["progress"]["error"]["code"] == -1


def test_an_experiment_retried_by_hand_begins_with_its_own_attempt() -> None:
    (step,) = told(replace(ROW, attempt=4), Position())
    assert step.after.attempt == 4


def test_no_line_tells_a_secret() -> None:
    log = (
        b"+ export AWS_SECRET_ACCESS_KEY=hush\n"
        b"git+https://hush@github.com/x/y\n"
        b"https://user:hush@host/x?token=hush\n"
    )
    steps = told(over(State.FAILED, "last line: API_TOKEN=hush", 1), RUNNING, log=log)
    assert "hush" not in "".join(s.report.to_json() for s in steps if s.report)
    assert "Info: git+https://****@github.com/x/y" in words(steps)


def test_metadata_keep_their_numbers_and_lose_their_secrets() -> None:
    document = {"experiment": {"tokens": 5, "api_token": "hush", "url": "s3://u:hush@h/b"}}
    noted = events({"event": "metadata", "json": json.dumps(document)})
    (progress,) = documents(told(position=RUNNING, noted=noted))
    assert json.loads(progress["progress"]["json"]) == {
        "experiment": {"tokens": 5, "api_token": "****", "url": "s3://****@h/b"}
    }


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff\xfe",
        b"{" * 5000,
        b"[" * 100_000,
        b"[]",
        b"7",
        b'{"event": "metadata"}',
        b'{"event": "metadata", "json": 7}',
        b'{"event": "metadata", "json": "{"}',
        b'{"event": 7, "time": "soon"}',
        json.dumps({"event": "metadata", "json": "[" * 3000 + "]" * 3000}).encode(),
    ],
)
def test_events_that_make_no_sense_are_passed_over(junk: bytes) -> None:
    steps = told(noted=events(junk, *CLAIMED, junk))
    assert words(steps) == ["Started", "Info: start"]
    assert steps[-1].after.events == len(events(junk, *CLAIMED, junk))


@pytest.mark.parametrize("time", ["soon", None, -1, 1e300, True, float("nan")])
def test_a_time_that_is_none_is_the_gateways(time: object) -> None:
    (started, _) = documents(told(noted=events(CLAIM, {**NAMED, "time": time})))
    assert started["time"].startswith(("2027", "1970-01-01T00:00:01"))


def test_an_event_longer_than_a_piece_does_not_stand_in_the_way() -> None:
    (step,) = told(noted=Chunk(b"x" * 1000, whole=False))
    assert step.after.events == 1000


def test_half_an_event_is_waited_for() -> None:
    noted = events(CLAIM)
    (step,) = told(noted=noted[:-5])
    assert step.after == WAITING


FILES = {
    "nothing said yet": (Position(), ROW, (), None),
    "waiting in the scheduler": (WAITING, replace(ROW, state=State.PENDING), (), None),
    "running": (WAITING, ROW, (), ("b1", 3)),
    "started, whatever the journal says": (
        RUNNING,
        replace(ROW, state=State.PENDING),
        (),
        ("b1", 3),
    ),
    "not in a batch": (WAITING, replace(ROW, batch=""), (), None),
    "another attempt waits": (
        RUNNING,
        replace(ROW, batch="", attempt=2),
        (former(1, batch="b0", task=9),),
        ("b0", 9),
    ),
    "only the ending is to be told": (replace(RUNNING, stage=Stage.STOPPED), ROW, (), None),
}


@pytest.mark.parametrize("case", FILES)
def test_which_files_are_read(case: str) -> None:
    position, row, attempts, expected = FILES[case]
    assert files_of(position, row, attempts) == expected


LINES: dict[str, tuple[bytes, dict[str, bool], list[str], int, bool]] = {
    "whole lines": (b"a\nb\n", {}, ["a", "b"], 4, False),
    "half a line is waited for": (b"a\nb", {}, ["a"], 2, False),
    "save at the end": (b"a\nb", {"ended": True}, ["a", "b"], 3, False),
    "nothing": (b"", {"ended": True}, [], 0, False),
    "windows": (b"a\r\n", {}, ["a"], 3, False),
    "a progress bar": (b"10%\r20%\r30%\n", {}, ["30%"], 12, False),
    "not text": (b"\xff\xfea\n", {}, ["��a"], 4, False),
    "a long line": (
        b"x" * (LONGEST + 5) + b"\ny\n",
        {},
        ["x" * LONGEST + " …", "y"],
        LONGEST + 8,
        False,
    ),
    "a long line that goes on": (
        b"x" * (LONGEST + 5),
        {},
        ["x" * LONGEST + " …"],
        LONGEST + 5,
        True,
    ),
    "the rest of it": (b"xxx\ny\n", {"cut": True}, ["y"], 6, False),
    "still the rest of it": (b"xxx", {"cut": True}, [], 3, True),
}


@pytest.mark.parametrize("case", LINES)
def test_lines_of_any_length_and_any_bytes(case: str) -> None:
    data, given, texts, offset, cut = LINES[case]
    lines, ends, still_cut = lines_of(data, 100, **{"cut": False, "ended": False, **given})
    assert [line.text for line in lines] == texts
    assert (ends, still_cut) == (100 + offset, cut)


def test_a_position_survives_being_written() -> None:
    position = replace(RUNNING, log=7, cut=True)
    assert position_from(position.to_json()) == position


KEY = b"-----BEGIN PRIVATE KEY-----\n" + b"hush" * 16 + b"\nhush==\n-----END PRIVATE KEY-----\n"
OUTPUT = b"before\nkey: " + KEY + b"between\n" + KEY + b"after\n"
SHOWN = ["Info: before", "Info: key: ****", "Info: between", "Info: ****", "Info: after"]


@pytest.mark.parametrize("piece", [1, 10, 40, 100, 1000])
def test_a_private_key_is_masked_however_the_log_grows_and_wherever_telling_breaks_off(
    piece: int,
) -> None:
    position, heard = RUNNING, []
    for end in range(piece, len(OUTPUT) + piece, piece):
        for step in told(position=position, log=OUTPUT[position.log : end]):
            position = step.after
            if step.report is not None:
                heard += words([step])
                break  # killed, and begun anew from there
    row = over(State.FAILED, "bad", 1)
    heard += words(told(row, position, log=OUTPUT[position.log :]))
    assert heard == [*SHOWN, "Info: stop", "Failed"]


def test_a_key_that_never_ends_holds_nothing_up_for_ever() -> None:
    begun = KEY.splitlines(keepends=True)[0]
    assert words(told(position=RUNNING, log=begun)) == []  # its end may still come
    assert words(told(position=RUNNING, log=begun + b"epoch 1\n")) == [
        "Info: ****",
        "Info: epoch 1",
    ]
    torn = told(position=RUNNING, log=Chunk(begun + b"x" * 70, whole=False))
    assert words(torn) == ["Info: ****"]
    assert words(told(over(), RUNNING, log=begun + b"hush"))[0] == "Info: ****"
