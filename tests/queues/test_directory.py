"""Directory queues: compatible with both clients' habits, and no message lost in any crash."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import pytest

from hpcrunner.queues.claims import LARGEST_MESSAGE, Claims
from hpcrunner.queues.contract import Delivery
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.matching import QueueFilter
from hpcrunner.queues.softlock import Hold, QueueLock

if TYPE_CHECKING:
    from conftest import Clock

Eventually = Callable[..., None]
LONG_AGO = 1_000_000_000


class PythonClient:
    """The file habits of the released Python client's LocalQueue (0.0.48 and later)."""

    def __init__(self, root: Path, name: str) -> None:
        self.path = root / name
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock = filelock.SoftFileLock(str(self.path / "lock.lock"))

    def enqueue(self, data: str) -> None:
        with self.lock, (self.path / str(uuid.uuid4())).open("w") as stream:
            stream.write(data)

    def dequeue(self) -> str | None:
        with self.lock:
            names = os.listdir(self.path)
            names.remove("lock.lock")
            if not names:
                return None
            first = min(names, key=lambda name: (self.path / name).stat().st_mtime)
            data = (self.path / first).read_text()
            (self.path / first).unlink()
            return data


def go_publish(queue: Path, body: bytes) -> Path:
    """The file habits of the Go runner: written in a sub-folder, renamed into place."""
    scratch = queue / f"c{uuid.uuid4().hex[:19]}"
    scratch.mkdir(parents=True)
    message = scratch / f"c{uuid.uuid4().hex[:19]}"
    message.write_bytes(body)
    target = message.rename(queue / message.name)
    scratch.rmdir()
    return target


def put(queue: Path, name: str, body: bytes = b"{}", mtime: int = LONG_AGO) -> Path:
    """A message that has lain there for years."""
    queue.mkdir(parents=True, exist_ok=True)
    message = queue / name
    message.write_bytes(body)
    os.utime(message, (mtime, mtime))
    return message


def bodies(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


def source_of(root: Path, gateway: str = "g1", **clocks: Clock) -> DirectorySource:
    return DirectorySource(root, QueueFilter(), gateway, **clocks)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "queue with 'odd' $name"


# --- compatibility ------------------------------------------------------------------------


def test_what_the_python_client_enqueues_arrives_once_and_is_gone(
    root: Path, eventually: Eventually
) -> None:
    client = PythonClient(root, "local_a")
    sent = [f'{{"number": {number}}}' for number in range(5)]
    for data in sent:
        client.enqueue(data)
    source = source_of(root)
    taken: list[Delivery] = []
    eventually(lambda: len(taken) == 5 or taken.extend(source.take(9)))
    assert sorted(bodies(taken)) == [data.encode() for data in sent]
    assert {d.queue for d in taken} == {"local_a"}
    source.accept(taken)
    source.close()
    assert os.listdir(root / "local_a") == []
    assert os.listdir(root) == ["local_a"]


def test_what_the_go_runner_publishes_arrives(root: Path, eventually: Eventually) -> None:
    (root / "local_a").mkdir(parents=True)
    go_publish(root / "local_a", b"{}")
    source = source_of(root)
    taken: list[Delivery] = []
    eventually(lambda: bool(taken) or taken.extend(source.take(9)))
    assert bodies(taken) == [b"{}"]


def test_the_python_client_sees_nothing_of_what_we_hold(root: Path) -> None:
    client = PythonClient(root, "local_a")
    put(client.path, "one")
    put(client.path, "two")
    source = source_of(root)
    assert len(source.take(1)) == 1
    assert client.dequeue() == "{}"
    assert client.dequeue() is None


def test_two_kinds_of_consumers_share_a_queue_without_duplicates(root: Path) -> None:
    client = PythonClient(root, "local_a")
    for number in range(200):
        put(client.path, f"m{number}", b"%d" % number, LONG_AGO + number)
    by_client: list[bytes] = []

    def consume() -> None:
        while (data := client.dequeue()) is not None:
            by_client.append(data.encode())

    worker = threading.Thread(target=consume)
    worker.start()
    source = source_of(root)
    by_us: list[bytes] = []
    while worker.is_alive():
        taken = source.take(3)
        by_us += bodies(taken)
        source.accept(taken)
        time.sleep(0.001)
    worker.join()
    assert Counter(by_client + by_us) == Counter(b"%d" % number for number in range(200))


def test_oldest_first(root: Path) -> None:
    for name, age in (("a", 3), ("b", 1), ("c", 2)):
        put(root / "local_a", name, name.encode(), LONG_AGO + age)
    assert bodies(source_of(root).take(9)) == [b"b", b"c", b"a"]


def test_the_one_queue_of_clients_up_to_0_0_44_is_a_folder_like_any_other(root: Path) -> None:
    put(root / "queue", "message", b"x")  # $STUDIOML_HOME/queue, without a queue's name
    put(root / "queue", "is_active.queue")
    source = DirectorySource(root, QueueFilter("^queue$"), "g1")
    taken = source.take(9)
    source.accept(taken)
    assert bodies(taken) == [b"x"]
    assert os.listdir(root / "queue") == ["is_active.queue"]


def test_only_matching_folders_are_queues(root: Path) -> None:
    for queue in ("local_a", "rmq_b", "other", "local_a_response", ".local_c"):
        put(root / queue, "m", queue.encode())
    (root / "local_file").write_text("not a folder")
    assert sorted(bodies(source_of(root).take(9))) == [b"local_a", b"rmq_b"]


def test_what_is_no_message_stays(root: Path) -> None:
    queue = root / "local_a"
    for name in (".hidden", "x.tmp", "x.part", "x~", "is_active.queue", "lock.lock.break.1.ab"):
        put(queue, name)
    (queue / "folder").mkdir()
    (queue / "link").symlink_to("/etc/passwd")
    os.mkfifo(queue / "fifo")
    before = sorted(os.listdir(queue))
    assert source_of(root).take(9) == []
    assert sorted(os.listdir(queue)) == before


def test_a_full_queue_does_not_starve_the_others(root: Path) -> None:
    for number in range(20):
        put(root / "local_full", f"m{number}")
    for queue in ("local_b", "local_c"):
        put(root / queue, "m")
    source = source_of(root)
    assert Counter(d.queue for d in source.take(4)) == {
        "local_full": 2,
        "local_b": 1,
        "local_c": 1,
    }
    put(root / "local_b", "n")
    put(root / "local_c", "n")
    assert {source.take(1)[0].queue for _ in range(3)} == {"local_full", "local_b", "local_c"}


def test_queues_and_the_root_itself_may_come_and_go(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = source_of(root)
    for _ in range(3):
        assert source.take(9) == []
    assert len(caplog.records) == 1
    put(root / "local_a", "m")
    assert len(source.take(9)) == 1
    for name in os.listdir(root / "local_a"):
        (root / "local_a" / name).unlink()
    (root / "local_a").rmdir()
    assert source.take(9) == []
    put(root / "local_a", "n", b"anew")
    assert bodies(source.take(9)) == [b"anew"]
    assert len(caplog.records) == 1


# --- half-written messages and the lock ---------------------------------------------------


def test_nothing_is_taken_while_the_client_holds_the_lock(root: Path) -> None:
    client = PythonClient(root, "local_a")
    put(client.path, "m")
    source = source_of(root)
    with client.lock:
        assert source.take(9) == []
        assert sorted(os.listdir(client.path)) == ["lock.lock", "m"]
    assert len(source.take(9)) == 1


def test_our_lock_is_one_the_client_waits_for(root: Path) -> None:
    client = PythonClient(root, "local_a")
    with QueueLock(client.path, root / ".private").tried() as hold:
        assert hold is Hold.HELD
        with pytest.raises(filelock.Timeout):
            client.lock.acquire(timeout=0.2)
    with client.lock.acquire(timeout=5):
        pass


@pytest.mark.parametrize("by", ["its age", "our watching"])
def test_a_stale_lock_is_passed_by_and_warned_of_once(
    root: Path, clock: Clock, caplog: pytest.LogCaptureFixture, by: str
) -> None:
    put(root / "local_a", "m")
    put(root / "local_a", "n")
    lock = put(root / "local_a", "lock.lock", b"", int(clock()))
    watch = type(clock)(0.0)
    source = source_of(root, clock=clock, monotonic=watch)
    assert source.take(1) == []
    (clock if by == "its age" else watch).forward(61)
    assert len(source.take(1)) == len(source.take(1)) == 1
    assert lock.exists()
    (record,) = caplog.records
    assert "lock.lock" in record.getMessage()


_KILLED = """
import os, signal, sys
from pathlib import Path
from hpcrunner.queues.softlock import QueueLock
root = Path(sys.argv[1])
with QueueLock(root / "local_a", root / ".private").tried():
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_lock_a_killed_gateway_left_is_removed(root: Path) -> None:
    (root / "local_a").mkdir(parents=True)
    put(root / "local_a", "m")
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(root)])
    assert killed.returncode == -signal.SIGKILL
    assert (root / "local_a" / "lock.lock").exists()
    assert len(source_of(root).take(9)) == 1
    assert os.listdir(root / "local_a") == []


def test_a_young_file_waits_until_it_has_kept_still(root: Path, clock: Clock) -> None:
    watch = type(clock)(0.0)
    message = put(root / "local_a", "m", b'{"half":', int(clock()))
    source = source_of(root, clock=clock, monotonic=watch)
    assert source.take(9) == []
    clock.forward(0.1)
    assert source.take(9) == []
    with message.open("ab") as stream:
        stream.write(b" 1}")
    os.utime(message, (clock(), clock()))
    clock.forward(0.1)
    assert source.take(9) == []
    clock.forward(0.2)
    assert bodies(source.take(9)) == [b'{"half": 1}']


def test_a_file_server_whose_clock_is_ahead_holds_no_message_back(root: Path, clock: Clock) -> None:
    watch = type(clock)(0.0)
    message = put(root / "local_a", "m", b"{}", int(clock()) + 3600)
    source = source_of(root, clock=clock, monotonic=watch)
    assert source.take(9) == []
    watch.forward(0.3)
    message.write_bytes(b"{ }")
    os.utime(message, (clock() + 3601, clock() + 3601))
    assert source.take(9) == [], "it changed meanwhile"
    watch.forward(0.3)
    assert bodies(source.take(9)) == [b"{ }"]


def test_an_empty_file_gets_a_minute_to_be_written(root: Path, clock: Clock) -> None:
    put(root / "local_a", "m", b"", int(clock()))
    source = source_of(root, clock=clock)
    clock.forward(30)
    assert source.take(9) == []
    clock.forward(31)
    assert bodies(source.take(9)) == [b""]


def test_a_file_written_to_after_it_was_taken_is_delivered_whole(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = put(root / "local_a", "m", b'{"half":')
    source = source_of(root)
    with message.open("ab") as writer:
        claim = Claims.claim

        def claim_and_write(self: Claims, queue: str, name: str) -> object:
            claimed = claim(self, queue, name)
            writer.write(b" 1}")
            writer.flush()
            return claimed

        monkeypatch.setattr(Claims, "claim", claim_and_write)
        assert source.take(9) == []
    taken = source.take(9)
    assert bodies(taken) == [b'{"half": 1}']
    assert not taken[0].redelivered


# --- settling -----------------------------------------------------------------------------


def test_no_more_than_asked_for_is_taken(root: Path) -> None:
    for number in range(10):
        put(root / "local_a", f"m{number}")
    source = source_of(root)
    assert len(source.take(3)) == 3
    assert len(os.listdir(root / "local_a")) == 7
    assert len(source.take(0)) == 0
    assert len(os.listdir(root / "local_a")) == 7


def test_what_is_given_back_keeps_its_name_and_its_place(root: Path) -> None:
    message = put(root / "local_a", "first", b"1", LONG_AGO)
    put(root / "local_a", "second", b"2", LONG_AGO + 1)
    source = source_of(root)
    taken = source.take(1)
    assert not message.exists()
    source.give_back(taken)
    assert message.stat().st_mtime == LONG_AGO
    other = source_of(root, "g2")
    assert bodies(other.take(9)) == [b"1", b"2"]


def test_giving_back_overwrites_no_message_of_the_same_name(root: Path) -> None:
    put(root / "local_a", "m", b"old")
    source = source_of(root)
    taken = source.take(1)
    put(root / "local_a", "m", b"new", LONG_AGO + 1)
    source.give_back(taken)
    assert bodies(source.take(9)) == [b"old", b"new"]


def test_giving_back_to_a_deleted_queue_does_not_make_it_anew(root: Path) -> None:
    put(root / "local_a", "m")
    source = source_of(root)
    taken = source.take(1)
    (root / "local_a").rmdir()
    source.give_back(taken)
    source.close()
    assert os.listdir(root) == []


def test_closing_returns_what_is_unsettled(root: Path) -> None:
    put(root / "local_a", "m", b"1", LONG_AGO)
    put(root / "local_a", "n", b"2", LONG_AGO + 1)
    source = source_of(root)
    taken = source.take(2)
    source.accept(taken[:1])
    source.close()
    assert os.listdir(root / "local_a") == ["n"]
    assert os.listdir(root) == ["local_a"]


def test_a_huge_file_is_cut_one_byte_above_the_bound(root: Path) -> None:
    message = put(root / "local_a", "m")
    with message.open("r+b") as stream:
        stream.truncate(3 * LARGEST_MESSAGE)
    os.utime(message, (LONG_AGO, LONG_AGO))
    put(root / "local_a", "n", b"next", LONG_AGO + 1)
    source = source_of(root)
    taken = source.take(9)
    assert [len(body) for body in bodies(taken)] == [LARGEST_MESSAGE + 1, 4]
    source.accept(taken)
    source.close()
    assert os.listdir(root / "local_a") == []


def test_one_take_reads_no_more_than_memory_bears(root: Path) -> None:
    for number in range(4):
        message = put(root / "local_a", f"m{number}")
        with message.open("r+b") as stream:
            stream.truncate(LARGEST_MESSAGE)
        os.utime(message, (LONG_AGO + number, LONG_AGO + number))
    source = source_of(root)
    assert len(source.take(9)) == 2
    assert len(source.take(9)) == 2


_UNREADABLE = """
import logging, sys
from pathlib import Path
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.matching import QueueFilter
logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
source = DirectorySource(Path(sys.argv[1]), QueueFilter(), "g1")
for _ in range(3):
    for delivery in source.take(1):
        print(delivery.body.decode())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="making a file of another user needs root")
def test_a_file_that_cannot_be_read_is_logged_once_and_skipped() -> None:
    # Not below pytest's own folder, which is closed to others, and closed again by every further
    # pytest that begins.
    with tempfile.TemporaryDirectory(prefix="hpcrunner-test-") as name:
        root = Path(name)
        (root / "local_a").mkdir()
        secret = put(root / "local_a", "m", b"unreadable")
        put(root / "local_a", "n", b"readable", LONG_AGO + 1)
        secret.chmod(0o600)
        for folder in (root, root / "local_a"):
            folder.chmod(0o777)
        done = subprocess.run(
            [sys.executable, "-c", _UNREADABLE, str(root)],
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "readable\n"
        assert done.stderr.count("skipped") == 1
        assert "Permission denied" in done.stderr
        assert secret.exists()


@pytest.mark.parametrize("gateway", ["", ".", "..", "a/b", "-x", "a\n", "x" * 65])
def test_a_gateway_id_that_is_no_plain_name_is_refused(root: Path, gateway: str) -> None:
    with pytest.raises(OptionInvalid):
        source_of(root, gateway)


# --- crashes ------------------------------------------------------------------------------


def test_what_a_dead_gateway_held_comes_back_to_it_as_redelivered(root: Path) -> None:
    for number in range(4):
        put(root / "local_a", f"m{number}", b"%d" % number, LONG_AGO + number)
    dead = source_of(root)
    dead.accept(dead.take(3)[:1])
    after = source_of(root)
    taken = after.take(9)
    assert [(d.body, d.redelivered) for d in taken] == [
        (b"1", True),
        (b"2", True),
        (b"3", False),
    ]
    after.accept(taken)
    assert source_of(root).take(9) == []


def test_what_another_gateway_holds_is_left_alone(root: Path) -> None:
    put(root / "local_a", "m")
    assert len(source_of(root, "g1").take(9)) == 1
    assert source_of(root, "g2").take(9) == []


def test_leftovers_of_a_queue_no_longer_ours_return_to_it(root: Path) -> None:
    put(root / "local_a", "m")
    assert len(source_of(root).take(9)) == 1
    after = DirectorySource(root, QueueFilter("^rmq_"), "g1")
    assert after.take(9) == []
    assert os.listdir(root / "local_a") == ["m"]


_TAKER = """
import os, sys
from pathlib import Path
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.matching import QueueFilter
root, gateway, journal = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
source = DirectorySource(root, QueueFilter(), gateway)
log = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
print("up", flush=True)
while True:
    taken = source.take(7)
    for delivery in taken:
        os.write(log, b"%d %s\\n" % (delivery.redelivered, delivery.body))
    source.accept(taken)
"""


def test_gateways_killed_at_any_instruction_lose_and_double_nothing(
    root: Path, tmp_path: Path, eventually: Eventually
) -> None:
    total = 1500
    for number in range(total):
        put(root / f"local_{number % 3}", f"m{number}", b"%d" % number, LONG_AGO + number)

    def waiting() -> int:
        return len(list(root.glob("local_*/m*")))

    def start(gateway: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", _TAKER, str(root), gateway, str(tmp_path / gateway)]
        child = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return child

    rng = random.Random(11)
    rounds = 8
    for number in range(rounds + 1):
        goal = total * (rounds - number) // rounds + rng.randrange(20) if number < rounds else 0
        children = [start("g1"), start("g2")]
        try:
            eventually(lambda goal=goal: waiting() <= goal)
            if number == rounds:
                eventually(lambda: not list(root.glob(".hpcrunner-*/*/*")))
        finally:
            for child in children:
                child.kill()
                child.wait()

    lines = [
        line.split()
        for gateway in ("g1", "g2")
        for line in (tmp_path / gateway).read_text().splitlines()
    ]
    first_times = Counter(body for redelivered, body in lines if redelivered == "0")
    everything = {body for _, body in lines}
    assert everything == {str(number) for number in range(total)}
    assert max(first_times.values()) == 1, "only a marked redelivery may come again"


def test_two_gateways_in_threads_share_without_duplicates(root: Path) -> None:
    for number in range(300):
        put(root / "local_a", f"m{number}", b"%d" % number)
    taken: list[bytes] = []

    def work(gateway: str) -> None:
        source = source_of(root, gateway)
        while os.listdir(root / "local_a"):
            deliveries = source.take(5)
            taken.extend(bodies(deliveries))
            source.accept(deliveries)

    workers = [threading.Thread(target=work, args=(f"g{n}",)) for n in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert Counter(taken) == Counter(b"%d" % number for number in range(300))
