"""The failover benchmark's table: what the runs of each fault showed, and which targets they meet."""

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import Field, dataclass, fields

from faults import Case, Target
from host import machine
from runs import Run

from pipeline.commands.build.console import show_table
from pipeline.core.clock import to_text, utc_now

HEADERS = (
    "fault", "system", "runs", "lost", "wrong", "abstained", "worst ms", "p99 ms", "evicted ms", "failovers",
    "standby back ms", "named", "verdict",
)  # fmt: skip
NAMED_MIN = 0.95
ABSTAINED_MAX = 0.02
HEDGED_MAX = 0.05
NOTES = (
    "*lost*: no 200 within 1 s of when the request was due; *wrong*: released, and beyond golden tolerance of the same "
    "bundle run offline; both summed over all runs. *worst*, *p99*: the worst run. *evicted*, *standby back*: median "
    "and worst, after the fault.",
    "*named*: runs whose diagnoses name the faulty components, all of them and nothing else, and none before the "
    "fault. A run in which our pair named nothing misses its target: nothing shows that its fault happened.",
    "A worst answer is held against its target plus the worst of this campaign's fault-free runs; so is a p99.",
    "HAProxy balances two plain workers of the same bundles; nobody restarts its workers, and it knows no terms. Its "
    "verdict is for comparison only.",
)


@dataclass(frozen=True)
class Line:
    """All runs of one fault on one system."""

    case: Case
    system: str
    runs: tuple[Run, ...]
    control_worst_ms: float
    control_p99_ms: float

    def total(self, what: str) -> int:
        """Sum a count of the tally over all runs."""
        return sum(getattr(run.tally, what) for run in self.runs)

    def worst(self, what: str) -> float:
        """Return the largest figure of the tally over all runs."""
        return max((getattr(run.tally, what) for run in self.runs), default=0.0)

    @property
    def evicted_ms(self) -> list[float]:
        """Return when the primary was given up, in the runs in which it was."""
        return [run.evicted_ms for run in self.runs if run.evicted_ms is not None]

    @property
    def named_right(self) -> int:
        """Count the runs whose diagnoses are right."""
        return sum(
            not run.false_alarms and set(run.components) - self.case.tentative == self.case.components
            for run in self.runs
        )


def lines(cases: Sequence[Case], runs: Iterable[Run]) -> Iterator[Line]:
    """Yield a line for each fault and system that was run; runs left out do not count."""
    kept = [run for run in runs if not run.skipped]
    for case in cases:
        for system in ("hotspare", "haproxy"):
            control = [run.tally for run in kept if run.case == "control" and run.system == system]
            own = tuple(run for run in kept if run.case == case.name and run.system == system)
            if own:
                worst = max((one.worst_ms for one in control), default=0.0)
                yield Line(case, system, own, worst, max((one.p99_ms for one in control), default=0.0))


def misses(line: Line) -> Iterator[str]:
    """Yield every target that a line misses, with the figure."""
    target = line.case.target
    if broken := sum(bool(run.broken) for run in line.runs):
        yield f"{broken} runs broken"
    if any(run.tracebacks for run in line.runs):
        yield "tracebacks in the server's log"
    if alarms := sum(run.false_alarms for run in line.runs):
        yield f"{alarms} false alarms before the fault"
    yield from _unnoticed(line)
    yield from _count_misses(line, target)
    yield from _time_misses(line, target)
    if any(run.failovers > target.failovers_max for run in line.runs):
        yield f"failovers {max(run.failovers for run in line.runs)} > {target.failovers_max}"
    if line.case.name in ("control", "verify") and line.total("abstained") > ABSTAINED_MAX * line.total("sent"):
        yield f"abstained {line.total('abstained')}"
    hedges, sent = (sum(getattr(run, what) for run in line.runs) for what in ("steady_hedges", "steady_sent"))
    if line.case.name in ("control", "slow") and hedges > HEDGED_MAX * sent:
        yield f"steady hedges {hedges / sent:.1%} > {HEDGED_MAX:.0%}"
    if any(run.registry_asked for run in line.runs):
        yield "the registry was asked"


def _unnoticed(line: Line) -> Iterator[str]:
    """Yield how many runs left no trace of their fault: nothing shows that it happened, so they prove nothing."""
    silent = sum(not run.components and not run.broken for run in line.runs)
    if line.system == "hotspare" and line.case.components and silent:
        yield f"not noticed in {silent} runs"


def _count_misses(line: Line, target: Target) -> Iterator[str]:
    for what, most in (("lost", target.lost_max), ("wrong", target.wrong_max), ("refused", target.refused_max)):
        found = int(line.worst(what))
        if found > most:
            yield f"{what} {found} > {most} in a run"
    if line.total("stale"):
        yield f"{line.total('stale')} of an old term"


def _time_misses(line: Line, target: Target) -> Iterator[str]:
    limits = (
        ("worst answer", line.worst("worst_ms"), target.worst_ms, line.control_worst_ms),
        ("p99", line.worst("p99_ms"), target.p99_ms, line.control_p99_ms),
        ("down", line.worst("downtime_ms"), target.down_ms, 0.0),
    )
    for what, found, most, control in limits:
        if most is not None and found > most + control:
            yield f"{what} {found:.0f} > {most:.0f} + {control:.0f} ms"
    yield from _eviction_misses(line, target)


def _eviction_misses(line: Line, target: Target) -> Iterator[str]:
    if target.evict_ms is None:
        return
    worst, missing = max(line.evicted_ms, default=0.0), len(line.runs) - len(line.evicted_ms)
    if worst > target.evict_ms:
        yield f"evicted after {worst:.0f} > {target.evict_ms:.0f} ms"
    if missing:
        yield f"not evicted in {missing} runs"


def cells(line: Line) -> tuple[str, ...]:
    """Return a line of the table, as text."""
    missed = list(misses(line))
    named = f"{line.named_right}/{len(line.runs)}" if line.system == "hotspare" else "-"
    back = [run.redundancy_ms for run in line.runs if run.redundancy_ms is not None]
    return (
        line.case.title,
        line.system,
        str(len(line.runs)),
        f"{line.total('lost')}/{line.total('sent'):,}",
        str(line.total("wrong")),
        str(line.total("abstained")),
        f"{line.worst('worst_ms'):.0f}",
        f"{line.worst('p99_ms'):.0f}",
        _median_and_worst(line.evicted_ms),
        str(max(run.failovers for run in line.runs)),
        _median_and_worst(back),
        named,
        "holds" if not missed else "; ".join(missed),
    )


def _median_and_worst(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.0f} / {max(values):.0f}" if values else "-"


def named(found: Sequence[Line]) -> tuple[int, int]:
    """Return (runs with the right diagnosis, runs) over every fault of ours that has a component to name."""
    ours = [line for line in found if line.system == "hotspare" and line.case.components]
    return sum(line.named_right for line in ours), sum(len(line.runs) for line in ours)


def targets(cases: Iterable[Case]) -> str:
    """Return what each line is held against, where it is more or less than what is asked of all."""
    told = [
        (case.title, [f"{one.name} {getattr(case.target, one.name):g}" for one in fields(Target) if _is_own(case, one)])
        for case in cases
    ]
    more = "; ".join(f"{title}: {', '.join(words)}" for title, words in told if words)
    usual = (
        f"Targets of a run: nothing lost, wrong, refused or of an old term, at most {Target().failovers_max} failover"
    )
    return f"{usual}; else {more}." if more else f"{usual}."


def _is_own(case: Case, one: "Field[object]") -> bool:
    return bool(getattr(case.target, one.name) != one.default)


def left_out(runs: Iterable[Run]) -> list[str]:
    """Return why runs were left out, each reason once."""
    return sorted({f"{run.case}: {run.skipped}" for run in runs if run.skipped})


def show(cases: Sequence[Case], runs: Sequence[Run]) -> int:
    """Print the table; returns 1 when ours misses a target, else 0."""
    found = list(lines(cases, runs))
    show_table("Failover", HEADERS, [cells(line) for line in found])
    right, all_runs = named(found)
    print(f"The right component is named in {right} of {all_runs} runs.", *left_out(runs), sep="\n")
    missed = any(list(misses(line)) for line in found if line.system == "hotspare")
    return int(missed or right < NAMED_MIN * all_runs)


def markdown(cases: Sequence[Case], runs: Sequence[Run]) -> str:
    """Return the table as docs/runtime.md shows it, with machine and date."""
    found = list(lines(cases, runs))
    right, all_runs = named(found)
    told = f"The right component is named in {right} of {all_runs} runs."
    parts = [
        f"Measured on {machine()}, {to_text(utc_now())[:10]}. {told}",
        "",
        f"| {' | '.join(HEADERS)} |",
        f"|{'|'.join(['---'] * 2 + ['---:'] * (len(HEADERS) - 3) + ['---'])}|",
        *(f"| {' | '.join(cell.replace('|', '/') for cell in cells(line))} |" for line in found),
        "",
        *(f"- {note}" for note in (targets(cases), *NOTES, *left_out(runs))),
        "",
    ]
    return "\n".join(parts)
