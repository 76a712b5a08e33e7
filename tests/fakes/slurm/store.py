"""The cluster in a file that many processes share, one at a time."""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager

from slurm.cluster import Cluster


class Store:
    """``open()`` gives the cluster under an exclusive lock and writes it back."""

    def __init__(self, path: str) -> None:
        self.path = path

    def create(self, cluster: Cluster) -> None:
        """Put a cluster into a new file."""
        self._write(cluster)

    @contextmanager
    def open(self) -> Iterator[Cluster]:
        """The cluster, for one change."""
        with open(self.path + ".lock", "w") as lock:  # noqa: PTH123 - pathlib starts slowly
            fcntl.flock(lock, fcntl.LOCK_EX)
            with open(self.path, "rb") as file:  # noqa: PTH123
                cluster = pickle.load(file)
            yield cluster
            self._write(cluster)

    def _write(self, cluster: Cluster) -> None:
        temporary = f"{self.path}.{os.getpid()}"
        with open(temporary, "wb") as file:  # noqa: PTH123
            pickle.dump(cluster, file, pickle.HIGHEST_PROTOCOL)
        os.rename(temporary, self.path)  # noqa: PTH104
