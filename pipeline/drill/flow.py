"""The flow that a drill walks: from training to recovery, with the way it took and how long each step was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.drill.fault_facts import FACTS
from pipeline.drill.measures import Measures, measure
from pipeline.drill.nouns import MomentKind, Observed, Script

PLACES: Mapping[str, str] = {
    "training": "training done",
    "preparation": "deploy preparation",
    "deploy": "deploy",
    "service": "service runs",
    "drill": "drill",
    "switch": "switch to standby",
    "restored": "service restored",
    "troubleshooting": "troubleshooting",
    "recovery": "recovery",
}
_EDGES: Mapping[tuple[str, str], str] = {
    ("training", "preparation"): "",
    ("preparation", "deploy"): "",
    ("deploy", "service"): "ok",
    ("deploy", "drill"): "fails",
    ("service", "drill"): "struck",
    ("drill", "service"): "no switch needed",
    ("drill", "switch"): "noticed",
    ("switch", "restored"): "answers again",
    ("switch", "troubleshooting"): "fails",
    ("restored", "recovery"): "standby is made again",
    ("troubleshooting", "recovery"): "restarted",
    ("recovery", "service"): "both are ready",
}


@dataclass(frozen=True)
class FlowStep:
    """One arrow; ``took_ms`` where it was taken and that is known: from the strike on, an outage from its beginning."""

    source: str
    target: str
    text: str
    is_taken: bool = False
    took_ms: float | None = None


@dataclass(frozen=True)
class Flow:
    """The whole flow as a Mermaid flowchart (thick: taken, dotted: not), and the same as data."""

    mermaid: str
    steps: tuple[FlowStep, ...]

    @property
    def taken(self) -> tuple[FlowStep, ...]:
        """Return the way that the drill took."""
        return tuple(step for step in self.steps if step.is_taken)


def flow_chart(script: Script, observed: Observed) -> Flow:
    """Return the flow of one play; the times are those of its worst strike."""
    measures = measure(script, observed)
    taken = {} if observed.left_out else _taken(measures, observed)
    steps = tuple(
        FlowStep(source, target, text, (source, target) in taken, taken.get((source, target)))
        for (source, target), text in _EDGES.items()
    )
    return Flow(_mermaid(steps, _struck(script)), steps)


def _struck(script: Script) -> str:
    titles = (
        f"{FACTS[one.fault].title}{f' ({one.target})' if one.target else ''} at {one.at_ms} ms"
        for one in script.strikes
    )
    return ", ".join(titles) or "nothing struck"


def _outage_ms(observed: Observed) -> float | None:
    """Return how long nobody served, the first time; None where that is not known."""
    began = next((one.at_ms for one in observed.moments if one.kind is MomentKind.OUTAGE), None)
    ended = (one.at_ms for one in observed.moments if one.kind is MomentKind.RESTORED and began is not None)
    return next((at_ms - began for at_ms in ended if began is not None and at_ms >= began), None)


def _taken(measures: Measures, observed: Observed) -> dict[tuple[str, str], float | None]:
    """Return the arrows that were taken, with their times."""
    taken: dict[tuple[str, str], float | None] = dict.fromkeys(
        (("training", "preparation"), ("preparation", "deploy"), ("deploy", "service"))
    )
    if not measures.strikes:
        return taken
    taken["service", "drill"] = None
    has_failed = bool(measures.outages or measures.unrestored)
    is_over = not measures.unredundant and not measures.unrestored
    if not measures.failovers and not has_failed:
        taken["drill", "service"] = measures.mttd_ms
        return taken
    taken["drill", "switch"] = measures.mttd_ms
    if measures.failovers and not measures.unrestored:
        taken["switch", "restored"] = measures.rto_ms
        if is_over:
            taken["restored", "recovery"] = measures.redundancy_ms
    if has_failed:
        taken["switch", "troubleshooting"] = None
        if not measures.unrestored:
            taken["troubleshooting", "recovery"] = _outage_ms(observed)
    if is_over and any(one.kind is MomentKind.REDUNDANCY_BACK for one in observed.moments):
        taken["recovery", "service"] = measures.redundancy_ms
    return taken


def _mermaid(steps: Sequence[FlowStep], struck: str) -> str:
    names = {**PLACES, "drill": f"drill: {struck}"}
    lines = ["flowchart TD", *(f'    {place}["{name}"]' for place, name in names.items())]
    return "\n".join([*lines, *map(_arrow, steps)])


def _arrow(step: FlowStep) -> str:
    text = step.text if step.took_ms is None else f"{step.text}, {step.took_ms:.0f} ms"
    label = f'|"{text}"|' if text else ""
    return f"    {step.source} {'==>' if step.is_taken else '-.->'}{label} {step.target}"
