"""The client's queue is gone while its experiments run: they end as if nothing had happened."""

from __future__ import annotations

import secrets
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hpcrunner.client.build import Work
from hpcrunner.client.publish import store_work
from hpcrunner.queues.rabbitmq_publish import RabbitPublisher

pytestmark = [pytest.mark.slurm, pytest.mark.rabbitmq]

SCRIPT = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
os.write(fd, (os.environ["STUDIOML_EXPERIMENT"] + "\\n").encode())
time.sleep(3)
sys.exit(int(sys.argv[2]))
"""


@pytest.fixture
def publisher(cluster: Any) -> Iterator[RabbitPublisher]:
    with RabbitPublisher(cluster.facts["rabbitmq"]["url"]) as publisher:
        yield publisher


def test_experiments_whose_queue_the_client_deletes_run_once_and_end_as_they_should(
    flow: Any, publisher: RabbitPublisher
) -> None:
    queue = f"rmq_deleted_{secrets.token_hex(4)}"
    keys = []
    workspace = flow.folder / "workspace"
    workspace.mkdir()
    (workspace / "run.py").write_text(SCRIPT)
    messages = []
    for code in ("0", "0", "0", "3"):
        work = Work("run.py", args=(str(flow.folder / "ledger"), code), ram="64m")
        key, body = store_work(work, workspace, flow.folder / "store")
        keys.append(key)
        messages.append(body)
    subprocess.run(["chown", "-R", flow.cluster.user, flow.folder], check=True)
    for body in messages:
        publisher.publish(queue, body)
    broker = flow.cluster.facts["rabbitmq"]
    process = flow.gateway(
        f"--queue-match=^{queue}$",
        "--limit-tasks",
        str(len(keys)),
        env={"AMQP_URL": broker["url"], "AMQP_MGT_URL": broker["management_url"]},
    )
    try:
        until(lambda: len(flow.status()) == len(keys))
        # As the client's CompletionService does when it closes.
        publisher.delete(queue)
        assert process.wait(120) == 0, flow.log()
    finally:
        process.kill()
    told = {e["key"]: (e["state"], e["exit_code"]) for e in flow.status()}
    assert [told[key] for key in keys] == [("SUCCEEDED", 0)] * 3 + [("FAILED", 3)]
    assert Counter((flow.folder / "ledger").read_text().split()) == Counter(keys)
    warnings = [line for line in flow.log().splitlines() if " WARNING " in line]
    assert not any(queue in line for line in warnings), "a queue that is gone is no trouble"
    assert "Traceback" not in flow.log()


def until(holds: Callable[[], Any], seconds: float = 150) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.3)
