"""A script's overrides of a pair's settings, by name and as text, into settings."""

from collections.abc import Iterable
from dataclasses import fields, replace
from enum import StrEnum

from pipeline.core.errors import UsageError
from pipeline.runtime.settings import Settings

_DEFAULTS = Settings()


def pair_settings(overrides: Iterable[tuple[str, str]]) -> Settings:
    """Return the settings with each override applied, the last of a name winning.

    Raises UsageError with everything that is unknown, is no value of its setting, or does not fit together.
    """
    known = {one.name for one in fields(Settings)}
    values: dict[str, object] = {}
    problems: list[str] = []
    for name, text in overrides:
        if name not in known:
            problems.append(f"{name} is no setting of a pair; there are {', '.join(sorted(known))}.")
            continue
        try:
            values[name] = _value(name, text)
        except ValueError:
            problems.append(f"{name}={text}: {_expected(name)} is needed.")
    if not problems:
        made = replace(_DEFAULTS, **values)  # type: ignore[arg-type]  # each value is of its field's type
        problems += [f"{one}." for one in made.problems()]
        if not problems:
            return made
    raise UsageError("\n".join(problems))


def _value(name: str, text: str) -> object:
    default = getattr(_DEFAULTS, name)
    return int(text) if default is None else type(default)(text)


def _expected(name: str) -> str:
    default = getattr(_DEFAULTS, name)
    if isinstance(default, StrEnum):
        return f"one of {', '.join(type(default))}"
    return "a number" if isinstance(default, float) else "a whole number"
