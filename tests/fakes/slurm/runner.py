"""The commands in this process, in the place of hpcrunner's own ``run``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hpcrunner.schedulers.command import CommandFailed, Completed
from slurm.cluster import Cluster
from slurm.commands import answer


class FakeRunner:
    """A ``Runner`` over a cluster in memory.

    ``clock`` tells the time; ``passes`` is told how many seconds a command that hangs takes.
    """

    def __init__(
        self,
        cluster: Cluster,
        clock: Callable[[], float],
        passes: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self.cluster = cluster
        self.clock = clock
        self.passes = passes

    def __call__(
        self, argv: Sequence[str], *, timeout: float, environment: Mapping[str, str]
    ) -> Completed:
        given = answer(self.cluster, list(argv), dict(environment), self.clock())
        if given.hangs:
            self.passes(timeout)
            raise CommandFailed(f"no answer within {timeout:g} s", where=argv[0], started=True)
        return Completed(given.stdout, given.stderr, given.status)
