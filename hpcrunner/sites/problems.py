"""From a failed validation to lines for people, one for each mistake.

The rule of a line: ``<file>: <dotted.key> (line N): got 'x' (why not); allowed: …``.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from hpcrunner.errors import HpcrunnerError
from hpcrunner.sites.values import Allowed

Place = tuple[str | int, ...]
_LONGEST_VALUE = 60


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a key stands: a file and its line; line 0 for what stands in no file."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file} (line {self.line})" if self.line else self.file


class SiteError(HpcrunnerError):
    """A site config with mistakes, or none of that name. ``problems`` has a line for each.

    Unlike other errors this one may print several lines: ``line`` joins the problems.
    """

    exit_code = 78  # EX_CONFIG

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(" ".join(problem.split()) for problem in problems)
        super().__init__("; ".join(self.problems))

    def line(self) -> str:
        """The problems, one a line."""
        return "\n".join(self.problems)


def validation_problems(
    error: ValidationError, model: type[BaseModel], origin_of: Callable[[Place], Origin]
) -> list[str]:
    """A line for each mistake, file by file in the order of its lines."""
    found: list[tuple[Origin, str]] = []
    for detail in error.errors(include_url=False):
        for place, text in _explain(detail, model):
            origin = origin_of(place)
            line = f" (line {origin.line})" if origin.line else ""
            found.append((origin, f"{origin.file}: {dotted(place)}{line}: {text}"))
    return [text for _, text in sorted(found, key=lambda pair: (pair[0].file, pair[0].line))]


def dotted(place: Place) -> str:
    """``("partitions", 0, "name")`` as ``partitions[0].name``."""
    text = ""
    for step in place:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def allowed_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a type allows, in words: its ``Allowed``, its literals, or its shape."""
    for item in metadata:
        if isinstance(item, Allowed):
            return item.words
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        return allowed_words(inner, extra)
    annotation = _without_none(annotation)
    if get_origin(annotation) is Annotated:
        return allowed_words(annotation)
    if get_origin(annotation) is Literal:
        return ", ".join(str(word) or '""' for word in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"a list; each item: {allowed_words(get_args(annotation)[0])}"
    if get_origin(annotation) is dict:
        key, value = (allowed_words(part) for part in get_args(annotation))
        return f"a mapping; keys: {key}; values: {value}"
    return f"a mapping with the keys {', '.join(annotation.model_fields)}"


def _explain(detail: Any, model: type[BaseModel]) -> Iterator[tuple[Place, str]]:
    place: Place = detail["loc"]
    kind: str = detail["type"]
    if kind == "contradictions":
        yield from detail["ctx"]["found"]
        return
    if kind == "extra_forbidden":
        yield place, _unknown_key(str(place[-1]), _model_at(model, place[:-1]))
        return
    if place and place[-1] == "[key]":
        # pydantic names a bad key of a mapping by ``(…, key, "[key]")``.
        place = place[:-1]
        allowed = allowed_words(get_args(_type_at(model, place[:-1])[0])[0])
        yield place, f"got the key {_shown(place[-1])}; allowed: {allowed}"
        return
    annotation, metadata = _type_at(model, place)
    allowed = allowed_words(annotation, metadata)
    if kind == "missing":
        yield place, f"missing; allowed: {allowed}"
        return
    reason = str(detail["ctx"]["error"]) if kind == "value_error" else ""
    why = f" ({reason})" if reason else ""
    yield place, f"got {_shown(detail['input'])}{why}; allowed: {allowed}"


def _unknown_key(key: str, model: type[BaseModel]) -> str:
    known = list(model.model_fields)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f", nearest: {near[0]}" if near else ""
    return f"unknown key{hint}; allowed: {', '.join(known)}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 1] + "…"


def _model_at(model: type[BaseModel], place: Place) -> type[BaseModel]:
    found = _type_at(model, place)[0] if place else model
    assert issubclass(found, BaseModel)
    return found


def _type_at(model: type[BaseModel], place: Place) -> tuple[Any, Sequence[Any]]:
    """The type at a place below a model, and the metadata beside it."""
    annotation: Any = model
    metadata: Sequence[Any] = ()
    for step in place:
        annotation = _plain(annotation)
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin is tuple:
            annotation, metadata = inner[0], ()
        elif origin is dict:
            annotation, metadata = inner[1], ()
        else:
            field = annotation.model_fields[step]
            annotation, metadata = field.annotation, field.metadata
    annotation = _without_none(annotation)
    if get_origin(annotation) is Annotated:
        annotation, *metadata = get_args(annotation)
    return annotation, metadata


def _plain(annotation: Any) -> Any:
    annotation = _without_none(annotation)
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        return parts[0] if len(parts) == 1 else annotation
    return annotation
