"""The JSON schema of site files, for editors: what the loader takes, it takes.

Draft 7, which every editor knows. Scalars are judged by their text as the loader does it, so
``64G``, ``2-00:00:00`` and ``0042`` are fine where an editor's YAML makes numbers of some of
them. What only the loader knows (variables that are not set, contradictions) is left to
``hpcrunner site check``.
"""

from __future__ import annotations

import json
import re
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from hpcrunner.sites.problems import allowed_words
from hpcrunner.sites.site import Site
from hpcrunner.sites.values import Allowed, any_case

# Beside the shipped files, and what their first line names for editors.
NAME = "site.schema.json"
_DRAFT = "http://json-schema.org/draft-07/schema#"
_BLANK = "[ \\t]*"
_SWITCHES = ("true", "false", "yes", "no", "on", "off", "t", "f", "y", "n", "1", "0")
_SWITCH = f"^({'|'.join(any_case(word) for word in _SWITCHES)})$"
_WHOLE = f"^{_BLANK}[+]?[0-9](_?[0-9])*([.]0*)?{_BLANK}$"
_NUMBER = f"^{_BLANK}[+]?([0-9][0-9_]*([.][0-9_]*)?|[.][0-9_]+)([eE][+-]?[0-9]+)?{_BLANK}$"


def schema_text() -> str:
    """The schema as its file has it."""
    return json.dumps(site_schema(), indent=2, ensure_ascii=False) + "\n"


def site_schema() -> dict[str, Any]:
    """The schema as plain data."""
    return {
        "$schema": _DRAFT,
        "title": "Site file of hpcrunner",
        **_mapping(Site),
        "type": ["object", "null"],
    }


def _mapping(model: type[BaseModel]) -> dict[str, Any]:
    fields = model.model_fields
    needed = [name for name, field in fields.items() if field.is_required()]
    schema: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {name: _property(field) for name, field in fields.items()},
    }
    return schema | ({"required": needed} if needed else {})


def _property(field: FieldInfo) -> dict[str, Any]:
    schema = _kind(field.annotation, field.metadata)
    if not field.is_required():
        schema = _or_nothing(schema)
    allowed = ""
    if not _is_mapping(field.annotation):
        allowed = f" Allowed: {allowed_words(field.annotation, field.metadata)}."
    return {"description": f"{field.description}{allowed}", **schema}


def _kind(annotation: Any, metadata: Sequence[Any] = ()) -> dict[str, Any]:
    """The schema of a type. ``metadata`` is what stands beside it."""
    if get_origin(annotation) is Annotated:
        inner, *extra = get_args(annotation)
        return _kind(inner, [*extra, *metadata])
    if get_origin(annotation) in (Union, types.UnionType):
        parts = [part for part in get_args(annotation) if part is not type(None)]
        if len(parts) == 1:
            return _kind(parts[0], metadata)
        return {"anyOf": [_kind(part, metadata) for part in parts]}
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin is tuple:
        return {"type": "array", "items": _kind(inner[0])}
    if origin is dict:
        # A variable that a base sets is taken away by a key without a value.
        names, values = _kind(inner[0]), _or_nothing(_kind(inner[1]))
        pattern = {"propertyNames": {"pattern": names["pattern"]}} if "pattern" in names else {}
        return {"type": "object", "additionalProperties": values, **pattern}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _mapping(annotation)
    return _scalar(annotation, metadata)


def _scalar(annotation: Any, metadata: Sequence[Any]) -> dict[str, Any]:
    pattern = next((item.pattern for item in metadata if isinstance(item, Allowed)), "")
    if annotation is bool:
        return {"type": ["boolean", "integer", "string"], "pattern": _SWITCH}
    if annotation in (int, float):
        plain = _WHOLE if annotation is int else _NUMBER
        least = [bound for item in metadata for bound in _bounds(item)]
        bounds = {"minimum": max(least)} if least else {}
        if pattern and not re.search(pattern, "30"):  # a number needs a unit, but for 0
            bounds = {"minimum": 0, "maximum": 0}
        return {"type": ["number", "string"], "pattern": pattern or plain, **bounds}
    texts = {"type": ["string", "number", "boolean"]}
    return texts | ({"pattern": pattern} if pattern else {})


def _bounds(item: Any) -> list[Any]:
    inner = item.metadata if isinstance(item, FieldInfo) else [item]
    return [bound.ge for bound in inner if isinstance(bound, Ge)]


def _or_nothing(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with ``null`` too: a key without a value."""
    if "enum" in schema:
        return {"enum": [*schema["enum"], None]}
    if "anyOf" in schema:
        return {"anyOf": [*schema["anyOf"], {"type": "null"}]}
    kinds = schema["type"]
    return schema | {"type": [*([kinds] if isinstance(kinds, str) else kinds), "null"]}


def _is_mapping(annotation: Any) -> bool:
    return "properties" in _kind(annotation)
