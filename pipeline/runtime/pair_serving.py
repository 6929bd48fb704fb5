"""Who serves: failover, failback, switchover, outage, and who may leave because another serves in its place."""

from dataclasses import replace

from pipeline.core.names import Role
from pipeline.runtime.members import Fault, MemberState, Tier
from pipeline.runtime.pair_nouns import (
    Action,
    Event,
    HoldAsked,
    Moved,
    Note,
    NoteKind,
    PairState,
    Serve,
    Unserve,
    other,
)
from pipeline.runtime.pair_seats import ended
from pipeline.runtime.settings import Failback

FAILOVER_MEMORY_WINDOWS = 10  # a primary that fails once a minute must wait longer each time too
DOUBLINGS_MAX = 6
NO_TERM_LEFT = "no reserved term is left, and the disk takes no more; free space where the state directory is"


def probes_needed(state: PairState) -> int:
    """Return the clean probes that the primary owes before failback: doubled for each failover it caused lately."""
    doublings = min(max(len(_recent_failovers(state)) - 1, 0), DOUBLINGS_MAX)
    return state.settings.failback_probes << doublings


def _recent_failovers(state: PairState) -> tuple[int, ...]:
    since = state.now_ms - FAILOVER_MEMORY_WINDOWS * state.settings.restarts_window_s * 1000
    return tuple(at for at in state.failovers_ms if at > since)


def _failback_is_due(state: PairState) -> bool:
    if state.serving is not Role.BACKUP or state.pinned or state.settings.failback is not Failback.AFTER_PROBES:
        return False
    return any(m.clean_probes >= probes_needed(state) for m in state.staying(Role.PRIMARY))


def chosen(state: PairState) -> Role | None:
    """Return the role that should serve now; who serves goes on unless there is a reason."""
    serving = state.serving
    if state.switching_to is not None and state.staying(state.switching_to):
        return state.switching_to
    if serving is None or not state.ready(serving):
        return _newly_chosen(state)
    if not state.staying(serving) and state.staying(other(serving)):
        return other(serving)
    return Role.PRIMARY if _failback_is_due(state) else serving


def _newly_chosen(state: PairState) -> Role | None:
    by_soundness = [role for role in Role if state.staying(role)] + [role for role in Role if state.ready(role)]
    if not by_soundness:
        return None
    is_early = not state.has_served and by_soundness[0] is Role.BACKUP and state.primary_is_on_its_way()
    return None if is_early else by_soundness[0]


def served(state: PairState, event: Event) -> Moved:
    """Let the chosen role serve, under a new term where it is another than before."""
    role = chosen(state)
    if role is not state.serving and state.next_term is None:  # another pair may use any other: nobody may take over
        role = state.serving if state.serving is not None and state.ready(state.serving) else None
    if role is state.serving:
        return state, ()
    kind = _kind(state, role, event)
    by_fault = kind in (NoteKind.FAILOVER, NoteKind.OUTAGE) and state.serving is Role.PRIMARY
    moved = replace(
        state,
        serving=role,
        term=state.term if role is None or state.next_term is None else state.next_term,
        has_served=state.has_served or role is not None,
        failovers_ms=(*_recent_failovers(state), state.now_ms) if by_fault else state.failovers_ms,
        pinned=role is not Role.PRIMARY and (state.pinned or state.switching_to is role is not None),
        switching_to=None if state.switching_to is role else state.switching_to,
    )
    act: Action = Unserve(state.term) if role is None else Serve(role, moved.term)
    return moved, (act, Note(_sentence(kind, moved), kind))


def _kind(state: PairState, role: Role | None, event: Event) -> NoteKind:
    if role is None:
        return NoteKind.OUTAGE
    if state.serving is None:
        return NoteKind.RESTORED if state.has_served else NoteKind.STARTED
    if role is state.switching_to or isinstance(event, HoldAsked):
        return NoteKind.SWITCHOVER
    return NoteKind.FAILBACK if state.staying(state.serving) else NoteKind.FAILOVER


def _sentence(kind: NoteKind, moved: PairState) -> str:
    if moved.serving is None:
        return f"nobody serves: {NO_TERM_LEFT if any(map(moved.ready, Role)) else 'no member is ready'}"
    verb = {
        NoteKind.STARTED: "serves",
        NoteKind.FAILOVER: "takes over",
        NoteKind.FAILBACK: "serves again: it stayed sound long enough",
        NoteKind.SWITCHOVER: "serves, as an operator asked",
    }.get(kind, "ends the outage")
    return f"the {moved.serving} {verb} (term {moved.term})"


def replaced(state: PairState) -> Moved:
    """Stop the members that are to leave and that a sound one now serves for."""
    actions: tuple[Action, ...] = ()
    if state.serving is None or not state.staying(state.serving):
        return state, actions
    for member in state.members:
        if member.leaving is not None:
            state, more = ended(state, member, member.leaving, drain=member.leaving is not Fault.SLOW)
            actions += more
    return state, actions


def is_redundant(state: PairState) -> bool:
    """Tell whether a fault of whoever serves finds the other side in the tier that was asked for."""
    if state.serving is None:
        return False
    role = other(state.serving)
    if state.needs(role):
        return bool(state.staying(role))
    members = [m for m in state.members if m.seat.role is role]
    if state.settings.standby is Tier.WARM:
        return any(m.state in (MemberState.STAGED, MemberState.READY) for m in members)
    return any(m.state is MemberState.READY or (m.state is MemberState.DOWN and not m.start_at_ms) for m in members)


def redundancy_noted(before: PairState, after: PairState) -> tuple[Note, ...]:
    """Say when the pair stops, or begins, to have somebody to fail over to."""
    if is_redundant(before) is is_redundant(after):
        return ()
    if is_redundant(after):
        return (Note("a standby is ready", NoteKind.REDUNDANCY_BACK),)
    return (Note("there is no standby: the next fault is an outage", NoteKind.REDUNDANCY_LOST),)
