"""RabbitMQ's management API: which StudioML queues there are, and how much waits in them."""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from urllib.parse import quote

from hpcrunner.queues.amqp import EXCHANGE, ROUTING_PREFIX, ManagementAddress
from hpcrunner.queues.contract import QueueUnavailable

_LARGEST_ANSWER = 64 * 1024 * 1024
_REMEDY = "check --amqp-mgt-url, or name the queues with --queue"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the login to another host."""

    def redirect_request(self, *_args: object, **_named: object) -> None:
        return None


class Management:
    """The API of one broker, for one virtual host. Methods raise QueueUnavailable."""

    def __init__(self, address: ManagementAddress, vhost: str, *, timeout: float = 5.0) -> None:
        self._base = f"{address.base}/api"
        self._vhost = quote(vhost, safe="")
        self._timeout = timeout
        login = base64.b64encode(f"{address.user}:{address.password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Accept": "application/json"}
        # AMQP goes past any proxy, and so does this.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    @property
    def name(self) -> str:
        """The address, for people."""
        return self._base

    def bound_queues(self) -> list[str]:
        """Queues bound to the StudioML exchange; none where the exchange is not there."""
        path = f"/exchanges/{self._vhost}/{quote(EXCHANGE, safe='')}/bindings/source"
        return bound_queues(self._get(path, missing=[]))

    def ready(self) -> dict[str, int]:
        """Messages ready per queue, as the broker's statistics last counted (some 5 s late)."""
        return ready_messages(self._get(f"/queues/{self._vhost}?columns=name,messages_ready", []))

    def _get(self, path: str, missing: object) -> object:
        # The scheme was checked where the address was made.
        request = urllib.request.Request(self._base + path, headers=self._headers)  # noqa: S310
        try:
            with self._opener.open(request, timeout=self._timeout) as response:
                text = response.read(_LARGEST_ANSWER)
            return json.loads(text)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                return missing
            raise QueueUnavailable(_refusal(error.code), where=self.name, remedy=_REMEDY) from None
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            what = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise QueueUnavailable(
                f"no management API: {what}", where=self.name, remedy=_REMEDY
            ) from error


def _refusal(code: int) -> str:
    if code == 401:
        return "the management API refused the login (401: wrong, or without the management tag)"
    return f"the management API answered {code}"


def bound_queues(document: object) -> list[str]:
    """Queue names from a listing of bindings: source and routing key must be StudioML's."""
    names: dict[str, None] = {}
    for binding in document if isinstance(document, list) else ():
        if not isinstance(binding, dict):
            continue
        name, key = binding.get("destination"), binding.get("routing_key")
        if (
            isinstance(name, str)
            and isinstance(key, str)
            and binding.get("source") == EXCHANGE
            and binding.get("destination_type", "queue") == "queue"
            and key.startswith(ROUTING_PREFIX)
        ):
            names[name] = None
    return list(names)


def ready_messages(document: object) -> dict[str, int]:
    """Counts from a listing of queues; a queue too new to be counted is left out."""
    counts: dict[str, int] = {}
    for queue in document if isinstance(document, list) else ():
        if isinstance(queue, dict):
            name, ready = queue.get("name"), queue.get("messages_ready")
            if isinstance(name, str) and isinstance(ready, int):
                counts[name] = ready
    return counts
