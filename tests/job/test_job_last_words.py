"""What an attempt leaves for its client at the end: the record's status, and ``_results``."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from hpcrunner.job.ending import Outlook, outlook_of
from hpcrunner.request.faults import NO_RETRIES, RetriesLeft
from hpcrunner.request.plan import PlannedExperiment
from hpcrunner.request.reasons import Reason

if TYPE_CHECKING:
    from conftest import Node

ONE_MORE = RetriesLeft(infrastructure=1, payload=1)


def with_results(node: Node, experiment: PlannedExperiment, **more: Any) -> PlannedExperiment:
    """The same with a client's record and a ``_results`` artifact."""
    (node.store / "k").write_text('{"key": "k", "status": "waiting", "time_started": null}')
    artifacts = (*experiment.artifacts, node.artifact("_results"))
    return replace(experiment, artifacts=artifacts, record=node.location("k"), **more)


def told(node: Node) -> Any:
    return json.loads((node.store / "k").read_text())


def results(node: Node) -> Any:
    return json.loads(node.members("_results.tar")["_results.json"])


@pytest.mark.parametrize(
    ("reason", "text", "retries", "outlook"),
    [
        (Reason.COMPLETED, "", ONE_MORE, Outlook.FINAL),
        (Reason.PAYLOAD_EXIT, "", ONE_MORE, Outlook.FOLLOWED),
        (Reason.PAYLOAD_EXIT, "", NO_RETRIES, Outlook.FINAL),
        (Reason.UPLOAD_FAILED, "", ONE_MORE, Outlook.FOLLOWED),
        (Reason.ARTIFACT_NOT_FOUND, "", ONE_MORE, Outlook.FINAL),
        (Reason.CANCELLED, "stopped by the client", ONE_MORE, Outlook.FINAL),
        (Reason.CANCELLED, "cancelled from outside (SIGTERM)", ONE_MORE, Outlook.OPEN),
        (Reason.CANCELLED, "cancelled from outside (SIGTERM)", NO_RETRIES, Outlook.OPEN),
    ],
)
def test_an_ending_is_the_last_where_no_retry_follows_and_a_cancellation_is_the_gateways_to_judge(
    node: Node, reason: Reason, text: str, retries: RetriesLeft, outlook: Outlook
) -> None:
    experiment = node.script("", retries=retries)
    assert outlook_of(reason, text, experiment, time.time()) is outlook
    expired = replace(experiment, expires_at=time.time())
    over = Outlook.FINAL if outlook is Outlook.FOLLOWED else outlook
    assert outlook_of(reason, text, expired, time.time() + 1) is over


def test_results_come_last_and_list_what_was_saved(node: Node) -> None:
    script = "open('../modeldir/w', 'w').write('x'); open('../_metadata/m', 'w').write('y')"
    experiment = node.script(script, save_interval=0.1)
    experiment = replace(experiment, artifacts=(*experiment.artifacts, node.artifact("_metadata")))
    record = node.run(with_results(node, experiment))
    assert record.reason is Reason.COMPLETED, node.log()
    document = results(node)
    assert (document["exit_msg"], document["experiment_id"]) == ("ok", "k")
    assert document["host"] == record.host
    assert document["artifacts"] == {"modeldir": {"name": "modeldir"}, "output": {"name": "output"}}
    raw = node.members("_results.tar")["_results.json"].decode()
    assert raw.startswith('{\n  "exit_msg"')
    saved = [event["tag"] for event in node.events() if event["event"] == "saved"]
    assert saved[-1] == "_results"
    assert saved.count("_results") == 1
    assert "_results" in {artifact.tag for artifact in record.saved}


def test_a_failure_without_another_attempt_says_so_to_the_client(node: Node) -> None:
    node.run(with_results(node, node.script("raise SystemExit(3)")))
    assert results(node)["exit_msg"] == "ended with exit code 3"
    assert (told(node)["status"], told(node)["hpcrunner"]["reason"]) == ("finished", "PAYLOAD_EXIT")
    assert told(node)["hpcrunner"]["text"] == "ended with exit code 3"
    assert node.event("client_told")["outlook"] == "final"


def test_a_failure_with_another_attempt_to_follow_waits_again_and_has_no_results(
    node: Node,
) -> None:
    node.run(with_results(node, node.script("raise SystemExit(3)"), retries=ONE_MORE))
    assert not (node.store / "_results.tar").exists()
    assert told(node)["status"] == "waiting"
    assert told(node).get("time_finished") is None
    assert node.event("client_told")["outlook"] == "followed"


def test_a_stop_by_the_client_stays_stopped_and_has_results(node: Node) -> None:
    script = f"""
import json, time
path = {str(node.store / "k")!r}
record = json.load(open(path))
record["status"] = "stopped"
open(path, "w").write(json.dumps(record))
time.sleep(3600)
"""
    node.look_every = 0.2
    node.run(with_results(node, node.script(script), retries=ONE_MORE))
    assert told(node)["status"] == "stopped"
    assert told(node)["time_finished"] > 0
    assert results(node)["exit_msg"] == "stopped by the client"


def test_after_a_signal_from_outside_the_last_word_is_the_gateways(node: Node) -> None:
    script = "import time; print('ready', flush=True); time.sleep(3600)"
    node.write(with_results(node, node.script(script)))
    process = node.start()
    node.wait_until(lambda: "ready\n" in node.log())
    process.send_signal(signal.SIGTERM)
    process.wait(150)
    assert node.record().reason is Reason.CANCELLED
    assert told(node)["status"] == "running"
    assert node.event("client_told") is None
    assert not (node.store / "_results.tar").exists()


def test_an_expired_experiment_is_over_without_having_started(node: Node) -> None:
    record = node.run(with_results(node, node.script(""), expires_at=time.time() - 1))
    assert record.reason is Reason.LIFETIME_EXPIRED
    assert (told(node)["status"], told(node)["time_started"]) == ("finished", None)
    assert "time_last_checkpoint" not in told(node)


def test_what_a_payload_puts_into_results_is_not_taken_for_ours(node: Node) -> None:
    script = "import os; os.symlink('/etc/passwd', '../_results/_results.json')"
    node.run(with_results(node, node.script(script)))
    assert results(node)["exit_msg"] == "ok"


def test_results_that_cannot_be_uploaded_are_no_success(node: Node) -> None:
    (node.store / "file").touch()
    experiment = with_results(node, node.script(""))
    lost = node.artifact("_results", location=node.location("file/below/r.tar"))
    artifacts = tuple(lost if a.tag == "_results" else a for a in experiment.artifacts)
    record = node.run(replace(experiment, artifacts=artifacts))
    assert record.reason is Reason.UPLOAD_FAILED
    assert "_results" in record.text
