"""JSON from outside, read strictly: no duplicate keys, no NaN, and where asked only its one canonical byte form."""

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from pipeline.core.canonical import canonical_json
from pipeline.core.errors import Malformed
from pipeline.core.schema import SchemaProblems, read

T = TypeVar("T")

_LEVELS_MAX = 32  # the deepest of our formats has seven
_PROBLEMS_TOLD_MAX = 8


def parse_strict(data: bytes, what: str) -> object:
    """Parse UTF-8 JSON; raises Malformed for other bytes, duplicate keys, NaN, infinities and bottomless nesting."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not strict JSON ({error}); fetch it again from where it was packed.") from error
    if _is_too_deep(value):
        raise Malformed(f"{what} is nested deeper than {_LEVELS_MAX} levels; fetch it again from where it was packed.")
    return value


def parse_canonical(data: bytes, what: str) -> object:
    """Parse JSON that must be byte for byte what :func:`canonical_json` writes, so that no unsigned byte is free.

    Raises Malformed for anything else.
    """
    value = parse_strict(data, what)
    try:
        same = canonical_json(value) == data
    except (ValueError, RecursionError):
        same = False
    if not same:
        raise Malformed(f"{what} is not in canonical JSON form; fetch it again from where it was packed.")
    return value


def fit(cls: type[T], value: object, what: str) -> T:
    """Read parsed JSON into a dataclass; raises Malformed with its problems, unknown fields among them."""
    try:
        return read(cls, value)
    except SchemaProblems as error:
        told = "; ".join(error.problems[:_PROBLEMS_TOLD_MAX])
        more = len(error.problems) - _PROBLEMS_TOLD_MAX
        raise Malformed(f"{what} breaks the format: {told}{f'; and {more} more' if more > 0 else ''}.") from error


def _is_too_deep(value: object) -> bool:
    level = [value]
    for _ in range(_LEVELS_MAX):
        level = [child for item in level for child in _children(item)]
    return bool(level)


def _children(value: object) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key stands twice")
    return value


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not a JSON number")
