"""The pair machine, pure: (state, event) → (state, actions). No clock, no IO, no randomness.

Time arrives as ticks. One loop carries the actions out, in their order; what it cannot carry out it reports as
:class:`Failed`. Only :class:`Serve` makes a role answer, each time under a higher term, one of those that the loop has
reserved on disk before (:class:`Granted`). A loop that dies at any point starts again with :func:`first_state` and the
highest term that was reserved: nothing else needs to be remembered.
"""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.core.names import Role
from pipeline.runtime.members import MemberState, Seat, Tier
from pipeline.runtime.pair_nouns import (
    EVERY_TERM,
    Action,
    Asked,
    DrainAsked,
    Event,
    Excused,
    Failed,
    Granted,
    HoldAsked,
    Load,
    Member,
    Moved,
    Note,
    NoteKind,
    PairState,
    ProbePassed,
    Ready,
    ReleaseAsked,
    Serve,
    Staged,
    Start,
    Stop,
    SwitchAsked,
    Tick,
    Unserve,
    other,
)
from pipeline.runtime.pair_seats import LIVE, OUT, excused, held, of_worker, released, seats, tended, timed_out
from pipeline.runtime.pair_serving import NO_TERM_LEFT, probes_needed, redundancy_noted, replaced, served
from pipeline.runtime.settings import Failback, Settings, VerifyMode

__all__ = [
    "Action", "DrainAsked", "Event", "Excused", "Failed", "Granted", "HoldAsked", "Load", "Member", "Note", "NoteKind",
    "PairState", "ProbePassed", "Ready", "ReleaseAsked", "Serve", "Staged", "Start", "Stop", "SwitchAsked", "Tick",
    "Unserve", "first_state", "is_calm", "probes_needed", "refusal", "step",
]  # fmt: skip


def first_state(
    settings: Settings, now_ms: int, term: int, granted: Granted = EVERY_TERM
) -> tuple[PairState, tuple[Action, ...]]:
    """Return a new pair and its first actions; ``term`` is the highest that was ever used, or reserved for others."""
    state = PairState(
        settings, now_ms, term, None, seats(settings, now_ms), draining=False, failovers_ms=(), started_ms=now_ms,
        granted=granted,
    )  # fmt: skip
    return _settled(state, Tick(now_ms))


def step(state: PairState, event: Event) -> tuple[PairState, tuple[Action, ...]]:
    """Take one event. Serve and Unserve come before Stop: who takes over does not wait for who goes."""
    if isinstance(event, Tick) and is_calm(state):
        return replace(state, now_ms=max(event.now_ms, state.now_ms)), ()
    if not isinstance(event, Tick) and (sentence := refusal(state, event)):
        return state, (Note(sentence, NoteKind.REFUSED),)
    taken, first = _taken(state, event)
    if taken is state or (is_calm(state) and is_calm(taken)):
        return taken, first
    after, actions = _settled(taken, event, first)
    return after, (*actions, *redundancy_noted(state, after))


def is_calm(state: PairState) -> bool:
    """Tell whether all is well, so that nothing is to be done: nearly always, and it spares a server the asking."""
    return (
        state.serving is Role.PRIMARY
        and state.switching_to is None
        and not state.draining
        and state.settings.standby is Tier.HOT
        and all(m.state is MemberState.READY and m.leaving is None for m in state.members)
    )


def _settled(state: PairState, event: Event, first: tuple[Action, ...] = ()) -> Moved:
    state, serves = served(state, event)
    actions = (*serves, *first)
    if not state.draining:
        state, more = replaced(state)
        actions += more
    for place in range(len(state.members)):
        state, more = tended(state, state.members[place])
        actions += more
    is_coming = any(m.seat.role is state.switching_to and m.state in LIVE for m in state.members)
    return state if is_coming or state.switching_to is None else replace(state, switching_to=None), actions


def _taken(state: PairState, event: Event) -> Moved:
    match event:
        case Tick():
            return _ticked(state, event.now_ms)
        case Excused():
            return excused(state, state.member(event.seat)), ()
        case Granted():
            return replace(state, granted=event), ()
        case SwitchAsked():
            return replace(state, switching_to=event.to), ()
        case HoldAsked():
            return held(state, event)
        case ReleaseAsked():
            return released(state, event)
        case DrainAsked():
            return replace(state, draining=True, switching_to=None), ()
    return of_worker(state, event)


def _ticked(state: PairState, now_ms: int) -> Moved:
    state = replace(state, now_ms=max(now_ms, state.now_ms))
    actions: tuple[Action, ...] = ()
    for place in range(len(state.members)):
        state, more = timed_out(state, state.members[place])
        actions += more
    return state, actions


def refusal(state: PairState, event: Event) -> str | None:
    """Return why an operator's request would be refused, as a sentence; None: it would be done."""
    if not isinstance(event, Asked) or isinstance(event, DrainAsked):
        return None
    if state.draining:
        return "the server is ending: nothing is changed any more"
    match event:
        case SwitchAsked():
            return _why_not_switch(state, event.to)
        case HoldAsked():
            return _why_not_hold(state, event.seat)
        case ReleaseAsked() if state.member(event.seat).state not in OUT:
            return f"{event.seat} is neither held nor quarantined"
    return None


def _why_not_switch(state: PairState, to: Role) -> str | None:
    if to is state.serving:
        return f"the {to} serves already"
    if state.next_term is None:
        return f"the {to} cannot take over: {NO_TERM_LEFT}"
    if to is Role.PRIMARY and state.settings.failback is Failback.NEVER and not state.pinned and state.has_served:
        return "failback is set to never: the primary serves again after a swap or a restart"
    if state.staying(to) or any(_can_be_woken(state, member) for member in state.members if member.seat.role is to):
        return None
    return f"the {to} is not ready"


def _can_be_woken(state: PairState, member: Member) -> bool:
    is_asleep = member.state is MemberState.DOWN and member.start_at_ms is None
    return state.settings.standby is not Tier.HOT and (is_asleep or member.state is MemberState.STAGED)


def _why_not_hold(state: PairState, seat: Seat) -> str | None:
    if state.member(seat).state is MemberState.HELD:
        return f"{seat} is held already"
    ready = [member for role in Role for member in state.ready(role)]
    left = [member for member in ready if member.seat != seat]
    if not left:
        return f"holding {seat} would end the service: no other member is ready; switch to the {other(seat.role)} first"
    if state.next_term is None and all(member.seat.role is not state.serving for member in left):
        return f"holding {seat} would end the service: {NO_TERM_LEFT}"
    verify = state.settings.verify
    if _can_agree(ready, verify) and not _can_agree(left, verify):
        return f"holding {seat} would end the service: too few would be left to agree, as verify mode {verify} wants"
    return None


def _can_agree(members: Sequence[Member], verify: VerifyMode) -> bool:
    if verify is VerifyMode.PAIR:
        return len({member.seat.role for member in members}) == len(Role)
    return verify is VerifyMode.OFF or len(members) > 1
