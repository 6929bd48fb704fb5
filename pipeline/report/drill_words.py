"""What the page of a drill says: figures with their units, and sentences that follow from them. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.drill.fault_facts import FACTS
from pipeline.drill.measures import Measures, StrikeMeasures
from pipeline.drill.nouns import Arrivals, Load, Strike
from pipeline.drill.results import DrillReport, DrillResult

_ARRIVALS = {
    Arrivals.CONSTANT: "evenly spaced",
    Arrivals.POISSON: "at random (Poisson)",
    Arrivals.REPLAY: "as in a log",
}
# objective: in words, which measure, its unit, whether less is worse
_GOALS = {
    "lost_max": ("lost requests, at most", "lost", "", False),
    "wrong_max": ("wrong answers released, at most", "wrong", "", False),
    "refused_max": ("refused requests, at most", "refused", "", False),
    "abstained_ratio_max": ("answers withheld, at most", "abstained_ratio", "%", False),
    "late_max": ("late answers, at most", "late", "", False),
    "worst_ms_max": ("the worst answer, at most", "worst_ms", "ms", False),
    "p99_ms_max": ("99th percentile of latency, at most", "p99_ms", "ms", False),
    "mttd_ms_max": ("time to detect (MTTD), at most", "mttd_ms", "ms", False),
    "rto_ms_max": ("time to restore (RTO), at most", "rto_ms", "ms", False),
    "redundancy_ms_max": ("time to redundancy, at most", "redundancy_ms", "ms", False),
    "rpo_versions_max": ("model versions behind (RPO), at most", "versions_behind", "", False),
    "failovers_max": ("failovers, at most", "failovers", "", False),
    "degraded_ratio_max": ("answers by the backup, at most", "degraded_ratio", "%", False),
    "accuracy_loss_max": ("loss of the metric while degraded, at most", "accuracy_loss", "", False),
    "localisation_min": ("faults whose component was named, at least", "localisation", "%", True),
}


@dataclass(frozen=True)
class Goal:
    """One objective of a drill and how it went over all repeats."""

    words: str
    asked: str
    found: str
    met: bool


def milliseconds(value: float | None) -> str:
    """Return a time that people compare at a glance, and a dash where there is none."""
    if value is None:
        return "–"
    if value == 0:
        return "0\u00a0ms"
    if value >= 10_000:
        return f"{value / 1000:,.1f}\u00a0s"
    return f"{value:,.0f}\u00a0ms" if value >= 100 else f"{value:.3g}\u00a0ms"


def period(started_at: str, ended_at: str) -> str:
    """Return when it was, e.g. ``2026-01-31, 12:00:00 to 12:00:40 UTC``."""
    (day, start), (last_day, end) = (text.removesuffix("Z").split("T") for text in (started_at, ended_at))
    return f"{day}, {start} to {'' if day == last_day else f'{last_day}, '}{end} UTC"


def goals(result: DrillResult) -> list[Goal]:
    """Return every objective that the drill asked for, with the worst figure of its repeats."""
    missed = {miss.partition(":")[0] for miss in result.misses}
    asked = ((name, getattr(result.script.objectives, name)) for name in _GOALS)
    return [_goal(result, name, bound, name not in missed) for name, bound in asked if bound is not None]


def _goal(result: DrillResult, name: str, bound: float, met: bool) -> Goal:
    words, measure, unit, less_is_worse = _GOALS[name]
    figures = [getattr(one.measures, measure) for one in result.repeats]
    known = [figure for figure in figures if figure is not None]
    worst = None if not known else min(known) if less_is_worse else max(known)
    never = _never(name, result)
    return Goal(words, _figure(bound, unit), never or ("–" if worst is None else _figure(worst, unit)), met)


def _never(name: str, result: DrillResult) -> str:
    counts = {"mttd_ms_max": "unnoticed", "rto_ms_max": "unrestored", "redundancy_ms_max": "unredundant"}
    sentence = {"mttd_ms_max": "never noticed", "rto_ms_max": "not restored", "redundancy_ms_max": "not again"}
    if name in counts and any(getattr(one.measures, counts[name]) for one in result.repeats):
        return sentence[name]
    return ""


def _figure(value: float, unit: str) -> str:
    if unit == "ms":
        return milliseconds(value)
    if unit == "%":
        return f"{100 * value:.3g}\u00a0%"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def figures(told: Measures) -> Iterator[tuple[str, str]]:
    """Yield the figures of one play that stand in no other table."""
    yield "requests", f"{told.sent:,}"
    yield "right", f"{told.right:,}"
    for name in ("lost", "wrong", "refused", "late", "degraded", "hedged", "resent", "duplicated"):
        yield name, f"{getattr(told, name):,}"
    yield "withheld", f"{told.abstained:,}"
    yield "answers of a term that was over", f"{told.stale:,}"
    for name in ("failovers", "failbacks", "restarts", "quarantines", "outages"):
        yield name, f"{getattr(told, name):,}"
    yield "false alarms", f"{told.false_alarms:,}"
    yield "versions behind (RPO)", f"{told.versions_behind:,}"
    allowed = f"{100 * (1 - told.slo_ratio):.3g}\u00a0%"
    yield f"error budget ({allowed}) burnt", f"{100 * told.budget_burnt:,.0f}\u00a0%"
    if told.accuracy_loss is not None:
        yield "metric lost while degraded (float minus backup)", f"{told.accuracy_loss:+.4f}".replace("-", "−")
    if told.memory_mb:
        yield "memory of the pair, at most", f"{told.memory_mb:,.0f} MB"
        yield "processor, on average", f"{100 * told.cpu_ratio:.0f}\u00a0% of one"


def missed(result: DrillResult) -> Iterator[str]:
    """Yield each objective that was missed once: as the repeat that is drawn missed it, and in how many."""
    repeats = [{miss.partition(":")[0]: miss for miss in one.verdict.misses} for one in result.repeats]
    shown = repeats[result.worst]
    for name in dict.fromkeys(name for one in (shown, *repeats) for name in one):
        sentence = shown.get(name) or next(one[name] for one in repeats if name in one)
        count = sum(name in one for one in repeats)
        yield f"{sentence} (in {count} of {len(repeats)} repeats)" if len(repeats) > 1 else sentence


def claims(result: DrillResult) -> Iterator[tuple[str, str]]:
    """Yield what the repeats claim together, in words."""
    found = result.over_repeats
    yield "passed", found.passed.in_words()
    events = {"lost": "with a request lost", "wrong": "with a wrong answer", "unrestored": "not restored"}
    yield from ((words, found.events[name].in_words()) for name, words in events.items() if name in found.events)
    times = {"mttd_ms": "detected", "rto_ms": "restored (RTO)", "redundancy_ms": "redundant again"}
    yield from ((words, found.times[name].in_words()) for name, words in times.items() if name in found.times)


def strike_title(strike: StrikeMeasures) -> str:
    """Return what was done, to whom."""
    title = FACTS[strike.fault].title
    return f"{title}, {strike.target}" if strike.target else title


def inject(strike: Strike) -> str:
    """Return a strike of a script in words."""
    parts = [FACTS[strike.fault].title, *([f"of the {strike.target}"] if strike.target else [])]
    parts += [f"{name}={value:g}" for name, value in strike.amounts]
    parts += [f"taken back after {milliseconds(strike.lasts_ms)}"] if strike.lasts_ms is not None else []
    return " ".join(parts)


def named(strike: StrikeMeasures) -> str:
    """Return which components the diagnoses named."""
    return ", ".join(one.value for one in dict.fromkeys((*strike.named, *strike.unexplained))) or "nothing"


def load_words(load: Load) -> str:
    """Return a load in a sentence."""
    rate = "" if load.arrivals is Arrivals.REPLAY else f"{load.rate_per_s:g} requests a second, "
    return f"Load: {rate}{_ARRIVALS[load.arrivals]}, for {load.seconds:g} s, each due within {load.deadline_ms:g} ms."


@dataclass(frozen=True)
class Action:
    """The fields of an after-action report that follow from the figures."""

    purpose: str
    scope: str
    objectives: tuple[str, ...]
    kind: str
    observations: tuple[str, ...]
    findings: tuple[str, ...]
    limits: str


def action(report: DrillReport) -> Action:
    """Fill the form in, as far as a machine can."""
    live = report.world == "live"
    kind = (
        "Functional exercise on real processes, signals, sockets and disks, under open load."
        if live
        else "Simulation: the production code of the pair on virtual time, with made-up workers."
    )
    limits = (
        "One machine: not its loss, nor that of the network between machines or of a site; only the faults that are "
        "listed, at the moments that are listed; how people react."
        if live
        else "What real processes, kernels and disks add: a simulated drill shows what the pair decides, not how fast "
        "this machine is."
    )
    return Action(
        purpose=f"To show by rehearsal that the pair of {report.model} keeps answering, rightly and in time, "
        "when what serves it breaks, and to measure how fast it recovers.",
        scope=f"The sealed primary and backup of {report.model}, their runtime and what it depends on, on one machine.",
        objectives=tuple(_objectives(report)),
        kind=kind,
        observations=tuple(_observation(result) for result in report.results),
        findings=tuple(_findings(report)),
        limits=limits,
    )


def _objectives(report: DrillReport) -> Iterator[str]:
    """Yield every objective once, with the drills where they ask for different bounds."""
    asked: dict[str, dict[str, list[str]]] = {}
    for result in report.results:
        for goal in goals(result):
            asked.setdefault(goal.words, {}).setdefault(goal.asked, []).append(result.name)
    for words, bounds in asked.items():
        several = [f"{bound} ({', '.join(names)})" for bound, names in bounds.items()]
        yield f"{words}: {', '.join(bounds) if len(bounds) == 1 else '; '.join(several)}"


def _observation(result: DrillResult) -> str:
    told = result.shown.measures
    if told.left_out:
        return f"{result.name}: not played here: {told.left_out}"
    found = f"{told.right:,} of {told.sent:,} requests answered rightly, {told.degraded:,} of them by the backup"
    felt = f"service restored after {milliseconds(told.rto_ms)}" if told.rto_ms else "no request noticed the fault"
    restored = "service was not restored" if told.unrestored else felt
    return f"{result.name}: {found}; {restored}; failovers: {told.failovers}, restarts: {told.restarts}."


def _findings(report: DrillReport) -> Iterator[str]:
    for result in report.results:
        yield from (f"{result.name}: {text}" for text in missed(result))
        told = result.shown.measures
        if told.unnoticed:
            yield f"{result.name}: strikes that the pair never noticed: {told.unnoticed}."
        if any(not strike.is_localised for strike in told.strikes):
            wrong = "; ".join(strike_title(strike) for strike in told.strikes if not strike.is_localised)
            yield f"{result.name}: the diagnosis did not name the right component for {wrong}."
        if told.unredundant:
            yield f"{result.name}: at the end of the load there was no standby again."
