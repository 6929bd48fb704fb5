"""Chaos Toolkit experiments (JSON) into scripts; the other way, and its journal, are in ``chaos_journal``.

Read are experiments whose actions are our faults: ``python`` providers of module ``hotspare.drill`` with the fault as
``func``, or ``process`` providers of ``hotspare`` with the fault among their arguments. Probes of the steady-state
hypothesis are objectives with their bounds as tolerance. ``configuration`` may hold ``load``, ``pair`` and ``needs`` as
a script's lines have them, and ``lead_ms``: how long all is calm before the method. Anything else is refused.

Format: https://chaostoolkit.org/reference/api/experiment/ and https://chaostoolkit.org/reference/api/journal/
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from pipeline.core.errors import RecipeError
from pipeline.drill import script_words as words_of
from pipeline.drill.nouns import Load, Objectives, Script, Strike
from pipeline.drill.script import NEEDS, format_script, parse_script
from pipeline.drill.script_lines import read_load, read_settings, read_strike
from pipeline.drill.script_words import Place

MODULE = "hotspare.drill"
PROGRAM = "hotspare"
LEAD_MS = 500
CALM_AFTER_MS = 1500

_KNOWN = {
    "experiment": (
        "version", "title", "description", "tags", "contributions", "configuration", "steady-state-hypothesis",
        "method", "rollbacks",
    ),
    "configuration": ("load", "pair", "needs", "lead_ms"),
    "hypothesis": ("title", "probes"),
    "probe": ("type", "name", "tolerance", "provider"),
    "action": ("type", "name", "provider", "pauses", "background"),
    "python": ("type", "module", "func", "arguments"),
    "process": ("type", "path", "arguments", "timeout"),
    "pauses": ("before", "after"),
}  # fmt: skip
LEAST = frozenset({"localisation_min"})  # objectives that are bounds from below


@dataclass
class _Draft:
    """An experiment while it is read."""

    problems: list[str] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    clock_ms: float = 0.0

    def place(self, name: str) -> Place:
        return Place(name, self.problems)


def parse_experiment(text: str | bytes, name: str) -> Script:
    """Read an experiment file as a script; raises RecipeError with everything that cannot be mapped."""
    try:
        experiment = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{name} is no Chaos Toolkit experiment: it is not JSON that can be read.") from error
    draft = _Draft()
    script = _script(draft, experiment, name)
    if draft.problems:
        listing = "\n  - ".join(draft.problems)
        count = len(draft.problems)
        raise RecipeError(f"{name}: {count} problem(s) keep this experiment from being played:\n  - {listing}")
    return parse_script(format_script(script), name)  # what holds for every script holds for this one


def _script(draft: _Draft, experiment: object, name: str) -> Script:
    top = _mapping(draft.place("the experiment"), experiment, "experiment")
    title = " ".join(_text(draft.place("title"), top.get("title")).split())
    if not title and "title" in top:
        draft.place("title").says("a title says what the experiment guards")
    description = _text(draft.place("description"), top.get("description", ""))
    configuration = _mapping(draft.place("configuration"), top.get("configuration", {}), "configuration")
    draft.clock_ms = _milliseconds(draft.place("configuration.lead_ms"), configuration.get("lead_ms", LEAD_MS), 1)
    for number, activity in enumerate(_list(draft.place("method"), top.get("method"))):
        _read_activity(draft, f"method[{number}]", activity)
    if _list(draft.place("rollbacks"), top.get("rollbacks", [])):
        draft.place("rollbacks").says("a drill takes its faults back itself: say for_ms in an action's arguments")
    return Script(
        name=name,
        rule=title or name,
        comments=tuple(" ".join(line.split()) for line in description.split("\n") if line.split()),
        strikes=tuple(draft.strikes),
        objectives=_objectives(draft, top.get("steady-state-hypothesis")),
        **_configured(draft, configuration),
    )


def _configured(draft: _Draft, configuration: Mapping[str, object]) -> dict[str, Any]:
    said = {key: _text(draft.place(f"configuration.{key}"), value).split() for key, value in configuration.items()
            if key != "lead_ms"}  # fmt: skip
    place = draft.place("configuration.needs")
    return {
        "load": read_load(draft.place("configuration.load"), said["load"]) if "load" in said else _usual_load(draft),
        "settings": tuple(read_settings(draft.place("configuration.pair"), said.get("pair", [])).items()),
        "needs": words_of.listed(place, said["needs"], NEEDS, "need", ()) if "needs" in said else (),
    }


def _usual_load(draft: _Draft) -> Load:
    """Return a load that goes on for a while after the method."""
    ends_ms = max([draft.clock_ms, *(one.at_ms + (one.lasts_ms or 0) for one in draft.strikes)])
    return Load(seconds=float(math.ceil((ends_ms + CALM_AFTER_MS) / 1000)))


# Plain data, read with care.


def _mapping(place: Place, value: object, kind: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        place.says(f"expected an object, found {words_of.show(json.dumps(value))}")
        return {}
    for key in value:
        if key not in _KNOWN[kind]:
            place.says(f"{words_of.show(key)} cannot be mapped to a drill; leave it out")
    return {key: one for key, one in value.items() if key in _KNOWN[kind]}


def _list(place: Place, value: object) -> Sequence[object]:
    if isinstance(value, list):
        return value
    place.says(f"expected a list, found {words_of.show(json.dumps(value))}")
    return []


def _text(place: Place, value: object) -> str:
    if isinstance(value, str):
        return value
    place.says(f"expected text, found {words_of.show(json.dumps(value))}")
    return ""


def _number(place: Place, value: object) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and 0 <= value <= 1e12:  # type: ignore[operator]  # it is a number here; and NaN is not in between
        return float(value)  # type: ignore[arg-type]
    place.says(f"expected a number from 0, found {words_of.show(json.dumps(value))}")
    return None


def _milliseconds(place: Place, value: object, each_ms: int) -> float:
    return each_ms * (_number(place, value) or 0.0)


# The method.


def _read_activity(draft: _Draft, where: str, activity: object) -> None:
    if isinstance(activity, dict) and activity.get("type") == "probe":
        draft.place(where).says("a probe in the method cannot be mapped; objectives are probes of the hypothesis")
        return
    action = _mapping(draft.place(where), activity, "action")
    if action and action.get("type") != "action":
        draft.place(where).says("its type is action")
    pauses = _mapping(draft.place(f"{where}.pauses"), action.get("pauses", {}), "pauses")
    draft.clock_ms += _milliseconds(draft.place(f"{where}.pauses.before"), pauses.get("before", 0), 1000)
    words = list(_strike_words(draft, f"{where}.provider", action.get("provider")))
    if words:
        strike = read_strike(draft.place(where), [f"{round(draft.clock_ms)}ms", *words])
        if strike is not None:
            draft.strikes.append(strike)
            draft.clock_ms += 0 if action.get("background") is True else strike.lasts_ms or 0
    draft.clock_ms += _milliseconds(draft.place(f"{where}.pauses.after"), pauses.get("after", 0), 1000)


def _strike_words(draft: _Draft, where: str, value: object) -> Iterator[str]:
    """Yield a strike's words as a script has them, without its moment; nothing where it cannot be mapped."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in ("python", "process"):
        draft.place(where).says(
            f"only python actions of module {MODULE} and process actions of {PROGRAM} are faults here"
        )
        return
    provider = _mapping(draft.place(where), value, str(kind))
    arguments = provider.get("arguments", {})
    if kind == "process":
        yield from _process_words(draft, where, provider, arguments)
    elif provider.get("module") != MODULE:
        draft.place(f"{where}.module").says(
            f"actions of {words_of.show(json.dumps(provider.get('module')))} are unknown"
        )
    else:
        func = _text(draft.place(f"{where}.func"), provider.get("func"))
        yield from _words(draft, where, {**(arguments if isinstance(arguments, dict) else {}), "fault": func})


def _process_words(draft: _Draft, where: str, provider: Mapping[str, object], arguments: object) -> Iterator[str]:
    path = _text(draft.place(f"{where}.path"), provider.get("path"))
    if PurePosixPath(path).name != PROGRAM:
        draft.place(f"{where}.path").says(f"programs other than {PROGRAM} are unknown")
    elif isinstance(arguments, dict):
        yield from _words(draft, where, arguments)
    else:
        said = arguments.split() if isinstance(arguments, str) else _list(draft.place(f"{where}.arguments"), arguments)
        words = [_text(draft.place(f"{where}.arguments"), one) for one in said]
        yield from words[1:] if words[:1] == ["drill"] else words


def _words(draft: _Draft, where: str, arguments: Mapping[str, object]) -> Iterator[str]:
    left = dict(arguments)
    lasts = left.pop("for_ms", None)
    yield _text(draft.place(f"{where}.fault"), left.pop("fault", None)).replace("_", "-") or "-"
    if (target := left.pop("target", None)) is not None:
        yield _text(draft.place(f"{where}.target"), target) or "-"
    for name, value in left.items():
        yield f"{name}={_shown(value)}"
    if lasts is not None:
        yield from ("for", f"{_shown(lasts)}ms")


def _shown(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15:
        return words_of.figure(value)
    return "".join(json.dumps(value).split())  # no figure: the reader of the strike says so


# The hypothesis.


def _objectives(draft: _Draft, value: object) -> Objectives:
    """Return what is probed, and nothing else; without a hypothesis what is asked of every drill."""
    if value is None:
        return Objectives()
    where = "steady-state-hypothesis"
    hypothesis = _mapping(draft.place(where), value, "hypothesis")
    asked: dict[str, Any] = {one.name: None for one in fields(Objectives)}
    for number, one in enumerate(_list(draft.place(f"{where}.probes"), hypothesis.get("probes"))):
        place = draft.place(f"{where}.probes[{number}]")
        probe = _mapping(place, one, "probe")
        name = _probed(place, probe)
        bound = _bound(place, probe.get("tolerance"), name in LEAST)
        if name in asked and asked[name] is not None:
            place.says(f"{name} is probed twice")
        elif name in asked and bound is not None:
            asked[name] = words_of.objective_value(place, name, words_of.figure(bound))
    return Objectives(**asked)


def _probed(place: Place, probe: Mapping[str, object]) -> str:
    provider = probe.get("provider")
    is_ours = isinstance(provider, dict) and provider.get("type") == "python" and provider.get("module") == MODULE
    name = provider.get("func") if isinstance(provider, dict) and is_ours else None
    if isinstance(name, str) and name in words_of.OBJECTIVES:
        return name
    listed = ", ".join(words_of.OBJECTIVES)
    place.says(f"only python probes of module {MODULE} are objectives here, with one of these as func: {listed}")
    return ""


def _bound(place: Place, tolerance: object, is_least: bool) -> float | None:
    """Return the bound of a tolerance: a number, or the lower (``is_least``) or upper end of a range."""
    if isinstance(tolerance, dict) and tolerance.get("type") == "range":
        tolerance = tolerance.get("range")
    if not isinstance(tolerance, list):
        return _number(place, tolerance)
    if len(tolerance) != 2:
        place.says("a range has two ends")
        return None
    low, high = _number(place, tolerance[0]), _number(place, tolerance[1])
    return low if is_least else high
