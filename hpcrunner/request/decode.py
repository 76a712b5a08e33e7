"""Bytes off a queue → one JSON object, within bounds that a login node can bear."""

from __future__ import annotations

import json
import math
from typing import Any

from hpcrunner.request.errors import RequestError

MAX_MESSAGE_BYTES = 32 * 1024 * 1024
MAX_VALUES = 1_000_000  # a value costs some 100 bytes of memory, and may take 2 in the message
MAX_DEPTH = 64
MAX_DIGITS = 100

_WHERE = "message"
_JSON_REMEDY = "send one JSON object in UTF-8 with the members experiment and config"


def decode_message(body: bytes) -> dict[str, Any]:
    """The message's outermost JSON object. Duplicate member names: the last one counts.

    Raises RequestError for what is too large, not UTF-8, not JSON (NaN and Infinity are not),
    nested too deeply, or not an object.
    """
    if len(body) > MAX_MESSAGE_BYTES:
        raise RequestError(
            f"{len(body)} bytes, more than {MAX_MESSAGE_BYTES}",
            where=_WHERE,
            remedy="send data as artifacts, not inside the message",
        )
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        raise RequestError(
            f"more than {MAX_VALUES} values",
            where=_WHERE,
            remedy="send data as artifacts, not inside the message",
        )
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"byte {error.start} is not UTF-8", where=_WHERE, remedy=_JSON_REMEDY
        ) from None
    if not text.strip():
        raise RequestError("empty", where=_WHERE, remedy=_JSON_REMEDY)
    document = _loads(text)
    if not isinstance(document, dict):
        raise RequestError("not a JSON object", where=_WHERE, remedy=_JSON_REMEDY)
    if not _is_shallow(document):
        raise _too_deep()
    return document


def _loads(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant, parse_int=_integer, parse_float=_float)
    except json.JSONDecodeError as error:
        # "from None": the exception holds the whole text, credentials included.
        raise RequestError(
            f"not JSON ({error.msg}, line {error.lineno} column {error.colno})",
            where=_WHERE,
            remedy=_JSON_REMEDY,
        ) from None
    except RecursionError:
        raise _too_deep() from None


def _is_shallow(document: dict[str, Any]) -> bool:
    level: list[Any] = [document]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return True
    return False


def _too_deep() -> RequestError:
    return RequestError(
        f"nested more than {MAX_DEPTH} deep", where=_WHERE, remedy="send a flatter message"
    )


def _no_constant(name: str) -> object:
    raise RequestError(
        f"{name} is not JSON", where=_WHERE, remedy="send a finite number or null in its place"
    )


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # reading digits takes time quadratic in their number
        raise _number_too_large()
    return int(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):  # it could not be written as JSON again
        raise _number_too_large()
    return number


def _number_too_large() -> RequestError:
    return RequestError(
        "a number beyond all use", where=_WHERE, remedy="send a number of 64 bits at most"
    )
