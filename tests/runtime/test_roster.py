"""Who can be asked: ready members whose workers are still there, newly looked up with every state."""

from dataclasses import dataclass, replace

from pipeline.core.names import Role
from pipeline.runtime.members import MemberState, Seat
from pipeline.runtime.pair import first_state
from pipeline.runtime.pair_nouns import PairState
from pipeline.runtime.roster import Roster
from pipeline.runtime.settings import Settings

P, B = Seat(Role.PRIMARY), Seat(Role.BACKUP)


@dataclass
class Stand:
    """What a roster sees of a worker."""

    seat: Seat
    incarnation: int = 1
    load: int = 0
    usable: bool = True


def ready(serving: Role | None = Role.PRIMARY) -> PairState:
    state, _ = first_state(Settings(), 0, 0)
    members = tuple(replace(one, state=MemberState.READY, incarnation=1) for one in state.members)
    return replace(state, members=members, serving=serving)


def test_members_are_offered_by_whether_their_role_serves() -> None:
    workers = {P: Stand(P, load=3), B: Stand(B)}
    roster = Roster(workers)  # type: ignore[arg-type]
    assert roster.choices(ready()) == (((P, 1, 3),), ((B, 1, 0),))
    assert roster.choices(ready(Role.BACKUP)) == (((B, 1, 0),), ((P, 1, 3),))
    assert roster.choices(ready(None)) == ((), ((P, 1, 3), (B, 1, 0)))


def test_a_worker_that_is_lost_before_the_machine_hears_of_it_is_not_offered() -> None:
    workers, state = {P: Stand(P), B: Stand(B)}, ready()
    roster = Roster(workers)  # type: ignore[arg-type]
    assert roster.serving(state) == [workers[P]]
    workers[P].usable = False
    assert roster.serving(state) == []
    assert roster.choices(state) == ((), ((B, 1, 0),))


def test_a_new_worker_of_a_seat_comes_with_a_new_state() -> None:
    workers, state = {P: Stand(P), B: Stand(B)}, ready()
    roster = Roster(workers)  # type: ignore[arg-type]
    assert roster.serving(state) == [workers[P]]
    workers[P] = Stand(P, incarnation=2)
    assert roster.choices(replace(state, now_ms=1))[0] == ((P, 2, 0),)


def test_a_member_that_is_not_ready_is_not_offered() -> None:
    state = ready()
    starting = replace(state.member(P), state=MemberState.STARTING)
    roster = Roster({P: Stand(P), B: Stand(B)})  # type: ignore[dict-item]
    assert roster.choices(replace(state, members=(starting, state.member(B)))) == ((), ((B, 1, 0),))
