"""``staging: gateway``: nodes without any network, and the same results as with one."""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from s3_server import KEYS, S3Server, s3_server, server, tool

from dev.queue_servers import free_port
from hpcrunner.client.build import Work
from hpcrunner.client.publish import publish
from hpcrunner.client.upload import upload_work
from hpcrunner.crashpoint import PREPARING_POINTS, VARIABLE
from hpcrunner.gateway.experiment import Experiment
from hpcrunner.gateway.reader import Reader
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.request.reasons import Reason
from hpcrunner.storage import gcs
from hpcrunner.storage.gcs import GcsStore

NOBODY = AwsCredentials()
UNSHARE = ["unshare", "--user", "--map-current-user", "--net"]
# Times that are always the same make archives that are the same byte for byte.
PAYLOAD = """
import os, sys, time
def note(word):
    with open(os.environ["LEDGER"], "a") as ledger:
        ledger.write(f"{word} {sys.argv[1]} -\\n")
def save(tag, name, text):
    path = f"../{tag}/{name}"
    open(path, "w").write(text)
    os.utime(path, (1e9, 1e9))
    os.utime(f"../{tag}", (1e9, 1e9))
note("began")
print("alpha", __import__("alpha").version if len(sys.argv) > 2 else "", flush=True)
save("modeldir", "weights", "one")
until = time.monotonic() + (280 if sys.argv[1] == "waits" else 0)
while time.monotonic() < until and not os.path.exists(os.environ["LEDGER"] + ".end"):
    time.sleep(0.05)
save("modeldir", "weights", "two" * 1000)
save("retval", "retval", "42")
note("ended")
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as made:
        yield made


@pytest.fixture
def own_s3(tmp_path: Path) -> Iterator[S3Server]:
    """One that the test may stop."""
    (tmp_path / "own").mkdir()
    with s3_server(tmp_path / "own") as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def namespaces() -> None:
    if subprocess.run([*UNSHARE, "true"], capture_output=True).returncode:
        pytest.skip("no user namespaces for this user")


class Site:
    """A login node whose compute nodes have no network at all, not even loopback."""

    def __init__(
        self, login: Any, s3: S3Server, *, bucket: str = "artifacts", **keys: object
    ) -> None:
        self.login = login
        self.s3 = s3
        self.stores = replace(s3.stores, storage=replace(s3.stores.storage, bucket=bucket))
        self.bucket = s3.buckets / bucket
        self.bucket.mkdir(exist_ok=True)
        self.keys: dict[str, str] = {}
        (login.folder / "code" / "run.py").write_text(PAYLOAD)
        python = login.folder / "python"
        words = shlex.join([*UNSHARE, sys.executable])
        python.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        python.chmod(0o755)
        usual = {"staging": "gateway", "python": str(python), "retries": {"infrastructure": 0}}
        usual["gateway_hosts"] = ["127.0.0.1"]
        login.write_site(**{**usual, **keys})

    def publish(self, name: str, *args: str, bare: bool = False, **more: Any) -> str:
        """Publish an experiment; a ``bare`` one has nothing but its code."""
        environment = {"LEDGER": str(self.login.ledger), **more.pop("environment", {})}
        more_artifacts = more.pop("artifacts", {})
        work = Work("run.py", args=(name, *args), environment=environment, **more)
        key, body = upload_work(work, self.login.folder / "code", self.stores)
        message = json.loads(body)
        message["config"]["saveWorkspaceFrequency"] = "1s"
        artifacts = message["experiment"]["artifacts"]
        artifacts["_results"] = json.loads(
            json.dumps(artifacts["retval"]).replace("retval.tar", "_results.tar")
        )
        artifacts |= more_artifacts
        if bare:
            del message["config"]["database"]
            message["experiment"]["artifacts"] = {"workspace": artifacts["workspace"]}
        publish(self.login.queue, json.dumps(message).encode())
        self.keys[name] = key
        return key

    def object(self, name: str, tag: str) -> bytes | None:
        try:
            return (self.bucket / "experiments" / self.keys[name] / f"{tag}.tar").read_bytes()
        except FileNotFoundError:
            return None

    def members(self, name: str, tag: str) -> dict[str, bytes]:
        path = self.bucket / "experiments" / self.keys[name] / f"{tag}.tar"
        # The server writes a file where it stands: a moment's half of one is none yet.
        with contextlib.suppress(FileNotFoundError, tarfile.ReadError), tarfile.open(path) as tar:
            return {m.name: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
        return {}

    def documents(self, name: str) -> list[dict[str, Any]]:
        """What the attempts say of themselves at the root of the bucket, in order."""
        found = []
        for path in (self.bucket / "metadata").glob("scrape-*"):
            # Another experiment's may be half written, as above.
            with contextlib.suppress(FileNotFoundError, ValueError):
                found.append(json.loads(path.read_bytes())["studioml"])
        mine = [one for one in found if one["experiment"]["key"] == self.keys[name]]
        return sorted(mine, key=lambda one: int(one["attempt"]))

    def left(self, name: str) -> dict[str, Any]:
        """All that a client gets of an experiment that never ran, but for times and hosts."""
        row, record = self.row(name), self.record(name)
        assert row is not None
        results = json.loads(self.members(name, "_results")["_results.json"])
        documents = [
            {
                **{n: one[n] for n in ("status", "error", "attempt", "restarts")},
                # The code is packed anew each time.
                "artifacts": {k: v for k, v in one["artifacts"].items() if k != "workspace"},
                "members": sorted(one),
                "log": [entry["msg"] for entry in one["log"][:1]],
            }
            for one in self.documents(name)
        ]
        found = {
            "state": row.state,
            "reason": row.reason,
            "text": row.text,
            "attempt": row.attempt,
            "output": self.members(name, "output").get("./output", b"").decode(),
            "record": {n: bool(record.get(n)) for n in sorted(record)},
            "said": (record["hpcrunner"]["reason"], record["hpcrunner"]["attempt"]),
            "results": sorted(results),
            "saved": results["artifacts"],
            "documents": documents,
        }
        plain = json.dumps(found).replace(self.keys[name], "KEY")
        plain = plain.replace(f"/{self.bucket.name}/experiments/", "/BUCKET/experiments/")
        return {**json.loads(plain), "state": row.state, "reason": row.reason}

    def record(self, name: str) -> dict[str, Any]:
        path = self.s3.buckets / "meta" / "experiments" / self.keys[name]
        found: dict[str, Any] = {"status": ""}
        with contextlib.suppress(FileNotFoundError, ValueError):  # half written, as above
            found = json.loads(path.read_bytes())
        return found

    def row(self, name: str) -> Experiment | None:
        journal = Reader(self.login.spool / "journal.db")
        try:
            found = journal.find(self.keys[name])
        finally:
            journal.close()
        return found[-1] if found else None

    def state(self, name: str) -> str:
        row = self.row(name)
        return row.state.value if row else ""

    def ended(self, *names: str) -> bool:
        rows = [self.row(name) for name in names]
        return all(row is not None and row.state.final for row in rows)


# Builds its one module by itself, with nothing from any index.
BACKEND = """
import zipfile
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "alpha-1.5-py3-none-any.whl"
    info = "alpha-1.5.dist-info"
    with zipfile.ZipFile(f"{folder}/{name}", "w") as archive:
        archive.writestr("alpha.py", "version = '1.5'\\n")
        metadata = "Metadata-Version: 2.1\\nName: alpha\\nVersion: 1.5\\n"
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return name
"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: object) -> None:
        pass


def source_archive(folder: Path) -> Path:
    """An index of one package, as a source archive, where only the login node gets at it."""
    source = folder / "alpha-1.5"
    source.mkdir(parents=True)
    (source / "backend.py").write_text(BACKEND)
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: alpha\nVersion: 1.5\n")
    with tarfile.open(folder / "alpha-1.5.tar.gz", "w:gz") as tar:
        tar.add(source, "alpha-1.5")
    return folder


@pytest.fixture(scope="module", autouse=True)
def online_but_cut(
    namespaces: None, login_type: Any, s3: S3Server, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The same nodes, which are to fetch for themselves; begun first, since it takes long."""
    folder = tmp_path_factory.mktemp("cut")
    login = login_type(folder, folder / "spool")
    site = Site(login, s3, staging="node")
    site.publish("cut", bare=True)
    login.gateway()
    yield site
    login.close()


def test_with_the_nodes_network_cut_the_results_are_the_same_byte_for_byte(
    login_on: Callable[..., Any], s3: S3Server, tmp_path: Path, until: Callable[..., Any]
) -> None:
    def site(name: str, **keys: object) -> Site:
        (tmp_path / name).mkdir()
        return Site(login_on(tmp_path / name, tmp_path / name / "spool"), s3, **keys)

    carried = site("carried")
    online = site("online", staging="node", python=sys.executable)
    sites = (carried, online)
    for each in sites:
        each.publish("waits")
        each.login.gateway()
    until(lambda: carried.members("waits", "modeldir") == {"weights": b"one"}, carried.login.log)
    until(lambda: carried.state("waits") == "RUNNING", carried.login.log)  # it was saved meanwhile
    until(lambda: carried.record("waits")["status"] == "running", carried.login.log)
    batches = carried.login.spool / "batches"
    plan = next(batches.glob("*/plan.json")).read_text()
    assert KEYS.secret_access_key not in plan and s3.endpoint not in plan
    staged = carried.login.spool / "staging"
    assert staged.stat().st_mode & 0o777 == 0o700
    for each in sites:
        each.login.let_end()
    for each in sites:
        until(lambda each=each: each.ended("waits"), each.login.log)
    states = (carried.state("waits"), online.state("waits"))
    assert states == ("SUCCEEDED", "SUCCEEDED"), carried.login.log() + online.login.log()
    assert carried.object("waits", "modeldir") == online.object("waits", "modeldir") is not None
    for tag in ("retval", "output", "_metrics", "_results"):
        assert carried.members("waits", tag).keys() == online.members("waits", tag).keys() != set()
    for tag in ("retval", "output"):  # a single file's archive says when it was packed
        assert carried.members("waits", tag) == online.members("waits", tag)
    assert json.loads(carried.members("waits", "_results")["_results.json"])["exit_msg"] == "ok"
    until(lambda: carried.record("waits")["status"] == "finished", carried.login.log)
    ours, theirs = carried.record("waits"), online.record("waits")
    assert ours.keys() == theirs.keys()
    assert ours["hpcrunner"]["reason"] == theirs["hpcrunner"]["reason"] == "COMPLETED"
    documents = {p.name[:12] for p in (s3.buckets / "artifacts" / "metadata").iterdir()}
    assert documents == {"scrape-host-", "request-host"}
    saved = json.loads(carried.login.run("status", "--json", carried.keys["waits"])[0])
    assert all(
        s["address"].startswith("s3://") for s in saved[0]["saved"] if s["tag"] != "_metadata"
    )
    until(lambda: list((staged / "attempts").iterdir()) == [], carried.login.log)
    assert [p for f in ("in", "out", "stored", "records") for p in (staged / f).iterdir()] == []


def test_killed_at_any_point_nothing_is_lost_and_nothing_is_run_twice(
    login: Any, s3: S3Server, tmp_path: Path, until: Callable[..., Any]
) -> None:
    """Each gateway dies at another point, with the work of those before it still to be done.

    The first experiment wants a package from a web server that only the login node reaches.
    """
    site = Site(login, s3)
    index = source_archive(tmp_path / "index")
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(index)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    source = f"alpha @ http://127.0.0.1:{web.server_port}/alpha-1.5.tar.gz"
    pip = {"PIP_NO_INDEX": "1"}
    points = [point for point in PREPARING_POINTS if point.startswith("staging.")]
    endings = [point for point in PREPARING_POINTS if point not in points]
    nowhere = f"s3://127.0.0.1:{s3.port}/artifacts/absent.tar"
    absent = {"mutable": False, "unpack": True, "qualified": nowhere}
    crashes = tmp_path / "crashes"
    crashes.mkdir()
    names = []
    for number, point in enumerate(points):
        names.append(f"e{number}")
        if number == 0:
            site.publish("e0", "imports", pip=(source,), environment=pip)
        else:
            site.publish(names[-1])
        process = login.gateway(env={VARIABLE: f"{point}:1:{crashes}"}, ready="")
        assert until(process.poll, login.log) == -signal.SIGKILL, (point, login.log())
    for point in endings:  # of those that cannot be prepared
        site.publish(point, artifacts={"data": absent})
        process = login.gateway(env={VARIABLE: f"{point}:1:{crashes}"}, ready="")
        assert until(process.poll, login.log) == -signal.SIGKILL, (point, login.log())
    last = login.gateway("--limit-tasks", str(len(points) + len(endings)))
    del last
    until(lambda: site.ended(*names, *endings), login.log)
    for name in endings:
        until(lambda name=name: site.record(name)["status"] == "finished", login.log)
        left = site.left(name)
        assert (left["reason"], left["attempt"]) == (Reason.ARTIFACT_NOT_FOUND, 1)
        assert left["output"] == f"hpcrunner: {left['text']}\n"
    assert login.runs("ended") == dict.fromkeys(names, 1), login.log()
    for name in names:
        assert site.state(name) == "SUCCEEDED", login.log()
        assert b"alpha 1.5" in site.members("e0", "output")["./output"]
        assert site.members(name, "modeldir") == {"weights": b"two" * 1000}
        assert site.members(name, "retval") == {"./retval": b"42"}
        until(lambda name=name: site.record(name)["status"] == "finished", login.log)


def test_artifacts_in_google_cloud_storage_are_carried_too(
    login: Any,
    s3: S3Server,
    tmp_path: Path,
    until: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The emulator is the gateway's; the jobs know nothing of it, and reach nothing."""
    pytest.importorskip("google.cloud.storage", reason="pip install 'hpcrunner[gcs]'")
    port = free_port()
    argv = [tool("gcp-storage-emulator"), "start", "--host", "127.0.0.1", "--port", str(port)]
    site = Site(login, s3)
    with tarfile.open(tmp_path / "code.tar", "w") as tar:
        tar.add(login.folder / "code" / "run.py", "run.py")
    with server([*argv, "--in-memory", "--default-bucket", "b"], port, tmp_path / "log"):
        emulator = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
        monkeypatch.setenv(*next(iter(emulator.items())))
        monkeypatch.setattr(gcs, "_clients", {})
        code = (tmp_path / "code.tar").read_bytes()
        place = Location("gs", "code.tar", "b", credentials=NOBODY)
        GcsStore().put(place, io.BytesIO(code), len(code))
        results = Location("gs", "results/modeldir.tar", "b", credentials=NOBODY)
        there = {"unpack": True, "key": "", "bucket": "", "credentials": None}
        artifacts = {
            "workspace": {**there, "mutable": False, "qualified": "gs://b/code.tar"},
            "modeldir": {**there, "mutable": True, "qualified": str(results)},
        }
        site.publish("cloud", artifacts=artifacts)
        login.gateway(env=emulator)
        until(lambda: site.ended("cloud"), login.log)
        assert site.state("cloud") == "SUCCEEDED", login.log()
        with GcsStore().open(results) as found:
            packed = io.BytesIO(found.stream.read())
        with tarfile.open(fileobj=packed) as tar:
            names = tar.getnames()
    assert names == ["weights"]
    assert site.members("cloud", "retval") == {"./retval": b"42"}


def broken(s3: S3Server, folder: Path) -> dict[str, dict[str, Any]]:
    """Experiments that cannot begin, each for another reason: what ``publish`` is told."""
    blobs = s3.buckets / "artifacts" / "blobstore"
    blobs.mkdir(parents=True, exist_ok=True)
    (blobs / "no-archive.tar").write_bytes(b"these are words and no archive" * 40)
    at = f"s3://127.0.0.1:{s3.port}/artifacts/blobstore"
    wrong = {"aws": {"access_key": "nobody", "secret_access_key": "wrong"}}
    only_here = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(source_archive(folder))}
    only_here |= {"UV_NO_INDEX": "1", "UV_FIND_LINKS": str(folder)}

    def data(**more: Any) -> dict[str, Any]:
        artifact = {"mutable": False, "unpack": True, "qualified": f"{at}/absent.tar", **more}
        return {"artifacts": {"data": artifact}}

    image = {
        "_singularity": {"qualified": f"{at}/no-archive.tar", "key": "blobstore/no-archive.tar"}
    }
    return {
        "missing": data(),
        "denied": data(credentials=wrong),
        "corrupt": data(qualified=f"{at}/no-archive.tar"),
        "packages": {"pip": ("no-such-package==1.0",), "environment": only_here},
        "image": {"artifacts": image},
    }


def test_what_cannot_be_prepared_ends_as_on_a_node_word_for_word(
    login_on: Callable[..., Any], s3: S3Server, tmp_path: Path, until: Callable[..., Any]
) -> None:
    """With one more attempt where the budget allows it; nothing of it was ever submitted."""
    keys = {"retries": {"payload": 1, "backoff": 0}, "container": {"program": "/bin/true"}}
    keys["container"]["runtime"] = "apptainer"  # type: ignore[index]
    cases = broken(s3, tmp_path / "index")
    sites = []
    for mode in ({}, {"staging": "node", "python": sys.executable}):
        folder = tmp_path / mode.get("staging", "gateway")
        folder.mkdir()
        login = login_on(folder, folder / "spool")
        sites.append(Site(login, s3, bucket=folder.name, **keys, **mode))
        for name, case in cases.items():
            sites[-1].publish(name, **case)
        if not mode:  # what the gateway may not contact for a message
            address = {"mutable": False, "unpack": False, "url": "http://127.0.0.2:1/model"}
            sites[-1].publish("refused", artifacts={"data": address})
        sites[-1].login.gateway()
    for site in sites:
        until(lambda site=site: site.ended(*cases), site.login.log)
        finished = lambda site=site: {site.record(n)["status"] for n in cases} == {"finished"}  # noqa: E731
        until(finished, site.login.log)
    carried, online = sites
    until(lambda: carried.ended("refused"), carried.login.log)
    refused = carried.left("refused")
    assert refused["reason"] is Reason.ARTIFACT_DENIED
    assert refused["text"].startswith("gateway_hosts: the site does not let messages have the")
    assert refused["output"] == f"hpcrunner: {refused['text']}\n"
    wanted = {
        "missing": Reason.ARTIFACT_NOT_FOUND,
        "denied": Reason.ARTIFACT_DENIED,
        "corrupt": Reason.ARTIFACT_REFUSED,
        "packages": Reason.ENVIRONMENT_FAILED,
        "image": Reason.ARTIFACT_REFUSED,
    }
    for name, reason in wanted.items():
        ours, theirs = carried.left(name), online.left(name)
        assert ours["reason"] == theirs["reason"] == reason, carried.login.log()
        assert ours["attempt"] == theirs["attempt"] == (2 if name == "packages" else 1)
        assert ours["output"], name
        if name == "packages":  # another installer, in other words
            last = [left["output"].splitlines()[-1] for left in (ours, theirs)]
            assert all(line.startswith("hpcrunner: Python ") for line in last), last
            assert all("no-such-package" in left["output"] for left in (ours, theirs))
            for left in (ours, theirs):
                del left["output"], left["text"]
                for document in left["documents"]:
                    assert "no-such-package" in document.pop("error")
        for what in ours:
            assert ours[what] == theirs[what], (name, what)
        assert len(ours["documents"]) == ours["attempt"]
        row = carried.row(name)
        assert row is not None
        assert (row.job_id, row.batch) == (
            ("", "") if name != "corrupt" else (row.job_id, row.batch)
        )
    assert KEYS.secret_access_key not in json.dumps([carried.left(name) for name in wanted])
    assert len(list((carried.login.spool / "batches").iterdir())) == 1, "what is no archive"


def test_a_gateway_that_is_stopped_leaves_nothing_running(
    login: Any, s3: S3Server, until: Callable[..., Any]
) -> None:
    """While it waits for an index that does not answer."""
    site = Site(login, s3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(150)
        port = silent.getsockname()[1]
        site.publish("waits", pip=(f"alpha @ http://127.0.0.1:{port}/alpha-1.5.tar.gz",))
        gateway = login.gateway()
        with silent.accept()[0]:
            assert workers_in(login.spool)
            gateway.terminate()
            assert gateway.wait(120) == 0, login.log()
            until(lambda: not workers_in(login.spool))
    assert site.state("waits") == "ACCEPTED"


def workers_in(spool: Path) -> list[str]:
    """The processes whose working directory is the staging folder's."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit() and str(spool / "staging") in str(
                (process / "cwd").readlink()
            ):
                found.append(process.name)
    return found


def test_a_job_that_fetches_for_itself_on_such_a_node_cannot(
    online_but_cut: Site, until: Callable[..., Any]
) -> None:
    until(lambda: online_but_cut.ended("cut"), online_but_cut.login.log)
    row = online_but_cut.row("cut")
    assert row is not None and row.reason is Reason.STORE_UNREACHABLE
