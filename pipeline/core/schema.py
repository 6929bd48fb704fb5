"""Strict reading of plain data into frozen dataclasses: every problem at once with its path, unknown keys refused.

The dataclass is the schema. Field types may be ``bool int float str``, ``Literal``, string enums, ``X | None``,
``tuple[X, ...]``, ``tuple[X, Y]``, ``dict[str, X]`` and other dataclasses, each optionally
``Annotated[..., Rule(...)]``.
A class may add a method ``problems(self) -> Iterator[str]`` for rules that span fields.

Why not a library: verifying a bundle has to start in 0.3 s, and the libraries that report every problem at once
take longer than that to import (docs/decisions/0003-own-schema-reader.md).
"""

import enum
import functools
import math
import re
import reprlib
import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from pipeline.core.printable import printable

T = TypeVar("T")

_PROBLEM_CHARS_MAX = 60
_KEY_CHARS_MAX = 200


@dataclass(frozen=True)
class Rule:
    """A limit on one value, and the sentence that an editor shows for it."""

    doc: str = ""
    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None
    min_items: int | None = None


class SchemaProblems(ValueError):
    """Plain data does not fit its dataclass; ``problems`` holds one ``path: sentence`` a problem."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def read(cls: type[T], value: object) -> T:
    """Build ``cls`` from plain data (what JSON or YAML parsers return).

    Raises SchemaProblems with every problem found.
    """
    problems: list[str] = []
    result = _read(cls, value, "", problems)
    if problems:
        raise SchemaProblems(problems)
    return cast(T, result)


def plain(value: object) -> Any:
    """Turn dataclasses, enums and tuples back into plain data; fields that are None are left out."""
    if is_dataclass(value) and not isinstance(value, type):
        pairs = ((f.name, getattr(value, f.name)) for f in fields(value))
        return {name: plain(item) for name, item in pairs if item is not None}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def json_schema(cls: type) -> dict[str, Any]:
    """Emit the JSON Schema (draft 2020-12) of a dataclass, for editors."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": cls.__name__, **_emit(cls)}


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _at(path: str, key: object) -> str:
    text = str(key)
    name = printable(text if len(text) <= _KEY_CHARS_MAX else f"{text[: _KEY_CHARS_MAX - 3]}...")
    return f"{path}.{name}" if path else name


def _split(hint: Any) -> tuple[Any, Rule]:
    if get_origin(hint) is Annotated:
        base, *extra = get_args(hint)
        return base, next((item for item in extra if isinstance(item, Rule)), Rule())
    return hint, Rule()


def _read(hint: Any, value: object, path: str, problems: list[str]) -> object:
    base, rule = _split(hint)
    origin = get_origin(base)
    if origin in (Union, types.UnionType):
        return _read_optional(base, rule, value, path, problems)
    if origin is Literal:
        return _read_choice(get_args(base), value, path, problems)
    if origin is tuple:
        return _read_items(get_args(base), rule, value, path, problems)
    if origin in (dict, Mapping):
        return _read_mapping(get_args(base), value, path, problems)
    if is_dataclass(base):
        return _read_fields(cast(type, base), value, path, problems)
    if isinstance(base, type) and issubclass(base, enum.Enum):
        picked = _read_choice(tuple(item.value for item in base), value, path, problems)
        return base(picked) if picked is not None else None
    return _read_scalar(base, rule, value, path, problems)


def _is_optional(hint: Any) -> bool:
    base, _ = _split(hint)
    return get_origin(base) in (Union, types.UnionType)


def _read_optional(base: Any, rule: Rule, value: object, path: str, problems: list[str]) -> object:
    if value is None:
        return None
    inner = next(arg for arg in get_args(base) if arg is not types.NoneType)
    return _read(Annotated[inner, rule], value, path, problems)


def _read_choice(choices: tuple[Any, ...], value: object, path: str, problems: list[str]) -> object:
    if any(value == choice and type(value) is type(choice) for choice in choices):
        return value
    problems.append(f"{path}: {_show(value)} is not one of {', '.join(map(str, choices))}")
    return None


def _read_items(hints: tuple[Any, ...], rule: Rule, value: object, path: str, problems: list[str]) -> object:
    if not isinstance(value, list):
        problems.append(f"{path}: expected a list, found {_show(value)}")
        return None
    if rule.min_items is not None and len(value) < rule.min_items:
        problems.append(f"{path}: expected at least {rule.min_items} item(s), found {len(value)}")
    if hints[-1] is not Ellipsis and len(value) != len(hints):
        problems.append(f"{path}: expected {len(hints)} item(s), found {len(value)}")
        return None
    each = hints if hints[-1] is not Ellipsis else hints[:1] * len(value)
    return tuple(
        _read(hint, item, f"{path}[{index}]", problems)
        for index, (hint, item) in enumerate(zip(each, value, strict=True))
    )


def _read_mapping(hints: tuple[Any, ...], value: object, path: str, problems: list[str]) -> object:
    if not isinstance(value, dict):
        problems.append(f"{path}: expected a mapping, found {_show(value)}")
        return None
    key_hint, item_hint = hints
    return {
        _read(key_hint, key, _at(path, key), problems): _read(item_hint, item, _at(path, key), problems)
        for key, item in value.items()
    }


def _read_fields(cls: type, value: object, path: str, problems: list[str]) -> object:
    if not isinstance(value, dict):
        problems.append(f"{path or 'the file'}: expected a mapping with keys, found {_show(value)}")
        return None
    hints = _hints(cls)
    known = {f.name: f for f in fields(cls)}
    found_before = len(problems)
    choices = ", ".join(sorted(known))
    problems.extend(f"{_at(path, key)}: unknown key; the keys here are {choices}" for key in value if key not in known)
    arguments = {}
    for name, spec in known.items():
        if name in value:
            arguments[name] = _read(hints[name], value[name], _at(path, name), problems)
        elif spec.default is MISSING and spec.default_factory is MISSING and _is_optional(hints[name]):
            arguments[name] = None  # as `plain` leaves it out
        elif spec.default is MISSING and spec.default_factory is MISSING:
            problems.append(f"{_at(path, name)}: missing")
    if len(problems) > found_before:
        return None
    result = cls(**arguments)
    problems.extend(_at(path, text) for text in _across_fields(result))
    return result


def _across_fields(value: object) -> Iterator[str]:
    check = getattr(value, "problems", None)
    return cast(Iterator[str], check()) if check is not None else iter(())


def _read_scalar(base: Any, rule: Rule, value: object, path: str, problems: list[str]) -> object:
    if base is float and isinstance(value, int) and not isinstance(value, bool):
        value = _nearest_float(value)
    if type(value) is not base:
        problems.append(f"{path}: expected {_NAMES.get(base, base)}, found {_show(value)}")
        return None
    problems.extend(f"{path}: {text}" for text in _limits(rule, value))
    return value


def _nearest_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _limits(rule: Rule, value: object) -> Iterator[str]:
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{value} is not a finite number"
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if rule.minimum is not None and value < rule.minimum:
            yield f"{_show(value)} is below {rule.minimum:g}"
        if rule.maximum is not None and value > rule.maximum:
            yield f"{_show(value)} is above {rule.maximum:g}"
    if isinstance(value, str) and rule.pattern is not None and not re.fullmatch(rule.pattern, value):
        yield f"{_show(value)} does not have the form {rule.pattern}"


def _show(value: object) -> str:
    # Not repr: a few YAML aliases of aliases stand for more text than memory holds.
    shortened = reprlib.Repr()
    shortened.maxstring = shortened.maxother = shortened.maxlong = _PROBLEM_CHARS_MAX
    text = shortened.repr(value)
    return text if len(text) <= _PROBLEM_CHARS_MAX else f"{text[: _PROBLEM_CHARS_MAX - 3]}..."


_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def _emit(hint: Any) -> dict[str, Any]:
    base, rule = _split(hint)
    origin = get_origin(base)
    result: dict[str, Any] = {"description": rule.doc} if rule.doc else {}
    if origin in (Union, types.UnionType):
        inner = next(arg for arg in get_args(base) if arg is not types.NoneType)
        return {**result, "anyOf": [_emit(Annotated[inner, rule]), {"type": "null"}]}
    if origin is Literal:
        return {**result, "enum": list(get_args(base))}
    if origin is tuple and get_args(base)[-1] is not Ellipsis:
        each = [_emit(item) for item in get_args(base)]
        return {**result, "type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}
    if origin is tuple:
        least = {"minItems": rule.min_items} if rule.min_items is not None else {}
        return {**result, "type": "array", "items": _emit(get_args(base)[0]), **least}
    if origin in (dict, Mapping):
        key_hint, item_hint = get_args(base)
        return {**result, "type": "object", "additionalProperties": _emit(item_hint), "propertyNames": _emit(key_hint)}
    if is_dataclass(base):
        return {**result, **_emit_fields(cast(type, base))}
    if isinstance(base, type) and issubclass(base, enum.Enum):
        return {**result, "enum": [item.value for item in base]}
    limits = {"minimum": rule.minimum, "maximum": rule.maximum}
    pattern = {"pattern": f"^(?:{rule.pattern})$"} if rule.pattern else {}
    return {**result, "type": _JSON_TYPES[base], **{k: v for k, v in limits.items() if v is not None}, **pattern}


def _emit_fields(cls: type) -> dict[str, Any]:
    hints = _hints(cls)
    required = [
        f.name
        for f in fields(cls)
        if f.default is MISSING and f.default_factory is MISSING and not _is_optional(hints[f.name])
    ]
    properties = {f.name: _emit(hints[f.name]) for f in fields(cls)}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
