"""When a strike leaves a pair with less than two sound sides, and how soon a strike must be noticed."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.core.names import Role
from pipeline.drill.fault_facts import FACTS, amount
from pipeline.drill.nouns import FaultKind, MomentKind, Observed, Strike
from pipeline.runtime.detectors import DRAG_ANSWERS, SLOW_FLOOR_MS
from pipeline.runtime.members import Tier
from pipeline.runtime.settings import Settings

FOR_GOOD = frozenset({
    FaultKind.BIT_FLIP, FaultKind.TRUNCATED, FaultKind.TAMPERED, FaultKind.EXPIRED, FaultKind.ROLLED_BACK,
    FaultKind.STALE_MODEL,
})  # fmt: skip
_HARMLESS_ALONE = FOR_GOOD | {
    FaultKind.DISK_FULL, FaultKind.DESCRIPTORS, FaultKind.DROPPED, FaultKind.DELAYED, FaultKind.RESET,
    FaultKind.REGISTRY_DOWN, FaultKind.STORE_DOWN, FaultKind.CLOCK_BACK, FaultKind.START_FAILS,
}  # fmt: skip
_FAILS_REQUESTS = (FaultKind.ERRORS, FaultKind.MALFORMED, FaultKind.WRONG_DTYPE, FaultKind.NAN)
_OF_ENGINE = frozenset({
    *_FAILS_REQUESTS, FaultKind.HANG, FaultKind.EXIT, FaultKind.SLOW, FaultKind.WRONG_ANSWERS,
    FaultKind.CORRUPT_WEIGHTS,
})  # fmt: skip
_SLACK_MS = 60.0  # ticks, transits, and how a process ended: together
_FOREVER = float("inf")


@dataclass(frozen=True)
class Span:
    """A span of time; ``role``: the side that was in trouble, None where it was the server, so both."""

    begins_ms: float
    ends_ms: float
    role: Role | None = None
    is_fatal: bool = False  # costs requests by itself

    def meets(self, other: "Span") -> bool:
        """Tell whether two spans have a moment in common."""
        return self.begins_ms <= other.ends_ms and other.begins_ms <= self.ends_ms


def strikes_role(fault: FaultKind) -> bool:
    """Tell whether a fault leaves a role without a sound worker."""
    return FACTS[fault].is_aimed and fault not in _HARMLESS_ALONE


def notice_ms(strike: Strike, settings: Settings) -> float:
    """Return how soon a strike must be noticed, even if no client asks: canaries do. Infinite: it need not be.

    An engine that fails at a known question is noticed by one canary, an error counts three times, a hang is owed
    for ``evict_after_ms``, a stopped one for ``hedge_max_ms``.
    """
    canary_ms = settings.probe_every_ms + _SLACK_MS
    budgets: Mapping[FaultKind, float] = {
        FaultKind.KILL: _SLACK_MS,
        FaultKind.STOP: canary_ms + settings.hedge_max_ms,
        FaultKind.HANG: canary_ms + settings.evict_after_ms,
        FaultKind.EXIT: canary_ms,
        FaultKind.ERRORS: canary_ms * settings.errors_in_a_row,
        FaultKind.MALFORMED: canary_ms,
        FaultKind.WRONG_DTYPE: canary_ms,
        FaultKind.NAN: canary_ms,
        FaultKind.WRONG_ANSWERS: canary_ms,
        FaultKind.CORRUPT_WEIGHTS: canary_ms,
    }
    if strike.fault is FaultKind.OUT_OF_MEMORY:
        return canary_ms * (2 + amount(strike, "spare_mb") // amount(strike, "grow_mb"))
    if strike.fault is FaultKind.SLOW:
        return budgets[FaultKind.HANG] if _is_hang(strike, settings) else _notice_slow_ms(strike, settings)
    return budgets.get(strike.fault, _FOREVER)


def _is_hang(strike: Strike, settings: Settings) -> bool:
    return amount(strike, "ms") > settings.evict_after_ms + _SLACK_MS


def _notice_slow_ms(strike: Strike, settings: Settings) -> float:
    """Return when enough slow answers must have come, canaries at least; a small shift, or one side alone: never."""
    if settings.standby is not Tier.HOT or amount(strike, "ms") < 2 * SLOW_FLOOR_MS:
        return _FOREVER
    answers = DRAG_ANSWERS + 1
    each_ms = amount(strike, "ms") + amount(strike, "jitter_ms") + answers * amount(strike, "ramp_ms")
    return (1 + answers) * max(each_ms, settings.probe_every_ms) + _SLACK_MS


def calm_ms(observed: Observed, at_ms: float) -> float:
    """Return the first moment from ``at_ms`` on at which somebody serves and somebody stands by; infinite: none."""
    events: list[tuple[float, bool | None, bool | None]] = [
        (one.at_ms, one.kind is MomentKind.REDUNDANCY_BACK, None)
        for one in observed.moments
        if one.kind in (MomentKind.REDUNDANCY_LOST, MomentKind.REDUNDANCY_BACK)
    ]
    events += [(since, None if role is not None else False, role is not None) for since, role, _ in observed.serving]
    is_redundant, is_served = True, True
    calm_since: float | None = 0.0
    for since, redundant, served in sorted(events, key=lambda event: event[0]):
        if since > at_ms and calm_since is not None:
            break
        is_redundant = is_redundant if redundant is None else redundant
        is_served = is_served if served is None else served
        is_calm = is_redundant and is_served
        calm_since = (since if calm_since is None else calm_since) if is_calm else None
    if calm_since is None:
        return _FOREVER
    return max(calm_since, at_ms) if at_ms != _FOREVER else calm_since


def trouble_of(strike: Strike, observed: Observed, settings: Settings) -> list[Span]:
    """Return when a strike left a side, or the server, in trouble: until it is over and all is as before."""
    if strike.fault in _HARMLESS_ALONE:
        return _while_asleep(strike, settings)
    if strike.fault in _OF_ENGINE and _is_asleep(strike, observed, settings):
        return [Span(strike.at_ms, _FOREVER, strike.target, is_fatal=True)]  # it is found when it is woken, not before
    ends_ms = _FOREVER if strike.lasts_ms is None else float(strike.at_ms + strike.lasts_ms)
    if strike.fault is FaultKind.SLOW and notice_ms(strike, settings) == _FOREVER:
        # Under a load that it cannot bear it falls behind, and hedges are kept to one request in twenty.
        return [Span(strike.at_ms, ends_ms + 1000, strike.target, is_fatal=True)]
    if strike.fault is FaultKind.CPU_STARVATION:
        return [Span(strike.at_ms, ends_ms + 2500, is_fatal=True)]
    if strike.fault is FaultKind.SERVER_DEATH:
        return [Span(strike.at_ms, calm_ms(observed, strike.at_ms + 1))]
    if strike.fault is FaultKind.POISON:
        last_ms = strike.at_ms + amount(strike, "poison_requests") * amount(strike, "every_ms")
        return [Span(strike.at_ms, calm_ms(observed, last_ms + 500))]  # whichever side is asked
    noticed_ms = strike.at_ms + notice_ms(strike, settings)
    if settings.standby is not Tier.HOT and strike.fault in _FAILS_REQUESTS:
        # Nobody else can be asked while a few errors are no fault yet: such a request waits until its deadline.
        return [Span(strike.at_ms, noticed_ms + _SLACK_MS, strike.target, is_fatal=True)]
    over_ms = max(noticed_ms, ends_ms) if strike.fault is FaultKind.EXIT else noticed_ms
    until = over_ms if over_ms == _FOREVER else calm_ms(observed, over_ms)
    return [Span(strike.at_ms, until + _SLACK_MS, strike.target)]


def _is_asleep(strike: Strike, observed: Observed, settings: Settings) -> bool:
    """Tell whether a strike hit a standby that nobody asks anything, not even a canary."""
    served = [role for since_ms, role, _ in observed.serving if since_ms <= strike.at_ms]
    return settings.standby is not Tier.HOT and strike.target is Role.BACKUP and served[-1:] != [Role.BACKUP]


def _while_asleep(strike: Strike, settings: Settings) -> list[Span]:
    """Return the trouble of what is only felt at a start: a standby that sleeps has yet to start when it is needed."""
    at_a_start = strike.fault in FOR_GOOD or strike.fault in (FaultKind.START_FAILS, FaultKind.DESCRIPTORS)
    if settings.standby is Tier.HOT or not at_a_start:
        return []
    return [Span(strike.at_ms, _FOREVER, strike.target or Role.BACKUP)]
