"""The page of a drill: recorded values in, one self-contained HTML text out. No IO but its own template."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.core.printable import printable_lines
from pipeline.drill.advice import NOTHING
from pipeline.drill.flow import flow_chart
from pipeline.drill.measures import LATE_MS
from pipeline.drill.nouns import Moment, MomentKind
from pipeline.drill.results import DrillReport, DrillResult
from pipeline.report import drill_words as words
from pipeline.report.flow_drawing import draw_flow
from pipeline.report.timeline import timeline
from pipeline.runtime.journal import quantile

# A flapping pair can fill a page with events; the first hundred tell what it does.
_EVENTS_SHOWN = 100


@dataclass(frozen=True)
class Signed:
    """Who attested the drill, and the digest of the attestation."""

    key_hint: str
    attestation_sha256: str


def render_drill(report: DrillReport, signed: Signed | None = None) -> str:
    """Return the page; it loads nothing from elsewhere, and equal reports give equal text."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )
    environment.globals.update(words=words)
    return environment.get_template("drill.html.j2").render(**_view(report, signed))


def _shown(value: object) -> object:
    """Spell out what could turn a sentence round or hide in it: titles, names and findings come from files."""
    return printable_lines(value) if type(value) is str else value


def _view(report: DrillReport, signed: Signed | None) -> Mapping[str, Any]:
    repeats = [one.measures for result in report.results for one in result.repeats]
    noticed = sorted(time for time in report.times_ms("mttd_ms") if time is not None)
    return {
        "report": report,
        "drills": [_drill(f"drill-{number}", result) for number, result in enumerate(report.results, 1)],
        "passed_count": sum(result.passed for result in report.results),
        "mttd_ms_p95": quantile(noticed, 0.95) if noticed else None,
        "sent": sum(told.sent for told in repeats),
        "lost": sum(told.lost for told in repeats),
        "wrong": sum(told.wrong for told in repeats),
        "late_ms": LATE_MS,
        "missed": [(result.name, text) for result in report.results for text in words.missed(result)],
        "plan": list(_plan(report)),
        "action": words.action(report),
        "signed_by": signed.key_hint if signed else "",
        "attestation_sha256": signed.attestation_sha256 if signed else "",
    }


def _drill(key: str, result: DrillResult) -> Mapping[str, Any]:
    told, observed = result.shown.measures, result.observed
    flow = flow_chart(result.script, observed)
    events = _events(result)
    shown = events[:_EVENTS_SHOWN]
    goals = words.goals(result)
    load_ms = result.script.load.seconds * 1000
    return {
        "key": key,
        "result": result,
        "timeline": Markup(timeline(key, observed, told.spans, load_ms, shown)),  # noqa: S704 - our own SVG
        "caption": _caption(result),
        "events": shown,
        "events_left_out": len(events) - len(shown),
        "goals": goals,
        "other_misses": [miss for miss in result.misses if miss.startswith(("stale:", "transcript:", "played:"))],
        "figures": list(words.figures(told)),
        "claims": list(words.claims(result)),
        "flow": Markup(draw_flow(key, flow)),  # noqa: S704 - our own SVG
        "mermaid": flow.mermaid,
    }


def _events(result: DrillResult) -> list[Moment]:
    moments = sorted(result.observed.moments, key=lambda one: one.at_ms)
    return [one for one in moments if one.kind is not MomentKind.OTHER]


def _caption(result: DrillResult) -> str:
    number = f" of repeat {result.worst + 1} (the worst of {len(result.repeats)})" if len(result.repeats) > 1 else ""
    return (
        f"Every request{number}, by when it was due and how long its answer took (logarithmic), every event by its "
        f"number, and who served. {words.load_words(result.script.load)}"
    )


def _plan(report: DrillReport) -> Iterator[tuple[str, list[str]]]:
    """Yield each advice once, with the drills that it comes from."""
    found: dict[str, list[str]] = {}
    for result in report.results:
        for advice in result.advice:
            if advice != NOTHING:
                found.setdefault(advice, []).append(result.name)
    yield from found.items()
