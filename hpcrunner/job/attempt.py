"""One attempt from claim to record: whether this process may run it, and what it leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from hpcrunner.crashpoint import crashpoint
from hpcrunner.job import claim, limits
from hpcrunner.job.clientrecord import client_record, tell_client
from hpcrunner.job.course import Course
from hpcrunner.job.ending import outlook_of
from hpcrunner.job.events import Events, say
from hpcrunner.job.fence import TAKEN_OVER, Fence
from hpcrunner.job.process import own_start
from hpcrunner.job.recordfile import make_way, read_record, write_record
from hpcrunner.job.stopper import Stopper
from hpcrunner.request.accession import accession
from hpcrunner.request.plan import CLAIMS, EVENTS, RECORDS, read_plan
from hpcrunner.request.scheduler_words import words_of


def run_attempt(batch_folder: Path, index: int, environ: Mapping[str, str]) -> int:
    """Run the attempt of a task index from 1, and return the exit status (see ending.py).

    Raises PlanError where there is no such plan or task, OSError where the spool is not writable.
    """
    started_at = time.time()
    plan = read_plan(batch_folder)
    plan.experiment(index)  # before the claim: there must be such a task
    for name in (CLAIMS, EVENTS, RECORDS):
        (batch_folder / name).mkdir(mode=0o700, exist_ok=True)
    record_path = batch_folder / RECORDS / f"{index}.json"
    owner = claim.this_process(environ)
    claim_path = batch_folder / CLAIMS / str(index)
    taken = claim.take_claim(claim_path, owner)
    if taken is claim.Claim.DUPLICATE:
        say(f"task {index}: another job has this attempt; this duplicate ends and touches nothing")
        return 0
    crashpoint("job.claimed")
    events = Events(batch_folder / EVENTS / str(index))
    client = client_record(plan.experiment(index), events)
    left = read_record(record_path, plan, index)
    if left is not None and not (taken is claim.Claim.TAKEN_AGAIN and make_way(record_path, left)):
        say(f"task {index}: this attempt has its ending already; this job ends")
        if taken is claim.Claim.TAKEN_AGAIN:  # the first run may have been killed before this
            outlook = outlook_of(left.reason, left.text, plan.experiment(index), left.ended_at)
            ran = left.payload_started_at is not None
            tell_client(client, left.reason, left.text, outlook, ran=ran)
        return 0
    events.note(
        "claimed",
        host=owner.host,
        pid=owner.pid,
        job=owner.job_id,
        accession=accession(owner.host, owner.time),
    )
    counted_from = limits.job_start(environ, own_start(started_at))
    end = limits.job_end(plan.setup, counted_from, environ)
    words = words_of(environ)
    stopper = Stopper(end, plan.setup, words=words)
    if end is not None:
        stopper.add(limits.job_deadline(plan.setup, counted_from, end))
    fence = Fence(claim_path, owner)
    course = Course(plan, index, environ, events, stopper, started_at, fence, client)
    ending = course.run()
    say(f"ended: {ending.reason.value}: {ending.text}")
    try:
        if fence.stands() is TAKEN_OVER:
            say(f"task {index}: no record: that of the run which goes on counts")
            return words.exit_status(ending.status)
        if not write_record(record_path, course.record_of(ending, owner)):
            say(f"task {index}: a record was there already and stays")
        crashpoint("job.recorded")
        events.note("ended", reason=ending.reason.value, text=ending.text)
        if fence.stands() is None:
            tell_client(
                client,
                ending.reason,
                ending.text,
                course.outlook(ending),
                ran=course.payload_started_at is not None,
            )
        crashpoint("job.client_told")
    finally:
        course.clean_up()
    return words.exit_status(ending.status)
