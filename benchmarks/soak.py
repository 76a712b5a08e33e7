"""Many experiments on the real cluster while its servers die: none lost, none twice, none wrong.

Run by root on the development cluster (docs/development-cluster.md), with hpcrunner installed
for its ordinary user (``dev/cluster-up``), and nothing else using the cluster meanwhile::

    .venv/bin/python benchmarks/soak.py --experiments 2000 --faults 60 --seed 1

The user's client publishes the experiments in bursts, through RabbitMQ or a directory queue. The
user's gateway runs them through Slurm. Servers, nodes and the gateway are killed and started
again as the seed says. Every payload writes a synced line into a ledger. At the end the ledger,
the journal and the experiments' own designs are compared by the rules of soaking/verdict.py.

Ends with 0 where nothing was lost, doubled or wrongly ended, else with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(ROOT)]

from soaking import report  # noqa: E402
from soaking.design import HOG_MB, RAM_MB, TIME_LIMIT, Design, Kind, designs  # noqa: E402
from soaking.evidence import gather  # noqa: E402
from soaking.inject import Injector, mend_all  # noqa: E402
from soaking.recovery import recovery  # noqa: E402
from soaking.schedule import schedule  # noqa: E402
from soaking.service import Service  # noqa: E402
from soaking.user import User  # noqa: E402
from soaking.verdict import FINAL, judge  # noqa: E402

from dev.cluster import facts  # noqa: E402
from dev.cluster.errors import CannotHere  # noqa: E402
from dev.cluster.layout import Layout  # noqa: E402

EARLY, LATE = "cancel-early", "cancel-late"
_STALLED = 600.0  # s without any ending and any fault, after which it is given up
_TOLD_EVERY = 30.0
_CANCEL_EVERY = 15.0


@dataclass
class Soak:
    """One run: its folder, the user, and what was asked for."""

    given: argparse.Namespace
    layout: Layout
    facts: dict[str, Any]
    user: User
    folder: Path
    queue: str
    cancelled: set[str] = field(default_factory=set)
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prepare(self, plan: Sequence[Design], span: float) -> None:
        """Site, workspace and the client's list, all the user's own."""
        write = self.user.write
        site = yaml.safe_load((ROOT / "site-configs" / "development-cluster.yaml").read_text())
        site["spool"] = str(self.folder / "spool")
        site["scheduler"] = self.given.backend
        # One partition over all nodes; its QOS is preempted by nobody here.
        site["partitions"] = [p for p in site["partitions"] if p["name"] == "low"]
        site["limits"]["max_jobs"] = max(2000, len(plan))
        site["retries"] = {"backoff": 5, "longest_backoff": 60}
        write(self.folder / "site.yaml", yaml.safe_dump(site))
        self.user.folder(self.folder / "workspace")
        write(self.folder / "workspace" / "run.py", (HERE / "soaking" / "payload.py").read_text())
        write(self.folder / "client.py", (HERE / "soaking" / "client.py").read_text())
        bursts = max(design.burst for design in plan) + 1
        cancels = [index for index, design in enumerate(plan) if design.kind is Kind.CANCEL]
        write(
            self.folder / "client.json",
            json.dumps(
                {
                    "amqp_url": self.amqp_url,
                    "queue": self.queue,
                    "s3": self.facts["s3"],
                    "designs": [
                        {
                            "kind": design.kind.value,
                            "at": span * design.burst / bursts,
                            "work": self._work(design, EARLY if index in cancels[::2] else LATE),
                        }
                        for index, design in enumerate(plan)
                    ],
                }
            ),
        )

    @property
    def amqp_url(self) -> str:
        return self.facts["rabbitmq"]["url"] if self.given.queue == "rabbitmq" else ""

    def _work(self, design: Design, cancelled: str) -> dict[str, Any]:
        return {
            "filename": "run.py",
            "args": [
                str(self.folder / "ledger"),
                design.kind.value,
                str(design.sleep),
                str(HOG_MB),
            ],
            "ram": f"{RAM_MB}m",
            "max_duration": TIME_LIMIT if design.kind is Kind.TIME else "",
            "project": cancelled if design.kind is Kind.CANCEL else "soak",
        }

    def start_gateway(self) -> subprocess.Popen[bytes]:
        queue = (
            ["--queue-match", f"^{self.queue}$"]
            if self.amqp_url
            else ["--queue-root", self.folder / "queue"]
        )
        library = self.facts["drmaa"]["library"] or ""
        return self._start(
            self.user.bin / "hpcrunner",
            "gateway",
            "--site",
            self.folder / "site.yaml",
            *queue,
            log=self.folder / "gateway.log",
            env={
                "AMQP_URL": self.amqp_url,
                "AMQP_MGT_URL": self.facts["rabbitmq"]["management_url"] if self.amqp_url else "",
                "DRMAA_LIBRARY_PATH": library,
            },
        )

    def start_client(self) -> subprocess.Popen[bytes]:
        client = self.folder / "client.py"
        return self._start(
            self.user.bin / "python", client, self.folder, log=self.folder / "client.log"
        )

    def _start(
        self, *argv: str | Path, log: Path, env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        self.started.append(self.user.start(*argv, log=log, env=env))
        return self.started[-1]

    def cancel(self) -> None:
        """Cancel one half as soon as the journal has them, the other once they are seen to run."""
        self._cancel("--project", EARLY)
        ledger = self.folder / "ledger"
        if not ledger.exists():
            return
        started = {line.split()[1] for line in ledger.read_text().splitlines()}
        new = sorted(started & self.late - self.cancelled)
        if new and self._cancel(*new):
            self.cancelled |= set(new)

    def _cancel(self, *words: str) -> bool:
        hpcrunner = self.user.bin / "hpcrunner"
        done = self.user.run(hpcrunner, "cancel", *words, "--site", self.folder / "site.yaml")
        return done.returncode == 0

    @cached_property
    def late(self) -> set[str]:
        """Keys of those that are cancelled while they run."""
        told = json.loads((self.folder / "designs.json").read_text())
        return {d["key"] for d in told if d["work"]["project"] == LATE}

    def counts(self) -> dict[str, int] | None:
        """Rows by state; None while the journal cannot be read (its writer has just died)."""
        path = self.folder / "spool" / "journal.db"
        try:
            journal = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=0.5)
            try:
                query = "SELECT state, count(*) FROM experiments GROUP BY state"
                return dict(journal.execute(query).fetchall())
            finally:
                journal.close()
        except sqlite3.Error:
            return None

    def published(self) -> int:
        path = self.folder / "published"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def status(self) -> list[dict[str, Any]]:
        done = self.user.run(
            self.user.bin / "hpcrunner",
            "status",
            "--site",
            self.folder / "site.yaml",
            "--most",
            "1000000",
            "--json",
        )
        if done.returncode:
            raise SystemExit(f"hpcrunner status failed: {done.stderr}")
        return list(json.loads(done.stdout))

    def left_in_slurm(self) -> list[str]:
        """Ids of jobs of ours that Slurm still has waiting or running."""
        folder = self.folder / "spool" / "batches"
        names = {path.name for path in folder.iterdir()} if folder.exists() else set()
        done = subprocess.run(
            ["squeue", "--noheader", "--format=%A %j", f"--user={self.user.name}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        rows = [line.split() for line in done.stdout.splitlines()]
        return [job for job, name in rows if name.rpartition("-")[2] in names]

    def clear_slurm(self) -> None:
        """Nothing of a soak that was broken off runs on."""
        if left := self.left_in_slurm():
            subprocess.run(["scancel", *left], timeout=60)


def main() -> int:
    given = _arguments()
    layout = Layout.from_environment()
    if os.geteuid() != 0:
        print("soak: only root can kill the cluster's servers", file=sys.stderr)
        return 3
    try:
        known = facts.read(layout)
    except CannotHere as error:
        print(f"soak: {error}", file=sys.stderr)
        return 3
    user = User(known["user"]["name"], Path(given.bin or Path(known["user"]["venv"]) / "bin"))
    parent = user.folder(Path(known["user"]["home"]) / "soak")
    folder = user.folder(parent / f"{given.seed}-{secrets.token_hex(3)}")
    queue = ("rmq_soak_" if given.queue == "rabbitmq" else "local_soak_") + folder.name
    soak = Soak(given, layout, known, user, folder, queue)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: told to end"))
    code = 1
    try:
        code = _run(soak)
    finally:
        for process in soak.started:
            process.kill()
        mend_all(layout)
        soak.clear_slurm()
    if given.keep or code:
        print(f"everything is kept in {folder}")
    else:
        shutil.rmtree(folder)
    return code


def _run(soak: Soak) -> int:
    given = soak.given
    random_ = random.Random(given.seed)
    faults = schedule(given.faults, given.gap, random_)
    span = max((f.at for f in faults), default=given.gap)
    plan = designs(given.experiments, max(1, min(given.experiments, int(span / 15))), random_)
    soak.prepare(plan, span)
    client = soak.start_client()
    while not (soak.folder / "designs.json").exists():
        if client.poll() is not None:
            log = soak.folder / "client.log"
            raise SystemExit(f"the client failed: {log.read_text()}")
        time.sleep(0.2)
    service = Service(soak.start_gateway)
    service.up()
    soak.user.write(soak.folder / "begin", "")
    began = time.time()
    injector = Injector(soak.layout, service, faults)
    injector.start()
    try:
        finished = _wait(soak, client, injector)
    except BaseException:
        service.abandon()
        raise
    took = time.time() - began
    code = service.close()
    left = len(soak.left_in_slurm())
    evidence = gather(soak.folder, soak.status())
    injected = sorted(injector.done, key=lambda one: one.began)
    by_cgroup = soak.facts["slurm"]["memory_enforced_by"] == "cgroup"
    verdict = judge(evidence, injected, by_cgroup)
    recoveries = [recovery(one, evidence) for one in injected]
    setup = {
        "experiments": given.experiments,
        "seed": given.seed,
        "backend": given.backend,
        "queue": given.queue,
        "gap": given.gap,
    }
    more = {
        "seconds": round(took),
        "came_to_an_end": finished,
        "gateway's_last_exit_code": code,
        "gateway's_own_exits": dict(service.exits),
        "jobs_left_in_Slurm": left,
    }
    document = report.as_json(setup, verdict, injected, recoveries, service.usage, more)
    text = json.dumps(document, indent=1)
    (soak.folder / "report.json").write_text(text)
    if given.json:
        Path(given.json).write_text(text)
    print(report.as_text(verdict, injected, recoveries, service.usage, more))
    good = verdict.good and finished and code == 0 and not service.exits and not left
    return 0 if good and not any(one.trouble for one in injected) else 1


def _wait(soak: Soak, client: subprocess.Popen[bytes], injector: Injector) -> bool:
    """Until all is published, ended and mended; False where nothing moves any more."""
    moved, last, told_at, cancelled_at = time.monotonic(), (0, 0), 0.0, 0.0
    began = time.monotonic()
    while True:
        time.sleep(1)
        now = time.monotonic()
        counts = soak.counts() or {}
        ended = sum(count for state, count in counts.items() if state in FINAL)
        if (state := (ended, len(injector.done))) != last:
            moved, last = now, state
        if now - cancelled_at > _CANCEL_EVERY:
            soak.cancel()
            cancelled_at = now
        published = soak.published()
        if now - told_at > _TOLD_EVERY:
            told_at = now
            states = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
            print(
                f"{now - began:5.0f} s: {published} published, {len(injector.done)} faults; "
                f"{states}",
                flush=True,
            )
        over = client.poll() is not None and injector.finished
        if over and counts and ended == sum(counts.values()) >= published:
            return True
        if now - moved > _STALLED:
            client.kill()
            return False


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--experiments", type=int, default=2000)
    parser.add_argument("--faults", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--gap", type=float, default=25.0, help="seconds from fault to fault")
    parser.add_argument("--backend", choices=("sbatch", "drmaa"), default="sbatch")
    parser.add_argument("--queue", choices=("rabbitmq", "directory"), default="rabbitmq")
    parser.add_argument("--bin", default="", help="where the user's hpcrunner is installed")
    parser.add_argument("--json", default="", metavar="FILE", help="write the report there too")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a good run too")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
