"""What a history of requests, moments and terms must never show, whichever world it comes from.

Losses are excused where two things were wrong at once, and only there: a pair promises to survive one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, pairwise

from pipeline.core.names import Role
from pipeline.drill.fault_facts import amount
from pipeline.drill.nouns import FaultKind, MomentKind, Observed, Outcome, Request, Script, Strike
from pipeline.drill.pair_settings import pair_settings
from pipeline.drill.simulated.trouble import FOR_GOOD, Span, calm_ms, notice_ms, strikes_role, trouble_of
from pipeline.runtime.members import Tier
from pipeline.runtime.settings import Settings, VerifyMode

_WRONGING = (FaultKind.WRONG_ANSWERS, FaultKind.CORRUPT_WEIGHTS)
_EVICTIONS = (MomentKind.RESTART, MomentKind.QUARANTINE)
_PLANNED = ("slow", "memory_growth")
_LAG_MS = 5.0  # between two logs, or two clocks
_SERVER_BACK_MS = 400.0
_LAST_CHANCE_MS = 150.0  # what is left of a deadline in which nobody can be helped any more


@dataclass(frozen=True)
class _History:
    script: Script
    observed: Observed
    settings: Settings

    @property
    def strikes(self) -> tuple[Strike, ...]:
        """Return what was done, in the order of the script."""
        return self.script.strikes

    def has(self, *faults: FaultKind) -> bool:
        """Tell whether one of these was done."""
        return any(one.fault in faults for one in self.strikes)

    def deadline_ms(self, request: Request) -> float:
        """Return when a request was given up."""
        return request.due_ms + self.script.load.deadline_ms


def violations(script: Script, observed: Observed) -> tuple[str, ...]:
    """Return every broken promise in a sentence; none: the history is one that a sound pair may have."""
    history = _History(script, observed, pair_settings(script.settings))
    found = [
        *_bugs(history), *_terms(history), *_old_terms(history), *_wrong(history), *_unanswered(history),
        *_unnoticed(history), *_takeovers(history), *_redundancy(history),
    ]  # fmt: skip
    return tuple(found)


def _bugs(history: _History) -> Iterator[str]:
    if "problem" in history.observed.facts:
        yield f"something was raised: {history.observed.facts['problem']}"
    if history.observed.versions_behind:
        yield f"what serves is {history.observed.versions_behind} version(s) behind what was promoted"


def _terms(history: _History) -> Iterator[str]:
    """Terms only grow, one serves at a time, and every answer names one that served."""
    last = 0
    roles: dict[int, Role] = {}
    for since_ms, role, term in history.observed.serving:
        if role is None:
            continue
        if term <= last:
            yield f"at {since_ms:.0f} ms the {role} serves term {term}, after term {last}"
        last = max(last, term)
        roles[term] = role
    for request in history.observed.requests:
        if request.term is not None and request.term not in roles:
            yield f"request {request.number} was answered under term {request.term}, which nobody served"


def _old_terms(history: _History) -> Iterator[str]:
    """Who asks after a newer term answered gets no older one; who was deposed for a fault answers no more."""
    answers = [one for one in history.observed.requests if one.term is not None and one.done_ms is not None]
    ends = sorted((one.done_ms or 0.0, one.term or 0) for one in answers)
    began = [] if _has_swapped(history) else [(at_ms + _LAG_MS, term) for at_ms, _, term in history.observed.serving]
    ends = sorted([*ends, *began])
    newest, place = 0, 0
    for request in sorted(answers, key=lambda one: one.sent_ms or one.due_ms):
        while place < len(ends) and ends[place][0] < (request.sent_ms or request.due_ms):
            newest = max(newest, ends[place][1])
            place += 1
        if request.term is not None and request.term < newest:
            yield f"request {request.number} was asked when term {newest} served and got term {request.term}"
    yield from _deposed(history, answers)


def _has_swapped(history: _History) -> bool:
    """Tell whether a new release took over: it begins to serve before it is asked."""
    return any(one.text.startswith("Swapped from") for one in history.observed.moments)


def _deposed(history: _History, answers: list[Request]) -> Iterator[str]:
    if history.settings.verify is not VerifyMode.OFF:
        return  # an answer that waits for a second opinion keeps the term under which it was given
    moments = history.observed.moments
    planned = {round(one.at_ms) for one in moments if one.kind in _EVICTIONS and any(p in one.text for p in _PLANNED)}
    failovers = [round(one.at_ms) for one in moments if one.kind is MomentKind.FAILOVER]
    served = [one for one in history.observed.serving if one[1] is not None]
    for (_, before, _), (at_ms, role, term) in pairwise(served):
        if round(at_ms) not in failovers or any(abs(at_ms - one) < _LAG_MS for one in planned) or role is before:
            continue
        for one in answers:
            left_ms = one.sent_ms if one.left_ms is None else one.left_ms
            if one.role is before and (one.term or 0) < term and (left_ms or 0.0) > at_ms + _LAG_MS:
                yield f"request {one.number} was answered by the {before} of term {one.term}, deposed at {at_ms:.0f} ms"


def _wrong(history: _History) -> Iterator[str]:
    """Tell of wrong answers that are not of weights or an engine which nobody can have noticed yet."""
    for one in history.observed.requests:
        if one.outcome is Outcome.WRONG and not any(_excuses_wrong(history, strike, one) for strike in history.strikes):
            yield f"request {one.number} got a wrong answer of the {one.role} (due at {one.due_ms:.0f} ms)"


def _excuses_wrong(history: _History, strike: Strike, request: Request) -> bool:
    if strike.fault not in _WRONGING or strike.target is not request.role or request.is_extra:
        return False
    if history.settings.verify is VerifyMode.REPLICAS:
        return False
    left_ms = (request.done_ms if request.left_ms is None else request.left_ms) or 0.0
    evicted = [
        one.at_ms
        for one in history.observed.moments
        if one.kind in _EVICTIONS and f"{strike.target}-0" in one.text and one.at_ms > strike.at_ms
    ]
    until_ms = min([*evicted, strike.at_ms + _slack(history, notice_ms(strike, history.settings))])
    return strike.at_ms <= left_ms <= until_ms + _LAG_MS


def _slack(history: _History, budget_ms: float) -> float:
    """Return a budget, longer where something beside it slowed everything down."""
    if history.has(FaultKind.CPU_STARVATION):
        return budget_ms + 2000
    busy = len(history.strikes) > 1 or history.settings.replicas > 1
    return budget_ms * 2 + 300 if busy else budget_ms


def _unanswered(history: _History) -> Iterator[str]:
    """Tell of losses, refusals and withheld answers that nothing excuses."""
    doubles: list[Span] | None = None
    for one in history.observed.requests:
        if one.outcome in (Outcome.RIGHT, Outcome.WRONG) or one.is_extra:
            continue
        if doubles is None:
            doubles = _doubles(history)
        window = Span(one.due_ms, history.deadline_ms(one))
        if any(window.meets(span) for span in doubles):
            continue
        if "before; it is not tried" in one.problem and any(span.begins_ms < window.ends_ms for span in doubles):
            continue  # when nothing worked, it was taken for the cause
        if one.outcome is not Outcome.ABSTAINED and any(_cost(history, strike, one) for strike in history.strikes):
            continue
        if history.settings.verify is not VerifyMode.OFF and _is_alone(history, window):
            continue
        yield f"request {one.number} (due at {one.due_ms:.0f} ms) is {one.outcome}: {one.problem}"


def _doubles(history: _History) -> list[Span]:
    spans = [span for strike in history.strikes for span in trouble_of(strike, history.observed, history.settings)]
    found = []
    for one, two in combinations(spans, 2):
        if (one.role is not two.role or one.role is None) and one.meets(two):
            found.append(Span(max(one.begins_ms, two.begins_ms), min(one.ends_ms, two.ends_ms)))
    return [*found, *(span for span in spans if span.is_fatal)]


def _is_alone(history: _History, window: Span) -> bool:
    """Tell whether a side was in trouble while a request waited that needs both."""
    spans = (span for strike in history.strikes for span in trouble_of(strike, history.observed, history.settings))
    return any(window.meets(span) for span in spans)


def _cost(history: _History, strike: Strike, request: Request) -> bool:
    """Tell whether a strike honestly costs this request."""
    ends_ms = float("inf") if strike.lasts_ms is None else strike.at_ms + strike.lasts_ms
    window = Span(request.due_ms, history.deadline_ms(request))
    if strike.fault in (FaultKind.DROPPED, FaultKind.RESET):
        return window.meets(Span(strike.at_ms, ends_ms))
    if strike.fault is FaultKind.DELAYED:
        there_and_back = 2 * (amount(strike, "ms") + amount(strike, "jitter_ms"))
        return there_and_back + _LAST_CHANCE_MS > history.script.load.deadline_ms and window.meets(
            Span(strike.at_ms, ends_ms)
        )
    if strike.fault is FaultKind.SERVER_DEATH:
        was_in_flight = request.due_ms <= strike.at_ms <= window.ends_ms and "reset" in request.problem
        return was_in_flight or _was_down(history, strike, window)
    if strike.fault in FOR_GOOD or strike.fault is FaultKind.DESCRIPTORS:  # no taster can be started
        if history.has(FaultKind.POISON):  # so poison that comes again is sent to members again
            return strike.at_ms <= window.ends_ms
        return strike.at_ms <= window.ends_ms and ("failed" in request.problem or "poison" in request.problem)
    return False


def _was_down(history: _History, death: Strike, window: Span) -> bool:
    back = [at for at, role, _ in history.observed.serving if role is not None and at > death.at_ms]
    back_ms = min(back, default=float("inf"))
    return death.at_ms <= window.ends_ms and back_ms + _LAST_CHANCE_MS >= window.ends_ms


def _unnoticed(history: _History) -> Iterator[str]:
    """Tell of decisive faults of a member, with nothing else wrong, that were not noticed within their budget."""
    for strike in _undisturbed(history):
        budget_ms = notice_ms(strike, history.settings)
        seen = [
            one
            for one in history.observed.moments
            if one.kind in (MomentKind.DETECTED, *_EVICTIONS)
            and strike.at_ms <= one.at_ms <= strike.at_ms + budget_ms
            and (one.role is strike.target or one.text.startswith(f"{strike.target}-"))
        ]
        if not seen:
            yield f"{_named(strike)} was not noticed within {budget_ms:.0f} ms"


def _named(strike: Strike) -> str:
    return f"the {strike.fault} of the {strike.target} at {strike.at_ms} ms"


def _takeovers(history: _History) -> Iterator[str]:
    """Who serves and is at fault is replaced within the budget; a server that died is back within another."""
    for strike in _undisturbed(history):
        if history.settings.replicas > 1 or _serving_at(history.observed, strike.at_ms) is not strike.target:
            continue
        budget_ms = notice_ms(strike, history.settings) + (0 if history.settings.standby is Tier.HOT else 120)
        if not _has_served(history.observed, strike.at_ms, strike.at_ms + budget_ms, strike.target):
            yield f"nobody took over within {budget_ms:.0f} ms of {_named(strike)}"
    deaths = [one for one in history.strikes if one.fault is FaultKind.SERVER_DEATH]
    for strike in deaths:
        if len(history.strikes) == 1 and not _has_served(
            history.observed, strike.at_ms, strike.at_ms + _SERVER_BACK_MS, None
        ):
            yield f"no server was back within {_SERVER_BACK_MS:.0f} ms of {strike.at_ms} ms"


def _falls_back(observed: Observed, span: Span) -> bool:
    return any(
        one.kind is MomentKind.FAILBACK and span.begins_ms <= one.at_ms <= span.ends_ms for one in observed.moments
    )


def _has_served(observed: Observed, from_ms: float, to_ms: float, not_role: Role | None) -> bool:
    return any(role is not None and role is not not_role and from_ms <= at <= to_ms for at, role, _ in observed.serving)


def _serving_at(observed: Observed, at_ms: float) -> Role | None:
    found = None
    for since_ms, role, _ in observed.serving:
        if since_ms <= at_ms:
            found = role
    return found


def _undisturbed(history: _History) -> Iterator[Strike]:
    """Yield strikes at a sound, redundant pair, with nothing else wrong until they must have been noticed."""
    if history.has(FaultKind.CPU_STARVATION):
        return
    for strike in history.strikes:
        budget_ms = notice_ms(strike, history.settings)
        lasts = strike.lasts_ms is None or strike.lasts_ms >= budget_ms
        if not strikes_role(strike.fault) or budget_ms == float("inf") or not lasts:
            continue
        if (
            history.settings.standby is not Tier.HOT
            and _serving_at(history.observed, strike.at_ms) is not strike.target
        ):
            continue  # it sleeps: nothing can be done to it
        if history.settings.replicas > 1 and len(history.strikes) > 1:
            continue  # the seat that is struck may be empty
        span = Span(strike.at_ms, strike.at_ms + budget_ms)
        if history.settings.standby is not Tier.HOT and _falls_back(history.observed, span):
            continue  # it is put to sleep before anybody can notice
        others = (
            other
            for one in history.strikes
            if one is not strike
            for other in trouble_of(one, history.observed, history.settings)
        )
        if not any(span.meets(other) for other in others) and calm_ms(history.observed, strike.at_ms) == strike.at_ms:
            yield strike


def _redundancy(history: _History) -> Iterator[str]:
    """Once every fault is over, somebody serves and somebody stands by."""
    lasting = (FaultKind.EXIT, FaultKind.CPU_STARVATION, FaultKind.DESCRIPTORS, FaultKind.DISK_FULL)
    if any(one.fault in FOR_GOOD or (one.fault in lasting and one.lasts_ms is None) for one in history.strikes):
        return
    moments = history.observed.moments
    if any(one.kind is MomentKind.QUARANTINE for one in moments):
        return  # an operator is called
    if history.observed.serving and history.observed.serving[-1][1] is None:
        yield "nobody serves in the end"
    elif calm_ms(history.observed, float("inf")) == float("inf"):
        yield "nobody stands by in the end"
