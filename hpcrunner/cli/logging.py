"""The gateway's log: lines for people or JSON objects for machines, without secrets either way."""

from __future__ import annotations

import json
import logging
import socket
import sys
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from hpcrunner.request.redact import redact_text

# What a LogRecord has of itself; whatever else it bears was given as ``extra``.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogFormat(str, Enum):
    """What a line of the log is."""

    CONSOLE = "console"
    JSON = "json"


class ConsoleFormatter(logging.Formatter):
    """Time, level, message; a traceback follows on lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """The whole text, redacted once it is whole: a traceback may quote a secret too."""
        return redact_text(super().format(record), prose=True)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message``,
    ``host``, the fields that the record was given (``experiment``, ``batch``, ``queue`` …), and
    ``exception`` where there is one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._host = socket.gethostname()

    def format(self, record: logging.LogRecord) -> str:
        """See the class."""
        when = datetime.fromtimestamp(record.created, timezone.utc)
        found: dict[str, Any] = {
            "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": redact_text(record.getMessage(), prose=True),
            "host": self._host,
        }
        for name, value in vars(record).items():
            if name not in _OWN and value not in (None, ""):
                plain = isinstance(value, (bool, int, float))
                found.setdefault(name, value if plain else redact_text(str(value), prose=True))
        if record.exc_info:
            found["exception"] = redact_text(self.formatException(record.exc_info), prose=True)
        return json.dumps(found)  # ASCII, whatever the terminal's encoding


def start_logging(form: LogFormat, *, debug: bool) -> None:
    """Log to stderr from here on, all libraries included."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form is LogFormat.JSON else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if debug else logging.INFO)
