"""The released CompletionService (0.0.44.post6), unchanged, on RabbitMQ, Slurm and S3.

The client publishes one task a second, so all users start at once, each with a queue of its own,
and each test waits for one of them. HPCRUNNER_GENERATIONS=10x50 makes the evolution longer.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.rabbitmq,
    pytest.mark.s3,
    pytest.mark.client,
]

VERSION = "0.0.44.post6"
USERS, TASKS = 5, 10  # fifty tasks, and one that fails for each user
GENERATIONS, SIZE = map(int, os.environ.get("HPCRUNNER_GENERATIONS", "3x4").split("x"))
PATIENCE = 400 + 5 * GENERATIONS * SIZE


@dataclass(frozen=True)
class Crowd:
    """The users' programs, all started, and the gateway that serves them."""

    gateway: Any
    go: Path
    programs: dict[str, subprocess.Popen[bytes]]
    logs: dict[str, Path]

    def told(self, name: str) -> dict[str, Any]:
        """What a program printed at its end."""
        try:
            code: int | str = self.programs[name].wait(PATIENCE)
        except subprocess.TimeoutExpired:
            code = "still running"
        ends = self.logs[name].read_text()[-4000:], self.gateway.log()[-4000:]
        assert code == 0, f"{name}: {code}\n{ends[0]}\n{ends[1]}"
        told: dict[str, Any] = self.line(name, "TOLD")
        return told

    def line(self, name: str, word: str) -> Any:
        for line in self.logs[name].read_text().splitlines():
            if line.startswith(f"{word} "):
                return json.loads(line.removeprefix(f"{word} "))
        return None

    def ended(self, key: str) -> dict[str, Any]:
        """The gateway's word on an experiment, once it has ended."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            (found,) = [e for e in self.gateway.status() if e["key"] == key]
            if found["ended_at"] is not None:
                return dict(found)
            time.sleep(0.5)
        raise AssertionError(f"{found} never ended")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a file on a web server."""
    folder = tmp_path_factory.mktemp("web")
    (folder / "vocabulary.bin").write_bytes(os.urandom(70_000))
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/vocabulary.bin"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def crowd(new_workdir: Any, new_customer: Any, serving: Any, web: str) -> Iterator[Crowd]:
    with new_workdir() as folder:
        customer = new_customer(folder, VERSION)
        programs, logs = {}, {}

        def start(name: str, program: str, *words: str | Path) -> None:
            queue = f"{customer.queue}_{name}"
            logs[name] = folder / f"{name}.log"
            programs[name] = customer.start(program, queue, *words, log=logs[name])

        with serving(customer) as gateway:
            try:
                start("closing", "closing", folder / "go")
                start("files", "files", web)
                start("evolution", "generations", str(GENERATIONS), str(SIZE), folder / "ledger")
                for number in range(USERS):
                    start(f"fan{number}", "fan_out", str(TASKS))
                yield Crowd(gateway, folder / "go", programs, logs)
            finally:
                for process in programs.values():
                    if process.poll() is None:  # the program is a child of runuser
                        os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.mark.timeout(PATIENCE + 30)
def test_results_come_though_the_client_has_deleted_the_queue_of_what_runs(crowd: Crowd) -> None:
    end = time.monotonic() + PATIENCE
    while (keys := crowd.line("closing", "CLOSED")) is None:
        assert crowd.programs["closing"].poll() is None, crowd.logs["closing"].read_text()
        assert time.monotonic() < end, crowd.gateway.log()[-4000:]
        time.sleep(0.3)
    crowd.go.touch()
    assert crowd.told("closing") == {"keys": True, "values": [0, 1]}
    assert [crowd.ended(key)["state"] for key in keys] == ["SUCCEEDED"] * 2


@pytest.mark.timeout(PATIENCE + 30)
def test_a_task_gets_exactly_its_files_the_one_from_the_web_too(crowd: Crowd) -> None:
    told = crowd.told("files")
    assert len(told["expected"][0][1][1]) > 5
    assert told["results"] == told["expected"]


@pytest.mark.timeout(PATIENCE + 30)
def test_every_value_of_fifty_tasks_comes_back_and_a_failing_task_holds_up_only_itself(
    crowd: Crowd,
) -> None:
    for number in range(USERS):
        told = crowd.told(f"fan{number}")
        queue = f"{crowd.gateway.customer.queue}_fan{number}"
        assert sorted(told["values"]) == [[i, {"n": i, "from": queue}] for i in range(TASKS)]
        assert told["failing"] is None
        assert told["left"], "only the failing task is still waited for"
        failed = crowd.ended(told["failing key"])
        assert (failed["state"], failed["reason"]) == ("FAILED", "PAYLOAD_EXIT")
        assert "told to fail" in failed["text"]


@pytest.mark.timeout(PATIENCE + 30)
def test_generations_each_get_every_result_and_no_task_runs_twice(crowd: Crowd) -> None:
    told = crowd.told("evolution")
    print(json.dumps(told["generations"]), "sent again:", told["sent again"])
    assert [g["results"] for g in told["generations"]] == [SIZE] * GENERATIONS
    assert [g["wrong"] for g in told["generations"]] == [[]] * GENERATIONS
    best = [g["best"] for g in told["generations"]]
    assert best == sorted(best, reverse=True)
    ledger = (crowd.go.parent / "ledger").read_text().split()
    assert Counter(ledger) == Counter(dict.fromkeys(told["keys"], 1))
