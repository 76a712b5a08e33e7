"""YAML in which every scalar is text, with the line of every key; and such data as YAML again.

The site model says which key is a number or a switch, not the spelling of its value. So
YAML 1.1's guesses cannot bite: ``NO`` is not false, ``12:00:00`` is not 43200, ``3.10`` is not
3.1 and account ``007`` keeps its zeros. Only ``null``, ``~`` and nothing mean "not set".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

Path = Sequence[str | int]
_MERGE = "tag:yaml.org,2002:merge"
_MOST_NODES = 100_000  # keys, values and items, those that aliases stand for counted each time


class YamlProblem(Exception):
    """Not YAML, or YAML with a key that stands twice. ``line`` counts from 1."""

    def __init__(self, problem: str, line: int) -> None:
        self.problem = problem
        self.line = line
        super().__init__(f"line {line}: {problem}")


@dataclass(frozen=True)
class Document:
    """A mapping as plain data (dict, list, str and None) and the lines of its keys."""

    data: dict[str, Any]
    root: yaml.MappingNode | None

    def line(self, path: Path) -> int:
        """The line where a key or list item stands; its nearest parent's if it is not there."""
        node: yaml.Node | None = self.root
        line = 1
        for step in path:
            node, found = _child(node, step)
            if node is None:
                break
            line = found
        return line


class _Loader(yaml.SafeLoader):
    """SafeLoader without its guesses, and with duplicate keys refused."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - the library's own shape

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == _MERGE:
                continue
            if key.tag != "tag:yaml.org,2002:str":
                raise YamlProblem("a key that is not text", key.start_mark.line + 1)
            if key.value in seen:
                raise YamlProblem(f"key {key.value!r} stands twice", key.start_mark.line + 1)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""]
)
_Loader.add_implicit_resolver(_MERGE, re.compile(r"<<\Z"), ["<"])


def read(text: str) -> Document:
    """Read one YAML document whose top is a mapping (an empty text is an empty mapping).

    Raises YamlProblem.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return Document({}, None)
        if not isinstance(root, yaml.MappingNode):
            raise YamlProblem("not a mapping of keys to values", root.start_mark.line + 1)
        if _size(root, {}) > _MOST_NODES:
            raise YamlProblem(f"more than {_MOST_NODES} keys and values, aliases counted", 1)
        return Document(loader.construct_document(root), root)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlProblem(error.problem or "not YAML", mark.line + 1 if mark else 1) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(f"a character that YAML forbids ({error.reason})", line) from error
    except RecursionError as error:
        raise YamlProblem("lists and mappings nested too deep", 1) from error
    except ValueError as error:  # an explicit tag (``!!int x``) that does not fit
        raise YamlProblem(str(error), 1) from error


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes there are once each alias is what it stands for."""
    if id(node) not in known:
        known[id(node)] = 1  # for one that holds itself, which is told later
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        items = node.value if isinstance(node, yaml.SequenceNode) else ()
        inner = [*items, *(part for pair in pairs for part in pair)]
        known[id(node)] = 1 + sum(_size(part, known) for part in inner)
    return known[id(node)]


class _Dumper(yaml.SafeDumper):
    """SafeDumper with the loader's notion of text, so that ``64`` and ``no`` need no quotes."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)  # items stand further in than their key


def _text_node(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text_node)


def write(data: dict[str, Any]) -> str:
    """Plain data (dict, list, str and None) as ``read`` reads it, a line for each key."""
    if not data:
        return ""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1_000_000_000)


def _child(node: yaml.Node | None, step: str | int) -> tuple[yaml.Node | None, int]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value == str(step):
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        item = node.value[step]
        return item, item.start_mark.line + 1
    return None, 0
