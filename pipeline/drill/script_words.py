"""The words of a drill script: figures with their units, names with values; each problem is told, none is raised."""

import difflib
import math
import re
import reprlib
import types
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, cast, get_args, get_type_hints

from pipeline.drill.nouns import Objectives
from pipeline.runtime.settings import Settings

ANY = "any"  # of an objective: not asked

_FIGURE = re.compile(r"(-?[0-9]{1,15}(?:\.[0-9]{1,24})?(?:e[+-]?[0-9]{1,3})?)(.*)", re.DOTALL)
_WHOLE = re.compile(r"[0-9]{1,15}")
_FIGURE_MAX = 1e15


def _base(hint: Any) -> type:
    """Return ``X`` of a hint ``X`` or ``X | None``."""
    if isinstance(hint, types.UnionType):
        hint = next(one for one in get_args(hint) if one is not types.NoneType)
    return cast(type, hint)


SETTINGS = {one.name: _base(get_type_hints(Settings)[one.name]) for one in fields(Settings)}
OBJECTIVES = {one.name: _base(get_type_hints(Objectives)[one.name]) for one in fields(Objectives)}


@dataclass(frozen=True)
class Place:
    """One place in a file, e.g. ``line 3``, and where its problems go."""

    name: str
    problems: list[str]

    def says(self, problem: str) -> None:
        """Add a problem of this place."""
        self.problems.append(f"{self.name}: {problem}")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a guess at what was meant, in words; nothing where none is near."""
    found = difflib.get_close_matches(word[:40], [str(one) for one in known], 1)
    return f" (did you mean {found[0]}?)" if found else ""


def show(text: str) -> str:
    """Return a word as a problem quotes it."""
    return reprlib.repr(text)


def figure(value: float) -> str:
    """Return a number as it is written: without a point where it is whole."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def amount(
    place: Place, what: str, text: str, unit: str, minimum: float = 0.0, maximum: float = _FIGURE_MAX
) -> float | None:
    """Read a finite number with its unit; None, and a problem, for anything else."""
    match = _FIGURE.fullmatch(text)
    if match is None or match[2] != unit:
        place.says(f"{what} is a number{f' with {unit}, e.g. 100{unit}' if unit else ''}; found {show(text)}")
        return None
    value = float(match[1])
    if not math.isfinite(value) or not minimum <= value <= maximum:
        place.says(f"{what} is from {minimum:g} to {maximum:g}; found {show(text)}")
        return None
    return value + 0.0  # no negative zero


def whole(place: Place, what: str, text: str, unit: str) -> int | None:
    """Read a whole number with its unit; None, and a problem, for anything else."""
    number = text.removesuffix(unit) if unit and text.endswith(unit) else text
    if (unit and number == text) or not _WHOLE.fullmatch(number):
        place.says(f"{what} is a whole number{f' of {unit}, e.g. 100{unit}' if unit else ''}; found {show(text)}")
        return None
    return int(number)


def named(
    place: Place, words: Sequence[str], known: Collection[str], what: str, before: Collection[str]
) -> dict[str, str]:
    """Read ``name=value`` words; unknown names, and names that stand twice (``before``: on earlier lines), are told."""
    found: dict[str, str] = {}
    for word in words:
        name, sign, text = word.partition("=")
        if not sign or not text:
            place.says(f"{show(word)} is no {what} with its value, e.g. name=1")
        elif name not in known:
            listed = f"{what}s: {', '.join(known)}" if known else f"there is no {what}"
            place.says(f"{show(name)} is no {what}{nearest(name, known)}; {listed}")
        elif name in found or name in before:
            place.says(f"the {what} {name} stands twice")
        else:
            found[name] = text
    return found


def couples(place: Place, words: Sequence[str], known: Collection[str]) -> dict[str, str]:
    """Read ``name value name value …``."""
    found: dict[str, str] = {}
    for name, *text in (words[at : at + 2] for at in range(0, len(words), 2)):
        if name not in known:
            place.says(f"{show(name)} is not expected here{nearest(name, known)}; what may follow: {', '.join(known)}")
            break  # all that follows is out of step
        if not text:
            place.says(f"{name} has no value")
        elif name in found:
            place.says(f"{name} stands twice")
        else:
            found[name] = text[0]
    return found


def listed(
    place: Place, words: Sequence[str], known: Collection[str], what: str, before: Collection[str]
) -> tuple[str, ...]:
    """Read a list of known words, each once."""
    found: list[str] = []
    for word in words:
        if word not in known:
            place.says(f"{show(word)} is no {what}; known: {', '.join(known)}")
        elif word in found or word in before:
            place.says(f"the {what} {word} stands twice")
        else:
            found.append(word)
    if not words:
        place.says(f"name at least one {what}: {', '.join(known)}")
    return tuple(found)


def setting_value(place: Place, name: str, text: str) -> Any:
    """Read the value of a pair's setting by the type of its field."""
    kind = SETTINGS[name]
    if issubclass(kind, StrEnum):
        if text in [*kind]:
            return kind(text)
        place.says(f"{name} is one of {', '.join(kind)}; found {show(text)}")
        return None
    return amount(place, name, text, "") if kind is float else whole(place, name, text, "")


def objective_value(place: Place, name: str, text: str) -> Any:
    """Read the bound of an objective; ``any``: not asked."""
    if text == ANY:
        return None
    if OBJECTIVES[name] is int:
        return whole(place, name, text, "")
    is_share = "ratio" in name or name.startswith(("accuracy", "localisation"))
    return amount(place, name, text, "", maximum=1.0 if is_share else _FIGURE_MAX)
