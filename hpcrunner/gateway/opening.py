"""From a message's bytes to its request: which queues may send clear text, and opening the rest."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hpcrunner.gateway.admission import NotAdmitted
from hpcrunner.gateway.spool import SUBMIT_QUEUE
from hpcrunner.keys.keyring import NO_KEYS, Keyring
from hpcrunner.keys.options import NO_KEY_OPTIONS, KeyOptions
from hpcrunner.notices import Notices
from hpcrunner.request.errors import RequestError, shown
from hpcrunner.request.model import Request, SealedRequest
from hpcrunner.request.parse import parse_message
from hpcrunner.request.reasons import Reason
from hpcrunner.sites.parts import ClearText

if TYPE_CHECKING:
    from hpcrunner.keys.requestkeys import RequestKeys

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Opened:
    """A request that may be run, and its message in clear.

    ``signed``: it is by whom the keys say may write there, or by ourselves.
    """

    request: Request
    clear: bytes = field(repr=False)
    signed: bool = False


class Opener:
    """Opens messages with the keys of today.

    ``rules`` are the site's, by queue; what ``hpcrunner submit`` published, on ``own`` (the
    source of the spool's queue), may always be clear text: only we can write there.
    """

    def __init__(
        self,
        keys: Keyring = NO_KEYS,
        options: KeyOptions = NO_KEY_OPTIONS,
        rules: Sequence[ClearText] = (),
        own: str = "",
    ) -> None:
        self._keys = keys
        self._takes_clear_text = options.takes_clear_text
        self._rules = [(re.compile(rule.queues), rule.allowed) for rule in rules]
        self._own = own
        self._notices = Notices(log)

    def refresh(self) -> None:
        """Take up what changed in the folders of keys."""
        self._keys.refresh()

    def open(self, queue: str, server: str, body: bytes) -> Opened:
        """The request of a message that came by this queue of this server.

        Raises RequestError, SealError, SignatureRefused, NoKey or NotAdmitted; the texts hold
        nothing of what is sealed.
        """
        message = parse_message(body)
        if isinstance(message, SealedRequest):
            return self._opened(queue, message)
        if not self.may_be_clear(queue, server):
            raise NotAdmitted(
                f"clear text is not taken from the queue {shown(queue)}",
                where="message",
                remedy="seal and sign it, or see --clear-text-messages and the site's clear_text",
                reason=Reason.REJECTED,
            )
        return Opened(message, body, signed=self.is_ours(queue, server))

    def may_be_clear(self, queue: str, server: str) -> bool:
        """Whether clear text is taken from this queue of this server."""
        if self.is_ours(queue, server):
            return True
        for pattern, allowed in self._rules:
            if pattern.search(queue):
                return allowed
        return self._takes_clear_text

    def is_ours(self, queue: str, server: str) -> bool:
        """Whether this is the spool's own queue, and not one elsewhere that is named like it."""
        return queue == SUBMIT_QUEUE and self._own != "" and server == self._own

    def _opened(self, queue: str, sealed: SealedRequest) -> Opened:
        requests, signers = self._keys.requests, self._keys.signers
        if requests is None or signers is None:
            raise NotAdmitted(
                "the message is sealed and no keys are configured here",
                where="message.payload",
                remedy="give the gateway --encrypt-dir and --request-signatures-dir, or send it "
                "in clear text",
                reason=Reason.REJECTED,
            )
        from hpcrunner.request.envelope import open_envelope
        from hpcrunner.request.seal import NotForThisKey
        from hpcrunner.request.signature import fingerprint

        keys = requests.usable()
        signer = signers.choose(queue)
        try:
            request, clear = open_envelope(sealed, signer, keys)
        except NotForThisKey as error:
            raise NotAdmitted(
                f"{error.what} (keys here: {', '.join(_usable(requests))})",
                where="message.payload",
                remedy="seal it for the public half of one of these keys",
                reason=Reason.REJECTED,
            ) from None
        if sealed.fingerprint != fingerprint(signer):
            # The key of the queue has signed it: a stale fingerprint is the client's own affair.
            self._notices.warn(
                ("fingerprint", queue),
                f"{queue}: messages name the key {sealed.fingerprint}; they are signed with "
                f"{fingerprint(signer)}, the queue's",
            )
        return Opened(request, clear, signed=True)


def look_inside(body: bytes, keys: Keyring) -> Request:
    """The request of a message, only to be looked at: nobody asks who sent it.

    Raises RequestError, SealError, NoKey or NotAdmitted.
    """
    message = parse_message(body)
    if not isinstance(message, SealedRequest):
        return message
    if keys.requests is None:
        raise NotAdmitted(
            "the message is sealed",
            where="message.payload",
            remedy="give --encrypt-dir",
            reason=Reason.REJECTED,
        )
    from hpcrunner.request.seal import unseal

    request = parse_message(unseal(message.payload, keys.requests.usable()))
    if isinstance(request, SealedRequest):
        raise RequestError(
            "a sealed message inside another", where="message.payload", remedy="seal it once"
        )
    return request


def _usable(requests: RequestKeys) -> list[str]:
    return [name for name, key, _ in requests.listed() if key is not None]
