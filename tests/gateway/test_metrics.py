"""What a gateway tells Prometheus, read as Prometheus reads it."""

from __future__ import annotations

import http.client
import logging
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hpcrunner.gateway.capacity import Capacity
from hpcrunner.gateway.dispatch import Dispatch
from hpcrunner.gateway.experiment import Experiment, Outcome, State
from hpcrunner.gateway.happenings import Ended, Looked, Received, Round, Started, everyone
from hpcrunner.gateway.intake import Intake
from hpcrunner.gateway.measured import Measured
from hpcrunner.gateway.metrics.counts import Counts
from hpcrunner.gateway.metrics.endpoint import Address, address_of, metrics_served
from hpcrunner.gateway.metrics.fading import KEPT, MOST, Fading
from hpcrunner.gateway.metrics.journal import JournalMetrics, JournalNumbers
from hpcrunner.gateway.metrics.kinds import Kinds
from hpcrunner.gateway.metrics.runner import RunnerMetrics
from hpcrunner.gateway.track import Track
from hpcrunner.gateway.wishes import Wishes
from hpcrunner.queues.contract import Served
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.schedulers.contract import (
    JobState,
    SchedulerUnavailable,
    Sighting,
    SubmitUncertain,
    Verdict,
)

GIB = 1024**3
Until = Callable[..., Any]
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """All samples by name and labels; ``host`` left out."""
    return {
        (s.name, frozenset((n, v) for n, v in s.labels.items() if n != "host")): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


class Scraped:
    """One answer of the endpoint."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = samples(text)

    def value(self, name: str, **labels: str) -> float | None:
        return self.samples.get((name, frozenset(labels.items())))

    def total(self, name: str) -> float:
        return sum(value for (found, _), value in self.samples.items() if found == name)

    def names(self) -> set[str]:
        return {name for name, _ in self.samples}


class Watched:
    """The parts of a gateway with everything told to the metrics, which are read on demand."""

    def __init__(self, parts: Any, capacity: Capacity | None = None) -> None:
        self.parts = parts
        self.registry = CollectorRegistry()
        self.steady = 0.0
        numbers = JournalNumbers(parts.spool, self.clock)
        kinds = Kinds()
        self.counts = Counts(self.registry, kinds)
        capacity = capacity or Capacity()
        self.runner = RunnerMetrics(numbers, kinds, capacity, "here", self.clock)
        self.registry.register(self.runner)
        self.registry.register(JournalMetrics(numbers, parts.clock))
        self.tell = tell = everyone(self.runner, self.counts)
        self.scheduler = scheduler = Measured(parts.scheduler, tell)
        journal, spool, site = parts.journal, parts.spool, parts.site
        make = {"clock": parts.clock, "new_id": lambda: f"{next(parts.ids):012x}", "tell": tell}
        self.intake = Intake([parts.pile], journal, site, **make)  # type: ignore[arg-type]
        self.dispatch = Dispatch(journal, spool, scheduler, site, capacity=capacity, **make)  # type: ignore[arg-type]
        self.track = Track(journal, spool, scheduler, site, clock=parts.clock, tell=tell)
        self.wishes = Wishes(journal, spool, scheduler, site, **make)  # type: ignore[arg-type]

    def clock(self) -> float:
        return self.steady

    def now(self) -> Scraped:
        self.steady += 60
        return Scraped(generate_latest(self.registry).decode())


@pytest.fixture
def watched(parts: Any) -> Watched:
    return Watched(parts)


# -- counted from what happens ---------------------------------------------------------------------


def test_messages_are_counted_by_what_became_of_them(
    watched: Watched, parts: Any, message: Any
) -> None:
    parts.pile.put(message("a"))
    parts.pile.put(message("a"))
    parts.pile.put(b"{}")
    watched.intake.drain(10)
    now = watched.now()
    for outcome in ("accepted", "copy", "set_aside"):
        told = now.value("hpcrunner_messages_total", queue_type="local", outcome=outcome)
        assert told == 1, outcome
    assert now.value("hpcrunner_experiments", state="ACCEPTED") == 1
    assert now.value("hpcrunner_experiments", state="REJECTED") == 1
    assert now.value("hpcrunner_dead_list") == 1
    assert now.value("hpcrunner_endings_total", state="REJECTED", reason="REJECTED") == 1


def test_queue_lag_is_from_the_clients_time_to_the_journal(watched: Watched, parts: Any) -> None:
    now = parts.clock()
    for lag, added in (("a", now - 20), ("b", now + 3), ("c", 0.0), ("d", None)):
        experiment = Experiment(lag, lag, "sqs_x", State.ACCEPTED, now)
        watched.tell(Received(experiment, added))
    told = watched.now()
    assert told.value("hpcrunner_queue_lag_seconds_count", queue_type="sqs") == 2
    assert told.value("hpcrunner_queue_lag_seconds_sum", queue_type="sqs") == 20


def test_an_experiments_way_is_counted(watched: Watched, parts: Any, message: Any) -> None:
    for key in ("a", "b"):
        parts.pile.put(message(key, cpus=2))
    watched.intake.drain(10)
    assert watched.dispatch.step() == 2
    now = watched.now()
    assert now.value("hpcrunner_submissions_total") == 1
    assert now.value("hpcrunner_submitted_experiments_total") == 2
    assert now.value("hpcrunner_requested_cores") == 4
    assert now.value("hpcrunner_requested_memory_bytes") == 2 * GIB  # the site's least
    assert now.value("hpcrunner_requested_disk_bytes") == 2 * 10**9
    parts.clock.forward(30)
    began = parts.clock()
    for e in parts.journal.in_state(State.PENDING):
        parts.scheduler.sightings[e.job_id] = Sighting(
            Verdict.FOUND, JobState.RUNNING, node="n1", started_at=began
        )
    watched.track.step()
    now = watched.now()
    assert now.value("hpcrunner_time_to_start_seconds_sum") == 60
    labels = {"queue_type": "local", "queue_name": "local_pile", "project": "", "experiment": "a"}
    assert now.value("runner_project_running", **labels) == 1
    assert now.value("runner_project_completed", **labels) is None
    reasons = (Reason.CANCELLED, Reason.TIME_LIMIT)
    for e, reason in zip(parts.journal.in_state(State.RUNNING), reasons, strict=True):
        parts.scheduler.sightings[e.job_id] = Sighting(
            Verdict.FOUND,
            JobState.ENDED,
            reason=reason,
            started_at=began,
            ended_at=began + 90,
            accounted=True,
        )
    parts.clock.forward(90)
    watched.track.step()
    parts.clock.forward(3600)
    watched.track.step()
    now = watched.now()
    assert now.value("hpcrunner_endings_total", state="CANCELLED", reason="CANCELLED") == 1
    assert now.value("hpcrunner_endings_total", state="FAILED", reason="TIME_LIMIT") == 1
    assert now.value("hpcrunner_run_seconds_sum") == 180
    assert now.value("hpcrunner_time_to_start_seconds_count") == 2
    assert now.value("runner_project_running", **labels) is None
    assert now.value("runner_project_completed", **labels) == 1


def test_a_run_too_short_to_be_seen_has_a_time_to_start(watched: Watched) -> None:
    e = Experiment("a", "a", "local_x", State.PENDING, received_at=100.0, batch="b", task=1)
    done = Outcome(State.SUCCEEDED, Reason.COMPLETED, "", started_at=107.0, ended_at=108.5)
    watched.tell(Ended(e, done, None))
    now = watched.now()
    assert now.value("hpcrunner_time_to_start_seconds_sum") == 7
    assert now.value("hpcrunner_run_seconds_sum") == 1.5


def test_retries_are_counted_by_whose_fault_they_are(
    watched: Watched, parts: Any, message: Any
) -> None:
    parts.pile.put(message("a"))
    watched.intake.drain(1)
    watched.dispatch.step()
    (e,) = parts.journal.in_state(State.PENDING)
    parts.scheduler.sightings[e.job_id] = Sighting(
        Verdict.FOUND, JobState.ENDED, reason=Reason.NODE_FAIL, accounted=True
    )
    for _ in range(3):
        watched.track.step()
        parts.clock.forward(3600)
    now = watched.now()
    retried = now.value("hpcrunner_retries_total", fault="infrastructure", reason="NODE_FAIL")
    assert retried == 1
    assert now.total("hpcrunner_endings_total") == 0
    assert now.total("runner_project_completed") == 1  # an attempt, as the runner counts


def test_what_was_staged_comes_from_the_records(watched: Watched) -> None:
    e = Experiment("a", "a", "rmq_x", State.RUNNING, 1.0, batch="b", task=1)
    record = Record(
        *("b", 1, "a", 1, Reason.COMPLETED, ""),
        fetched_bytes=1000,
        saved_bytes=20,
        cache_hits=3,
        cache_misses=1,
    )
    watched.tell(Ended(e, Outcome(State.SUCCEEDED, Reason.COMPLETED, ""), record))
    now = watched.now()
    assert now.value("hpcrunner_staged_bytes_total", direction="down") == 1000
    assert now.value("hpcrunner_staged_bytes_total", direction="up") == 20
    assert now.value("runner_cache_hits") == 3
    assert now.value("runner_cache_misses") == 1


def test_questions_the_scheduler_does_not_answer_are_counted(
    watched: Watched, parts: Any, message: Any
) -> None:
    def unsure(batch: Any, accept: Any) -> Any:
        raise SubmitUncertain("no answer", where="sbatch", remedy="look")

    parts.scheduler.faults = [unsure]
    parts.scheduler.available = False
    parts.pile.put(message("a"))
    watched.intake.drain(1)
    watched.dispatch.step()
    watched.dispatch.settle()
    parts.scheduler.available = True
    watched.dispatch.settle()
    now = watched.now()
    assert now.value("hpcrunner_scheduler_failures_total", call="submit") == 1
    assert now.value("hpcrunner_scheduler_failures_total", call="seek") == 1
    assert now.value("hpcrunner_scheduler_seconds_count", call="seek") == 2
    assert now.value("hpcrunner_scheduler_failures_total", call="look_up") == 0


def test_a_cancel_that_finds_no_scheduler_is_a_failure(watched: Watched, parts: Any) -> None:
    def away(jobs: Any) -> None:
        raise SchedulerUnavailable("away")

    parts.scheduler.cancel = away
    with pytest.raises(SchedulerUnavailable):
        watched.scheduler.cancel([])
    assert watched.now().value("hpcrunner_scheduler_failures_total", call="cancel") == 1


def test_queues_are_checked_where_there_is_room_and_else_passed_over(watched: Watched) -> None:
    labels = {"queue_type": "local", "queue_name": "local_pile"}
    watched.intake.drain(1)
    watched.intake.drain(0)
    watched.intake.pass_over()
    now = watched.now()
    assert now.value("runner_queue_checked", **labels) == 1
    assert now.value("runner_queue_ignored", **labels) == 2


def test_a_queue_is_of_the_kind_its_source_says(watched: Watched) -> None:
    watched.tell(Looked("broker", Served("rmq", ("mine", "sqs_odd"), 4, 2), passed_over=False))
    for queue in ("mine", "sqs_odd", "sqs_x", "nobodys"):
        watched.tell(Received(Experiment(queue, "k", queue, State.ACCEPTED, 1.0)))
    now = watched.now()
    counted = {
        kind: now.value("hpcrunner_messages_total", queue_type=kind, outcome="accepted")
        for kind in ("rmq", "sqs", "other")
    }
    assert counted == {"rmq": 2, "sqs": 1, "other": 1}
    assert now.value("runner_queue_refresh_success", project="broker") == 4
    assert now.value("runner_queue_refresh_fail", project="broker") == 2


def test_labels_of_what_is_over_are_forgotten(watched: Watched) -> None:
    e = Experiment("a", "a", "rmq_x", State.RUNNING, 1.0, batch="b", task=1)
    watched.tell(Ended(e, Outcome(State.SUCCEEDED, Reason.COMPLETED, ""), None))
    assert watched.now().total("runner_project_completed") == 1
    watched.steady += KEPT
    assert "runner_project_completed" not in watched.now().names()


def test_no_more_labels_are_kept_than_a_bound() -> None:
    counts = Fading(lambda: 0.0)
    for number in range(MOST + 5):
        counts.add((str(number),))
        counts.add(("0",))
    assert len(counts.items()) == MOST
    assert dict(counts.items())[("0",)] == MOST + 6  # what still changes stays


def test_free_slots_are_those_of_the_gateways_own_limits(parts: Any, message: Any) -> None:
    watched = Watched(parts, Capacity(cores=5, memory=4 * GIB))
    parts.pile.put(message("a", cpus=3))
    watched.intake.drain(1)
    watched.dispatch.step()
    now = watched.now()
    assert now.value("runner_resource_cpu_free_slots") == 2
    free = now.value("runner_resource_cpu_ram_free_bytes")
    assert free == 3 * GIB
    assert "runner_resource_disk_free_bytes" not in now.names()


def test_without_limits_there_are_no_free_slots_to_tell(watched: Watched) -> None:
    assert not [name for name in watched.now().names() if name.startswith("runner_resource")]


def test_a_journal_that_cannot_be_read_is_told_and_the_rest_still_comes(
    watched: Watched, parts: Any
) -> None:
    watched.tell(Round(5.0, 0.1))
    parts.journal.close()
    parts.spool.journal.write_bytes(b"nonsense" * 1000)
    now = watched.now()
    assert now.value("hpcrunner_journal_readable") == 0
    assert now.value("hpcrunner_rounds_total") == 1
    assert "hpcrunner_experiments" not in now.names()


def test_one_listener_that_fails_keeps_no_other_from_hearing(watched: Watched) -> None:
    def broken(happening: object) -> None:
        raise RuntimeError("a fault")

    e = Experiment("a", "a", "rmq_x", State.PENDING, received_at=1.0)
    everyone(broken, watched.counts)(Started(e, "n1", 3.0))
    assert watched.now().value("hpcrunner_time_to_start_seconds_sum") == 2


# -- the address -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("", None),
        (":9090", Address("", 9090)),
        ("127.0.0.1:0", Address("127.0.0.1", 0)),
        ("login1.example:9090", Address("login1.example", 9090)),
        ("[::1]:9090", Address("::1", 9090)),
    ],
)
def test_an_address_is_read_as_the_runner_reads_it(text: str, address: Address | None) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize("text", ["9090", "host:", ":99999", "http://h:1", "a b:1", "::1:9"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(OptionInvalid):
        address_of(text)


# -- a real gateway --------------------------------------------------------------------------------


def scrape(port: int) -> Scraped:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.getheader("Content-Type", "").startswith("text/plain")
        return Scraped(answer.read().decode())
    finally:
        connection.close()


def port_of(login: Any, until: Until) -> int:
    found = until(lambda: re.search(r"metrics at http://127\.0\.0\.1:(\d+)/", login.log()))
    return int(found[1])


def test_a_gateway_is_scraped_while_it_works_and_while_it_is_drained(
    login: Any, until: Until
) -> None:
    login.publish("one")
    login.publish("long", seconds=600)
    gateway = login.gateway("--prom-address", "127.0.0.1:0", "--max-cores", "7")
    port = port_of(login, until)

    def value(name: str, **labels: str) -> float:
        return scrape(port).value(name, **labels) or 0.0

    queue = {"queue_type": "local", "queue_name": "local_work"}
    # The journal's numbers are a moment old at times.
    until(lambda: value("hpcrunner_endings_total", state="SUCCEEDED", reason="COMPLETED") == 1)
    until(lambda: value("hpcrunner_experiments", state="RUNNING") == 1)
    now = scrape(port)
    assert now.total("runner_project_running") == 1
    assert now.total("runner_project_completed") == 1
    assert now.value("runner_resource_cpu_free_slots") == 6
    assert now.value("hpcrunner_messages_total", queue_type="local", outcome="accepted") == 2
    assert now.value("hpcrunner_queue_lag_seconds_count", queue_type="local") == 2
    assert now.value("hpcrunner_staged_bytes_total", direction="down") > 0  # type: ignore[operator]
    assert now.value("hpcrunner_staged_bytes_total", direction="up") > 0  # type: ignore[operator]
    assert now.value("hpcrunner_submitted_experiments_total") == 2
    assert now.total("runner_queue_refresh_success") > 0
    assert now.value("hpcrunner_scheduler_seconds_count", call="look_up") > 0  # type: ignore[operator]
    assert abs(time.time() - value("hpcrunner_last_round_timestamp_seconds")) < 300
    assert "process_open_fds" in now.names()
    assert 'host="' + socket.gethostname() + '"' in now.text

    login.run("drain", "--reason", "test")
    ignored = value("runner_queue_ignored", **queue)
    until(lambda: value("runner_queue_ignored", **queue) > ignored)
    before = scrape(port)
    until(
        lambda: (
            value("runner_queue_ignored", **queue)
            >= before.value("runner_queue_ignored", **queue) + 2
        )  # type: ignore[operator]
    )
    after = scrape(port)
    checked = before.value("runner_queue_checked", **queue)
    assert checked is not None
    assert after.value("runner_queue_checked", **queue) == checked
    until(lambda: value("hpcrunner_drained") == 1)
    login.run("resume")
    until(lambda: value("runner_queue_checked", **queue) > checked)
    login.let_end()
    gateway.terminate()
    assert gateway.wait(120) == 0, login.log()


def test_clients_that_keep_silent_hold_up_neither_the_others_nor_the_end(
    parts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    address = Address("127.0.0.1", 0)
    with metrics_served(address, parts.spool, Capacity(), patience=1.0) as listeners:
        port = int(re.findall(r"metrics at http://127\.0\.0\.1:(\d+)/", caplog.text)[-1])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
        silent[0].sendall(b"GET / HT")
        silent[1].close()
        for listener in listeners:
            listener(Round(5.0, 0.5))
        assert scrape(port).value("hpcrunner_rounds_total") == 1
    for connection in silent:
        connection.close()


def test_a_port_that_is_taken_ends_the_start_with_a_line(login: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        _, said = login.run("gateway", code=69, env={"PROM_ADDRESS": address})
    assert address in said
    assert "Traceback" not in said
    login.run("gateway", "--prom-address", "nonsense", code=64)
