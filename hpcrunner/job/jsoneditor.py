"""Directives folded into a JSON document: merge fragments, and patches of RFC 6902.

A directive is one line of a payload's output. An array of objects is a JSON Patch, an object is
merged: members of objects one by one, everything else replaced by what is new. ``null`` is a value
like others, save that it does not replace an object (this is not RFC 7396). A directive is folded
as a whole or not at all, and never makes the document larger or deeper than the bounds below.
"""

from __future__ import annotations

import json
import math
from typing import Any

from hpcrunner.request.documents import PROTECTED, Document, as_text

MAX_LINE = 256 << 10  # bytes of one directive
MAX_DOCUMENT = 1 << 20  # bytes of the document as JSON text
MAX_DEPTH = 64
MAX_OPERATIONS = 1000  # of one patch
MAX_DIGITS = 100  # of a whole number: reading them takes time quadratic in their number
_SHOWN = 200


class DirectiveRefused(Exception):
    """A directive cannot be folded into the document as it is; the document is unchanged."""


class NoDirective(DirectiveRefused):
    """A text is no directive at all, though it may look like one."""


class Editor:
    """A document and the directives folded into it so far, from ``{}`` on."""

    def __init__(self, document: Document | None = None) -> None:
        self.document: Document = {} if document is None else document
        self._most = _length(self.document)  # at least the document's length as text

    def apply(self, directive: str) -> None:
        """Fold one directive. Raises DirectiveRefused, and the document is as it was."""
        self.fold(parse(directive))

    def fold(self, directive: Document | list[Document]) -> None:
        """Fold a directive that was parsed. Raises DirectiveRefused."""
        if isinstance(directive, list):
            new = _patched(self.document, directive)
            length = _length(new)
        else:
            new = merged(self.document, directive)
            # Only near the bound is it worth to look at the whole document.
            length = self._most + _length(directive)
            if length > MAX_DOCUMENT:
                length = _length(new)
        if length > MAX_DOCUMENT:
            raise DirectiveRefused(f"the document would be larger than {MAX_DOCUMENT} bytes")
        self.document, self._most = new, length


def parse(text: str) -> Document | list[Document]:
    """A directive as values. Raises NoDirective, or DirectiveRefused for one nested too deeply."""
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise NoDirective(f"not JSON ({error})") from None
    if not _is_shallow(value):
        raise _too_deep()
    if isinstance(value, dict):
        return value
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return value
    raise NoDirective("neither an object nor an array of objects")


def merged(old: Any, new: Any) -> Any:
    """Two values in one, neither of them changed: objects by their members, else the new one."""
    if isinstance(old, dict) and isinstance(new, dict):
        both = dict(old)
        for name, value in new.items():
            both[name] = merged(both[name], value) if name in both else value
        return both
    if new is None and isinstance(old, dict):
        return old
    return new


def _patched(document: Document, operations: list[Document]) -> Document:
    """The document with all operations done, itself unchanged."""
    import jsonpatch

    if len(operations) > MAX_OPERATIONS:
        raise DirectiveRefused(f"more than {MAX_OPERATIONS} operations in one patch")
    for operation in operations:
        _check_permitted(operation)
    try:
        patched = copy_of(document)
        room = MAX_DOCUMENT
        for operation in operations:
            if operation.get("op") == "copy":  # alone it can double a document each time
                copied = jsonpatch.JsonPointer(operation["from"]).resolve(patched)
                room -= _length(copied)
                if room < 0:
                    raise DirectiveRefused(f"copies of more than {MAX_DOCUMENT} bytes in one patch")
            patched = jsonpatch.apply_patch(patched, [operation], in_place=True)
    except DirectiveRefused:
        raise
    except Exception as error:  # of several kinds, by what is wrong with the patch
        said = " ".join(str(error).split())[:_SHOWN]
        raise DirectiveRefused(f"{type(error).__name__}: {said}") from None
    if not isinstance(patched, dict):
        raise DirectiveRefused("the document would no longer be an object")
    # A value moved or copied into another may lie deeper than each of them did.
    if not _is_shallow(patched):
        raise _too_deep()
    return patched


def _check_permitted(operation: Document) -> None:
    word, path = operation.get("op"), operation.get("path")
    if not isinstance(path, str):
        raise DirectiveRefused("an operation without a path")
    if path == "" and word != "test":
        raise DirectiveRefused("the whole document cannot be replaced")
    touched = [path] if word != "add" else []
    if word == "move":
        touched.append(str(operation.get("from", "")))
    for pointer in touched:
        if pointer.lower().split("/")[1:2] == [PROTECTED] or (pointer == "" and word == "move"):
            raise DirectiveRefused(f"{word} in /{PROTECTED}, where only add is permitted")


def copy_of(document: Document) -> Document:
    """A copy that shares nothing with it, made at C's speed."""
    import marshal

    copied: Document = marshal.loads(marshal.dumps(document))  # noqa: S302 - our own bytes
    return copied


def _length(value: object) -> int:
    return len(as_text(value))


def _is_shallow(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return True
    return False


def _too_deep() -> DirectiveRefused:
    return DirectiveRefused(f"nested more than {MAX_DEPTH} deep")


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is no number in JSON: print null in its place")


def _whole(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} digits")
    return int(digits)


def _real(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number beyond 64 bits")
    return number


# Made once: a decoder of one's own costs as much as a short line does.
_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_int=_whole, parse_float=_real)
