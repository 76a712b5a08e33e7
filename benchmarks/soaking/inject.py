"""Doing the faults of a schedule to the running cluster, and noting when they began and ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from dev.cluster import faults
from dev.cluster.errors import ClusterError
from dev.cluster.layout import Layout
from soaking.schedule import Fault
from soaking.service import Service


@dataclass(frozen=True)
class Injected:
    """A fault as it happened: from when to when the server was away (epoch seconds)."""

    fault: Fault
    began: float
    mended: float
    trouble: str = ""  # what went wrong while mending it


class Injector:
    """One thread for the clock and one for each fault under way."""

    def __init__(self, layout: Layout, service: Service, schedule: Sequence[Fault]) -> None:
        self._layout = layout
        self._service = service
        self._schedule = schedule
        self._doing: list[threading.Thread] = []
        self.done: list[Injected] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def finished(self) -> bool:
        """True once the last fault is mended."""
        return not self._thread.is_alive() and not any(t.is_alive() for t in self._doing)

    def _run(self) -> None:
        began = time.monotonic()
        for fault in self._schedule:
            time.sleep(max(0.0, began + fault.at - time.monotonic()))
            thread = threading.Thread(target=self._do, args=(fault,), daemon=True)
            thread.start()
            self._doing.append(thread)

    def _do(self, fault: Fault) -> None:
        began, trouble = time.time(), ""
        try:
            self._break(fault)
            time.sleep(fault.down)
            self._mend(fault)
        except (ClusterError, OSError) as error:
            trouble = str(error)
        self.done.append(Injected(fault, began, time.time(), trouble))

    def _break(self, fault: Fault) -> None:
        if fault.what == "kill":
            faults.kill(self._layout, fault.target)
        elif fault.what == "node-fail":
            faults.fail_node(self._layout, fault.target.partition("-")[2])
        elif fault.what == "gateway-term":
            self._service.term()
        else:
            self._service.kill()

    def _mend(self, fault: Fault) -> None:
        if fault.what == "kill":
            faults.start(self._layout, fault.target)
        elif fault.what == "node-fail":
            faults.return_node(self._layout, fault.target.partition("-")[2])
        elif fault.what == "gateway-twins":
            self._service.twins()
        else:
            self._service.up()


def mend_all(layout: Layout) -> None:
    """Start again whatever a soak that was broken off left dead."""
    for server in faults.SERVERS:
        faults.start(layout, server)
