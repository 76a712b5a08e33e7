"""Lost, doubled, wrongly ended: the rules, over what a soak has left behind. Pure.

**Lost**: the broker confirmed it, and it has no row, or no final state, or it is said to have
run (SUCCEEDED, or any ending of a payload) and the ledger has never heard of it.

**Doubled**: the ledger has the same attempt of an experiment twice, or the journal has two rows
for one message.

**Wrong**: a final state that is neither

* the one true ending of its kind (design.truth_of), with the ledger bearing it out: a payload
  that ends by itself has written "end" in the very attempt that is said to have ended so; nor
* an ending by the infrastructure, which is true only if a fault that can have this reason
  (``CAUSES``) was under way while that attempt was with the scheduler.

The same holds for every attempt that was made again: without such a fault it was no business of
ours to repeat it. An attempt in the ledger with a higher number than the journal knows is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soaking.design import Kind, truth_of
from soaking.evidence import Attempt, Evidence
from soaking.inject import Injected

FINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "LOST", "REJECTED"})
_OF_THE_NODE = {"NODE_FAIL", "LAUNCH_FAILED", "BOOT_FAIL", "SCHEDULER_FAILED", "LOST"}
# Which reasons a fault can truly have. The broker, slurmdbd and the gateway are not needed by a
# job, so their death explains no ending at all.
CAUSES: Mapping[str, frozenset[str]] = {
    "slurmctld": frozenset(_OF_THE_NODE),
    "slurmd": frozenset(_OF_THE_NODE),
    "node-fail": frozenset(_OF_THE_NODE),
    "s3": frozenset({"STORE_UNREACHABLE", "UPLOAD_FAILED"}),
}
_BEFORE = 5.0  # s: slurmctld that dies forgets what it was told in the last seconds
_AFTER = 60.0  # s: a node that died is noticed so late, a job that is gone is given up so late
_BY_ITSELF = {Kind.WELL, Kind.STORE, Kind.EXIT, Kind.SIGNAL}
_RAN = {"COMPLETED", "PAYLOAD_EXIT", "PAYLOAD_SIGNAL", "MAX_DURATION", "OUT_OF_MEMORY"}


@dataclass
class Verdict:
    """Counts, and for each thing that is not as it should be a line that says what."""

    submitted: int = 0
    ran: int = 0
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    endings: Counter[str] = field(default_factory=Counter)
    by_infrastructure: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)

    @property
    def good(self) -> bool:
        return not (self.lost or self.doubled or self.wrong)


def judge(evidence: Evidence, injected: Sequence[Injected], memory_by_cgroup: bool) -> Verdict:
    """The verdict over all experiments that were published."""
    verdict = Verdict(submitted=len(evidence.published))
    starts = Counter((line.key, line.attempt) for line in evidence.ledger if line.word == "start")
    ends = {(line.key, line.attempt) for line in evidence.ledger if line.word == "end"}
    ran = {key for key, _ in starts}
    verdict.ran = len(ran)
    for (key, attempt), times in starts.items():
        if times > 1:
            verdict.doubled.append(f"{key}: attempt {attempt} ran {times} times")
        if key not in evidence.published:
            verdict.wrong.append(f"{key}: ran, and was never published")
    for key in evidence.published:
        rows = evidence.told.get(key, ())
        if not rows:
            verdict.lost.append(f"{key}: no row in the journal")
            continue
        if len(rows) > 1:
            verdict.doubled.append(f"{key}: {len(rows)} rows for one message")
        for row in rows:
            _judge_row(verdict, evidence, injected, row, starts, ends, memory_by_cgroup)
    for attempt in evidence.attempts:
        verdict.retried[attempt.reason] += 1
        if not _explained(evidence.kinds[attempt.key], attempt, injected):
            verdict.wrong.append(
                f"{attempt.key}: attempt {attempt.attempt} was repeated for {attempt.reason}, "
                "and no fault explains that"
            )
    return verdict


def _judge_row(
    verdict: Verdict,
    evidence: Evidence,
    injected: Sequence[Injected],
    row: Mapping[str, Any],
    starts: Mapping[tuple[str, int], int],
    ends: set[tuple[str, int]],
    memory_by_cgroup: bool,
) -> None:
    key, kind = row["key"], evidence.kinds[row["key"]]
    state, reason, attempt = row["state"], row["reason"], row["attempt"]
    said = f"{key} ({kind.value}): {state} {reason}, attempt {attempt}: {row['text']}"
    if state not in FINAL:
        verdict.lost.append(f"{said}: never ended")
        return
    verdict.endings[f"{state} {reason}"] += 1
    if reason in _RAN and (key, attempt) not in starts:
        verdict.lost.append(f"{said}: said to have run, and it never did")
        return
    if any(k == key and number > attempt for k, number in starts):
        verdict.wrong.append(f"{said}: a later attempt ran")
        return
    truth = truth_of(kind, memory_by_cgroup)
    as_designed = (
        state == truth.state
        and reason in truth.reasons
        and (truth.exit_code is None or row["exit_code"] == truth.exit_code)
        and (kind not in _BY_ITSELF or (key, attempt) in ends)
    )
    if as_designed:
        return
    last = Attempt(
        key, attempt, reason, row["submitted_at"] or row["received_at"], _ended(evidence, row)
    )
    if state in ("FAILED", "LOST") and _explained(kind, last, injected):
        verdict.by_infrastructure[reason] += 1
        return
    verdict.wrong.append(f"{said}: should be {truth.state} {'/'.join(sorted(truth.reasons))}")


def _ended(evidence: Evidence, row: Mapping[str, Any]) -> float:
    """When the gateway wrote the ending down; the scheduler's own time of it may be earlier."""
    written = [t.at for t in evidence.transitions if t.key == row["key"] and t.state in FINAL]
    return max(written, default=row["ended_at"] or row["received_at"])


def _explained(kind: Kind, attempt: Attempt, injected: Sequence[Injected]) -> bool:
    for one in injected:
        if attempt.reason not in CAUSES.get(one.fault.name, ()):
            continue
        if one.fault.name == "s3" and kind is not Kind.STORE:
            continue
        if (
            attempt.submitted_at - _BEFORE <= one.mended + _AFTER
            and one.began <= attempt.ended_at + _BEFORE
        ):
            return True
    return False
