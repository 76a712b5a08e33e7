"""How artifacts come to the node and go back, on a real file store."""

from __future__ import annotations

import http.server
import json
import shutil
import tarfile
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hpcrunner.job.artifacts import as_it_came
from hpcrunner.request.location import Location
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment
from hpcrunner.request.reasons import Reason
from hpcrunner.request.requirements import is_old_client

if TYPE_CHECKING:
    from conftest import Node

LIST = """
import json, os
print(json.dumps({tag: sorted(os.listdir("../" + tag)) for tag in os.listdir("..")}))
"""


def with_artifacts(experiment: PlannedExperiment, *more: PlannedArtifact) -> PlannedExperiment:
    return replace(experiment, artifacts=(*experiment.artifacts, *more))


def immutable(node: Node, tag: str, files: dict[str, str | bytes]) -> PlannedArtifact:
    return PlannedArtifact(tag, node.put(f"{tag}.tar", files), False, None)


def test_each_artifact_has_a_folder_whether_it_was_there_or_not(node: Node) -> None:
    url = PlannedArtifact("raw", node.put("raw.bin", {"x": "y"}), False, False)
    data = immutable(node, "data", {"a": "1", "sub/b": "2"})
    script = immutable(node, "clientscript", {"./client.py": "3"})
    record = node.run(with_artifacts(node.script(LIST), data, script, url, node.artifact("tb")))
    assert json.loads(record.last_lines[0]) == {
        "workspace": ["train.py"],
        "data": ["a", "sub"],
        "clientscript": ["client.py"],
        "raw": ["raw.bin"],
        "modeldir": [],
        "tb": [],
        "output": ["output"],
    }


def test_metadata_is_saved_but_never_fetched(node: Node) -> None:
    metadata = node.artifact("_metadata", location=node.put("_metadata.tar", {"old": "1"}))
    script = "import os; print(os.listdir('../_metadata')); open('../_metadata/m','w').write('2')"
    record = node.run(with_artifacts(node.script(script), metadata))
    assert record.last_lines == ("[]",)
    assert node.members("_metadata.tar")["m"] == b"2"


def test_an_image_is_no_folder_beside_the_workspace(node: Node) -> None:
    image = PlannedArtifact("_singularity", node.location("gone.sif"), False, None)
    record = node.run(with_artifacts(node.script(LIST), image))
    assert "_singularity" not in json.loads(record.last_lines[0])


def test_a_single_file_goes_back_as_the_file_it_came_as(node: Node) -> None:
    capture = node.artifact("captured", location=node.put("captured.tar", {"./c.txt": "old"}))
    script = "open('../captured/c.txt','w').write('new')"
    node.run(with_artifacts(node.script(script), capture))
    assert node.members("captured.tar") == {"./c.txt": b"new"}


def test_a_folder_goes_back_as_a_folder(node: Node) -> None:
    capture = node.artifact("captured", location=node.put("captured.tar", {"c.txt": "old"}))
    script = "open('../captured/c.txt','w').write('new')"
    node.run(with_artifacts(node.script(script), capture))
    assert node.members("captured.tar") == {"c.txt": b"new"}


def test_what_a_payload_puts_beside_a_single_file_makes_it_a_folder(node: Node) -> None:
    capture = node.artifact("captured", location=node.put("captured.tar", {"./c.txt": "old"}))
    script = "open('../captured/d.txt','w').write('new')"
    node.run(with_artifacts(node.script(script), capture))
    assert node.members("captured.tar") == {"c.txt": b"old", "d.txt": b"new"}


@pytest.mark.parametrize("where", ["../retval/retval", "../retval"])
def test_a_result_is_one_file_later_than_its_submission(node: Node, where: str) -> None:
    script = f"""
import os, shutil
if {where!r} == "../retval": shutil.rmtree("../retval")
open({where!r}, "w").write("42")
os.utime({where!r}, (0, 0))
"""
    before = time.time()
    record = node.run(with_artifacts(node.script(script), node.artifact("retval")))
    assert record.reason is Reason.COMPLETED
    with tarfile.open(node.store / "retval.tar") as tar:
        (member,) = tar.getmembers()
    assert member.name == "./retval"
    assert member.mtime > before + 4


def test_an_old_client_gets_the_names_that_it_knows(node: Node) -> None:
    assert is_old_client(["numpy==1.0", "studioml==0.0.38"])
    assert not is_old_client(["studioml==0.0.39"])
    assert not is_old_client(["studioml==0.0.44.post6"])
    assert not is_old_client([])


def test_of_a_failed_set_up_nothing_but_the_output_is_saved(node: Node) -> None:
    (node.store / "modeldir.tar").write_bytes(b"not an archive")
    record = node.run(node.script("print(1)"))
    assert record.reason is Reason.ARTIFACT_REFUSED
    assert (node.store / "modeldir.tar").read_bytes() == b"not an archive"
    assert [saved.tag for saved in record.saved] == ["output"]


def test_a_store_that_is_away_fails_the_attempt_for_mutable_artifacts_too(node: Node) -> None:
    from hpcrunner.request.location import Location

    away = Location("http", "", endpoint="http://127.0.0.1:9/modeldir.tar")
    experiment = node.script("print('started over')")
    lost = tuple(
        node.artifact("modeldir", location=away) if a.tag == "modeldir" else a
        for a in experiment.artifacts
    )
    record = node.run(replace(experiment, artifacts=lost))
    assert record.reason is Reason.STORE_UNREACHABLE
    assert record.payload_started_at is None


def test_the_disk_budget_holds_for_all_artifacts_together(node: Node) -> None:
    data = [immutable(node, tag, {"a": "x" * 40_000}) for tag in ("one", "two", "three")]
    experiment = with_artifacts(node.script(LIST), *data)
    assert node.run(replace(experiment, disk_budget=100_000)).reason is Reason.DISK_BUDGET
    for path in (node.batch / "claims" / "1", node.batch / "records" / "1.json"):
        path.unlink()
    assert node.run(replace(experiment, disk_budget=1_000_000)).reason is Reason.COMPLETED


def test_what_is_left_out_of_an_archive_is_told(node: Node) -> None:
    script = "import os; os.symlink('/etc/passwd', '../modeldir/link'); open('../modeldir/w','w')"
    record = node.run(node.script(script))
    assert record.reason is Reason.COMPLETED
    assert node.members("modeldir.tar") == {"w": b""}
    assert "link" in node.event("left_out")["text"]


def test_a_link_is_never_packed_for_the_file_that_came(tmp_path: Path) -> None:
    folder = tmp_path / "captured"
    folder.mkdir()
    (folder / "c.txt").symlink_to("/etc/passwd")
    assert as_it_came(folder, "c.txt") == folder


def test_a_payload_over_its_disk_budget_is_stopped_where_the_site_wants_it(node: Node) -> None:
    script = """
import time
open("../modeldir/w", "wb").write(b"x" * 3_000_000)
time.sleep(60)
"""
    experiment = node.script(script, disk_budget=1_000_000)
    stopped = node.run(experiment, setup={"disk_watched": True})
    assert stopped.reason is Reason.DISK_BUDGET
    assert "of its resources_needed.hdd" in stopped.text
    assert [saved.tag for saved in stopped.saved if saved.tag == "modeldir"]


def test_jobs_of_one_site_share_what_one_of_them_has_fetched(node: Node) -> None:
    content = Path(node.put("made.tar", {"weights": b"w" * 400_000}).key).read_bytes()
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.command)
            self.send_response(200)
            self.send_header("ETag", '"v1"')
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/weights.tar"
    place = Location("http", "weights.tar", endpoint=url)
    experiment = with_artifacts(
        node.script("import os; print(os.path.getsize('../weights/weights'))"),
        PlannedArtifact("weights", place, False, True),
    )
    try:
        shared = {"artifact_cache_size": 10**9, "artifact_cache": str(node.folder / "shared")}
        for outcome in ("miss", "hit"):
            assert node.run(experiment, setup=shared).last_lines == ("400000",)
            fetched = [e for e in node.events() if e["event"] == "fetched"]
            assert [e.get("cache") for e in fetched if e["tag"] == "weights"] == [outcome]
            shutil.rmtree(node.batch)
    finally:
        server.shutdown()
        server.server_close()
    assert asked == ["HEAD", "GET", "HEAD"]
