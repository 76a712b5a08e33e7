"""A few tasks at once, on daemon threads that an ending process need not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


def in_parallel(tasks: Iterable[Callable[[], T]], workers: int) -> Iterator[T]:
    """Run tasks on up to ``workers`` threads; their results as they come.

    The first error is raised at once and no further task starts; those under way are left
    alone. A signal handler may break into the wait. (concurrent.futures would wait for its
    threads at exit, and loads logging.)
    """
    waiting = list(tasks)
    count = len(waiting)
    results: SimpleQueue[tuple[T] | BaseException] = SimpleQueue()

    def work() -> None:
        while True:
            try:
                task = waiting.pop(0)
            except IndexError:
                return
            try:
                results.put((task(),))
            except BaseException as error:
                results.put(error)

    for _ in range(min(workers, count)):
        threading.Thread(target=work, daemon=True).start()
    try:
        for _ in range(count):
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            yield result[0]
    finally:
        waiting.clear()
