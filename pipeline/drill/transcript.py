"""What a drill leaves as text: only what must be the same in both worlds and at every play; no times, no chance."""

from collections.abc import Iterable, Iterator
from itertools import groupby

from pipeline.drill.localisation import localised
from pipeline.drill.measures import Measures, measure, struck_at
from pipeline.drill.nouns import MomentKind, Observed, Script
from pipeline.drill.verdict import judge


def transcript(script: Script, observed: Observed) -> str:
    """Return one play's transcript, without the lines that a script leaves out by ``shows``."""
    if observed.left_out:
        return f"not played: {observed.left_out}"
    measures = measure(script, observed)
    lines = (*_course(script, observed), _counts(script, measures), _verdict(script, measures))
    return "\n".join(line for line in lines if line and _is_shown(script, line))


def _is_shown(script: Script, line: str) -> bool:
    word = line.split()[0].rstrip(":")
    return not script.shows or word in script.shows or (word not in _OWN_WORDS and "lost" in script.shows)


_OWN_WORDS = ("serving", "diagnosed", "redundancy", "verdict")


def _course(script: Script, observed: Observed) -> Iterator[str]:
    moments = sorted(observed.moments, key=lambda one: one.at_ms)
    yield f"serving: {_in_turn('nobody' if role is None else role.value for _, role, _ in observed.serving)}"
    firm = localised(struck_at(script, moments), moments).firm
    said = {" ".join(filter(None, (one.role, one.component))) for one in firm}
    yield f"diagnosed: {', '.join(sorted(said)) or 'nothing'}"
    states = {MomentKind.REDUNDANCY_LOST: "lost", MomentKind.REDUNDANCY_BACK: "back"}
    since = min((at_ms for at_ms, _ in struck_at(script, moments)), default=0.0)
    seen = [states[one.kind] for one in moments if one.kind in states and one.at_ms >= since]
    # How often it came and went is chance; that it was lost, and whether it came back, is not.
    yield f"redundancy: {'kept' if 'lost' not in seen else 'lost, back' if seen[-1] == 'back' else 'lost'}"


def _in_turn(names: Iterable[str]) -> str:
    return ", ".join(name for name, _ in groupby(names))


def _counts(script: Script, measures: Measures) -> str:
    """Return counts that the objectives hold at zero; of others, whether they keep within what is allowed."""
    bounds = {
        "lost": script.objectives.lost_max,
        "wrong": script.objectives.wrong_max,
        "refused": script.objectives.refused_max,
    }
    said = []
    for name, bound in bounds.items():
        count = getattr(measures, name)
        if bound == 0:
            said.append(f"{name} {count}")
        elif bound is not None:
            said.append(f"{name} {'within' if count <= bound else 'over'} {bound}")
    return ", ".join(said)


def _verdict(script: Script, measures: Measures) -> str:
    verdict = judge(script.objectives, measures)
    return "verdict: passed" if verdict.passed else f"verdict: missed {', '.join(verdict.missed)}"
