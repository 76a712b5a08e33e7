"""The clients' side: a queue's server, and messages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from hpcrunner.queues.contract import Delivery, Served


class Queue:
    """A queue's server: what is taken and not settled comes back when the gateway is gone."""

    name = "queue"

    def __init__(self, boundary: Callable[[str], None]) -> None:
        self.boundary = boundary
        self.waiting: list[Delivery] = []
        self.unsettled: list[Delivery] = []
        self.settled: list[bytes] = []

    def put(self, body: bytes, *, redelivered: bool = False) -> None:
        self.waiting.append(Delivery("studioml", body, redelivered, object()))

    def take(self, most: int) -> list[Delivery]:
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        self.unsettled += taken
        return taken

    def accept(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.settled.append(delivery.body)
            self.unsettled.remove(delivery)
            self.boundary("queue.settled_one")

    def give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self.unsettled.remove(delivery)
            self.waiting.append(delivery)

    def served(self) -> Served:
        return Served("rmq", ("studioml",))

    def cut(self) -> None:
        """The connection dies: the broker sends again what was not settled."""
        again = [Delivery(d.queue, d.body, True, object()) for d in self.unsettled]
        self.waiting, self.unsettled = again + self.waiting, []

    def close(self) -> None:
        self.cut()


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def message(key: str, cpus: int = 1) -> bytes:
    """A sound request; nobody fetches its code here."""
    return json.dumps(
        {
            "config": {"storage": {"type": "local", "endpoint": "/tmp/store", "bucket": "b"}},
            "experiment": {
                "key": key,
                "filename": "train.py",
                "resources_needed": {"cpus": cpus, "gpus": 0, "ram": "1g", "hdd": "1g"},
                "artifacts": {
                    "workspace": {
                        "mutable": False,
                        "unpack": True,
                        "key": "x.tar",
                        "qualified": "file:///tmp/store/b/x.tar",
                    }
                },
            },
        }
    ).encode()
