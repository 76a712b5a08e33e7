"""A gateway's life as its operator sees it: ended, drained, reloaded, stood by for, superseded."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.batch.script import TemplateRefused
from hpcrunner.errors import HpcrunnerError
from hpcrunner.gateway.database import JournalError, JournalUnfit, Superseded
from hpcrunner.gateway.drained import SpoolDrained
from hpcrunner.gateway.experiment import State
from hpcrunner.gateway.gateway import Ended, Gateway, Hold
from hpcrunner.gateway.journal import BatchState, Journal
from hpcrunner.gateway.lock import Contender, SpoolBusy, SpoolLost
from hpcrunner.gateway.orders import Orders
from hpcrunner.gateway.spool import SpoolError
from hpcrunner.queues.contract import Delivery
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.schedulers.contract import SchedulerUnavailable, Submission, SubmitUncertain
from hpcrunner.sites.problems import SiteError

Until = Callable[..., Any]


def names(count: int, prefix: str = "e") -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


# -- ended by a signal ---------------------------------------------------------------------------


def test_a_signal_ends_intake_and_gateway_but_no_job(login: Any, until: Until) -> None:
    gateway = login.gateway()
    login.publish("long", seconds=600)
    until(lambda: login.runs()["long"], login.log)
    gateway.terminate()
    assert gateway.wait(120) == 0, login.log()
    assert "drained: 1 experiment(s) go on" in login.log()
    login.publish(*names(3))
    assert len(login.waiting()) == 3
    login.let_end()
    until(lambda: login.runs("ended")["long"])  # without any gateway
    assert login.gateway("--limit-tasks", "3").wait(120) == 0, login.log()
    assert login.states() == {"SUCCEEDED": 4}
    assert login.runs() == dict.fromkeys(("long", *names(3)), 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_gateway_that_does_nothing_ends_at_a_signal(login: Any, number: int) -> None:
    gateway = login.gateway()
    gateway.send_signal(number)
    assert gateway.wait(120) == 0
    assert "Traceback" not in login.log()
    assert (login.spool / "gateway.lock").read_bytes() == b""


def test_signals_in_a_shower_lose_and_double_nothing(login: Any) -> None:
    wanted = names(40)
    login.publish(*wanted)
    for number in range(6):
        gateway = login.gateway()
        login.publish(f"more{number}")  # meanwhile a round goes on, further each time
        wanted.append(f"more{number}")
        gateway.terminate()
        gateway.terminate()
        assert gateway.wait(120) == 0, login.log()
    assert login.gateway("--limit-idle-duration", "2s").wait(120) == 0
    assert login.runs() == dict.fromkeys(wanted, 1)
    assert login.states() == {"SUCCEEDED": len(wanted)}


class Told(Orders):
    """Orders without signals, whose pauses move the clock."""

    def __init__(self, forward: Callable[[float], None]) -> None:
        super().__init__()
        self.forward = forward
        self.pauses: list[float] = []
        self.at_pause: Callable[[int], None] = lambda count: None

    def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.forward(seconds)
        self.at_pause(len(self.pauses))


@pytest.fixture
def orders(parts: Any) -> Told:
    return Told(parts.clock.forward)


def gateway_of(parts: Any) -> Gateway:
    lock = Contender(parts.spool.lock).try_take()
    assert lock is not None
    return Gateway(
        Hold(parts.spool, lock, parts.journal),
        intake=parts.intake,
        wishes=parts.wishes,
        dispatch=parts.dispatch,
        track=parts.track,
        max_jobs=1000,
        clock=parts.clock,
    )


def uncertain(orders: Orders, *, taken: bool) -> Callable[..., Submission]:
    """A submission during which the gateway is told to end, and that nobody is sure of."""

    def fault(batch: object, accept: Callable[[], Submission]) -> Submission:
        if taken:
            accept()
        orders.end()
        raise SubmitUncertain("no answer", where="sbatch", remedy="look")

    return fault


def test_a_drain_settles_a_submission_whose_fate_is_unknown(
    parts: Any, message: Any, orders: Told
) -> None:
    parts.pile.put(message("a"))
    parts.scheduler.faults = [uncertain(orders, taken=True)]
    assert gateway_of(parts).run(orders) is Ended.DRAINED
    assert parts.journal.count(State.PENDING) == 1
    assert list(parts.scheduler.reached.values()) == [1]


def test_a_drain_does_not_wait_for_ever_for_a_scheduler_that_is_away(
    parts: Any, message: Any, orders: Told
) -> None:
    parts.pile.put(message("a"))
    parts.scheduler.faults = [uncertain(orders, taken=True)]
    parts.scheduler.available = False
    assert gateway_of(parts).run(orders) is Ended.DRAINED
    assert 25 < sum(orders.pauses) < 60
    assert len(parts.journal.batches(BatchState.SUBMITTING)) == 1  # for the next gateway


def test_a_second_signal_ends_a_drain_at_once(parts: Any, message: Any, orders: Told) -> None:
    parts.pile.put(message("a"))
    parts.scheduler.faults = [uncertain(orders, taken=False)]
    parts.scheduler.available = False
    orders.at_pause = lambda count: orders.end()
    assert gateway_of(parts).run(orders) is Ended.DRAINED
    assert len(orders.pauses) == 1


def test_what_was_taken_as_the_signal_came_is_journalled_and_not_submitted(
    parts: Any, message: Any, orders: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = parts.pile.take

    def and_a_signal(most: int) -> list[Delivery]:
        orders.end()
        taken: list[Delivery] = take(most)
        return taken

    monkeypatch.setattr(parts.pile, "take", and_a_signal)
    parts.pile.put(message("a"))
    assert gateway_of(parts).run(orders) is Ended.DRAINED
    assert parts.journal.count(State.ACCEPTED) == 1
    assert len(parts.pile.accepted) == 1
    assert not parts.scheduler.reached


def test_a_signal_while_asleep_wakes_and_one_before_sleep_is_not_slept_through() -> None:
    orders = Orders()
    before = signal.getsignal(signal.SIGTERM)
    with orders.listening():
        signal.raise_signal(signal.SIGHUP)
        began = time.monotonic()
        orders.pause(60)
        assert orders.take_reload()
        assert not orders.take_reload()
        killer = subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -TERM {os.getpid()}"])
        while not orders.draining:
            orders.pause(60)
        killer.wait()
        assert time.monotonic() - began < 50
        assert not orders.at_once
    assert signal.getsignal(signal.SIGTERM) is before


# -- drained and resumed -------------------------------------------------------------------------


def test_a_drained_spool_takes_nothing_until_it_is_resumed_whatever_restarts(
    login: Any, until: Until
) -> None:
    gateway = login.gateway()
    login.publish("before", seconds=600)
    until(lambda: login.runs()["before"], login.log)
    said, _ = login.run("drain", "--reason", "the file server\n moves")
    assert ": drained since " in said
    assert said.rstrip().endswith(": the file server moves")
    again, _ = login.run("drain", "--reason", "another")
    assert "is already drained since" in again
    assert "the file server moves" in again
    assert stat.S_IMODE((login.spool / "drained").stat().st_mode) == 0o600
    until(lambda: "no new experiments are taken" in login.log())
    login.publish(*names(2))
    gateway.kill()
    gateway.wait()
    gateway = login.gateway()
    login.let_end()
    until(lambda: login.states() == {"SUCCEEDED": 1}, login.log)  # tracked all the same
    assert len(login.waiting()) == 2
    assert login.log().count("no new experiments are taken") == 2  # once a gateway
    shown, _ = login.run("status")
    assert shown.splitlines()[0].startswith("drained since ")
    assert "the file server moves" in shown.splitlines()[0]
    assert "resumed" in login.run("resume")[0]
    assert "was not drained" in login.run("resume")[0]
    until(lambda: login.states() == {"SUCCEEDED": 3}, login.log)
    assert login.log().count("resumed: new experiments are taken again") == 1
    assert login.runs() == dict.fromkeys(("before", *names(2)), 1)
    gateway.terminate()
    assert gateway.wait(120) == 0


def test_nothing_is_submitted_by_hand_on_a_drained_spool(login: Any) -> None:
    login.gateway("--limit-idle-duration", "1s").wait(120)
    login.run("drain")
    _, err = login.run("submit", "--", str(login.folder / "code" / "run.py"), "x", "0", code=75)
    assert "drained since" in err
    assert "hpcrunner resume" in err
    assert len(err.splitlines()) == 1
    assert not list((login.spool / "queue" / "local_submit").iterdir())
    assert not list((login.spool / "store").rglob("*.tar"))
    assert login.status() == []


def test_a_drain_of_a_spool_that_is_not_there_is_refused(login: Any) -> None:
    for command in ("drain", "resume"):
        _, err = login.run(command, code=73)
        assert "there is no spool here" in err
    assert not login.spool.exists()


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"since": "x"}', "\0" * 50],
    ids=["empty", "cut", "other", "odd", "nul"],
)
def test_a_torn_mark_drains_all_the_same(login: Any, text: str) -> None:
    login.spool.mkdir(mode=0o700)
    (login.spool / "drained").write_text(text)
    _, err = login.run("submit", "--", str(login.folder / "code" / "run.py"), "x", "0", code=75)
    assert "drained, nobody can tell why" in err


def test_what_was_accepted_is_still_submitted_on_a_drained_spool(
    parts: Any, message: Any, orders: Told
) -> None:
    parts.pile.put(message("a"))
    parts.intake.drain(10)
    (parts.spool.drain_mark).write_text(json.dumps({"since": 1, "by": "x@y", "reason": ""}))
    parts.pile.put(message("b"))
    gateway = gateway_of(parts)
    for _ in range(3):
        gateway.step()
    assert parts.journal.count(State.PENDING) == 1
    assert len(parts.pile.waiting) == 1


# -- the site's file read again ------------------------------------------------------------------


def colours(login: Any) -> Counter[str]:
    lines = [line.split() for line in login.ledger.read_text().splitlines()]
    return Counter(line[2] for line in lines if line[0] == "began")


def test_a_hangup_reads_the_site_again_and_a_bad_one_changes_nothing(
    login: Any, until: Until
) -> None:
    login.write_site(environment={"COLOUR": "red"})
    gateway = login.gateway()
    login.publish("one")
    until(lambda: login.states() == {"SUCCEEDED": 1}, login.log)

    login.write_site(environment={"COLOUR": "blue"}, grase="30s")
    gateway.send_signal(signal.SIGHUP)
    until(lambda: "the old site stays in force" in login.log(), login.log)
    assert "grase" in login.log()
    login.publish("two")
    until(lambda: login.runs("ended")["two"], login.log)
    assert colours(login) == {"red": 2}

    login.write_site(environment={"COLOUR": "blue"})
    gateway.send_signal(signal.SIGHUP)
    until(lambda: "was read again and is in force" in login.log(), login.log)
    login.publish("three")
    until(lambda: login.states() == {"SUCCEEDED": 3}, login.log)
    assert colours(login) == {"red": 2, "blue": 1}
    gateway.terminate()
    assert gateway.wait(120) == 0


def test_what_cannot_change_under_way_is_named_and_the_rest_is_taken(
    login: Any, until: Until
) -> None:
    gateway = login.gateway()
    login.write_site(
        environment={"COLOUR": "blue"}, spool=str(login.folder / "elsewhere"), scheduler="sbatch"
    )
    gateway.send_signal(signal.SIGHUP)
    until(lambda: "was read again and is in force" in login.log(), login.log)
    assert f"spool stays {login.spool} until the gateway is started again" in login.log()
    assert "scheduler stays local until" in login.log()
    login.publish("one")
    until(lambda: login.runs("ended")["one"], login.log)
    assert colours(login) == {"blue": 1}
    assert not (login.folder / "elsewhere").exists()
    gateway.terminate()
    assert gateway.wait(120) == 0


def test_a_site_whose_parts_do_not_start_leaves_the_old_one_in_force(
    login: Any, until: Until
) -> None:
    gateway = login.gateway()
    (login.folder / "templates").mkdir()
    (login.folder / "templates" / "batch.sh.j2").write_text("{{ nonsense }}\n")
    login.write_site(templates=str(login.folder / "templates"))
    gateway.send_signal(signal.SIGHUP)
    until(lambda: "the old site stays in force" in login.log(), login.log)
    login.publish("one")
    until(lambda: login.runs("ended")["one"], login.log)
    gateway.terminate()
    assert gateway.wait(120) == 0


def test_reloads_in_the_midst_of_work_lose_and_double_nothing(login: Any, until: Until) -> None:
    gateway = login.gateway()
    wanted = names(40)
    for number, name in enumerate(wanted):
        login.publish(name)
        if number % 4 == 0:
            gateway.send_signal(signal.SIGHUP)
    until(lambda: login.states() == {"SUCCEEDED": len(wanted)}, login.log)
    assert login.runs() == dict.fromkeys(wanted, 1)
    gateway.terminate()
    assert gateway.wait(120) == 0


def test_a_limit_on_tasks_counts_over_reloads(login: Any, until: Until) -> None:
    gateway = login.gateway("--limit-tasks", "2")
    login.publish("one")
    until(lambda: login.runs("ended")["one"], login.log)
    gateway.send_signal(signal.SIGHUP)
    until(lambda: "was read again and is in force" in login.log(), login.log)
    login.publish("two")
    assert gateway.wait(120) == 0, login.log()


# -- standby and superseded ----------------------------------------------------------------------


def test_a_standby_waits_while_the_first_lives_and_takes_over_when_it_is_dead(
    login: Any, until: Until
) -> None:
    first = login.gateway()
    wanted = names(6)
    login.publish(*wanted, seconds=600)
    until(lambda: len(login.runs()) == 6, login.log)
    second = login.gateway("--standby", log="second.log", ready="standing by")
    assert f"pid {first.pid} since" in login.log("second.log")
    first.send_signal(signal.SIGSTOP)
    time.sleep(3)  # what a standby must not do cannot be waited for
    assert "queues of" not in login.log("second.log")
    first.send_signal(signal.SIGCONT)
    first.kill()
    first.wait()
    until(lambda: "queues of" in login.log("second.log"))
    login.publish("late")
    login.let_end()
    until(lambda: login.states() == {"SUCCEEDED": 7}, lambda: login.log("second.log"))
    assert login.runs() == dict.fromkeys([*wanted, "late"], 1)
    second.terminate()
    assert second.wait(120) == 0


def test_a_standby_takes_over_after_an_orderly_end_too_and_with_the_file_as_it_is_by_then(
    login: Any, until: Until
) -> None:
    first = login.gateway()
    second = login.gateway("--standby", log="second.log", ready="standing by")
    login.write_site(environment={"COLOUR": "blue"})
    first.terminate()
    assert first.wait(120) == 0
    login.publish("one")
    until(lambda: login.runs("ended")["one"], lambda: login.log("second.log"))
    assert colours(login) == {"blue": 1}
    second.terminate()
    assert second.wait(120) == 0


def test_a_standby_ends_at_a_signal(login: Any) -> None:
    login.gateway()
    second = login.gateway("--standby", log="second.log", ready="standing by")
    second.terminate()
    assert second.wait(120) == 0
    assert (login.spool / "gateway.lock").read_bytes() != b""


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, None),
        ({"staging": "gateway"}, "a message may have it contact the internet: see"),
        (
            {"container": {"runtime": "apptainer", "pull": "gateway"}, "gateway_hosts": [".a.org"]},
            "a message may have it contact .a.org: see",
        ),
    ],
)
def test_a_gateway_says_at_its_start_which_hosts_messages_lead_it_to(
    login: Any, keys: dict[str, object], said: str | None
) -> None:
    login.write_site(**keys)
    login.gateway().kill()
    assert said in login.log() if said else "may have it contact" not in login.log()


def test_a_gateway_whose_lock_file_is_replaced_stops_with_one_line(login: Any) -> None:
    gateway = login.gateway()
    (login.spool / "another").touch()  # and at once in its place: no moment without any
    (login.spool / "another").rename(login.spool / "gateway.lock")
    assert gateway.wait(120) == 75
    (line,) = [line for line in login.log().splitlines() if line.startswith("hpcrunner: ")]
    assert "its lock file was replaced; this gateway stops" in line


def test_a_gateway_whose_journal_was_taken_over_stops_and_its_work_goes_on(login: Any) -> None:
    gateway = login.gateway()
    journal = Journal(login.spool / "journal.db", time.time)
    journal.take_over("login2", 4711)
    login.publish("one")
    assert gateway.wait(120) == 75
    (line,) = [line for line in login.log().splitlines() if line.startswith("hpcrunner: ")]
    assert "taken over by a gateway on login2, process 4711" in line
    assert journal.count_live() == 0  # it wrote nothing more
    journal.close()
    assert login.gateway("--limit-tasks", "1").wait(120) == 0
    assert login.runs() == {"one": 1}


# -- killed between two steps of its life ---------------------------------------------------------


@pytest.mark.parametrize(
    "point", ["gateway.locked", "gateway.taken_over", "gateway.reloaded", "gateway.drained"]
)
def test_killed_at_a_step_of_its_life_it_loses_and_doubles_nothing(
    login: Any, until: Until, point: str
) -> None:
    login.publish(*names(5))
    gateway = login.gateway(ready="", env={"HPCRUNNER_CRASH": f"{point}:1:{login.folder}"})
    until(lambda: gateway.poll() is not None or "queues of" in login.log(), login.log)
    login.publish("more")
    if gateway.poll() is None:
        gateway.send_signal(signal.SIGHUP if point == "gateway.reloaded" else signal.SIGTERM)
    assert gateway.wait(120) == -signal.SIGKILL, login.log()
    assert (login.folder / point).exists()
    assert login.gateway("--limit-idle-duration", "2s").wait(120) == 0, login.log()
    assert login.states() == {"SUCCEEDED": 6}
    assert login.runs() == dict.fromkeys([*names(5), "more"], 1)


def test_a_drain_killed_before_its_mark_is_whole_leaves_none(login: Any) -> None:
    login.spool.mkdir(mode=0o700)
    crash = {"HPCRUNNER_CRASH": f"drain.written:1:{login.folder}"}
    login.run("drain", code=-signal.SIGKILL, env=crash)
    assert "was not drained" in login.run("resume")[0]
    assert "drained since" in login.run("drain", env=crash)[0]


@pytest.mark.parametrize(
    "kind",
    [
        *(SpoolBusy, SpoolLost, SpoolError, SpoolDrained, Superseded, JournalError, JournalUnfit),
        *(SiteError, OptionInvalid, SchedulerUnavailable, TemplateRefused, HpcrunnerError),
    ],
)
def test_every_code_a_gateway_ends_with_is_documented(kind: type[HpcrunnerError]) -> None:
    docs = Path(__file__).parents[2] / "docs"
    for name in ("operating.md", "cli.md"):
        rows = [r for r in (docs / name).read_text().splitlines() if r.startswith("| ")]
        assert any(str(kind.exit_code) in row.split("|")[1] for row in rows), name
