"""Notes for Slack: what is noted, how, where it goes, and that nobody waits for it."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.happenings import Ended, Received, Retried, Round, Started, Submitted
from hpcrunner.gateway.journal import NewExperiment, NextAttempt
from hpcrunner.gateway.slack.notes import (
    LONGEST_OUTPUT,
    MOST_ATTACHMENTS,
    Note,
    attachment,
    clean,
    note_of,
)
from hpcrunner.gateway.slack.options import SlackOptions, hook_url
from hpcrunner.gateway.slack.sender import Slack
from hpcrunner.privatefile import SecretRefused
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.request.model import Request
from hpcrunner.request.parse import parse_message
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.spec import JobSpec

Until = Callable[..., Any]
PATH = "/services/T0/B0/hush0hush0hush"
E1 = Experiment(
    *("e1", "run_7", "rmq_x", State.RUNNING, 1.0),
    project="cifar",
    batch="b1",
    task=1,
    job_id="77",
)
FAILED = Outcome(
    State.FAILED, Reason.PAYLOAD_EXIT, "exit code 3", node="n1", started_at=100.0, ended_at=190.0
)


@dataclass
class Room:
    """Slack's side: a server that keeps what it is sent, and answers as told."""

    port: int = 0
    sent: list[dict[str, Any]] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)  # channels
    hold: threading.Event = field(default_factory=threading.Event)

    @property
    def hook(self) -> str:
        return f"http://127.0.0.1:{self.port}{PATH}"

    def attachments(self) -> list[dict[str, Any]]:
        return [a for message in list(self.sent) for a in message["attachments"]]

    def titles(self) -> list[str]:
        return [a["title"] for a in self.attachments()]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    room = Room()
    room.hold.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            room.hold.wait(60)
            refused = self.path != PATH or body.get("channel", "") in room.refuse
            if not refused:
                room.sent.append(body)
            self.send_response(404 if refused else 200)
            self.end_headers()
            self.wfile.write(b"channel_not_found" if refused else b"ok")

        def log_message(self, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    room.port = server.server_port
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield room
    room.hold.set()
    server.shutdown()
    server.server_close()


Start = Callable[..., Slack]


@pytest.fixture
def start(room: Room, parts: Any) -> Iterator[Start]:
    """Starts a sender; ``mute`` is counted by ``parts.clock``."""
    started: list[Slack] = []

    def start(**options: Any) -> Slack:
        slack = Slack(
            room.hook, "#all", parts.spool, pace=0.0, mute=60.0, clock=parts.clock, **options
        )
        started.append(slack)
        return slack

    yield start
    room.hold.set()
    for slack in started:
        slack.close(30)


def ended(key: str, outcome: Outcome = FAILED, *, experiment: str = "e1") -> Ended:
    e = Experiment(experiment, key, "rmq_x", State.RUNNING, 1.0, batch="b1", task=1)
    return Ended(e, outcome)


# -- what is noted, and how ------------------------------------------------------------------------


def test_starts_and_good_ends_are_green() -> None:
    started = note_of(Started(E1, "n1", 5.0))
    assert started == Note(E1, "good", "started cifar run_7 (e1)", "job 77 on n1")
    done = Outcome(State.SUCCEEDED, Reason.COMPLETED, "done", started_at=10.0, ended_at=75.0)
    assert note_of(Ended(E1, done)) == Note(
        E1, "good", "succeeded cifar run_7 (e1)", "done (ran 1m5s)"
    )


def test_a_failure_is_red_with_its_reason_and_output() -> None:
    assert note_of(Ended(E1, FAILED)) == Note(
        E1,
        "danger",
        "failed cifar run_7 (e1)",
        "PAYLOAD_EXIT: exit code 3 (ran 1m30s on n1)",
        with_output=True,
    )


def test_a_note_says_a_word_once_that_is_state_and_reason() -> None:
    cancelled = Outcome(State.CANCELLED, Reason.CANCELLED, "was cancelled")
    note = note_of(Ended(E1, cancelled))
    assert note == Note(E1, "warning", "cancelled cifar run_7 (e1)", "was cancelled")
    bare = note_of(Ended(E1, replace(cancelled, text=" ")))
    assert bare is not None
    assert bare.text == "CANCELLED"


def test_a_retry_is_a_warning_that_says_why() -> None:
    following = NextAttempt(E1, FAILED, JobSpec(), 0.0, 0, 1, "attempt 1 ended; attempt 2")
    note = note_of(Retried(following))
    assert note == Note(
        E1,
        "warning",
        "retry of cifar run_7 (e1)",
        "attempt 1 ended; attempt 2: exit code 3",
        with_output=True,
    )


def test_what_is_set_aside_is_red_at_intake_and_later() -> None:
    aside = Experiment("e2", "", "rmq_x", State.REJECTED, 1.0, text="not JSON")
    assert note_of(Received(aside)) == Note(
        aside, "danger", "set aside an experiment (e2)", "not JSON"
    )
    late = note_of(Ended(E1, Outcome(State.REJECTED, Reason.REJECTED, "too large")))
    assert late is not None
    assert (late.color, late.title) == ("danger", "set aside cifar run_7 (e1)")


def test_nobody_is_told_of_what_concerns_no_one() -> None:
    accepted = Experiment("e2", "k", "rmq_x", State.ACCEPTED, 1.0)
    for happening in (Received(accepted), Submitted(3), Round(1.0, 2.0)):
        assert note_of(happening) is None


def test_words_of_a_request_call_nobody_and_hide_no_secret() -> None:
    note = Note(E1, "good", "started <!channel> a&b", "TOKEN=hush0 and more")
    shown = attachment(note, "```\n<http://x|y>", "login1", 1700000000.5)
    assert shown["title"] == shown["fallback"] == "started &lt;!channel&gt; a&amp;b"
    assert shown["text"] == "TOKEN=****\n```'''\n&lt;http://x|y&gt;```"
    assert shown["ts"] == 1700000000
    assert shown["footer"] == "hpcrunner on login1"


def test_long_words_are_cut() -> None:
    shown = attachment(Note(E1, "good", "k" * 5000, "t" * 5000), "", "h", 0.0)
    assert len(shown["title"]) < 300
    assert len(shown["text"]) <= 1000


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        (b"\x1b[1;31mred\x1b[0m\n", "red"),
        (b"\x1b]0;title\x07text\x1b(B", "text"),
        (b"10%\r50%\r100%\ndone\r\n", "100%\ndone"),
        (b"a\x00b\x08c\ttab", "abc\ttab"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"AWS_SECRET_ACCESS_KEY=hush0\nnext", "AWS_SECRET_ACCESS_KEY=****\nnext"),
        (b"", ""),
    ],
)
def test_output_is_shown_without_terminal_control_and_secrets(output: bytes, shown: str) -> None:
    assert clean(output) == shown


def test_only_the_last_lines_of_an_output_are_shown() -> None:
    lines = [f"line {number:05d} \u00e4\u00e4\u00e4" for number in range(3000)]
    shown = clean("\n".join(lines).encode())
    assert len(shown.encode()) <= LONGEST_OUTPUT
    assert shown.splitlines() == lines[-len(shown.splitlines()) :]
    assert len(shown.splitlines()) > 300
    assert len(clean(b"x" * 100_000)) == LONGEST_OUTPUT


@pytest.mark.parametrize("piece", [b"\x1b[", b"\x1b]", b"\x1b", b"\r", b"a\r\n", b"-----BEGIN "])
def test_cleaning_takes_linear_time_on_hostile_output(piece: bytes) -> None:
    clean(piece * 20_000)


# -- where it goes ---------------------------------------------------------------------------------


def test_a_note_goes_to_the_room_with_the_last_output(
    room: Room, start: Start, parts: Any, until: Until
) -> None:
    log = parts.spool.log("b1", 1)
    log.parent.mkdir(parents=True)
    log.write_text("epoch 1\nPASSWORD=hush0\n\x1b[31mValueError: bad\x1b[0m\n")
    start()(ended("k"))
    until(lambda: room.sent)
    (message,) = room.sent
    assert message["channel"] == "#all"
    (told,) = message["attachments"]
    assert told["color"] == "danger"
    assert told["text"].endswith("```epoch 1\nPASSWORD=****\nValueError: bad```")
    assert "text" not in message


def test_a_request_names_its_own_room(
    room: Room, start: Start, parts: Any, message: Any, until: Until
) -> None:
    for number, wanted in enumerate(("@ann", "", {"not": "text"}, "#b\n", "#" * 81)):
        body = json.loads(message("k"))
        body["config"]["runner"] = {"slack_destination": wanted}
        row = Experiment(f"e{number}", "k", "rmq_x", State.ACCEPTED, 1.0)
        parts.journal.add([NewExperiment(row, json.dumps(body).encode(), f"d{number}")])
        request = parse_message(json.dumps(body).encode())  # never a reason to refuse
        assert isinstance(request, Request)
        assert request.slack_destination == (wanted if wanted == "@ann" else "")
    slack = start()
    for number in range(5):
        slack(ended(f"k{number}", experiment=f"e{number}"))
    until(lambda: len(room.attachments()) == 5)
    by_room = [(m["channel"], [a["title"] for a in m["attachments"]]) for m in room.sent]
    assert ("@ann", ["failed k0 (e0)"]) in by_room
    assert sum(len(titles) for name, titles in by_room if name == "#all") == 4


def test_notes_that_wait_together_go_as_one_message(room: Room, start: Start, until: Until) -> None:
    room.hold.clear()
    slack = start()
    slack(ended("first"))
    until(lambda: not slack._waiting)
    for number in range(MOST_ATTACHMENTS + 5):
        slack(ended(f"k{number}"))
    room.hold.set()
    until(lambda: len(room.attachments()) == MOST_ATTACHMENTS + 6)
    assert [len(m["attachments"]) for m in room.sent] == [1, MOST_ATTACHMENTS, 5]


def test_long_outputs_go_as_several_messages(
    room: Room, start: Start, parts: Any, until: Until
) -> None:
    log = parts.spool.log("b1", 1)
    log.parent.mkdir(parents=True)
    log.write_text("x" * 10_000)
    room.hold.clear()
    slack = start()
    for number in range(10):
        slack(ended(f"k{number}"))
    room.hold.set()
    until(lambda: len(room.attachments()) == 10)
    assert max(len(json.dumps(m)) for m in room.sent) < 40_000


def test_a_server_that_hangs_holds_nobody_up_and_the_oldest_notes_are_dropped(
    room: Room, start: Start, until: Until
) -> None:
    room.hold.clear()
    slack = start(most=5)
    slack(ended("first"))
    until(lambda: not slack._waiting)  # in the hands of the server, which says nothing
    for number in range(1000):
        slack(ended(f"k{number}"))
    room.hold.set()
    until(lambda: len(room.attachments()) == 6)
    assert room.titles() == ["failed first (e1)", *(f"failed k{n} (e1)" for n in range(995, 1000))]
    assert room.sent[-1]["text"] == "995 earlier notes were dropped"


def test_a_room_that_refuses_is_left_in_peace_for_a_minute_and_others_are_not(
    room: Room,
    start: Start,
    parts: Any,
    message: Any,
    until: Until,
    caplog: pytest.LogCaptureFixture,
) -> None:
    body = json.loads(message("k"))
    body["config"]["runner"] = {"slack_destination": "#gone"}
    row = Experiment("e9", "k", "rmq_x", State.ACCEPTED, 1.0)
    parts.journal.add([NewExperiment(row, json.dumps(body).encode(), "d")])
    room.refuse = {"#gone"}
    slack = start()
    slack(ended("one", experiment="e9"))
    until(lambda: "muted" in caplog.text or "no notes to room #gone" in caplog.text)
    assert "channel_not_found" in caplog.text
    assert "hush0" not in caplog.text
    room.refuse = set()
    slack(ended("two", experiment="e9"))
    slack(ended("three"))
    until(lambda: room.titles() == ["failed three (e1)"])
    parts.clock.forward(61)
    slack(ended("four", experiment="e9"))
    until(lambda: room.titles() == ["failed three (e1)", "failed four (e9)"])
    assert room.sent[-1]["channel"] == "#gone"
    assert room.sent[-1]["text"] == "2 earlier notes were dropped"


def test_what_waits_at_the_end_is_sent(room: Room, start: Start) -> None:
    slack = start()
    for number in range(3):
        slack(ended(f"k{number}"))
    slack.close(60)
    assert len(room.attachments()) == 3


def test_the_end_does_not_wait_for_a_server_that_hangs(room: Room, start: Start) -> None:
    room.hold.clear()
    slack = start()
    slack(ended("k"))
    slack.close(0.2)
    assert slack._thread.is_alive()  # the call goes on by itself, nobody waits for it


# -- the hook --------------------------------------------------------------------------------------


def test_the_hook_is_read_from_a_private_file_only(tmp_path: Path) -> None:
    file = tmp_path / "hook"
    file.write_text("https://hooks.example/services/x\n")
    file.chmod(0o600)
    assert hook_url(SlackOptions(hook=str(file))) == "https://hooks.example/services/x"
    assert "services" not in repr(SlackOptions(hook="https://hooks.example/services/x"))
    file.chmod(0o644)
    with pytest.raises(SecretRefused):
        hook_url(SlackOptions(hook=str(file)))


@pytest.mark.parametrize("hook", ["hooks.example/x", "file:///etc/passwd", "https://", "http://[x"])
def test_a_hook_that_is_no_url_is_refused_without_being_shown(hook: str) -> None:
    with pytest.raises(OptionInvalid) as refused:
        hook_url(SlackOptions(hook=hook))
    assert hook not in refused.value.line().replace("http or https", "")


def test_a_real_gateway_sends_notes_of_what_it_runs(
    room: Room, login: Any, until: Until, tmp_path: Path
) -> None:
    login.publish("fine")
    login.queue.joinpath("bad").write_text("no request")
    hook = tmp_path / "hook"
    hook.write_text(room.hook)
    hook.chmod(0o600)
    gateway = login.gateway("--slack-room", "#lab", env={"SLACK_HOOK": str(hook)})
    until(lambda: {a["color"] for a in room.attachments()} >= {"good", "danger"}, login.log)
    until(lambda: [t for t in room.titles() if t.startswith("succeeded")], login.log)
    assert {m["channel"] for m in room.sent} == {"#lab"}
    gateway.terminate()
    assert gateway.wait(120) == 0
    assert PATH not in login.log()
