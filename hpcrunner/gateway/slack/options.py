"""Where notes go: what a person says at the start."""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from hpcrunner.privatefile import read_private
from hpcrunner.queues.errors import OptionInvalid

_OPTION = "--slack-hook"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlackOptions:
    """``hook`` is a webhook's URL, or the private file that holds it; "" sends no notes.

    Whoever knows the URL can write there: it is a secret. ``room`` "" is the webhook's own.
    """

    hook: str = field(default="", repr=False)
    room: str = ""


NO_SLACK = SlackOptions()


def hook_url(options: SlackOptions) -> str:
    """The webhook's URL; "" where there is none. Raises OptionInvalid or SecretRefused."""
    text = options.hook.strip()
    if text.startswith(("/", "~", ".")):
        text = read_private(Path(text).expanduser()).decode("utf-8", "replace").strip()
    if not text:
        return ""
    try:
        parts = urllib.parse.urlsplit(text)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable()
    except ValueError:
        sound = False
    if not sound:
        raise OptionInvalid(
            "is no http or https URL",
            where=_OPTION,
            remedy="give the URL of an incoming webhook, or the path of a file that holds it",
        )
    return text
