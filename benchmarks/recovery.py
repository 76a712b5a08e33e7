"""How long a gateway takes to be at work again over 10,000 live experiments.

Needs no cluster; Slurm's commands are the fakes of tests/fakes/slurm::

    python benchmarks/recovery.py --experiments 10000

Builds a spool as a gateway leaves it that dies in the midst of work: arrays that wait and run,
single jobs, batches of which nobody knows whether they reached Slurm, and jobs that ended while
no gateway ran. Then a gateway is opened on it and does its first round: journal opened, batches
looked up, all jobs looked up, endings judged and written down. Printed are the seconds of that,
by part, and the questions to Slurm. ``--profile`` prints where the time went.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import os
import pstats
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "fakes"))

from slurm.cluster import Cluster
from slurm.program import install
from slurm.store import Store

from hpcrunner.batch.batch import Batch
from hpcrunner.batch.native import sbatch_words
from hpcrunner.batch.script import render_script
from hpcrunner.gateway.admission import Admission, admit
from hpcrunner.gateway.assemble import experiment_id, open_gateway
from hpcrunner.gateway.experiment import Experiment, State
from hpcrunner.gateway.journal import BatchState, Journal, NewExperiment
from hpcrunner.gateway.options import GatewayOptions
from hpcrunner.gateway.spool import Spool
from hpcrunner.queues.sources import QueueOptions
from hpcrunner.request.plan import Plan
from hpcrunner.request.reasons import Reason
from hpcrunner.request.record import Record
from hpcrunner.sites.node_setup import node_setup
from hpcrunner.sites.site import Site

GOAL_SECONDS, GOAL_QUERIES = 5.0, 3
LARGEST_ARRAY, UNCERTAIN = 1000, 50
AWAY = 600.0  # s that no gateway ran


def message() -> bytes:
    workspace = {"mutable": False, "unpack": True, "key": "x", "qualified": "file:///tmp/x.tar"}
    return json.dumps(
        {
            "config": {"storage": {"type": "local", "endpoint": "/tmp/s", "bucket": "b"}},
            "experiment": {
                "key": "KEY",
                "filename": "run.py",
                "resources_needed": {"cpus": 1, "gpus": 0, "ram": "1g", "hdd": "1g"},
                "artifacts": {"workspace": workspace},
            },
        }
    ).encode()


class Past:
    """What a gateway and a cluster have done until the gateway died."""

    def __init__(self, site: Site, now: float) -> None:
        self.site = site
        self.now = now
        self.spool = Spool(site.spool_path)
        self.spool.prepare()
        self.journal = Journal(self.spool.journal, lambda: now)
        self.cluster = Cluster()
        body = message()
        self.body = body
        self.admission: Admission = admit(body, site, now)

    def batch(self, size: int, *, reached: bool, known: bool) -> tuple[Batch, list[Experiment]]:
        """A submitted batch; ``reached``: Slurm has it; ``known``: the journal knows that."""
        members = [self._experiment() for _ in range(size)]
        self.journal.add([self._new(member) for member in members])
        self.journal.settled([member.id for member in members])
        batch_id = experiment_id()
        spec = self.admission.spec
        batch = Batch(batch_id, spec, size, self.spool.batch_folder(batch_id))
        planned = tuple(self.admission.planned(experiment=m.id, attempt=1) for m in members)
        plan = Plan(batch_id, node_setup(self.site, spec.time_limit), planned)
        self.spool.write_batch(plan, render_script(batch, self.site))
        tasks = {task: member.id for task, member in enumerate(members, start=1)}
        self.journal.begin_batch(batch_id, spec, tasks, size=size)
        if reached:
            words = (word[2:].partition("=") for word in sbatch_words(batch, self.site))
            options = {name: value for name, _, value in words}
            base = self.cluster.submit(options, str(batch.script), self.now)
            ids = [str(base)] if size == 1 else [f"{base}_{n}" for n in range(1, size + 1)]
            members = [replace(m, job_id=i) for m, i in zip(members, ids, strict=True)]
            if known:
                self.journal.batch_submitted(batch_id, ids)
        return batch, members

    def run(self, batch: Batch, members: Sequence[Experiment], *, ended: int) -> None:
        """All tasks of a batch run, and the first few have ended since."""
        self.journal.running([(member.id, "n1", self.now) for member in members])
        for task, member in enumerate(members, start=1):
            base = int(member.job_id.partition("_")[0])
            index = task if batch.size > 1 else None
            self.cluster.start(base, index, "n1", self.now)
            if task <= ended:
                record = Record(
                    batch.id, task, member.id, 1, Reason.COMPLETED, "ended", exit_code=0, host="n1"
                )
                self.spool.record(batch.id, task).write_text(record.to_json())
                self.cluster.end(base, index, "COMPLETED", self.now + AWAY / 2)

    def _experiment(self) -> Experiment:
        return Experiment(
            experiment_id(), experiment_id(), "bench", State.ACCEPTED, self.now,
            spec=self.admission.spec,
        )  # fmt: skip

    def _new(self, experiment: Experiment) -> NewExperiment:
        body = self.body.replace(b"KEY", experiment.key.encode())
        return NewExperiment(experiment, body, hashlib.sha256(body).hexdigest())


def past(site: Site, count: int) -> Past:
    """The mixture: a twentieth each of single jobs and of uncertain batches, the rest arrays."""
    made = Past(site, time.time() - AWAY)
    singles = count // 20
    for number in range(singles):
        batch, members = made.batch(1, reached=True, known=True)
        if number % 2:
            made.run(batch, members, ended=number % 4 // 3)
    for number in range(count // 20 // UNCERTAIN):
        made.batch(UNCERTAIN, reached=number % 2 == 0, known=False)
    left = count - made.journal.count_live()
    for number, size in enumerate(sizes(left)):
        batch, members = made.batch(size, reached=True, known=True)
        if number % 2 == 0:
            made.run(batch, members, ended=size // 10)
    made.journal.close()
    return made


def sizes(count: int) -> Iterator[int]:
    """Arrays of 1,000 and 500 in turn."""
    size = LARGEST_ARRAY
    while count > 0:
        yield min(size, count)
        count -= size
        size = LARGEST_ARRAY + LARGEST_ARRAY // 2 - size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", type=int, default=10_000)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hpcrunner-recovery-") as name:
        folder = Path(name)
        site = Site.model_validate(
            {
                "name": "bench",
                "scheduler": "sbatch",
                "spool": str(folder / "spool"),
                "limits": {"max_jobs": 2 * given.experiments, "max_array_tasks": LARGEST_ARRAY},
                "partitions": [{"name": "cpu", "max_memory": "8G"}],
            }
        )
        began = time.monotonic()
        made = past(site, given.experiments)
        store = Store(str(folder / "cluster"))
        store.create(made.cluster)
        install(str(folder / "bin"), store.path)
        os.environ["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        print(f"a spool of {given.experiments} live experiments: {time.monotonic() - began:.1f} s")
        recover(site, store, profile=given.profile)


def recover(site: Site, store: Store, *, profile: bool) -> None:
    profiler = cProfile.Profile()
    began = time.monotonic()
    with open_gateway(site, GatewayOptions(queues=QueueOptions(gateway_id="bench"))) as (
        gateway,
        journal,
    ):
        opened = time.monotonic()
        with store.open() as cluster:
            asked_to_open = Counter(cluster.calls)
        if profile:
            profiler.enable()
        gateway.step()
        profiler.disable()
        ended = time.monotonic()
        batches = Counter(row.state.value for row in journal.batches(*BatchState))
        states = Counter(e.state.value for e in journal.recent(10**6))
    with store.open() as cluster:
        asked = Counter(cluster.calls)
        if cluster.complaints:
            raise SystemExit(f"Slurm would not take: {cluster.complaints}")
    queries = asked - asked_to_open
    count = queries["squeue"] + queries["sacct"]
    print(f"opened {opened - began:.2f} s, first round {ended - opened:.2f} s")
    print(f"experiments {dict(states)}, batches {dict(batches)}")
    print(f"asked to open: {dict(asked_to_open)}; in the round: {dict(queries)}")
    well = ended - began < GOAL_SECONDS and count <= GOAL_QUERIES
    goal = f"goal: under {GOAL_SECONDS:.0f} s, at most {GOAL_QUERIES} queries"
    verdict = "met" if well else "not met"
    print(f"recovered in {ended - began:.2f} s with {count} queries ({goal}: {verdict})")
    if profile:
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(25)


if __name__ == "__main__":
    main()
