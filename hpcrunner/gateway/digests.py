"""By what the copies of a message are known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hpcrunner.request.parse import sealed_part


@dataclass(frozen=True, slots=True)
class Digests:
    """SHA-256 (hex) of a message's bytes, and of its seal alone ("" for one in clear text)."""

    body: str
    seal: str

    @property
    def of_run(self) -> str:
        """What an experiment goes by that is run.

        The header of a sealed message is not signed: only the seal says which message it is.
        One that was refused goes by ``body``, so that an altered header does not hold up the
        true message.
        """
        return self.seal or self.body


def digests_of(body: bytes) -> Digests:
    """The digests of a message as it came off a queue."""
    seal = sealed_part(body)
    return Digests(_hex(body), _hex(seal.encode("utf-8", "surrogatepass")) if seal else "")


def came_sealed(digest: str, clear: bytes) -> bool:
    """Whether an experiment that was run, and goes by this digest, came in a sealed message.

    ``clear`` is its message in clear text.
    """
    return digest != _hex(clear)


def _hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
