"""docs/site-config.md says of every key what the model says, word for word.

After a change of the model: ``HPCRUNNER_UPDATE_GOLDEN=1 pytest tests/sites/test_site_document.py``.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from hpcrunner.sites.directives import FORBIDDEN
from hpcrunner.sites.problems import allowed_words
from hpcrunner.sites.site import Site
from hpcrunner.sites.values import age_text
from hpcrunner.sites.yamltext import read

DOCUMENT = Path(__file__).parents[2] / "docs" / "site-config.md"
UPDATE = "HPCRUNNER_UPDATE_GOLDEN"


def inner_model(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a mapping or a list of mappings with keys of their own."""
    annotation: Any = field.annotation
    for found in (annotation, *get_args(annotation)):
        if isinstance(found, type) and issubclass(found, BaseModel):
            return found
    return None


def mappings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every mapping of the site with the key where it stands."""
    yield prefix, model
    for name, field in model.model_fields.items():
        inner = inner_model(field)
        if inner is not None:
            is_list = "tuple" in str(field.annotation)
            yield from mappings(inner, f"{prefix}{name}{'[]' if is_list else ''}.")


def default(field: FieldInfo) -> str:
    value = field.default
    if inner_model(field) is not None and value != ():
        return "see below"
    if value is PydanticUndefined and field.default_factory is not dict:
        return "required" if field.default_factory is None else "see meaning"
    if value in (None, (), PydanticUndefined):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if "a Slurm time" in allowed_words(field.annotation, field.metadata):
        return f"`{value // 3600:02d}:{value // 60 % 60:02d}:{value % 60:02d}`"
    if "an age" in allowed_words(field.annotation, field.metadata):
        return f"`{age_text(value)}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    return f"`{value}`" if str(value) else '`""`'


def example(field: FieldInfo) -> str:
    found = field.examples or []
    return f" Example: {', '.join(f'`{one}`' for one in found)}." if found else ""


def tables() -> str:
    """All keys, a table for each mapping."""
    parts = []
    for prefix, model in mappings(Site):
        if prefix:
            parts.append(f"### {prefix.removesuffix('.')}\n")
        parts.append("| Key | Meaning | Allowed | Default |\n| --- | --- | --- | --- |")
        for name, field in model.model_fields.items():
            inner = inner_model(field)
            allowed = allowed_words(field.annotation, field.metadata)
            if inner is not None:
                allowed = "a list, see below" if allowed.startswith("a list") else "see below"
            elif (
                get_args(field.annotation)
                and not allowed.startswith("a list")
                and not field.metadata
                and "Literal" in str(field.annotation)
            ):
                allowed = ", ".join(f"`{word}`" for word in allowed.split(", "))
            shown = default(field)
            parts.append(
                f"| `{prefix}{name}` | {field.description}{example(field)} | {allowed} | {shown} |"
            )
        parts.append("")
    return "\n".join(parts)


def forbidden() -> str:
    rows = [f"| `--{name}` | {reason} |" for name, reason in FORBIDDEN.items()]
    return "\n".join(["| Option | Because |", "| --- | --- |", *rows, ""])


@pytest.mark.parametrize(("mark", "made"), [("keys", tables), ("forbidden", forbidden)])
def test_the_documents_tables_are_the_models(mark: str, made: Any) -> None:
    text = DOCUMENT.read_text()
    pattern = re.compile(rf"(<!-- {mark}: .*? -->\n)(.*?)(<!-- end of {mark} -->)", re.DOTALL)
    found = pattern.search(text)
    assert found is not None
    wanted = f"\n{made()}\n"
    if os.environ.get(UPDATE):
        DOCUMENT.write_text(text[: found.start(2)] + wanted + text[found.end(2) :])
        return
    assert found[2] == wanted, f"set {UPDATE}=1 if the change is wanted"


def test_every_key_of_every_mapping_has_a_row() -> None:
    text = DOCUMENT.read_text()
    for prefix, model in mappings(Site):
        for name in model.model_fields:
            assert f"| `{prefix}{name}` |" in text


def test_no_description_breaks_a_table_or_misses_its_full_stop() -> None:
    for _, model in mappings(Site):
        for name, field in model.model_fields.items():
            assert field.description, name
            assert "|" not in field.description, name
            assert field.description.endswith("."), name


def test_every_example_is_a_value_that_its_key_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USER", "u")
    required = {
        "partitions[].": {"name": "p"},
        "partitions[].gpus[].": {"memory": 1, "count": 1},
        "clear_text[].": {"queues": "q", "allowed": True},
        "rules[].": {"name": "r"},
        "queue_weights[].": {"queues": "q", "weight": 1},
    }
    for prefix, model in mappings(Site):
        for name, field in model.model_fields.items():
            is_list = "tuple" in str(field.annotation)
            for shown in field.examples or []:
                value = read(f"key: {shown}").data["key"]
                given = {name: [value] if is_list else value}
                model.model_validate({**required.get(prefix, {}), **given})


def test_the_documents_own_example_is_a_sound_site() -> None:
    for block in re.findall(r"```yaml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL):
        Site.model_validate(read(block.replace("$USER", "u")).data)
