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
from pipeline.drill.incidents import is_bad, is_late, restored_ms
from pipeline.drill.localisation import Blamed, localised, may_be_about
from pipeline.drill.nouns import FaultKind, Moment, MomentKind, Observed, Outcome, Request, Script, Strike
from pipeline.runtime.journal import quantile
from pipeline.runtime.members import Component

LATE_MS = 100.0  # a right answer that takes longer is late
SLO_RATIO = 0.999  # of requests that are to be answered rightly, where nothing else is stated

Struck = tuple[float, Strike]


@dataclass(frozen=True)
class StrikeMeasures:
    """What one strike did; times in ms after it.

    ``mttd_ms`` None: never noticed. ``switch_ms`` None: nobody had to take over. ``rto_ms`` None: not restored before
    the load ended. ``redundancy_ms`` None: never lost, or (``is_redundant_after`` false) not back.
    """

    fault: FaultKind
    target: Role | None
    at_ms: float
    mttd_ms: float | None
    switch_ms: float | None
    rto_ms: float | None
    redundancy_ms: float | None
    is_redundant_after: bool
    named: tuple[Component, ...]
    unexplained: tuple[Component, ...]
    is_localised: bool


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

    ``lost`` … ``late`` leave poison requests out, which must fail (``wrong`` and ``refused`` count them). ``stale``:
    answers of a term that was over when they were asked for. ``duplicated``: computed more than once, hedged or resent.
    ``unnoticed``, ``unrestored``, ``unredundant``: strikes without the time in question; ``undone``: those that could
    not be done. ``budget_burnt``: the share of requests not answered rightly over the share that the objective
    ``slo_ratio`` allows; 1 is all of it.
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
    calm_ms = _calm_ms(asked, struck)
    strikes = tuple(
        _of_strike(number, struck, found.by_strike[number], observed, moments, asked, calm_ms, late_ms)
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
    )


def _worst(times_ms: Iterable[float | None]) -> float | None:
    return max((one for one in times_ms if one is not None), default=None)


def _accuracy_loss(observed: Observed) -> float | None:
    if observed.degraded_score is None or observed.float_score is None:
        return None
    return observed.float_score - observed.degraded_score


def struck_at(script: Script, moments: Sequence[Moment]) -> list[Struck]:
    """Return when each strike was really done, as far as it was said; else when it was due."""
    said = {one.strike: one.at_ms for one in reversed(moments) if one.kind is MomentKind.STRUCK}
    return [(said.get(number, float(one.at_ms)), one) for number, one in enumerate(script.strikes)]


def _of_strike(
    number: int, struck: Sequence[Struck], blamed: Blamed, observed: Observed, moments: Sequence[Moment],
    asked: Sequence[Request], calm_ms: float, late_ms: float,
) -> StrikeMeasures:  # fmt: skip
    at_ms, strike = struck[number]
    until_ms = min((later for later, _ in struck[number + 1 :] if later > at_ms), default=float("inf"))
    failover_ms = _failover_ms(at_ms, strike, until_ms, observed, moments)
    noticed_ms = _noticed_ms(at_ms, strike, until_ms, failover_ms, moments)
    solved_ms = _solved_ms(at_ms, strike, noticed_ms, failover_ms)
    restored = restored_ms(asked, at_ms, until_ms, solved_ms + late_ms, max(late_ms, calm_ms))
    lost_ms = _first(moments, MomentKind.REDUNDANCY_LOST, at_ms, until_ms)
    back_ms = None if lost_ms is None else _first(moments, MomentKind.REDUNDANCY_BACK, lost_ms)
    switches = noticed_ms is not None and failover_ms is not None and not FACTS[strike.fault].is_latent
    return StrikeMeasures(
        fault=strike.fault,
        target=strike.target,
        at_ms=at_ms,
        mttd_ms=None if noticed_ms is None else noticed_ms - at_ms,
        switch_ms=max(0.0, (failover_ms or 0.0) - (noticed_ms or 0.0)) if switches else None,
        rto_ms=restored,
        redundancy_ms=None if back_ms is None else back_ms - at_ms,
        is_redundant_after=lost_ms is None or back_ms is not None,
        named=blamed.named,
        unexplained=blamed.unexplained,
        is_localised=blamed.is_true_of(strike),
    )


def _calm_ms(asked: Sequence[Request], struck: Sequence[Struck]) -> float:
    """Return how long an answer took at most before anything was struck: a busy machine is late by itself."""
    since_ms = min((at_ms for at_ms, _ in struck), default=0.0)
    calm = (one.latency_ms for one in asked if one.done_ms is not None and one.done_ms < since_ms)
    return max((took_ms for took_ms in calm if took_ms is not None), default=0.0)


def _solved_ms(at_ms: float, strike: Strike, noticed_ms: float | None, failover_ms: float | None) -> float:
    """Return when a strike was over for those who ask later: who is late after that is late for another reason."""
    if noticed_ms is not None:
        return max(noticed_ms, failover_ms or 0.0)
    is_quiet = not FACTS[strike.fault].components or FACTS[strike.fault].is_latent
    return at_ms + (strike.lasts_ms or 0) if is_quiet else float("inf")


def _first(
    moments: Sequence[Moment], kind: MomentKind, since_ms: float, until_ms: float = float("inf")
) -> float | None:
    return next((one.at_ms for one in moments if one.kind is kind and since_ms <= one.at_ms < until_ms), None)


def _failover_ms(
    at_ms: float, strike: Strike, until_ms: float, observed: Observed, moments: Sequence[Moment]
) -> float | None:
    """Return the failover that a strike brought about; none where it was done to the side that did not serve."""
    if strike.target is None:
        return _first(moments, MomentKind.FAILOVER, at_ms, until_ms)
    serving = [role for since_ms, role, _ in observed.serving if since_ms <= at_ms]
    return _first(moments, MomentKind.FAILOVER, at_ms) if not serving or serving[-1] is strike.target else None


def _noticed_ms(
    at_ms: float, strike: Strike, until_ms: float, failover_ms: float | None, moments: Sequence[Moment]
) -> float | None:
    facts = FACTS[strike.fault]
    said = [one for one in moments if one.kind is MomentKind.DETECTED and may_be_about(one, at_ms, strike)]
    true = [one.at_ms for one in said if one.component in facts.components | facts.may_say]
    soon = [one.at_ms for one in said if one.at_ms < until_ms]
    found = min(true or soon, default=None)
    if failover_ms is None or facts.is_latent:
        return found
    return failover_ms if found is None else min(found, failover_ms)  # who lets another take over has noticed


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
        lost=outcomes[Outcome.LOST],
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
