"""YAML files that people write, read strictly: words stay words, a key stands once, every problem is told."""

import re
from collections.abc import Hashable
from typing import Any, TypeVar

import yaml
from yaml.constructor import ConstructorError

from pipeline.core.errors import HotspareError
from pipeline.core.schema import SchemaProblems, read

T = TypeVar("T")

# Beside its own error, PyYAML lets out whatever Python raises for an explicit tag that does not fit its value.
_NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError)


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, where YAML readers silently take the last."""

    # YAML 1.2's core types, as dvc reads the same files: 1e-4 is a number; on, no, 2024-01-01 and 12:30 are text.
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own way

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, (key_node, _) in enumerate(node.value):
            if keys[index] in keys[:index]:
                raise ConstructorError(None, None, f"the key {keys[index]!r} stands twice", key_node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def read_yaml(cls: type[T], text: str | bytes, place: str, malformed: type[HotspareError]) -> T:
    """Build ``cls`` from YAML text; raises ``malformed`` with every problem found, each with its path in the file."""
    try:
        value = yaml.load(text.decode() if isinstance(text, bytes) else text, _StrictLoader)  # noqa: S506 - safe
    except _NOT_YAML as error:
        raise malformed(f"{place} is not YAML: {_said(error)}.") from error
    except RecursionError as error:
        raise malformed(f"{place} is not YAML that can be read: it is nested too deeply.") from error
    try:
        return read(cls, value)
    except SchemaProblems as error:
        listing = "\n  - ".join(error.problems)
        raise malformed(f"{place} has {len(error.problems)} problem(s):\n  - {listing}") from error


def _said(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return " ".join(str(error).split())
    return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"  # type: ignore[attr-defined]
