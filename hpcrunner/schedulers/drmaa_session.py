"""A DRMAA library in a process of its own, as its parent calls it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hpcrunner.schedulers.child import CallFailed, Child
from hpcrunner.schedulers.child import ChildLost as ChildLost
from hpcrunner.schedulers.environment import job_environment
from hpcrunner.schedulers.interpreter import module_argv

_CHILD = "hpcrunner.schedulers.drmaa_child"
# The library remembers every job of its session; a new child now and then forgets them.
_TASKS_A_CHILD = 100_000

DrmaaRefusal = CallFailed  # a DRMAA exception


@dataclass(frozen=True, slots=True)
class Hello:
    """What a library says of itself: ``drms`` is "SLURM 22.05.8", or "SLURM" if it is away."""

    drms: str
    implementation: str
    version: str
    contact: str


@dataclass(slots=True)
class DrmaaSession:
    """A DRMAA library in a child process.

    ``library`` is the path of ``libdrmaa.so``, empty for the system's. ``environment`` is all
    that the child is given, and with it every job.
    """

    library: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: job_environment(os.environ))
    argv: Sequence[str] | None = None  # another child than the real one, for tests
    _made: Child | None = field(default=None, init=False, repr=False)
    _tasks: int = field(default=0, init=False, repr=False)

    def hello(self, timeout: float) -> Hello:
        """Load the library and open its session. Raises ChildLost, DrmaaRefusal."""
        answer = self._child().call({"call": "hello"}, timeout)
        try:
            return Hello(**answer)
        except TypeError as error:
            raise ChildLost("an answer of another form", where="drmaa child") from error

    def submit(
        self,
        *,
        name: str,
        script: str,
        folder: str,
        output: str,
        native: str,
        size: int,
        timeout: float,
    ) -> list[str]:
        """Run ``script`` as a job, or as an array 1 to ``size``; the ids as the library says them.

        The texts are in the words of the library's DRM (batch/drmaa.py). Raises ChildLost (nobody
        knows whether it was submitted) and DrmaaRefusal.
        """
        if self._tasks >= _TASKS_A_CHILD:
            self.close()
        self._tasks += size
        job = {"name": name, "script": script, "folder": folder, "output": output}
        answer = self._child().call(
            {"call": "submit", **job, "native": native, "size": size}, timeout
        )
        ids = answer.get("ids")
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise ChildLost("an answer of another form", where="drmaa child")
        return ids

    def close(self) -> None:
        """End the child; jobs stay."""
        self._tasks = 0
        if self._made is not None:
            self._made.close()

    def _child(self) -> Child:
        if self._made is None:
            self._made = Child(
                "drmaa",
                self.argv or module_argv(_CHILD),
                (self.library,) if self.library else (),
                self.environment,
            )
        return self._made
