"""What is started in a session of its own ends with it, whatever it made of itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from hpcrunner.sessions import Watchdog, end_session, members, run_in_session

# A child in a group of its own, as squashfuse is below a container's runtime, and one beside it.
GROUPS = """
import os, subprocess, sys
for own in (True, False):
    subprocess.Popen(["sleep", "600"], preexec_fn=(lambda: os.setpgid(0, 0)) if own else None)
print("started", flush=True)
if "stay" in sys.argv:
    import time; time.sleep(600)
"""
OWNER = f"""
import sys, subprocess, time
from pathlib import Path
from hpcrunner.sessions import Watchdog
child = subprocess.Popen(
    [sys.executable, "-c", {GROUPS!r}, "stay"], start_new_session=True, stdout=subprocess.PIPE
)
watchdog = Watchdog(child.pid)
child.stdout.readline()
print(child.pid, flush=True)
if "call off" in sys.argv:
    watchdog.call_off()
else:
    time.sleep(600)
"""


def wait_until(condition: Callable[[], object]) -> None:
    until = time.monotonic() + 150
    while not condition():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)


def owner(*words: str) -> tuple[subprocess.Popen[str], int]:
    """A process that watches over a session, and the session's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER, *words], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def test_a_session_ends_when_whoever_started_it_is_killed() -> None:
    process, session = owner()
    assert len(members(session)) == 3
    process.kill()
    process.wait()
    wait_until(lambda: members(session) == [])


def test_nothing_is_left_running_where_no_watchdog_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node where the user may have no more processes."""
    begun: list[subprocess.Popen[bytes]] = []
    really = subprocess.Popen

    def start(words: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
        if begun:
            raise BlockingIOError("no more processes")
        begun.append(really(words, **options))
        return begun[-1]

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(BlockingIOError):
        run_in_session(["sleep", "600"], environ=os.environ, cwd=tmp_path, timeout=60)
    assert begun[0].returncode == -signal.SIGKILL


def test_a_watchdog_needs_nothing_of_a_new_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pythons that were built for one before 2.26, as conda's are, know no session there."""

    def spawn(*_: Any, **options: Any) -> int:
        raise NotImplementedError("posix_spawn: setsid unavailable on this platform")

    monkeypatch.setattr(os, "posix_spawn", spawn)
    child = subprocess.Popen(["sleep", "600"], start_new_session=True)
    watchdog = Watchdog(child.pid)
    try:
        assert os.getsid(watchdog.pid) == watchdog.pid
    finally:
        end_session(child.pid)
        child.wait()
        watchdog.call_off()


def test_a_session_goes_on_where_its_watchdog_was_called_off() -> None:
    process, session = owner("call off")
    assert process.wait(150) == 0
    try:
        assert len(members(session)) == 3
    finally:
        assert end_session(session)
    assert members(session) == []


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    mark = f"602.{os.getpid()}"
    words = [sys.executable, "-c", GROUPS.replace('"600"', f'"{mark}"') + "\nos._exit(3)"]
    ended = run_in_session(words, environ=os.environ, cwd=tmp_path, timeout=60)
    assert (ended.returncode, ended.stdout) == (3, "started\n")
    assert not any(mark in line for line in command_lines())


def test_a_command_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    mark = f"601.{os.getpid()}"
    words = [sys.executable, "-c", GROUPS.replace('"600"', f'"{mark}"'), "stay"]
    with pytest.raises(subprocess.TimeoutExpired):
        run_in_session(words, environ=os.environ, cwd=tmp_path, timeout=1.0)
    assert not any(mark in line for line in command_lines())


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text("utf-8", "replace"))
        except OSError:
            continue
    return found
