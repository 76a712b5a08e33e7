"""A task that ends when a file is there."""

import time
from pathlib import Path


def clientFunction(args, files):
    for _ in range(1500):
        if Path(args["go"]).exists():
            return args["n"]
        time.sleep(0.2)
    raise TimeoutError(args["go"])
