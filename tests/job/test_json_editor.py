"""Directives folded into a document: the table that StudioML's runner is tested by, and bounds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcrunner.job.jsoneditor import (
    MAX_DOCUMENT,
    DirectiveRefused,
    Editor,
    NoDirective,
    parse,
)
from hpcrunner.request.documents import as_text

EXPERIMENT = {"name": "testExpr", "max_run_length": 24, "run_length": 3.21}
RENAMED = {**EXPERIMENT, "name": "testExpr1"}
SHORTER = {"name": "testExpr1", "run_length": 3.21}
LONGER = {**SHORTER, "addition_1": "additional data 1"}
LONGEST = {**LONGER, "addition_2": "additional data 2"}
PAIR = [{"name": "a"}, {"name": "b"}]
THREE = [*PAIR, {"name": "c"}]
TABLE: list[tuple[str, dict[str, Any]]] = [
    (json.dumps({"experiment": EXPERIMENT}), {"experiment": EXPERIMENT}),
    (
        '[{"op": "replace", "path": "/experiment/name", "value": "testExpr1"}]',
        {"experiment": RENAMED},
    ),
    ('[{"op": "remove", "path": "/experiment/max_run_length"}]', {"experiment": SHORTER}),
    (
        '[{"op": "add", "path": "/experiment/addition_1", "value": "additional data 1"}]',
        {"experiment": LONGER},
    ),
    ('{"experiment": {"addition_2": "additional data 2"}}', {"experiment": LONGEST}),
    ('{"experiment": [{"name": "a"}, {"name":"b"}]}', {"experiment": PAIR}),
    ('[{"op": "add", "path": "/experiment/-", "value": {"name":"c"}}]', {"experiment": THREE}),
    ('[{"op": "remove", "path": "/experiment"}]', {}),
    ('{"studioml": [{"name": "a"}, {"name":"b"}]}', {"studioml": PAIR}),
    ('[{"op": "add", "path": "/studioml/-", "value": {"name":"c"}}]', {"studioml": THREE}),
]
FORBIDDEN = [
    '[{"op": "remove", "path": "/studioml/name/c"}]',
    '[{"op": "replace", "path": "/studioml/name/c", "value": 1}]',
]


def test_each_directive_of_the_table_makes_the_document_expected() -> None:
    editor = Editor()
    for directive, expected in TABLE:
        editor.apply(directive)
        assert editor.document == expected, directive
    for directive in FORBIDDEN:
        with pytest.raises(DirectiveRefused, match="only add is permitted"):
            editor.apply(directive)
        assert editor.document == TABLE[-1][1]


@pytest.mark.parametrize("length", range(1, len(TABLE) + 1))
def test_the_first_directives_of_the_table_in_one_go_make_the_last_document(length: int) -> None:
    editor = Editor()
    for directive, _ in TABLE[:length]:
        editor.apply(directive)
    assert editor.document == TABLE[length - 1][1]


def test_in_a_merge_the_new_fragment_wins() -> None:
    letters = {"experiment": {"D": "d", "C": "c", "B": "b", "A": "a"}}
    numbers = {"experiment": {"A": 1, "E": 2}}
    editor = Editor()
    editor.fold(numbers)
    editor.fold(letters)
    assert as_text(editor.document) == ('{"experiment":{"A":"a","B":"b","C":"c","D":"d","E":2}}')
    editor.fold(numbers)
    assert editor.document["experiment"]["A"] == 1


def test_a_patch_replaces_and_removes() -> None:
    editor = Editor({"experiment": {"name": "John", "age": 24, "height": 3.21}})
    editor.apply(
        '[{"op": "replace", "path": "/experiment/name", "value": "Jane"},'
        ' {"op": "remove", "path": "/experiment/height"}]'
    )
    assert as_text(editor.document) == '{"experiment":{"age":24,"name":"Jane"}}'


def test_null_is_a_value_that_replaces_all_but_objects() -> None:
    editor = Editor({"a": 1, "o": {"x": 1}})
    editor.apply('{"a": null, "o": null, "new": null}')
    assert editor.document == {"a": None, "o": {"x": 1}, "new": None}


@pytest.mark.parametrize(
    "directive",
    [
        "[1, 2]",
        '["a"]',
        '[{"op": "add", "path": "/a", "value": 1}, 2]',
        '[{"name": "a"}]',
        '[{"op": "replace", "path": "/missing", "value": 1}]',
        '[{"op": "remove", "path": "/missing"}]',
        '[{"op": "add", "path": "/missing/child", "value": 1}]',
        '[{"op": "add", "path": "/list/9", "value": 1}]',
        '[{"op": "add", "path": "/text/x", "value": 1}]',
        '[{"op": "add", "path": 5, "value": 1}]',
        '[{"op": "add", "path": "a", "value": 1}]',
        '[{"op": "add", "path": "/a"}]',
        '[{"op": "grow", "path": "/a"}]',
        '[{"op": "copy", "path": "/a"}]',
        '[{"op": "copy", "path": "/a", "from": 5}]',
        '[{"op": "copy", "path": "/a", "from": "/missing"}]',
        '[{"op": "move", "path": "/deep/a/b", "from": "/deep"}]',
        '[{"op": "test", "path": "/text", "value": "other"}]',
        '[{"op": "replace", "path": "", "value": {}}]',
        '[{"op": "add", "path": "", "value": {}}]',
        '[{"op": "copy", "path": "", "from": "/text"}]',
        '[{"op": "move", "path": "/x", "from": "/studioml/host"}]',
        '[{"op": "move", "path": "/x", "from": ""}]',
        '[{"op": "remove", "path": "/StudioML/host"}]',
        '[{"op": "remove", "path": "/studioml"}]',
        '[{"op": "test", "path": "/studioml/host", "value": "n1"}]',
        '{"a": NaN}',
        '{"a": -Infinity}',
        '{"a": 1e999}',
        '{"a": ' + "9" * 5000 + "}",
        "{'a': 1}",
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 65 + "1" + "}" * 65,
    ],
)
def test_a_directive_that_cannot_be_folded_costs_only_itself(directive: str) -> None:
    before = {"text": "t", "list": [1], "deep": {"a": {}}, "studioml": {"host": "n1"}}
    editor = Editor(json.loads(json.dumps(before)))
    with pytest.raises(DirectiveRefused):
        editor.apply(directive)
    assert editor.document == before
    editor.apply('{"next": 1}')
    assert editor.document == {**before, "next": 1}


def test_a_patch_is_done_as_a_whole_or_not_at_all() -> None:
    editor = Editor({"list": [1, 2]})
    with pytest.raises(DirectiveRefused):
        editor.apply(
            '[{"op": "add", "path": "/list/-", "value": 3}, {"op": "remove", "path": "/list/0"},'
            ' {"op": "remove", "path": "/missing"}]'
        )
    assert editor.document == {"list": [1, 2]}


def test_a_name_that_only_begins_like_the_runners_part_is_the_payloads_own() -> None:
    editor = Editor({"studiomlX": 1})
    editor.apply('[{"op": "remove", "path": "/studiomlX"}]')
    assert editor.document == {}


def test_whole_numbers_keep_all_their_digits_and_others_their_value() -> None:
    editor = Editor()
    text = '{"big":12345678901234567890,"loss":0.1,"small":5e-324,"whole":1.0}'
    editor.apply(text)
    assert as_text(editor.document) == text


def test_the_document_stays_within_its_bound() -> None:
    editor = Editor()
    piece = "x" * 200_000
    for name in "abcde":
        editor.apply(json.dumps({name: piece}))
    with pytest.raises(DirectiveRefused, match="larger"):
        editor.apply(json.dumps({"f": piece}))
    with pytest.raises(DirectiveRefused, match="larger"):
        editor.apply('[{"op": "copy", "from": "/a", "path": "/f"}]')
    assert sorted(editor.document) == ["a", "b", "c", "d", "e"]
    # What takes no more room than it frees is welcome, however often.
    for _ in range(20):
        editor.apply(json.dumps({"a": piece[::-1]}))
    assert len(as_text(editor.document)) <= MAX_DOCUMENT


def test_copies_that_double_the_document_end_at_the_bound() -> None:
    editor = Editor({"a": ["x" * 1000]})
    double = [{"op": "copy", "from": "/a", "path": "/a/-"} for _ in range(900)]
    with pytest.raises(DirectiveRefused, match="copies"):
        editor.fold(double)
    assert editor.document == {"a": ["x" * 1000]}


def test_what_is_nested_by_moving_and_copying_is_counted_too() -> None:
    deep: Any = 1
    for _ in range(60):
        deep = [deep]
    editor = Editor({"deep": deep, "other": {"a": {"b": {"c": {"d": {"e": {}}}}}}})
    with pytest.raises(DirectiveRefused, match="nested"):
        editor.apply('[{"op": "move", "from": "/deep", "path": "/other/a/b/c/d/e/f"}]')


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
paths = st.lists(st.sampled_from(["", "a", "b", "-", "0", "studioml", "log", "~1", "~"])).map(
    lambda parts: "".join("/" + part for part in parts)
)
operations = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"]) | values,
        "path": paths | values,
        "from": paths | values,
        "value": values,
    },
)
directives = values | st.lists(operations, min_size=1, max_size=4)


@given(st.lists(directives, max_size=6))
def test_whatever_is_folded_the_document_is_an_object_that_json_can_say(folded: list[Any]) -> None:
    editor = Editor({"studioml": {"log": []}})
    for directive in folded:
        before = as_text(editor.document)
        try:
            editor.apply(json.dumps(directive))
        except DirectiveRefused:
            assert as_text(editor.document) == before
        text = as_text(editor.document)
        assert isinstance(json.loads(text), dict)
        assert len(text) <= editor._most <= MAX_DOCUMENT


@given(st.text())
def test_no_text_is_too_strange_to_be_refused(text: str) -> None:
    try:
        parse(text)
    except NoDirective as error:
        assert str(error)
    except DirectiveRefused:
        pass
