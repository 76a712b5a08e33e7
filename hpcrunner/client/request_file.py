"""A request from a file, as a client would have sent it."""

from __future__ import annotations

from pathlib import Path

from hpcrunner.errors import HpcrunnerError


class RequestFileError(HpcrunnerError):
    """The request file cannot be read."""

    exit_code = 66  # EX_NOINPUT


def read_request_file(path: Path) -> bytes:
    """The bytes of a request file. Raises RequestFileError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RequestFileError(
            f"cannot be read ({error.strerror})",
            where=str(path),
            remedy="name a JSON request, or a script after '--'",
        ) from error
