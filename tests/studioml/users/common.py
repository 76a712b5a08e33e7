"""What the programs share: a CompletionService, and the files of the task functions."""

import uuid
from pathlib import Path

from studio.completion_service.completion_service import CompletionService


def service(config, queue, **settings):
    return CompletionService(
        f"{queue}-{uuid.uuid4().hex[:8]}",
        cs_config={"queue": queue, "sleep_time": 1, "resources_needed": {"cpus": 1}, **settings},
        studio_config_file=config,
    )


def task(name):
    return str(Path(__file__).with_name("tasks") / f"{name}.py")
