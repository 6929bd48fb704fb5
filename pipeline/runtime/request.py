"""The life of one request, pure: sent, hedged, sent again, tasted, compared; answered exactly once.

A request is sent to a member of the serving role. If that is late it is sent to a second one (a hedge), if that
fails, to another: inference is idempotent. One that was being computed when a worker ended by itself is a suspect:
it is tried again only on a taster, a spare worker of its own. Times are milliseconds of one clock.
"""

from collections.abc import Iterator
from itertools import combinations

from pipeline.core.names import Role
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.request_nouns import (
    TASTER_REPLICA,
    Abstain,
    AnswerBad,
    AnswerGood,
    Arrived,
    Attempt,
    Available,
    Choice,
    Compare,
    Compared,
    Lost,
    MembersChanged,
    Moved,
    Outcome,
    Phase,
    Refuse,
    Release,
    RequestAction,
    RequestEvent,
    RequestState,
    RequestTick,
    Send,
    Taste,
    WakeAt,
)
from pipeline.runtime.service import RefusalKind
from pipeline.runtime.settings import VerifyMode

__all__ = [
    "ATTEMPTS_MAX",
    "TASTER_REPLICA",
    "Abstain",
    "AnswerBad",
    "AnswerGood",
    "Arrived",
    "Attempt",
    "Available",
    "Compare",
    "Compared",
    "Lost",
    "MembersChanged",
    "Outcome",
    "Phase",
    "Refuse",
    "Release",
    "RequestAction",
    "RequestEvent",
    "RequestState",
    "RequestTick",
    "Send",
    "Taste",
    "WakeAt",
    "first_request",
    "heard",
    "pursued",
    "request_step",
]  # fmt: skip

ATTEMPTS_MAX = 6  # two failovers in a row, hedged; more means that nobody can answer this one
Final = Release | Abstain | Refuse


def first_request(deadline_ms: float, hedge_after_ms: float, verify: VerifyMode = VerifyMode.OFF) -> RequestState:
    """Return a request that nothing happened to yet; ``deadline_ms`` is a moment, ``hedge_after_ms`` a duration."""
    return RequestState(deadline_ms, hedge_after_ms, verify)


def request_step(state: RequestState, event: RequestEvent, available: Available) -> Moved:
    """Take one event. Once Release, Abstain or Refuse was returned, nothing is returned any more."""
    found = heard(state, event)
    if found is None:
        return state, ()
    state, final = found
    return pursued(state, event.now_ms, available) if final is None else (state, (final,))


def heard(state: RequestState, event: RequestEvent) -> tuple[RequestState, Final | None] | None:
    """Take one event and return the last word, if that makes it; None: the event is of no concern.

    The first half of :func:`request_step`, which needs not know who can be asked: most events end here.
    """
    if state.phase is Phase.DONE:
        return None
    if event.now_ms >= state.deadline_ms:
        return _done(state, _too_late(state))
    if isinstance(event, AnswerGood) and (answered := _simply_answered(state, event)) is not None:
        return answered
    taken = _taken(state, event)
    if taken is None:
        return None
    final = None if taken is state else _final(taken)
    return (taken, None) if final is None else _done(taken, final)


def _simply_answered(state: RequestState, event: AnswerGood) -> tuple[RequestState, Final] | None:
    """Return at once what the rest of :func:`heard` comes to where nothing went wrong: nearly always."""
    if len(state.attempts) != 1 or state.verify is not VerifyMode.OFF or state.phase is not Phase.RUNNING:
        return None
    seat, incarnation, sent_ms, outcome, _ = state.attempts[0]
    if outcome is not Outcome.PENDING or incarnation != event.incarnation or seat != event.seat:
        return None
    attempts = (Attempt(seat, incarnation, sent_ms, Outcome.GOOD),)
    return RequestState(state.deadline_ms, state.hedge_after_ms, state.verify, attempts, Phase.DONE), Release(
        seat, incarnation
    )


def _done(state: RequestState, final: Final) -> tuple[RequestState, Final]:
    return state._replace(phase=Phase.DONE, comparing=None), final


def _too_late(state: RequestState) -> Final:
    if not state.attempts:
        return Refuse(RefusalKind.UNAVAILABLE, "no member could take the request before its deadline")
    if any(attempt.outcome is Outcome.GOOD for attempt in state.attempts):
        return Abstain("only one side answered before the deadline: verify mode releases nothing alone")
    return Refuse(RefusalKind.DEADLINE, "no answer before the request's deadline")


def _taken(state: RequestState, event: RequestEvent) -> RequestState | None:
    """Note what happened; None: it is of no concern (an attempt that is over, or was never made)."""
    if isinstance(event, (AnswerGood, AnswerBad, Lost)):
        return _attempted(state, event)
    if isinstance(event, Compared):
        if state.comparing is None:
            return None
        return state._replace(comparing=None, verdicts=(*state.verdicts, (*state.comparing, event.agree)))
    return state


def _attempted(state: RequestState, event: AnswerGood | AnswerBad | Lost) -> RequestState | None:
    place = _place(state, event)
    if place is None:
        return None
    outcome = _outcome(event)
    fault = event.fault if isinstance(event, AnswerBad) else None
    known = Attempt(event.seat, event.incarnation, state.attempts[place].sent_ms, outcome, fault)
    state = state._replace(attempts=(*state.attempts[:place], known, *state.attempts[place + 1 :]))
    if outcome is Outcome.SUSPECT:
        return state._replace(phase=Phase.TASTING)
    if known.is_tasting and outcome is not Outcome.LOST and not _to_taste(state):
        return state._replace(phase=Phase.RUNNING)  # the taster lived: no suspect any more
    return state


def _ended_sides(state: RequestState) -> set[Role]:
    """Return the sides of which a member ended at this request: no other one of theirs is asked.

    Verify pair wants to hear both, and which side a request that came as a suspect may have ended is not known.
    """
    came_as_suspect = state.attempts[0].is_tasting if state.attempts else state.phase is Phase.TASTING
    if state.verify is VerifyMode.PAIR and came_as_suspect:
        return set(Role)
    return {a.seat.role for a in state.attempts if a.outcome is Outcome.SUSPECT and not a.is_tasting}


def _to_taste(state: RequestState) -> list[Role]:
    """Return the sides that verify pair must hear and that only tasters may speak for, those that have not yet."""
    if state.verify is not VerifyMode.PAIR:
        return []
    heard = {a.seat.role for a in state.attempts if a.is_tasting and a.outcome in (Outcome.GOOD, Outcome.BAD)}
    return sorted(_ended_sides(state) - heard, reverse=True)


def _place(state: RequestState, event: AnswerGood | AnswerBad | Lost) -> int | None:
    """Return the attempt that an event is about; which taster it will be is known only when that one speaks."""
    tasting = None
    for place, attempt in enumerate(state.attempts):
        is_pending = attempt.outcome is Outcome.PENDING
        if attempt.seat == event.seat and attempt.incarnation == event.incarnation:
            return place if is_pending else None
        if is_pending and attempt.is_tasting:
            tasting = place
    return tasting if event.seat.replica == TASTER_REPLICA else None


def _outcome(event: AnswerGood | AnswerBad | Lost) -> Outcome:
    if isinstance(event, AnswerGood):
        return Outcome.GOOD
    if isinstance(event, AnswerBad):
        return Outcome.BAD
    return Outcome.SUSPECT if event.suspect else Outcome.LOST


def _final(state: RequestState) -> Final | None:
    """Return the last word, if it can be spoken now."""
    if any(a.is_tasting and a.outcome is Outcome.SUSPECT for a in state.attempts):
        return Refuse(RefusalKind.POISON, "this request ends every worker that computes it: it is not tried again")
    good = [attempt for attempt in state.attempts if attempt.outcome is Outcome.GOOD]
    if good and state.verify is VerifyMode.OFF:
        return Release(good[0].seat, good[0].incarnation)
    if state.verdicts and (judged := _judged(state)) is not None:
        return judged
    return None if any(attempt.is_open for attempt in state.attempts) else _failed(state)


def _failed(state: RequestState) -> Refuse | None:
    bad = [attempt for attempt in state.attempts if attempt.outcome is Outcome.BAD]
    unable = {attempt.seat.role for attempt in bad} | _ended_sides(state)
    if len({attempt.seat.role for attempt in bad}) == len(Role):
        what = "errors" if all(a.fault is Fault.ERRORS for a in bad) else "outputs that break the model's rules"
        return Refuse(RefusalKind.BAD_REQUEST, f"primary and backup both answer this request with {what}")
    if len(unable) == len(Role) and any(attempt.is_tasting for attempt in bad):
        what = "one side ends at this request and the other answers it with an error: it is not tried again"
        return Refuse(RefusalKind.POISON, what)
    if len(state.attempts) >= ATTEMPTS_MAX:
        return Refuse(RefusalKind.UNAVAILABLE, f"the request failed {len(state.attempts)} times")
    return None


def _judged(state: RequestState) -> Final | None:
    has_settled = any(not agree for _, _, agree in state.verdicts)
    for a, b, agree in state.verdicts:
        if (
            agree
        ):  # of two that differed either may be wrong, and a third opinion's tolerance may take in both: it counts
            released = state.attempts[b if has_settled else a]
            return Release(released.seat, released.incarnation)
    opinions = 2 if state.verify is VerifyMode.PAIR else 3
    if len(state.verdicts) < len(list(combinations(range(opinions), 2))):
        return None
    return Abstain(f"{opinions} answers disagree beyond their tolerance: none is released")


def pursued(state: RequestState, now_ms: float, available: Available) -> Moved:
    """Do what brings the request nearer to its answer: the second half of :func:`request_step`."""
    if (simply := _simply_sent(state, now_ms, available.serving)) is not None:
        return simply
    if state.verify is not VerifyMode.OFF and state.comparing is None:
        for a, b in _to_compare(state):
            return state._replace(comparing=(a, b)), (WakeAt(state.deadline_ms), Compare(a, b))
    sends: tuple[RequestAction, ...]
    if state.phase is Phase.TASTING:
        state, sends = _tasted(state, now_ms, available)
    else:
        state, sends = _sent(state, now_ms, available)
    return state, (WakeAt(_wake_ms(state, now_ms)), *sends)


def _simply_sent(state: RequestState, now_ms: float, serving: tuple[Choice, ...]) -> Moved | None:
    """Return at once what the rest of :func:`pursued` comes to for a request that is new: the first sending."""
    if state.attempts or not serving or state.verify is not VerifyMode.OFF or state.phase is not Phase.RUNNING:
        return None
    seat, incarnation, _ = serving[0] if len(serving) == 1 else min(serving, key=lambda choice: choice[2])
    attempts = (Attempt(seat, incarnation, now_ms),)
    state = RequestState(state.deadline_ms, state.hedge_after_ms, state.verify, attempts)
    hedge_ms = now_ms + state.hedge_after_ms
    wake_ms = min(hedge_ms, state.deadline_ms) if hedge_ms > now_ms else state.deadline_ms
    return state, (WakeAt(wake_ms), Send(seat, incarnation, False))


def _to_compare(state: RequestState) -> Iterator[tuple[int, int]]:
    good = [place for place, attempt in enumerate(state.attempts) if attempt.outcome is Outcome.GOOD]
    judged = {(a, b) for a, b, _ in state.verdicts}
    for a, b in combinations(good, 2):
        differ = state.attempts[a].seat.role is not state.attempts[b].seat.role
        if (a, b) not in judged and (differ or state.verify is VerifyMode.REPLICAS):
            yield a, b


def _tasted(state: RequestState, now_ms: float, available: Available) -> Moved:
    is_waiting = any(attempt.outcome is Outcome.PENDING for attempt in state.attempts)
    if is_waiting or not available.taster or len(state.attempts) >= ATTEMPTS_MAX:
        return state, ()
    role = next(iter(_to_taste(state)), None)
    attempt = Attempt(Seat(role or Role.PRIMARY, TASTER_REPLICA), 0, now_ms)
    return state._replace(attempts=(*state.attempts, attempt)), (Taste(role),)


def _sent(state: RequestState, now_ms: float, available: Available) -> Moved:
    sends: list[RequestAction] = []
    if not available.serving:  # while nobody serves nobody is asked: the answer would bear a term that is over
        return state, ()
    for choices, is_hedge in _wanted(state, now_ms, available):
        choice = _least_loaded(state, choices)
        if choice is not None and len(state.attempts) < ATTEMPTS_MAX:
            seat, incarnation, _ = choice
            state = state._replace(attempts=(*state.attempts, Attempt(seat, incarnation, now_ms)))
            sends.append(Send(seat, incarnation, is_hedge))
    return state, tuple(sends)


Groups = tuple[tuple[Choice, ...], ...]


def _wanted(state: RequestState, now_ms: float, available: Available) -> Iterator[tuple[Groups, bool]]:
    """Yield for each sending that is due whom to ask (the first group that has somebody), and whether it is a hedge."""
    serving, others = available.serving, available.others
    if state.verify is VerifyMode.OFF:
        pending = [attempt for attempt in state.attempts if attempt.outcome is Outcome.PENDING]
        if not pending:
            has_failed = any(attempt.outcome is Outcome.BAD for attempt in state.attempts)
            yield ((others, serving) if has_failed else (serving, others)), False
        elif len(pending) == 1 and now_ms >= pending[0].sent_ms + state.hedge_after_ms:
            yield (others, serving), True
        return
    open_roles = [attempt.seat.role for attempt in state.attempts if attempt.is_open]
    if state.verify is VerifyMode.PAIR:
        for group in (serving, others):
            if group and group[0][0].role not in open_roles:
                yield (group,), False
        return
    for _ in range(len(open_roles), 3 if state.verdicts else 2):
        yield (serving, others), False


def _least_loaded(state: RequestState, groups: Groups) -> Choice | None:
    asked, ended = {(attempt.seat, attempt.incarnation) for attempt in state.attempts}, _ended_sides(state)
    for group in groups:
        fresh = [choice for choice in group if choice[:2] not in asked and choice[0].role not in ended]
        if fresh:
            return min(fresh, key=lambda choice: choice[2])
    return None


def _wake_ms(state: RequestState, now_ms: float) -> float:
    pending = [attempt for attempt in state.attempts if attempt.outcome is Outcome.PENDING]
    if state.verify is not VerifyMode.OFF or len(pending) != 1 or pending[0].is_tasting:
        return state.deadline_ms
    hedge_ms = pending[0].sent_ms + state.hedge_after_ms
    return min(hedge_ms, state.deadline_ms) if hedge_ms > now_ms else state.deadline_ms
