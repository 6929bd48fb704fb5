"""The life of one seat: started, staged, ready, failed, restarted with backoff, quarantined, held, released."""

from dataclasses import replace

from pipeline.core.names import Role
from pipeline.runtime.members import Fault, MemberState, Seat, Tier
from pipeline.runtime.pair_nouns import (
    Action,
    Failed,
    HoldAsked,
    Load,
    Member,
    Moved,
    Note,
    NoteKind,
    OfWorker,
    PairState,
    ProbePassed,
    Ready,
    ReleaseAsked,
    Staged,
    Start,
    Stop,
)
from pipeline.runtime.settings import Settings

LIVE = (MemberState.STARTING, MemberState.STAGED, MemberState.READY)
OUT = (MemberState.HELD, MemberState.QUARANTINED)  # only an operator brings these back
# It still answers, and rightly: another takes over first, then it goes. What a slow one holds would come too late.
PLANNED = (Fault.SLOW, Fault.MEMORY_GROWTH)


def put(state: PairState, member: Member) -> PairState:
    """Return the pair with one member changed."""
    return replace(state, members=tuple(member if m.seat == member.seat else m for m in state.members))


def turned(state: PairState, member: Member, to: MemberState) -> Member:
    """Return a member that enters a state now; what belonged to its old state is forgotten."""
    return replace(member, state=to, since_ms=state.now_ms, start_at_ms=None, clean_probes=0, leaving=None)


def backoff_ms(settings: Settings, failures: int) -> int:
    """Return how long a seat waits after its n-th failure in the window: doubled each time, up to a limit."""
    return min(settings.backoff_max_ms, settings.backoff_first_ms << min(failures - 1, 30))


def of_worker(state: PairState, event: OfWorker) -> Moved:
    """Take what a worker did; what an earlier incarnation did, or one that has ended, changes nothing."""
    member = state.member(event.seat)
    if event.incarnation != member.incarnation or member.state not in LIVE:
        return state, ()
    if isinstance(event, Failed):
        return _failed(state, member, event.fault)
    return put(state, _progressed(state, member, event)), ()


def _progressed(state: PairState, member: Member, event: Staged | Ready | ProbePassed) -> Member:
    if isinstance(event, ProbePassed):
        is_ready = member.state is MemberState.READY
        return replace(member, clean_probes=member.clean_probes + 1) if is_ready else member
    if member.state is not MemberState.STARTING or isinstance(event, Ready) is not member.loads:
        return member
    return turned(state, member, MemberState.READY if member.loads else MemberState.STAGED)


def _failed(state: PairState, member: Member, fault: Fault) -> Moved:
    if member.state is MemberState.READY and fault is Fault.TAMPERED:
        return state, ()  # what it loaded was verified; only its next start will read the disk
    if member.state is MemberState.READY and fault in PLANNED:
        return put(state, replace(member, leaving=fault)), ()
    return ended(state, member, fault, drain=False)


def ended(state: PairState, member: Member, fault: Fault, drain: bool) -> Moved:
    """Stop a member that is at fault and count it: a restart after a backoff, or quarantine after too many."""
    settings, now = state.settings, state.now_ms
    window_start = now - settings.restarts_window_s * 1000
    failures = (*(at for at in member.failures_ms if at > window_start), now)
    down = replace(turned(state, member, MemberState.DOWN), failures_ms=failures)
    stop = Stop(member.seat, member.incarnation, drain)
    if state.draining:
        return put(state, down), (stop,)
    too_many = len(failures) > settings.restarts_max
    if too_many and _is_spared_by_others(state, member):
        text = f"{member.seat} failed {len(failures)} times in {settings.restarts_window_s} s, last by {fault}"
        held = replace(down, state=MemberState.QUARANTINED)
        return put(state, held), (stop, Note(f"{text}: quarantined until an operator releases it", NoteKind.QUARANTINE))
    wait = settings.backoff_max_ms if too_many else backoff_ms(settings, len(failures))
    note = Note(f"{member.seat} failed ({fault}): a new worker starts in {wait} ms", NoteKind.RESTART)
    return put(state, replace(down, start_at_ms=now + wait)), (stop, note)


def _is_spared_by_others(state: PairState, member: Member) -> bool:
    # The last seat that may still come back is never given up: it goes on trying, slowly.
    return any(m.seat != member.seat and m.state not in OUT for m in state.members)


def excused(state: PairState, member: Member) -> PairState:
    """Strike a member's last failure; if it waits for its restart, it waits no longer."""
    member = replace(member, failures_ms=member.failures_ms[:-1])
    if member.state is MemberState.QUARANTINED and len(member.failures_ms) <= state.settings.restarts_max:
        return put(state, replace(turned(state, member, MemberState.DOWN), start_at_ms=state.now_ms))
    waits = member.state is MemberState.DOWN and member.start_at_ms is not None
    return put(state, replace(member, start_at_ms=state.now_ms) if waits else member)


def held(state: PairState, event: HoldAsked) -> Moved:
    """Stop a member for maintenance; that another can serve was checked."""
    member = state.member(event.seat)
    stops: tuple[Action, ...] = ()
    if member.state in LIVE:
        stops = (Stop(member.seat, member.incarnation, drain=member.state is MemberState.READY),)
    note = Note(f"{member.seat} is held for maintenance", NoteKind.HELD)
    return put(state, turned(state, member, MemberState.HELD)), (*stops, note)


def released(state: PairState, event: ReleaseAsked) -> Moved:
    """Bring a held or quarantined member back, its failures forgotten."""
    member = turned(state, state.member(event.seat), MemberState.DOWN)
    fresh = replace(member, failures_ms=(), start_at_ms=state.now_ms)
    return put(state, fresh), (Note(f"{member.seat} was released by an operator", NoteKind.RELEASED),)


def timed_out(state: PairState, member: Member) -> Moved:
    """End a start that takes too long."""
    is_late = state.now_ms - member.since_ms >= state.settings.start_max_ms
    if member.state is not MemberState.STARTING or not is_late:
        return state, ()
    return ended(state, member, Fault.START_FAILED, drain=False)


def tended(state: PairState, member: Member) -> Moved:
    """Start, load or put to sleep one member, as its role needs."""
    if state.draining:
        return state, ()
    is_needed = state.needs(member.seat.role)
    if member.state is MemberState.STAGED and is_needed:
        loading = replace(turned(state, member, MemberState.STARTING), loads=True)
        return put(state, loading), (Load(member.seat, member.incarnation),)
    if member.state is MemberState.READY and not is_needed:
        return _put_to_sleep(state, member)
    if member.state is MemberState.DOWN and _is_due(state, member, is_needed):
        return _started(state, member, is_needed)
    return state, ()


def _is_due(state: PairState, member: Member, is_needed: bool) -> bool:
    if member.start_at_ms is None:
        return is_needed  # cold, and needed now
    return state.now_ms >= member.start_at_ms


def _started(state: PairState, member: Member, is_needed: bool) -> Moved:
    if not is_needed and state.settings.standby is Tier.COLD:
        return put(state, replace(member, start_at_ms=None)), ()
    starting = replace(turned(state, member, MemberState.STARTING), incarnation=member.incarnation + 1, loads=is_needed)
    return put(state, starting), (Start(member.seat, starting.incarnation, then_load=is_needed),)


def _put_to_sleep(state: PairState, member: Member) -> Moved:
    is_cold = state.settings.standby is Tier.COLD
    asleep = replace(turned(state, member, MemberState.DOWN), start_at_ms=None if is_cold else state.now_ms)
    state, started = (put(state, asleep), ()) if is_cold else _started(put(state, asleep), asleep, is_needed=False)
    return state, (Stop(member.seat, member.incarnation, drain=True), *started)


def seats(settings: Settings, now_ms: int) -> tuple[Member, ...]:
    """Return the members of a new pair, all of them due to start."""
    return tuple(
        Member(Seat(role, replica), since_ms=now_ms, start_at_ms=now_ms)
        for role in Role
        for replica in range(settings.replicas)
    )
