"""From the queue options a person gave to the sources a gateway takes from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hpcrunner.queues.contract import Source
from hpcrunner.queues.directory import DirectorySource
from hpcrunner.queues.errors import OptionInvalid
from hpcrunner.queues.matching import DEFAULT_MATCH, QueueFilter
from hpcrunner.queues.rabbitmq import RabbitSource

_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueOptions:
    """The queue options as given; empty means not given.

    ``queues`` names the only queues to read, in the place of the two patterns. The two URLs
    and ``queue_root`` may hold ``$NAME`` or ``${NAME}``. ``gateway_id`` is unique among the
    gateways that share a queue root, and the same after a restart: by it a gateway finds
    again what it had taken.
    """

    gateway_id: str
    amqp_url: str = field(default="", repr=False)
    amqp_mgt_url: str = field(default="", repr=False)
    queues: tuple[str, ...] = ()
    queue_match: str = DEFAULT_MATCH
    queue_mismatch: str = ""
    queue_root: str = ""


def sources_from(options: QueueOptions, environ: Mapping[str, str] = os.environ) -> list[Source]:
    """The sources of these options, none of them connected yet. Raises OptionInvalid."""
    amqp_url = expanded(options.amqp_url, "--amqp-url", environ)
    management_url = expanded(options.amqp_mgt_url, "--amqp-mgt-url", environ)
    queue_root = expanded(options.queue_root, "--queue-root", environ)
    if options.queues:
        queue_filter = QueueFilter.only(options.queues)
    else:
        queue_filter = QueueFilter(options.queue_match, options.queue_mismatch)
    sources: list[Source] = []
    if queue_root:
        root = Path(queue_root).expanduser()
        sources.append(DirectorySource(root, queue_filter, options.gateway_id))
    if amqp_url:
        sources.append(
            RabbitSource(
                amqp_url,
                queue_filter,
                management_url=management_url,
                queues=options.queues,
                connection_name=f"hpcrunner {options.gateway_id}",
            )
        )
    return sources


def expanded(text: str, option: str, environ: Mapping[str, str]) -> str:
    """``text`` with its variables from the environment. Raises OptionInvalid for unset ones.

    The Go runner takes an unset variable for nothing, which turns a forgotten export into an
    error about something else.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1] if match[1] is not None else match[2]
        if name not in environ:
            # What does not look like a variable may be the end of a password.
            shown = name if name.isupper() else "a variable it names"
            raise OptionInvalid(
                f"the environment has no {shown}",
                where=option,
                remedy="export it, or write %24 for a $ that belongs to a password",
            )
        return environ[name]

    return _VARIABLE.sub(value, text)
