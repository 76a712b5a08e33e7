"""Two attempts of one experiment on the real cluster, as its experimenter hears of them."""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from hpcrunner.client.build import Work
from hpcrunner.client.publish import store_work
from hpcrunner.queues.rabbitmq_publish import RabbitPublisher

pytestmark = [pytest.mark.slurm, pytest.mark.rabbitmq]

DOCS = Path(__file__).parents[2] / "docs" / "reports.md"
# What StudioML's runners have as assets/multistep: the marker tells the second attempt.
SCRIPT = """
import os, sys
marker = sys.argv[1]
if not os.path.exists(marker):
    open(marker, "w").close()
    print("first pass", flush=True)
    print("API_TOKEN=hush-hush", file=sys.stderr, flush=True)
    sys.exit(7)
print('{"experiment": {"name": "Zaphod Beeblebrox"}}')
print("second pass", flush=True)
"""


class Experimenter:
    """Listens as docs/reports.md says, with the code that stands there."""

    def __init__(self, folder: Path, url: str, queue: str) -> None:
        self.queue = queue
        self.response_queue = f"{queue}_response"
        self.heard_file = folder / "heard"
        key = rsa.generate_private_key(public_exponent=65537, key_size=4096)
        (folder / "keys").mkdir()
        (folder / "keys" / self.response_queue).write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.PKCS1
            )
        )
        (folder / "reports.pem").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
        (folder / "listen.py").write_text(code)
        words = [folder / "listen.py", url, self.response_queue, folder / "reports.pem"]
        with self.heard_file.open("wb") as out:
            self.process = subprocess.Popen([sys.executable, *words], stdout=out)

    def heard(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.heard_file.read_text().splitlines()]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def publisher(cluster: Any) -> Iterator[RabbitPublisher]:
    with RabbitPublisher(cluster.facts["rabbitmq"]["url"]) as publisher:
        yield publisher


@pytest.fixture
def experimenter(flow: Any, publisher: RabbitPublisher) -> Iterator[Experimenter]:
    queue = f"rmq_multipass_{secrets.token_hex(4)}"
    made = Experimenter(flow.folder, flow.cluster.facts["rabbitmq"]["url"], queue)
    yield made
    made.close()
    for name in (queue, made.response_queue):
        with contextlib.suppress(Exception):
            publisher.delete(name)


def word(report: dict[str, Any]) -> str:
    if "progress" in report:
        return str(report["progress"].get("state", "Prestart"))
    return str(report["logging"]["message"])


def test_a_first_pass_that_fails_and_a_second_that_succeeds_are_told_in_order(
    flow: Any, publisher: RabbitPublisher, experimenter: Experimenter
) -> None:
    flow.write_site(**{"settle: 15": "settle: 15\nretries: {payload: 1, backoff: 2}"})
    workspace = flow.folder / "workspace"
    workspace.mkdir()
    (workspace / "run.py").write_text(SCRIPT)
    work = Work("run.py", args=(str(flow.folder / "started"),), ram="64m")
    key, body = store_work(work, workspace, flow.folder / "store")
    refused = json.loads(body)
    refused["experiment"] |= {"key": "too-large", "resources_needed": {"cpus": 1, "ram": "900g"}}
    subprocess.run(["chown", "-R", flow.cluster.user, flow.folder], check=True)
    until(lambda: answers(lambda: publisher._exists(experimenter.response_queue)))
    for message in (json.dumps(refused).encode(), body):
        publisher.publish(experimenter.queue, message)
    broker = flow.cluster.facts["rabbitmq"]
    process = flow.gateway(
        f"--queue-match=^{experimenter.queue}$",
        "--response-signatures-dir",
        str(flow.folder / "keys"),
        "--limit-tasks",
        "2",
        env={"AMQP_URL": broker["url"], "AMQP_MGT_URL": broker["management_url"]},
    )
    try:
        assert process.wait(240) == 0, flow.log()
    finally:
        process.kill()

    until(lambda: any(word(r) == "Success" for r in experimenter.heard()))
    heard = experimenter.heard()
    (too_large,) = [r for r in heard if r.get("experimentId") == "too-large"]
    assert too_large["progress"]["state"] == "Failed"
    assert "memory" in too_large["progress"]["error"]["msg"]
    scanning = [r for r in heard if "experimentId" not in r]
    assert [r["logging"]["fields"]["queue_name"] for r in scanning] == [experimenter.queue] * 2

    mine = [r for r in heard if r.get("experimentId") == key]
    lines = [word(r) for r in mine if not word(r).startswith("hpcrunner:")]
    states = [w for w in lines if w in ("Prestart", "Failed", "Success", "start", "stop")]
    assert states == ["start", "stop", "Failed", "Prestart", "start", "stop", "Success"], lines
    assert lines.index("Started") < lines.index("start") < lines.index("first pass")
    assert lines.index("first pass") < lines.index("stop")
    again = lines.index("Prestart")
    assert again < lines.index("Started", again) < lines.index("second pass")
    assert lines[-1] == "Success"
    failed = next(r for r in mine if word(r) == "Failed")
    assert failed["progress"]["error"]["code"] == 7
    assert "API_TOKEN=****" in lines
    assert "hush-hush" not in experimenter.heard_file.read_text()
    documents = [json.loads(r["progress"]["json"]) for r in mine if "json" in r.get("progress", {})]
    assert documents[-1]["experiment"] == {"name": "Zaphod Beeblebrox"}

    # The names of the two documents are those of the attempts in the reports.
    scrapes = sorted(flow.folder.glob("store/**/metadata/scrape-host-*.json"))
    accessions = list(dict.fromkeys(r["uniqueId"] for r in mine if word(r) == "Started"))
    assert sorted(p.name for p in scrapes) == sorted(f"scrape-host-{a}.json" for a in accessions)
    first, second = (
        json.loads(next(p for p in scrapes if a in p.name).read_text()) for a in accessions
    )
    assert "experiment" not in first
    assert second["experiment"] == {"name": "Zaphod Beeblebrox"}


def answers(question: Callable[[], bool]) -> bool:
    """Whether it is so; the exchange that the listener makes may not be there yet."""
    try:
        return question()
    except Exception:
        return False


def until(holds: Callable[[], Any], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.3)
