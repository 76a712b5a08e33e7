"""How long after a fault's end normal work was seen again. Pure.

What is normal work depends on what the server is needed for: a broker, that messages are taken;
a controller, that jobs are submitted, start or end; a node, that a payload starts on it; the
S3 server, that a payload starts whose workspace it holds; slurmdbd, that experiments end; the
gateway, that it writes anything down. Where there was nothing to do for the server when it came
back, the time counts from when there was.
"""

from __future__ import annotations

from collections.abc import Iterable

from soaking.design import Kind
from soaking.evidence import Evidence
from soaking.inject import Injected
from soaking.verdict import FINAL


def recovery(one: Injected, evidence: Evidence) -> float | None:
    """Seconds, or None where there was nothing more to do for it."""
    name = one.fault.name
    if name == "rabbitmq":
        taken = {row["key"]: row["received_at"] for rows in evidence.told.values() for row in rows}
        return _least(
            one.mended,
            ((evidence.published[key], at) for key, at in taken.items()),
        )
    if name in ("slurmd", "node-fail"):
        node = one.fault.target.partition("-")[2]
        return _least(one.mended, ((0.0, s.at) for s in evidence.ledger if s.node == node))
    if name == "s3":
        began = {
            row["key"]: row["started_at"] or 0.0 for rows in evidence.told.values() for row in rows
        }
        starts = (s for s in evidence.ledger if s.word == "start")
        return _least(
            one.mended,
            ((began.get(s.key, 0.0), s.at) for s in starts if evidence.kinds[s.key] is Kind.STORE),
        )
    states = {"slurmdbd": FINAL, "slurmctld": FINAL | {"PENDING", "RUNNING"}}.get(name)
    return _least(
        one.mended, ((0.0, t.at) for t in evidence.transitions if not states or t.state in states)
    )


def _least(mended: float, work: Iterable[tuple[float, float]]) -> float | None:
    """The first piece of work that was done after ``mended``, from when it could be done."""
    after = [(at, at - max(mended, due)) for due, at in work if at >= mended]
    return max(0.0, min(after)[1]) if after else None
