"""Run by the ordinary user: builds the soak's messages, then publishes them burst by burst.

Arguments: a folder with ``client.json``. Everything is built and stored first, while nothing is
broken. Then it waits for each burst's time, and publishes until the broker has confirmed it,
however often that takes: what the broker had already taken then comes twice, as from any client
that does not lose work. Appends ``key epoch`` to ``published`` once a message is confirmed.
"""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from hpcrunner.client.build import Stores, Work, local_stores
from hpcrunner.client.publish import publish
from hpcrunner.client.upload import upload_work
from hpcrunner.errors import HpcrunnerError
from hpcrunner.queues.contract import QueueUnavailable
from hpcrunner.queues.rabbitmq_publish import RabbitPublisher
from hpcrunner.request.model import AwsCredentials, StoreConfig


class Rabbit:
    """A publisher that connects anew as often as it must. Its queue outlives the broker."""

    def __init__(self, url: str, queue: str) -> None:
        self._url, self._queue = url, queue
        self._publisher: RabbitPublisher | None = None

    def send(self, body: bytes) -> None:
        while True:
            try:
                if self._publisher is None:
                    self._publisher = RabbitPublisher(self._url, persistent=True)
                self._publisher.publish(self._queue, body)
            except QueueUnavailable:
                if self._publisher is not None:
                    self._publisher.close()
                self._publisher = None
                time.sleep(0.5)
            else:
                return


def main() -> None:
    folder = Path(sys.argv[1])
    plan = json.loads((folder / "client.json").read_text())
    local = local_stores(str(folder / "store"))
    keys = AwsCredentials(plan["s3"]["access_key"], plan["s3"]["secret_key"])
    s3 = StoreConfig("s3", plan["s3"]["endpoint"], plan["s3"]["bucket"], plan["s3"]["region"], keys)
    on_s3 = Stores(s3, local.database)
    bodies: list[tuple[str, bytes]] = []
    for design in plan["designs"]:
        work = Work(**{**design["work"], "args": tuple(design["work"]["args"])})
        stores = on_s3 if design["kind"] == "store" else local
        bodies.append(upload_work(work, folder / "workspace", stores))
    designs = [{**d, "key": key} for d, (key, _) in zip(plan["designs"], bodies, strict=True)]
    (folder / "designs.new").write_text(json.dumps(designs))
    (folder / "designs.new").rename(folder / "designs.json")
    while not (folder / "begin").exists():
        time.sleep(0.05)
    began = time.time()
    rabbit = Rabbit(plan["amqp_url"], plan["queue"]) if plan["amqp_url"] else None
    with (folder / "published").open("a") as published:
        for design, (key, body) in zip(plan["designs"], bodies, strict=True):
            time.sleep(max(0.0, began + design["at"] - time.time()))
            if rabbit is not None:
                rabbit.send(body)
            else:
                publish(folder / "queue" / plan["queue"], body)
            published.write(f"{key} {time.time():.3f}\n")
            published.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        try:
            main()
        except HpcrunnerError as error:
            sys.exit(error.line())
