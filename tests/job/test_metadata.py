"""The metadata that every attempt leaves: its documents, where they go, and what they tell."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.accessions import take_accession
from hpcrunner.job.events import Events
from hpcrunner.job.metadata import LARGEST_EVENT, Metadata
from hpcrunner.request.accession import base62
from hpcrunner.request.beside import beside
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.reasons import Reason

NAME = re.compile(r"(scrape|request)-host-[A-Za-z0-9.-]+-[0-9A-Za-z]{6}\.json")
RESULT = 'print(\'{"experiment": {"accuracy": 0.5}}\')\n'


def with_metadata(node: Any, script: str, **more: Any) -> PlannedExperiment:
    """An experiment that runs this Python text and has a ``_metadata`` artifact."""
    experiment: PlannedExperiment = node.script(script, **more)
    artifacts = (*experiment.artifacts, node.artifact("_metadata"))
    return replace(experiment, artifacts=artifacts)


def stored(folder: Path, kind: str = "scrape") -> list[dict[str, Any]]:
    """The documents of that kind in a store, by name."""
    found = sorted(folder.glob(f"metadata/{kind}-host-*.json"))
    assert all(NAME.fullmatch(path.name) for path in found)
    return [json.loads(path.read_text()) for path in found]


def told(document: dict[str, Any]) -> list[str]:
    return [entry["msg"] for entry in document["studioml"]["log"]]


def test_seconds_are_written_in_base_62() -> None:
    assert base62(0) == "0"
    assert base62(1546495043) == "1gew0R"
    assert base62(1624770769) == "1lxN69"


def test_names_taken_within_one_second_differ() -> None:
    taken = [take_accession("a-host", 1546495043.5, lambda name: False) for _ in range(3)]
    names = [one.name for one in taken]
    assert names == ["a-host-1gew0R", "a-host-1gew0S", "a-host-1gew0T"]
    # Of an attempt that has ended already, the bucket tells.
    used = {"b-host-1gew0R", "b-host-1gew0S"}
    found = take_accession("b-host", 1546495043.5, used.__contains__)
    assert found.name == "b-host-1gew0T"
    for one in (*taken, found):
        one.let_go()
    again = take_accession("a-host", 1546495043.5, lambda name: False)
    assert again.name == "a-host-1gew0R", "let go, and nothing lies under it"
    again.let_go()


def test_the_document_tells_what_the_payload_recorded_and_how_it_ran(node: Any) -> None:
    experiment = with_metadata(
        node,
        "import os, sys\n" + RESULT + "print('warning', file=sys.stderr)\n",
        document=json.dumps({"project": "p", "owner": "guest", "project_version": 3}),
    )
    node.write(experiment)
    before = time.time()
    node.start(SLURM_JOB_ID="4711", SLURM_JOB_PARTITION="gpu", SLURMD_NODENAME="n7").wait(150)
    (document,) = stored(node.store)
    assert document["experiment"] == {"accuracy": 0.5}
    ours = document["studioml"]
    assert ours["status"] == "completed"
    assert ours["host"] == os.uname().nodename
    assert ours["experiment"] == {
        "key": "k",
        "project": "p",
        "author": "guest",
        "project_version": "3",
    }
    assert ours["slurm"] == {"job_id": "4711", "partition": "gpu", "node": "n7"}
    assert ours["attempt"] == 1
    assert ours["artifacts"]["output"] == f"file://{node.store}/output.tar"
    assert told(document) == ["Init", "Start", "warning", "Stop"]
    times = [ours[name] for name in ("load_time", "start_time", "stop_time")]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:]{8}\.\d{9}\+00:00", at) for at in times)
    seconds = [datetime.fromisoformat(at[:26] + at[29:]).timestamp() for at in times]
    assert before - 1 <= seconds[0] <= seconds[1] <= seconds[2] <= time.time()
    # The same is in the artifact that the client reads back, beside the other saved files.
    members = node.members("_metadata.tar")
    name = f"scrape-host-{ours['accession']}.json"
    assert json.loads(members[name]) == document


def test_the_request_is_kept_without_its_credentials(node: Any) -> None:
    request = {
        "key": "k",
        "args": ["--token=s3cr3t"],
        "artifacts": {"x": {"credentials": {"aws": {"secret_access_key": "s3cr3t"}}}},
    }
    environment = (("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("COLOUR", "blue"))
    experiment = with_metadata(
        node,
        "print('TOKEN=s3cr3t')",
        document=json.dumps(request),
        environment=environment,
        pip=("pip",),
    )
    # Nothing needs to be installed to see what is kept.
    node.run(replace(experiment, python_version="3.2"))
    (kept,) = stored(node.store, "request")
    assert kept["experiment"]["key"] == "k"
    assert kept["config"] == {
        "env": {"AWS_SECRET_ACCESS_KEY": "****", "COLOUR": "blue"},
        "pip": ["pip"],
    }
    for path in node.store.glob("metadata/*"):
        assert "s3cr3t" not in path.read_text()


def test_credentials_in_the_output_are_masked_in_the_log(node: Any) -> None:
    node.run(with_metadata(node, "print('AWS_SECRET_ACCESS_KEY=s3cr3t')"))
    (document,) = stored(node.store)
    assert "AWS_SECRET_ACCESS_KEY=****" in told(document)


def test_each_file_of_the_payload_is_uploaded_beside_the_documents(node: Any) -> None:
    script = """
import os
os.chdir("../_metadata")
open("mine.json", "w").write("{}")
open("scrape-host-other-1gew0R.json", "w").write("of another attempt?")
open(".hidden", "w").write("x")
os.symlink("/etc/passwd", "link")
os.mkdir("folder")
os.mkfifo("pipe")
"""
    assert node.run(with_metadata(node, script)).reason is Reason.COMPLETED
    names = sorted(path.name for path in (node.store / "metadata").iterdir())
    assert names[0] == "mine.json"
    assert len(names) == 3
    assert all(NAME.fullmatch(name) for name in names[1:])
    assert "scrape-host-other-1gew0R.json" not in names
    text = node.event("metadata_failed")["text"]
    assert "another attempt" in text


def test_the_document_is_private_on_the_node_and_refreshed_while_the_payload_runs(
    node: Any,
) -> None:
    script = f"""
import glob, json, os, time
print('{{"experiment": {{"epoch": 1}}}}')
saved = {str(node.store)!r} + "/metadata/scrape*"
while not any('"epoch":1' in open(path).read() for path in glob.glob(saved)):
    time.sleep(0.05)
(mine,) = glob.glob("../_metadata/scrape-host-*")
print(oct(os.stat(mine).st_mode & 0o777))
print(json.loads(open(mine).read())["studioml"])
"""
    record = node.run(with_metadata(node, script, save_interval=0.2))
    assert record.reason is Reason.COMPLETED
    mode, document_then = record.last_lines[1:]
    assert mode == "0o600"
    assert "'status': 'running'" in document_then
    (document,) = stored(node.store)
    assert document["studioml"]["status"] == "completed"


def test_a_failure_is_told_with_what_was_printed_last(node: Any) -> None:
    record = node.run(with_metadata(node, RESULT + "raise SystemExit('the very end')"))
    (document,) = stored(node.store)
    assert document["experiment"] == {"accuracy": 0.5}
    assert document["studioml"]["status"] == "payload_exit"
    assert document["studioml"]["error"] == record.text
    assert told(document)[-3:] == ["the very end", "Stop", f"hpcrunner: {record.text}"]


def test_a_failed_download_leaves_a_document_too_and_an_earlier_tar_alone(node: Any) -> None:
    before = {"result.json": "{}"}
    location = node.put("_metadata.tar", before)
    experiment = with_metadata(node, RESULT)
    gone = PlannedArtifact("data", node.location("gone.tar"), False, True)
    record = node.run(replace(experiment, artifacts=(*experiment.artifacts, gone)))
    assert record.reason is Reason.ARTIFACT_NOT_FOUND
    (document,) = stored(node.store)
    assert document["studioml"]["status"] == "artifact_not_found"
    assert "gone.tar" in document["studioml"]["error"]
    assert "start_time" not in document["studioml"]
    assert len(stored(node.store, "request")) == 1
    assert node.members(Path(location.key).name) == {"result.json": b"{}"}


def test_results_that_do_not_get_out_are_told_in_the_document(node: Any) -> None:
    experiment = with_metadata(node, "open('../tb/w', 'w').write('1')")
    (node.store / "a folder").mkdir()
    tb = node.artifact("tb", location=node.location("a folder"))
    record = node.run(replace(experiment, artifacts=(*experiment.artifacts, tb)))
    assert record.reason is Reason.UPLOAD_FAILED
    (document,) = stored(node.store)
    assert document["studioml"]["status"] == "upload_failed"
    assert "artifact tb was not saved" in document["studioml"]["error"]


def test_where_single_files_are_refused_the_attempt_is_none_the_worse(node: Any) -> None:
    (node.store / "metadata").touch()  # no folder can be made there
    record = node.run(with_metadata(node, RESULT))
    assert record.reason is Reason.COMPLETED
    assert "metadata/scrape-host" in node.event("metadata_failed")["text"]
    assert len(node.members("_metadata.tar")) == 2


def test_two_attempts_leave_two_documents_however_short_they_are(node: Any) -> None:
    for attempt in (1, 2):
        for name in ("claims", "records"):
            (node.batch / name / ("1" if name == "claims" else "1.json")).unlink(missing_ok=True)
        node.run(with_metadata(node, RESULT, attempt=attempt))
    documents = stored(node.store)
    assert [d["studioml"]["attempt"] for d in documents] == [1, 2]


def test_tasks_that_start_at_once_leave_a_document_each(node: Any) -> None:
    node.write(*[with_metadata(node, RESULT, key=f"k{n}") for n in range(4)])
    for process in [node.start(n) for n in range(1, 5)]:
        assert process.wait(150) == 0
    keys = [d["studioml"]["experiment"]["key"] for d in stored(node.store)]
    assert sorted(keys) == ["k0", "k1", "k2", "k3"]


def test_what_a_payload_puts_in_our_place_leads_nowhere(node: Any) -> None:
    elsewhere = node.folder / "elsewhere"
    elsewhere.mkdir()
    script = f"import os; os.rmdir('../_metadata'); os.symlink({str(elsewhere)!r}, '../_metadata')"
    node.run(with_metadata(node, script))
    assert list(elsewhere.iterdir()) == []


def test_a_request_without_the_artifact_leaves_no_files_but_events(node: Any) -> None:
    node.run(node.script("import os\n" + RESULT + "print(os.listdir('..'))"))
    assert not (node.store / "metadata").exists()
    assert "_metadata" not in node.record().last_lines[-1]
    noted = [json.loads(e["json"]) for e in node.events() if e["event"] == "metadata"]
    assert noted[-1]["experiment"] == {"accuracy": 0.5}
    assert noted[-1]["studioml"]["status"] == "completed"
    assert "log" not in noted[-1]["studioml"]


def test_the_site_can_leave_the_output_out_of_the_log(node: Any) -> None:
    node.run(with_metadata(node, "print('printed')\n" + RESULT), setup={"schema_logs": False})
    (document,) = stored(node.store)
    assert told(document) == ["Init", "Start", "Stop"]
    assert document["experiment"] == {"accuracy": 0.5}


def test_a_site_that_wants_no_documents_has_none(node: Any) -> None:
    script = RESULT + "open('../_metadata/mine', 'w').write('1')"
    node.run(with_metadata(node, script), setup={"generate_metadata": False})
    assert not (node.store / "metadata").exists()
    assert node.members("_metadata.tar") == {"mine": b"1"}


def metadata_of(tmp_path: Path, **more: Any) -> tuple[Metadata, Path]:
    experiment = PlannedExperiment(
        id="i", key="k", name="k", attempt=1, filename="x", args=(), artifacts=(), **more
    )
    events = Events(tmp_path / "events")
    return Metadata(experiment, "host-1gew0R", {}, events, logs=True), tmp_path / "events"


def noted(path: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [json.loads(e["json"]) for e in events if e["event"] == "metadata"]


def test_events_are_few_masked_and_never_large(tmp_path: Path) -> None:
    metadata, path = metadata_of(tmp_path)
    metadata.started()
    for n in range(50):
        metadata.scraper.feed(b'{"experiment": {"step": %d, "cmd": "TOKEN=x"}}\n' % n)
    metadata.stopped()
    metadata.ended(Reason.COMPLETED, "")
    metadata.ended(Reason.COMPLETED, "")
    seen = noted(path)
    assert 1 <= len(seen) <= 2
    assert seen[-1]["experiment"] == {"step": 49, "cmd": "TOKEN=****"}

    metadata.scraper.feed(json.dumps({"experiment": "x" * LARGEST_EVENT}).encode() + b"\n")
    metadata.stopped()
    metadata.ended(Reason.PAYLOAD_EXIT, "exit code 1")
    last = noted(path)[-1]
    assert last["studioml"]["status"] == "payload_exit"
    assert last["studioml"]["left_out"] > LARGEST_EVENT
    assert "experiment" not in last


@pytest.mark.parametrize(
    ("location", "key", "expected"),
    [
        (Location("s3", "experiments/k/_metadata.tar", "b", "http://h:1"), "", "metadata/f"),
        (Location("gs", "experiments/k/_metadata.tar", "b"), "", "metadata/f"),
        (
            Location("file", "/store/bucket/experiments/k/_metadata.tar"),
            "experiments/k/_metadata.tar",
            "/store/bucket/metadata/f",
        ),
        (Location("file", "/folder/m.tar"), "/folder/m.tar", "/folder/metadata/f"),
        (Location("file", "/folder/m.tar"), "", "/folder/metadata/f"),
        (Location("file", "/folder/m.tar"), "other/m.tar", "/folder/metadata/f"),
        (Location("file", "/m.tar"), "m.tar", "/metadata/f"),
    ],
)
def test_single_files_go_to_the_root_of_the_bucket(
    location: Location, key: str, expected: str
) -> None:
    document = json.dumps({"artifacts": {"_metadata": {"key": key}}})
    artifact = PlannedArtifact("_metadata", location, True, True)
    found = beside(artifact, document, "f")
    assert (found.key, found.bucket, found.endpoint) == (
        expected,
        location.bucket,
        location.endpoint,
    )


@pytest.fixture(scope="module")
def s3() -> Iterator[tuple[Any, str]]:
    """An S3 server with a bucket, and a client of it."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="s",
    )
    client.create_bucket(Bucket="artifacts")
    yield client, endpoint
    server.stop()


def test_in_s3_the_documents_lie_at_the_buckets_root(node: Any, s3: tuple[Any, str]) -> None:
    client, endpoint = s3
    location = Location(
        "s3",
        "experiments/k/_metadata.tar",
        "artifacts",
        endpoint,
        "",
        AwsCredentials("a", "s3cr3t"),
    )
    experiment: PlannedExperiment = node.script(RESULT)
    artifact = node.artifact("_metadata", location=location)
    experiment = replace(experiment, artifacts=(*experiment.artifacts, artifact))
    assert node.run(experiment).reason is Reason.COMPLETED
    keys = [o["Key"] for o in client.list_objects_v2(Bucket="artifacts")["Contents"]]
    assert keys[0] == "experiments/k/_metadata.tar"
    assert [key.partition("-host-")[0] for key in keys[1:]] == [
        "metadata/request",
        "metadata/scrape",
    ]
    body = client.get_object(Bucket="artifacts", Key=keys[2])["Body"].read()
    assert json.loads(body)["experiment"] == {"accuracy": 0.5}
    assert b"s3cr3t" not in body
