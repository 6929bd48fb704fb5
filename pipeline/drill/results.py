"""What a drill leaves: one report of all drills held in a row, as values; JSON, metrics, an attestation."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Literal

from pipeline.bundle.attestation import PREDICATE_TYPE, Drilled, DrillStatement, Predicate, subjects
from pipeline.core import recipe as recipes
from pipeline.core.canonical import readable_json, sha256_hex
from pipeline.core.names import Role
from pipeline.core.schema import Rule, plain
from pipeline.drill.advice import advise
from pipeline.drill.confidence import Repeats, over_repeats
from pipeline.drill.measures import Measures, Span, measure
from pipeline.drill.nouns import Objectives, Observed, Script
from pipeline.drill.script import format_script
from pipeline.drill.transcript import transcript
from pipeline.drill.verdict import Verdict, judge
from pipeline.runtime.journal import quantile

REPORT_FILE = "drill.json"
METRICS_FILE = "metrics.json"
JUNIT_FILE = "junit.xml"

Play = Callable[[Script, int], Observed]
"""Play a script; the number says which repeat it is, from 0."""


@dataclass(frozen=True)
class Repeat:
    """One play of a script, judged; ``transcript`` is what came out, to be held against the script's own."""

    seed: int
    measures: Measures
    verdict: Verdict
    transcript: str


@dataclass(frozen=True)
class DrillResult:
    """All repeats of one script; ``observed`` is what the worst of them showed."""

    script: Script
    repeats: Annotated[tuple[Repeat, ...], Rule(min_items=1)]
    worst: Annotated[int, Rule("Which repeat is shown, from 0.", minimum=0)]
    observed: Observed
    over_repeats: Repeats
    advice: tuple[str, ...]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.worst >= len(self.repeats):
            yield "worst: there is no such repeat"

    @property
    def name(self) -> str:
        """Return the script's name."""
        return self.script.name

    @property
    def text(self) -> str:
        """Return the script as text, as it was played."""
        return format_script(self.script)

    @property
    def passed(self) -> bool:
        """Tell whether every repeat met every objective."""
        return all(one.verdict.passed for one in self.repeats)

    @property
    def misses(self) -> tuple[str, ...]:
        """Return what was missed, each with its repeat where there are several."""
        several = len(self.repeats) > 1
        return tuple(
            f"{miss} (repeat {number})" if several else miss
            for number, one in enumerate(self.repeats, 1)
            for miss in one.verdict.misses
        )

    @property
    def shown(self) -> Repeat:
        """Return the worst repeat."""
        return self.repeats[self.worst]

    @property
    def rto_ms(self) -> float | None:
        """Return the longest time to restore; None where a repeat struck nothing or did not see service restored."""
        times = [time for one in self.repeats for time in _rto_ms(one.measures)]
        return max(time for time in times if time is not None) if times and None not in times else None


@dataclass(frozen=True)
class DrillReport:
    """One run of ``hotspare drill``: the pair, the machine, and the result of every script."""

    schema_version: Literal[1]
    model: str
    title: str
    world: Literal["live", "simulated"]
    started_at: str
    ended_at: str
    made_by: str
    bundles: dict[Role, str]
    candidates: dict[Role, str]
    results: Annotated[tuple[DrillResult, ...], Rule(min_items=1)]
    machine: dict[str, str] = field(default_factory=dict)
    participants: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Tell whether every drill passed."""
        return all(result.passed for result in self.results)

    @property
    def misses(self) -> tuple[str, ...]:
        """Return what was missed, each with its drill."""
        return tuple(f"{result.name}: {miss}" for result in self.results for miss in result.misses)

    def to_bytes(self) -> bytes:
        """Return the bytes of ``drill.json``."""
        return readable_json(plain(self))

    def times_ms(self, name: str) -> list[float | None]:
        """Return one of the strikes' times (``rto_ms``, ``mttd_ms`` …) of every strike, repeat and drill."""
        repeats = (one for result in self.results for one in result.repeats)
        return [getattr(strike, name) for one in repeats for strike in one.measures.strikes]

    @property
    def rto_ms_p95(self) -> float | None:
        """Return the 95th percentile of all times to restore; None without a strike, or when one was not restored."""
        times = self.times_ms("rto_ms")
        known = sorted(time for time in times if time is not None)
        return quantile(known, 0.95) if known and len(known) == len(times) else None


def hold(
    scripts: Sequence[Script],
    repeats: int,
    play: Play,
    of_model: Mapping[str, recipes.Objectives] | None = None,
    watch: Callable[[Sequence[Script]], Iterable[Script]] = iter,
) -> tuple[DrillResult, ...]:
    """Play every script ``repeats`` times and judge each by its own objectives and the model's.

    ``of_model`` has what the recipe asks beside, by script; ``watch`` wraps the plays for a progress bar.
    """
    plays = [script for script in scripts for _ in range(repeats)]
    played: dict[str, list[tuple[Repeat, Observed]]] = {script.name: [] for script in scripts}
    beside = {script.name: (of_model or {}).get(script.name, recipes.Objectives()) for script in scripts}
    for script in watch(plays):
        number = len(played[script.name])
        seeded = replace(script, load=replace(script.load, seed=script.load.seed + number))
        observed = play(seeded, number)
        played[script.name].append((examined(seeded, observed, beside[script.name]), observed))
    return tuple(summed_up(_tightened(script, beside[script.name]), played[script.name]) for script in scripts)


def examined(script: Script, observed: Observed, of_model: recipes.Objectives) -> Repeat:
    """Measure and judge one play; a transcript that differs from the script's own is a miss too.

    The transcript is the script's alone: what a model asks beyond it does not change a line of it.
    """
    measures = _finite(measure(script, observed), script.load.seconds * 1000)
    said = transcript(script, observed)
    verdict = judge(_tightened(script, of_model).objectives, measures)
    if script.transcript and not observed.left_out and (differs := _difference(script.transcript, said, verdict)):
        verdict = Verdict(False, (*verdict.misses, f"transcript: {differs}"))
    return Repeat(script.load.seed, measures, verdict, said)


def _tightened(script: Script, of_model: recipes.Objectives) -> Script:
    return replace(script, objectives=tightened(script.objectives, of_model))


def summed_up(script: Script, plays: Sequence[tuple[Repeat, Observed]]) -> DrillResult:
    """Return a script's result; the worst play is the one to look at."""
    worst = max(range(len(plays)), key=lambda number: _badness(plays[number][0]))
    repeats, observed = tuple(repeat for repeat, _ in plays), plays[worst][1]
    measures = [one.measures for one in repeats]
    claims = over_repeats([(one.measures, one.verdict) for one in repeats])
    return DrillResult(script, repeats, worst, observed, claims, advise(script, measures[worst], observed))


def _badness(repeat: Repeat) -> tuple[float, ...]:
    told = repeat.measures
    rto_ms = math.inf if told.unrestored else told.rto_ms
    return (not repeat.verdict.passed, told.wrong, told.lost, rto_ms, told.worst_ms)


def _rto_ms(measures: Measures) -> list[float | None]:
    return [strike.rto_ms for strike in measures.strikes]


def _difference(expected: str, found: str, verdict: Verdict) -> str:
    """Return the first line that differs, in words; empty where none does. What was missed is told elsewhere."""
    wanted, said = (_lines(text, with_verdict=verdict.passed) for text in (expected, found))
    for number in range(max(len(wanted), len(said))):
        one, other = (lines[number] if number < len(lines) else "nothing" for lines in (wanted, said))
        if one != other:
            return f"line {number + 1} is {other!r} where {one!r} is expected"
    return ""


def _lines(text: str, with_verdict: bool) -> list[str]:
    return [line for line in text.strip().splitlines() if with_verdict or not line.startswith("verdict:")]


def _finite(measures: Measures, end_ms: float) -> Measures:
    """End open spans with the load: JSON holds no infinity."""
    return replace(measures, spans=tuple(_ended(span, end_ms) for span in measures.spans))


def _ended(span: Span, end_ms: float) -> Span:
    since, until = (min(max(moment, 0.0), end_ms) for moment in (span.since_ms, span.until_ms))
    return replace(span, since_ms=since, until_ms=max(since, until))


def tightened(objectives: Objectives, of_model: recipes.Objectives) -> Objectives:
    """Return a script's objectives with those of the model's recipe: the stricter of both binds."""
    bounds = {one.name: getattr(of_model, one.name) for one in fields(of_model)}
    own = {name: getattr(objectives, name) for name in bounds}
    stricter = {
        name: bound if own[name] is None else min(bound, own[name])
        for name, bound in bounds.items()
        if bound is not None
    }
    return replace(objectives, **stricter)


def metrics(report: DrillReport) -> dict[str, object]:
    """Return the figures that ``dvc metrics show`` and MLflow show; a time that nobody could take is left out."""
    whole: dict[str, object] = {
        "drills": len(report.results),
        "drills_passed": sum(result.passed for result in report.results),
        "requests": sum(_total(result, "sent") for result in report.results),
        **{name: sum(_total(result, name) for result in report.results) for name in ("lost", "wrong", "abstained")},
        "unrestored": sum(time is None for time in report.times_ms("rto_ms")),
    }
    for name in ("rto_ms", "mttd_ms", "redundancy_ms"):
        known = sorted(time for time in report.times_ms(name) if time is not None)
        if known:
            whole |= {f"{name}_p95": round(quantile(known, 0.95), 3), f"{name}_max": round(known[-1], 3)}
    return {**whole, "by_drill": {result.name: _figures(result) for result in report.results}}


def _total(result: DrillResult, name: str) -> int:
    return sum(int(getattr(one.measures, name)) for one in result.repeats)


def _figures(result: DrillResult) -> dict[str, object]:
    worst = result.shown.measures
    times = {"rto_ms": result.rto_ms, "mttd_ms": worst.mttd_ms, "redundancy_ms": worst.redundancy_ms}
    return {
        "passed": int(result.passed),
        "lost": _total(result, "lost"),
        "wrong": _total(result, "wrong"),
        "worst_ms": round(worst.worst_ms, 3),
        **{name: round(time, 3) for name, time in times.items() if time is not None},
    }


def script_sha256(script: Script) -> str:
    """Return the digest of a script, with every objective that it was judged by, as an attestation names it."""
    return sha256_hex(format_script(script).encode("utf-8"))


def due_scripts(scripts: Iterable[Script], of_model: recipes.Objectives) -> dict[str, str]:
    """Return the digests that a drill of these scripts would attest today, by name."""
    return {script.name: script_sha256(_tightened(script, of_model)) for script in scripts}


def statement_of(report: DrillReport) -> DrillStatement:
    """Return what is attested of a report: its verdicts, its worst figures and its digest."""
    predicate = Predicate(
        model=report.model,
        world=report.world,
        started_at=report.started_at,
        ended_at=report.ended_at,
        passed=report.passed,
        drills=tuple(_attested(result) for result in report.results),
        report_sha256=sha256_hex(report.to_bytes()),
        made_by=report.made_by,
        machine=report.machine,
        rto_ms_p95=report.rto_ms_p95,
    )
    return DrillStatement(subjects(report.model, report.bundles), PREDICATE_TYPE, predicate)


def _attested(result: DrillResult) -> Drilled:
    return Drilled(
        name=result.name,
        script_sha256=script_sha256(result.script),
        repeats=len(result.repeats),
        passed=result.passed,
        requests=_total(result, "sent"),
        lost=_total(result, "lost"),
        wrong=_total(result, "wrong"),
        rto_ms=result.rto_ms,
        misses=result.misses,
    )
