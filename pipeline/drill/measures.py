"""What a drill measures, computed from what was observed: pure, and the same for both worlds.

- *MTTD*: from the strike until a diagnosis of it, or the failover where that came first or nothing was said.
- *time to switch*: from then until the failover.
- *RTO*: from the strike until the first right answer after the last one that was not, or that was later than any in
  the calm before while the strike was not dealt with; 0 where no request noticed.
- *time to redundancy*: from the strike until a standby is ready again.
- *RPO*: how many model versions what serves is behind what was promoted. These models do not learn while they serve.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.core.errors import UsageError
from pipeline.core.names import Role
from pipeline.drill.fault_facts import FACTS
from pipeline.drill.incidents import is_bad, is_late
from pipeline.drill.localisation import localised
from pipeline.drill.nouns import Moment, MomentKind, Observed, Outcome, Request, Script
from pipeline.drill.strike_measures import StrikeMeasures, calm_before_ms, of_strike, struck_at
from pipeline.runtime.journal import quantile

__all__ = ["LATE_MS", "SLO_RATIO", "Measures", "Span", "StrikeMeasures", "measure", "stale", "struck_at"]

LATE_MS = 100.0  # a right answer that takes longer is late
SLO_RATIO = 0.999  # of requests that are to be answered rightly, where nothing else is stated


@dataclass(frozen=True)
class Span:
    """A stretch of the load by when its requests were due; times in ms, 0 where nothing was answered."""

    name: str
    since_ms: float
    until_ms: float
    sent: int
    right: int
    lost: int
    wrong: int
    abstained: int
    late: int
    degraded: int
    p50_ms: float
    p99_ms: float
    worst_ms: float


@dataclass(frozen=True)
class Measures:
    """One play of a script in figures; counts are of requests, times in ms; each time is the worst of all strikes.

    ``lost`` … ``late`` leave poison requests out, which must fail (``wrong`` and ``refused`` count them); another that
    is refused is ``lost`` too. ``stale``: answers of a term that was over when they were asked for. ``duplicated``:
    computed more than once, hedged or resent. ``unnoticed``, ``unrestored``, ``unredundant``: strikes without the time
    in question; ``undone``: those that could not be done. ``budget_burnt``: the share of requests not answered rightly
    over the share that the objective ``slo_ratio`` allows; 1 is all of it.
    """

    sent: int
    right: int
    lost: int
    wrong: int
    refused: int
    abstained: int
    late: int
    degraded: int
    hedged: int
    resent: int
    duplicated: int
    stale: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    failovers: int
    failbacks: int
    restarts: int
    quarantines: int
    outages: int
    mttd_ms: float | None
    switch_ms: float | None
    rto_ms: float
    redundancy_ms: float | None
    unnoticed: int
    unrestored: int
    unredundant: int
    undone: int
    versions_behind: int
    localisation: float | None
    false_alarms: int
    slo_ratio: float
    budget_burnt: float
    accuracy_loss: float | None
    memory_mb: float
    cpu_ratio: float
    left_out: str = ""
    strikes: tuple[StrikeMeasures, ...] = ()
    spans: tuple[Span, ...] = ()
    memory_rest_mb: float = 0.0

    @property
    def degraded_ratio(self) -> float:
        """Return the share of right answers that the backup gave."""
        return self.degraded / self.right if self.right else 0.0

    @property
    def abstained_ratio(self) -> float:
        """Return the share of requests whose answer was withheld."""
        return self.abstained / self.sent if self.sent else 0.0


def measure(script: Script, observed: Observed, slo_ratio: float = SLO_RATIO, late_ms: float = LATE_MS) -> Measures:
    """Measure one play; raises UsageError for an ``slo_ratio`` that is not between 0 and 1."""
    if not 0 < slo_ratio < 1:
        raise UsageError(f"An objective of {slo_ratio} for right answers leaves no budget; give a share below 1.")
    requests = sorted(observed.requests, key=lambda one: one.due_ms)
    asked = [one for one in requests if not one.is_extra]
    moments = sorted(observed.moments, key=lambda one: one.at_ms)
    struck = struck_at(script, moments)
    found = localised(struck, moments)
    calm_ms = calm_before_ms(asked, struck)
    strikes = tuple(
        of_strike(number, struck, found.by_strike[number], observed, moments, asked, calm_ms, late_ms)
        for number in range(len(struck))
    )
    whole = _span("all", asked, float("-inf"), float("inf"), late_ms)
    refused = sum(one.outcome is Outcome.REFUSED for one in requests) + sum(
        one.is_extra and one.outcome in (Outcome.LOST, Outcome.ABSTAINED) for one in requests
    )
    kinds = Counter(moment.kind for moment in moments)
    noticeable = [one for one in strikes if FACTS[one.fault].components and not FACTS[one.fault].is_latent]
    bad = sum(is_bad(one) for one in asked)
    return Measures(
        sent=whole.sent,
        right=whole.right,
        lost=whole.lost,
        wrong=sum(one.outcome is Outcome.WRONG for one in requests),
        refused=refused,
        abstained=whole.abstained,
        late=whole.late,
        degraded=whole.degraded,
        hedged=observed.hedged,
        resent=observed.resent,
        duplicated=observed.hedged + observed.resent,
        stale=stale(asked),
        p50_ms=whole.p50_ms,
        p99_ms=whole.p99_ms,
        worst_ms=whole.worst_ms,
        failovers=kinds[MomentKind.FAILOVER],
        failbacks=kinds[MomentKind.FAILBACK],
        restarts=kinds[MomentKind.RESTART],
        quarantines=kinds[MomentKind.QUARANTINE],
        outages=kinds[MomentKind.OUTAGE],
        mttd_ms=_worst(one.mttd_ms for one in noticeable),
        switch_ms=_worst(one.switch_ms for one in strikes),
        rto_ms=_worst(one.rto_ms for one in strikes) or 0.0,
        redundancy_ms=_worst(one.redundancy_ms for one in strikes),
        unnoticed=sum(one.mttd_ms is None for one in noticeable),
        unrestored=sum(one.rto_ms is None for one in strikes),
        unredundant=sum(not one.is_redundant_after for one in strikes),
        undone=kinds[MomentKind.UNDONE],
        versions_behind=observed.versions_behind,
        localisation=sum(one.is_localised for one in strikes) / len(strikes) if strikes else None,
        false_alarms=len(found.false_alarms),
        slo_ratio=slo_ratio,
        budget_burnt=bad / len(asked) / (1 - slo_ratio) if asked else 0.0,
        accuracy_loss=_accuracy_loss(observed),
        memory_mb=observed.memory_mb,
        cpu_ratio=observed.cpu_ratio,
        left_out=observed.left_out,
        strikes=strikes,
        spans=_spans(strikes, moments, asked, late_ms),
        memory_rest_mb=observed.memory_rest_mb,
    )


def _worst(times_ms: Iterable[float | None]) -> float | None:
    return max((one for one in times_ms if one is not None), default=None)


def _accuracy_loss(observed: Observed) -> float | None:
    if observed.degraded_score is None or observed.float_score is None:
        return None
    return observed.float_score - observed.degraded_score


def _spans(
    strikes: Sequence[StrikeMeasures], moments: Sequence[Moment], asked: Sequence[Request], late_ms: float
) -> tuple[Span, ...]:
    """Return before, during and after: from the first strike until all is as it was, as far as it came to that."""
    if not strikes or not asked:
        return (_span("before", asked, 0.0, float("inf"), late_ms),) if asked else ()
    since_ms, end_ms = min(one.at_ms for one in strikes), asked[-1].due_ms + 1
    ended = [one.at_ms for one in moments if one.kind is MomentKind.ENDED]
    times = [
        one.at_ms + (ms or 0.0) for one in strikes for ms in (one.mttd_ms, one.switch_ms, one.rto_ms, one.redundancy_ms)
    ]
    is_open = any(one.rto_ms is None or not one.is_redundant_after for one in strikes)
    until_ms = end_ms if is_open else min(end_ms, max([*ended, *times]))
    edges = (("before", 0.0, since_ms), ("during", since_ms, until_ms), ("after", until_ms, end_ms))
    return tuple(_span(name, asked, since, until, late_ms) for name, since, until in edges)


def _span(name: str, asked: Sequence[Request], since_ms: float, until_ms: float, late_ms: float) -> Span:
    inside = [one for one in asked if since_ms <= one.due_ms < until_ms]
    outcomes = Counter(one.outcome for one in inside)
    answered = [one for one in inside if one.outcome in (Outcome.RIGHT, Outcome.WRONG)]
    latencies = sorted(one.latency_ms for one in answered if one.latency_ms is not None) or [0.0]
    return Span(
        name=name,
        since_ms=since_ms,
        until_ms=until_ms,
        sent=len(inside),
        right=outcomes[Outcome.RIGHT],
        lost=outcomes[Outcome.LOST] + outcomes[Outcome.REFUSED],  # nothing is wrong with what a drill asks by itself
        wrong=outcomes[Outcome.WRONG],
        abstained=outcomes[Outcome.ABSTAINED],
        late=sum(is_late(one, late_ms) for one in inside),
        degraded=sum(one.outcome is Outcome.RIGHT and one.role is Role.BACKUP for one in inside),
        p50_ms=quantile(latencies, 0.5),
        p99_ms=quantile(latencies, 0.99),
        worst_ms=latencies[-1],
    )


def stale(asked: Sequence[Request]) -> int:
    """Count answers of a term that was over: sent after an answer of a later term had come back."""
    stamped = [
        (one.term, one.sent_ms, one.done_ms)
        for one in asked
        if one.outcome in (Outcome.RIGHT, Outcome.WRONG) and one.term is not None
    ]
    first_ms: dict[int, float] = {}
    for term, _, done_ms in stamped:
        if done_ms is not None:
            first_ms[term] = min(done_ms, first_ms.get(term, done_ms))
    over_ms, soonest = {}, float("inf")
    for term in sorted(first_ms, reverse=True):
        over_ms[term] = soonest
        soonest = min(soonest, first_ms[term])
    return sum(sent_ms is not None and sent_ms > over_ms.get(term, soonest) for term, sent_ms, _ in stamped)
