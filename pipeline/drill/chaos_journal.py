"""A script as a Chaos Toolkit experiment, and what its play did as a journal, for whatever reads these."""

from collections.abc import Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline import __version__
from pipeline.drill.chaos_toolkit import LEAST, MODULE
from pipeline.drill.measures import Measures, StrikeMeasures, measure
from pipeline.drill.nouns import Objectives, Observed, Script, Strike
from pipeline.drill.script import format_script
from pipeline.drill.verdict import Verdict, figure_of, judge


def experiment_of(script: Script) -> dict[str, Any]:
    """Return a script as an experiment, which reads back as the same script without its transcript."""
    asked = ((one.name, getattr(script.objectives, one.name)) for one in fields(Objectives))
    load = format_script(replace(Script("", "-"), load=script.load)).split("\n")[1].removeprefix("load ")
    configuration = {"load": load, "lead_ms": 0}
    configuration |= {"pair": " ".join(f"{name}={text}" for name, text in script.settings)} if script.settings else {}
    configuration |= {"needs": " ".join(script.needs)} if script.needs else {}
    return {
        "version": "1.0.0",
        "title": script.rule,
        "description": "\n".join(script.comments),
        "configuration": configuration,
        "steady-state-hypothesis": {
            "title": "The pair keeps its objectives.",
            "probes": [_probe(name, bound) for name, bound in asked if bound is not None],
        },
        "method": [_action(script, number) for number in range(len(script.strikes))],
        "rollbacks": [],
    }


def _probe(name: str, bound: float) -> dict[str, Any]:
    tolerance = [bound, 1] if name in LEAST else [0, bound]
    provider = {"type": "python", "module": MODULE, "func": name}
    return {"type": "probe", "name": name, "tolerance": tolerance, "provider": provider}


def _action(script: Script, number: int) -> dict[str, Any]:
    strike = script.strikes[number]
    before_ms = strike.at_ms - (script.strikes[number - 1].at_ms if number else 0)
    arguments: dict[str, Any] = {"target": strike.target.value} if strike.target else {}
    arguments |= dict(strike.amounts) | ({"for_ms": strike.lasts_ms} if strike.lasts_ms else {})
    func = strike.fault.value.replace("-", "_")
    return {
        "type": "action",
        "name": " ".join(filter(None, (strike.fault.value, strike.target and strike.target.value))),
        "background": True,
        "pauses": {"before": before_ms / 1000},
        "provider": {"type": "python", "module": MODULE, "func": func, "arguments": arguments},
    }


def journal(
    script: Script, observed: Observed, began_at: datetime, experiment: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the journal of one play that began at ``began_at`` (UTC).

    ``experiment`` is the one that the script was read from; without it, the script is written as one.
    """
    source = dict(experiment_of(script) if experiment is None else experiment)
    measures = measure(script, observed)
    verdict = judge(script.objectives, measures)
    ends_ms = _ends_ms(script, observed)
    return {
        "chaoslib-version": f"hotspare {__version__}",
        "platform": observed.facts.get("system", observed.world),
        "node": observed.facts.get("node", observed.facts.get("processor", observed.world)),
        "experiment": source,
        "start": _at(began_at, 0),
        "status": _status(observed, verdict),
        "deviated": not observed.left_out and not verdict.passed,
        "steady_states": _steady_states(script, observed, measures, began_at, ends_ms, source),
        "run": _run(script, measures, began_at, source),
        "rollbacks": [],
        "end": _at(began_at, ends_ms),
        "duration": ends_ms / 1000,
    }


def _status(observed: Observed, verdict: Verdict) -> str:
    if observed.left_out:
        return "aborted"
    return "completed" if verdict.passed else "failed"  # a deviation fails an experiment there


def _at(began_at: datetime, ms: float) -> str:
    return (began_at.astimezone(UTC) + timedelta(milliseconds=ms)).isoformat()


def _ends_ms(script: Script, observed: Observed) -> float:
    if observed.left_out:
        return 0.0
    ends = [one.done_ms for one in observed.requests if one.done_ms is not None]
    return max([1000 * script.load.seconds, *ends, *(one.at_ms for one in observed.moments)])


def _steady_states(
    script: Script,
    observed: Observed,
    measures: Measures,
    began_at: datetime,
    ends_ms: float,
    source: Mapping[str, Any],
) -> dict[str, Any]:
    if observed.left_out:
        return {"before": None, "after": None, "during": []}
    struck_ms = min((one.at_ms for one in measures.strikes), default=ends_ms)
    calm = replace(
        observed,
        requests=tuple(one for one in observed.requests if one.due_ms < struck_ms and not one.is_extra),
        moments=tuple(one for one in observed.moments if one.at_ms < struck_ms),
        hedged=0,
        resent=0,
    )
    before = measure(replace(script, strikes=()), calm)
    return {
        "before": _state(script, before, _at(began_at, struck_ms), source),
        "after": _state(script, measures, _at(began_at, ends_ms), source),
        "during": [],
    }


def _state(script: Script, measures: Measures, at: str, source: Mapping[str, Any]) -> dict[str, Any]:
    verdict = judge(script.objectives, measures)
    probes = (source.get("steady-state-hypothesis") or {}).get("probes", [])
    return {
        "steady_state_met": verdict.passed,
        "probes": [
            {
                "activity": probe,
                "status": "succeeded",
                "start": at,
                "end": at,
                "duration": 0.0,
                "tolerance_met": (name := probe["provider"]["func"]) not in verdict.missed,
                "output": _output(name, measures),
            }
            for probe in probes
        ],
    }


def _output(objective: str, measures: Measures) -> str | None:
    figure = figure_of(objective, measures)
    return None if figure is None else f"{figure:g}"


def _run(script: Script, measures: Measures, began_at: datetime, source: Mapping[str, Any]) -> list[dict[str, Any]]:
    if measures.left_out:
        return []
    done = zip(source["method"], script.strikes, measures.strikes, strict=True)
    return [_activity(action, strike, found, began_at) for action, strike, found in done]


def _activity(action: object, strike: Strike, found: StrikeMeasures, began_at: datetime) -> dict[str, Any]:
    lasts_ms = strike.lasts_ms or 0
    return {
        "activity": action,
        "status": "succeeded",
        "start": _at(began_at, found.at_ms),
        "end": _at(began_at, found.at_ms + lasts_ms),
        "duration": lasts_ms / 1000,
        "output": ", ".join(_said(found)),
    }


def _said(found: StrikeMeasures) -> list[str]:
    noticed = "not noticed" if found.mttd_ms is None else f"noticed after {found.mttd_ms:.0f} ms"
    restored = "not restored" if found.rto_ms is None else f"answers right again after {found.rto_ms:.0f} ms"
    return [noticed, restored, f"diagnosed: {', '.join(found.named) or 'nothing'}"]
