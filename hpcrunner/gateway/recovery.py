"""Batch folders that no row of the journal names, met at a gateway's start."""

from __future__ import annotations

import logging

from hpcrunner.gateway.experiment import State
from hpcrunner.gateway.journal import Journal
from hpcrunner.gateway.spool import Spool

log = logging.getLogger(__name__)


def take_up_folders(journal: Journal, spool: Spool) -> None:
    """Look at batch folders that no journal row names, before anything is submitted.

    Either a crash came before the row, or the journal is older than the folder (restored
    from a backup). A folder whose experiments still wait for that very attempt may have been
    submitted, so it is taken up as uncertain; one that nobody waits for and nobody started
    is removed; any other is left and named.
    """
    known = journal.batch_ids()
    unknown = [name for name in spool.batch_names() if name not in known]
    waiting = {(e.id, e.attempt): e for e in journal.in_state(State.ACCEPTED)}
    for name in unknown:
        plan = spool.plan(name)
        planned = plan.experiments if plan else ()
        tasks = {
            task: waiting.pop((p.id, p.attempt))
            for task, p in enumerate(planned, start=1)
            if (p.id, p.attempt) in waiting
        }
        spec = next((e.spec for e in tasks.values()), None)
        if spec is not None:
            log.warning("batch %s: not in the journal; looked up before it is used", name)
            members = {task: e.id for task, e in tasks.items()}
            journal.begin_batch(name, spec, members, size=len(planned))
        elif not spool.started(name):
            spool.remove_batch(name)
            continue
        if len(tasks) < len(planned):
            log.error(
                "batch %s: %d of its experiments are unknown to the journal, and may have "
                "run; was the spool restored from a backup? Its folder is kept",
                name,
                len(planned) - len(tasks),
            )
