"""Scalars stay text, keys keep their lines, and duplicates are refused."""

import pytest

from hpcrunner.sites.yamltext import YamlProblem, read


def test_no_scalar_is_guessed_into_another_type() -> None:
    text = "a: NO\nb: 12:00:00\nc: 3.10\nd: 007\ne: 2024-01-01\nf: true\ng: 1e3\n"
    assert read(text).data == {
        "a": "NO",
        "b": "12:00:00",
        "c": "3.10",
        "d": "007",
        "e": "2024-01-01",
        "f": "true",
        "g": "1e3",
    }


def test_only_nothing_tilde_and_null_mean_not_set() -> None:
    data = read('a:\nb: ~\nc: null\nd: "null"\ne: nullable\nf: name\n').data
    assert data == {"a": None, "b": None, "c": None, "d": "null", "e": "nullable", "f": "name"}


def test_an_empty_file_is_an_empty_site() -> None:
    assert read("# nothing\n").data == {}


def test_lines_of_keys_items_and_what_is_not_there() -> None:
    document = read(
        "name: x\npartitions:\n  - name: a\n  - name: b\n    gpus:\n      - {count: 1}\n"
    )
    assert document.line(("name",)) == 1
    assert document.line(("partitions", 1, "name")) == 4
    assert document.line(("partitions", 1, "gpus", 0, "count")) == 6
    assert document.line(("partitions", 1, "missing")) == 4
    assert document.line(("nowhere", "at", "all")) == 1


def test_anchors_and_merges_work() -> None:
    text = "a: &node {max_cpus: 8, name: one}\nb:\n  <<: *node\n  name: two\n"
    assert read(text).data["b"] == {"max_cpus": "8", "name": "two"}


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' stands twice"),
        ("a:\n  - b: 1\n    b: 2\n", 3, "'b' stands twice"),
        ("a: [1, 2\nb: 3\n", 2, "expected"),
        ("a: 1\n b: 2\n", 2, "mapping values"),
        ("a:\n\t- b\n", 2, "cannot start any token"),
        ("- a\n", 1, "not a mapping"),
        ("just words\n", 1, "not a mapping"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: 1\nb: !!python/object:os.system x\n", 2, "could not determine a constructor"),
        ("a: 1\n? [b]\n: 2\n", 2, "not text"),
        ("~: 1\n", 1, "not text"),
        ("a: 1\nb: \x07\n", 2, "forbids"),
    ],
)
def test_what_is_not_yaml_is_named_with_its_line(text: str, line: int, problem: str) -> None:
    with pytest.raises(YamlProblem, match=problem) as caught:
        read(text)
    assert caught.value.line == line


def test_aliases_that_stand_for_far_too_much_are_refused_at_once() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for n in range(1, 12):
        lines.append(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]")
    with pytest.raises(YamlProblem, match="aliases counted"):
        read("\n".join(lines))
