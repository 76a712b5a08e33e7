"""The schema for editors takes what the loader takes, and refuses a misspelt key.

After a change of the model: ``HPCRUNNER_UPDATE_GOLDEN=1 pytest tests/sites/test_site_schema.py``.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator
from pydantic import BaseModel

from hpcrunner.data import data_folder
from hpcrunner.sites.layers import read_layers
from hpcrunner.sites.load import validated
from hpcrunner.sites.schema import NAME, schema_text, site_schema
from hpcrunner.sites.site import Site
from hpcrunner.sites.slurmtime import PATTERN, parse_time
from hpcrunner.sites.yamltext import read

GOLDEN = Path(__file__).parents[1] / "batch" / "golden"
SHIPPED = sorted(data_folder("site-configs").glob("*.yaml"))
SCHEMA = Draft7Validator(site_schema())


class EditorsYaml(yaml.SafeLoader):
    """YAML 1.2 as editors read it: 64 is a number, 12:00:00 and NO are text."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - the library's own shape


for tag, pattern in (
    ("null", r"~|null|Null|NULL|"),
    ("bool", r"true|True|TRUE|false|False|FALSE"),
    ("int", r"[-+]?[0-9]+"),
    ("float", r"[-+]?([.][0-9]+|[0-9]+([.][0-9]*)?)([eE][-+]?[0-9]+)?"),
    ("merge", r"<<"),
):
    EditorsYaml.add_implicit_resolver(
        f"tag:yaml.org,2002:{tag}", re.compile(rf"({pattern})\Z"), None
    )
EditorsYaml.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node))
)


def as_editor(text: str) -> Any:
    def names(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): names(inner) for key, inner in value.items()}
        return [names(inner) for inner in value] if isinstance(value, list) else value

    return names(yaml.load(text, EditorsYaml))


def mistakes(text: str) -> list[str]:
    """What the schema says of a text, read as an editor does and read as the loader does."""
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message}"
        for data in (as_editor(text), read(text).data)
        for error in SCHEMA.iter_errors(data)
    ]


def test_the_schema_is_one() -> None:
    Draft7Validator.check_schema(site_schema())


def test_the_shipped_schema_is_the_models_and_every_shipped_file_names_it() -> None:
    path = data_folder("site-configs") / NAME
    if os.environ.get("HPCRUNNER_UPDATE_GOLDEN"):
        path.write_text(schema_text())
    assert path.read_text() == schema_text(), "set HPCRUNNER_UPDATE_GOLDEN=1 if it is wanted"
    for site in SHIPPED:
        assert site.read_text().startswith(f"# yaml-language-server: $schema={NAME}\n"), site


@pytest.mark.parametrize("path", [*SHIPPED, GOLDEN / "every-key.yaml"], ids=lambda path: path.stem)
def test_every_shipped_site_fits_it(path: Path) -> None:
    assert mistakes(path.read_text()) == []


def test_every_site_fits_it_with_all_defaults_written_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USER", "someone")
    for path in SHIPPED:
        merged = read_layers(path)
        data = validated(merged).model_dump(mode="json")
        assert list(SCHEMA.iter_errors(data)) == []


@pytest.mark.parametrize(
    "text",
    [
        "partitions: [{name: p, max_time: 2-00:00:00, max_memory: 64G, max_cpus: 64}]",
        "partitions: [{name: p, max_time: 90}, {name: q, max_time: unlimited, max_memory: 7000}]",
        "account: 0042\nqos: NO\ndefaults: {cpus: 4, memory: 4g, time_limit: 12:00:00}",
        "tmp: yes\nrequeue: off\nenforce_disk: true",
        "grace: 1e2\nsettle: .5\nlimits: {submit_rate: 30/1m, max_jobs: '12'}",
        "interpreters: {3.10: python3.10}\nenvironment: {A: 1.50, B: yes, C: ~}",
        "retention: {secrets: 0, ended: UNLIMITED, dead: 2w}",
        "partitions:\naccount: ~\ndefaults: null",
        "staging_allowance: 00:10:00\nartifact_cache: {size: 0}",
        "drmaa: {gres_prefix: ''}\ncontainer:\n  runtime: none",
        "extends: generic-slurm",
    ],
)
def test_what_the_loader_takes_it_takes(text: str) -> None:
    Site.model_validate(_without_nothing(read(text).data))
    assert mistakes(text) == []


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_nothing(v) for k, v in value.items() if v is not None}
    return value


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("spol: /x", ": Additional properties"),
        ("partitions: [{name: p, maxtime: 1}]", "partitions.0: Additional properties"),
        ("partitions: [{max_time: 1}]", "partitions.0: 'name' is a required"),
        ("export: all", "export: 'all' is not one of"),
        ("defaults: {memory: 64GB}", "defaults.memory: '64GB' does not match"),
        ("defaults: {time_limit: 2h}", "defaults.time_limit: '2h' does not match"),
        ("tmp: maybe", "tmp: 'maybe' does not match"),
        ("retention: {dead: 30}", "retention.dead: 30 is greater than the maximum"),
        ("retention: {dead: '30'}", "retention.dead: '30' does not match"),
        ("limits: {submit_rate: 30}", "limits.submit_rate: '30' does not match"),
        ("limits: {max_jobs: none}", "limits.max_jobs: 'none' does not match"),
        ("modules: cuda", "modules: 'cuda' is not of type"),
        ("account: a b", "account: 'a b' does not match"),
        ("interpreters: {three: /x}", "interpreters: 'three' does not match"),
    ],
)
def test_what_the_loader_refuses_it_refuses(text: str, where: str) -> None:
    assert any(line.startswith(where) for line in mistakes(text)), mistakes(text)


def fields(model: type[BaseModel] = Site) -> Iterator[tuple[type[BaseModel], str, Any]]:
    for name, field in model.model_fields.items():
        yield model, name, field
        for found in (field.annotation, *get_args(field.annotation)):
            if isinstance(found, type) and issubclass(found, BaseModel):
                yield from fields(found)


def test_every_example_of_every_key_fits_it() -> None:
    """So a key of a new kind cannot be forgotten here."""
    wrong = []
    schemas = dict(_places(site_schema(), Site))
    for model, name, field in fields():
        schema = schemas[model]["properties"][name]
        for shown in field.examples or []:
            for value in (as_editor(f"key: {shown}")["key"], read(f"key: {shown}").data["key"]):
                given = [value] if "array" in str(schema.get("type")) else value
                if not isinstance(value, dict | list):
                    wrong += [f"{name}: {e.message}" for e in _judged(schema, given)]
    assert wrong == []


def _judged(schema: dict[str, Any], value: Any) -> Iterator[Any]:
    yield from Draft7Validator(schema).iter_errors(value)


def _places(schema: Any, model: type[BaseModel]) -> Iterator[tuple[type[BaseModel], Any]]:
    yield model, schema
    for name, field in model.model_fields.items():
        inner = schema["properties"][name]
        for found in (field.annotation, *get_args(field.annotation)):
            if isinstance(found, type) and issubclass(found, BaseModel):
                yield from _places(inner.get("items", inner), found)


@given(st.text("0123456789:-UNLIMTEDunlimted", max_size=12))
def test_the_pattern_of_times_is_what_the_loader_reads(text: str) -> None:
    try:
        parse_time(text)
    except ValueError:
        assert not re.fullmatch(PATTERN, text)
    else:
        assert re.fullmatch(PATTERN, text)
