"""What is wrong with a request, said in one line that is safe to print."""

from __future__ import annotations

from hpcrunner.errors import HpcrunnerError


class RequestError(HpcrunnerError):
    """A message that cannot be run, or must not be.

    ``where`` names the member (``experiment.artifacts.workspace.key``). The text never holds
    a credential, an argument or a value of ``config.env``.
    """

    exit_code = 65  # EX_DATAERR


class KeyInvalid(HpcrunnerError):
    """Bytes that are not the key that belongs there, or a file that must not hold one.

    Never shows any of the bytes.
    """

    exit_code = 78  # EX_CONFIG


def shown(value: object, most: int = 60) -> str:
    """An untrusted value for an error's text: quoted, escaped, and cut to ``most`` characters."""
    if isinstance(value, int) and value.bit_length() > 1024:
        return "a huge number"  # str() refuses some, and is slow on the rest
    text = str(value)
    return repr(text) if len(text) <= most else repr(text[:most]) + "…"
