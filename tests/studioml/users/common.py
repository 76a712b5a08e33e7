"""What the programs share: a CompletionService, and the files of the task functions."""

import time
import uuid
from pathlib import Path

from studio.completion_service.completion_service import CompletionService


def task(name):
    return str(Path(__file__).with_name("tasks") / f"{name}.py")


class Service:
    """A CompletionService, and another in its place where its connection dies.

    The client publishes from another thread than the one that serves its connection, which pika
    does not allow: once in some hundred messages, on a busy machine, one stays in the process.
    submitTask then gives up, and nothing goes through that connection any more. A user who tries
    it again needs a new service; the results of the old one are still to be had from it.
    """

    def __init__(self, config, queue):
        self._config, self._queue = config, queue
        self.services = [self._another()]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.services[-1].close()

    def submit(self, function, args, files=None):
        """Submit a task; returns its key."""
        for _ in range(3):
            try:
                return self.services[-1].submitTaskWithFiles(function, args, files or {})
            except Exception as error:
                if "never acknowledged" not in str(error):
                    raise
                print("SENT AGAIN", flush=True)
                self.services.append(self._another())
        raise RuntimeError("three connections died one after another")

    def result(self):
        """Wait for the next result; returns its key and value."""
        if len(self.services) == 1:
            return self.services[0].getResults()
        while True:
            for one in self.services:
                if one.submitted and (found := one.getResultsWithTimeout(0)) is not None:
                    return found
            time.sleep(0.5)

    def _another(self):
        service = CompletionService(
            f"{self._queue}-{uuid.uuid4().hex[:8]}",
            cs_config={"queue": self._queue, "sleep_time": 2, "resources_needed": {"cpus": 1}},
            studio_config_file=self._config,
        )
        return service.__enter__()
