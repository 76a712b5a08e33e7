"""The verdict in words and as JSON. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from soaking.inject import Injected
from soaking.service import Usage
from soaking.verdict import Verdict

_SHOWN = 20


def as_json(
    setup: Mapping[str, Any],
    verdict: Verdict,
    injected: Sequence[Injected],
    recoveries: Sequence[float | None],
    usage: Usage,
    more: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything, for machines."""
    return {
        **setup,
        "submitted": verdict.submitted,
        "ran": verdict.ran,
        "lost": verdict.lost,
        "doubled": verdict.doubled,
        "wrong": verdict.wrong,
        "endings": dict(verdict.endings),
        "ended_by_infrastructure": dict(verdict.by_infrastructure),
        "retried_attempts": dict(verdict.retried),
        "faults": [
            {**asdict(one.fault), "name": one.fault.name, "began": one.began, "mended": one.mended}
            | {"trouble": one.trouble, "normal_work_after": after}
            for one, after in zip(injected, recoveries, strict=True)
        ],
        "gateway": asdict(usage),
        **more,
    }


def as_text(
    verdict: Verdict,
    injected: Sequence[Injected],
    recoveries: Sequence[float | None],
    usage: Usage,
    more: Mapping[str, Any],
) -> str:
    """The table for people."""
    lines = [
        _row("submitted", verdict.submitted),
        _row("ran (distinct experiments)", verdict.ran),
        _row("lost", len(verdict.lost)),
        _row("doubled", len(verdict.doubled)),
        _row("wrongly ended", len(verdict.wrong)),
        *_section("endings", verdict.endings),
        *_section("of these ended by the infrastructure", verdict.by_infrastructure),
        *_section("attempts made again, by reason", verdict.retried),
        "",
        f"{'faults':<22}{'count':>6}{'normal work again after (s): median':>38}{'longest':>9}",
    ]
    by_name: dict[str, list[float | None]] = {}
    for one, after in zip(injected, recoveries, strict=True):
        by_name.setdefault(one.fault.name, []).append(after)
    for name, times in sorted(by_name.items()):
        known = sorted(t for t in times if t is not None)
        middle = f"{known[len(known) // 2]:.1f}" if known else "-"
        longest = f"{known[-1]:.1f}" if known else "-"
        lines.append(f"  {name:<20}{len(times):>6}{middle:>38}{longest:>9}")
    known = [t for t in recoveries if t is not None]
    lines += [
        _row("faults in all", len(injected)),
        _row("longest time to normal work (s)", f"{max(known, default=0.0):.1f}"),
        _row("gateway: peak resident size (MB)", f"{usage.peak_mb:.0f}"),
        _row("gateway: CPU (s), and of its time up", f"{usage.cpu:.1f}, {_share(usage)}"),
        *(_row(name.replace("_", " "), value) for name, value in more.items()),
    ]
    for one in injected:
        if one.trouble:
            lines.append(f"a fault was not mended: {one.fault.target}: {one.trouble}")
    for title, found in (
        ("lost", verdict.lost),
        ("doubled", verdict.doubled),
        ("wrong", verdict.wrong),
    ):
        lines += [f"{title}: {line}" for line in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"{title}: and {len(found) - _SHOWN} more")
    return "\n".join(lines)


def _row(name: str, value: object) -> str:
    return f"{name:<40}{value!s:>12}"


def _section(title: str, counts: Counter[str]) -> list[str]:
    return ["", title, *(f"  {name:<38}{count:>12}" for name, count in sorted(counts.items()))]


def _share(usage: Usage) -> str:
    return f"{100 * usage.cpu / usage.seconds:.1f} %" if usage.seconds else "-"
