"""What of all that happens is worth a note, and how a note looks. Pure.

The form is that of Slack's incoming webhooks with attachments, which others take too
(https://api.slack.com/reference/messaging/attachments).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpcrunner.gateway.experiment import Experiment, Outcome, State, ending_words
from hpcrunner.gateway.happenings import Ended, Happening, Received, Retried, Started
from hpcrunner.request.redact import redact_text
from hpcrunner.request.units import format_duration

GOOD, WARNING, DANGER = "good", "warning", "danger"
MOST_ATTACHMENTS = 20
LONGEST_OUTPUT = 7 * 1024  # bytes
_LONGEST_TEXT = 1000
_LONGEST_NAME = 120
_COLORS = {State.SUCCEEDED: GOOD, State.CANCELLED: WARNING}
_ESCAPE_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)|[ -/]*[0-~])"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Note:
    """A note: Slack's name of its colour, one line, and more of it; ``with_output``: the last
    lines of the experiment's output belong to it.
    """

    experiment: Experiment
    color: str
    title: str
    text: str
    with_output: bool = False


def note_of(happening: Happening) -> Note | None:
    """The note that a happening is worth, if any."""
    match happening:
        case Started(e, node, _):
            return Note(e, GOOD, f"started {_name(e)}", _place(e, node))
        case Retried(following, _):
            e, outcome = following.experiment, following.outcome
            text = f"{following.text}: {outcome.text}"
            return Note(e, WARNING, f"retry of {_name(e)}", text, with_output=True)
        case Ended(e, outcome, _) if outcome.state is State.REJECTED:
            return Note(e, DANGER, f"set aside {_name(e)}", outcome.text)
        case Ended(e, outcome, _):
            color = _COLORS.get(outcome.state, DANGER)
            title = f"{outcome.state.value.lower()} {_name(e)}"
            return Note(e, color, title, _ending(outcome), with_output=color is DANGER)
        case Received(e, _) if e.state is State.REJECTED:
            return Note(e, DANGER, f"set aside {_name(e)}", e.text)
    return None


def attachment(note: Note, output: str, host: str, at: float) -> dict[str, Any]:
    """One attachment of a message; ``at`` is epoch seconds, ``output`` is clean text or ""."""
    title = _shown(note.title, _LONGEST_NAME * 2)
    text = _shown(note.text, _LONGEST_TEXT)
    if output:
        text += f"\n```{_escaped(output.replace('```', chr(39) * 3))}```"
    return {
        "fallback": title,
        "color": note.color,
        "title": title,
        "text": text,
        "mrkdwn_in": ["text"] if output else [],
        "footer": f"hpcrunner on {host}",
        "ts": int(at),
    }


def message(attachments: Sequence[dict[str, Any]], room: str, dropped: int) -> dict[str, Any]:
    """A whole message; ``room`` "" is the webhook's own, ``dropped`` notes never got out."""
    found: dict[str, Any] = {"username": "hpcrunner", "attachments": list(attachments)}
    if room:
        found["channel"] = room
    if dropped:
        found["text"] = f"{dropped} earlier notes were dropped"
    return found


def clean(output: bytes, most: int = LONGEST_OUTPUT) -> str:
    """The last ``most`` bytes of an output, in whole lines where there are several, without
    terminal control and secrets. Of a line that was written over, what is seen at its end stays.
    """
    text = _ESCAPE_SEQUENCE.sub("", output.decode("utf-8", "replace").replace("\r\n", "\n"))
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
    text = redact_text(_CONTROL.sub("", "\n".join(lines))).strip("\n")
    whole = text.encode()
    if len(whole) <= most:
        return text
    _, newline, rest = whole[-most:].partition(b"\n")
    return (rest if newline and rest else whole[-most:]).decode("utf-8", "ignore")


def _ending(outcome: Outcome) -> str:
    state, text = outcome.state.value, outcome.text.strip()
    if outcome.state is not State.SUCCEEDED:
        text = ending_words(state, outcome.reason.value, text)
    text = text or state
    if outcome.started_at is not None and outcome.ended_at is not None:
        ran = max(0.0, outcome.ended_at - outcome.started_at)
        text = f"{text} (ran {format_duration(ran)}{_on(outcome.node)})"
    return text


def _place(e: Experiment, node: str) -> str:
    attempt = f", attempt {e.attempt}" if e.attempt > 1 else ""
    return f"job {e.job_id}{_on(node)}{attempt}"


def _on(node: str) -> str:
    return f" on {node}" if node else ""


def _name(e: Experiment) -> str:
    parts = [part for part in (e.project, e.key) if part]
    return f"{' '.join(parts) or 'an experiment'} ({e.id})"


def _shown(text: str, most: int) -> str:
    line = _CONTROL.sub("", " ".join(redact_text(text, prose=True).split()))
    return _escaped(line if len(line) <= most else line[: most - 1] + "…")


def _escaped(text: str) -> str:
    """As Slack wants it; without, a message could call people (``<!channel>``) or make links."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
