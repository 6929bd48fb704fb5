"""What one strike did: when it was noticed, when another took over, when all was as before."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.names import Role
from pipeline.drill.fault_facts import FACTS
from pipeline.drill.incidents import restored_ms
from pipeline.drill.localisation import Blamed, may_be_about
from pipeline.drill.nouns import FaultKind, Moment, MomentKind, Observed, Request, Script, Strike
from pipeline.runtime.members import Component

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


def struck_at(script: Script, moments: Sequence[Moment]) -> list[Struck]:
    """Return when each strike was really done, as far as it was said; else when it was due."""
    said = {one.strike: one.at_ms for one in reversed(moments) if one.kind is MomentKind.STRUCK}
    return [(said.get(number, float(one.at_ms)), one) for number, one in enumerate(script.strikes)]


def of_strike(
    number: int, struck: Sequence[Struck], blamed: Blamed, observed: Observed, moments: Sequence[Moment],
    asked: Sequence[Request], calm_ms: float, late_ms: float,
) -> StrikeMeasures:  # fmt: skip
    """Measure one strike of ``struck``; ``asked`` in the order of due times, ``calm_ms``: see calm_before_ms."""
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


def calm_before_ms(asked: Sequence[Request], struck: Sequence[Struck]) -> float:
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
