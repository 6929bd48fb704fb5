"""The pair machine, one behaviour at a time."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_world import BLOCK, B, P, World

from pipeline.core.names import Role
from pipeline.runtime.members import Fault, MemberState, Seat, Tier
from pipeline.runtime.pair import (
    Action,
    DrainAsked,
    Excused,
    Failed,
    HoldAsked,
    Load,
    NoteKind,
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
    probes_needed,
    refusal,
)
from pipeline.runtime.settings import Failback, Settings, VerifyMode

DEEDS = (Start, Stop, Load, Serve, Unserve)


def deeds(actions: tuple[Action, ...]) -> list[Action]:
    return [action for action in actions if isinstance(action, DEEDS)]


def wait(world: World, ms: int) -> list[Action]:
    world.now_ms += ms
    done = world.feed(Tick(world.now_ms))
    world.act_all()
    return deeds(done)


def ready(world: World, seat: Seat) -> list[Action]:
    done = world.feed(Ready(seat, world.alive[seat]))
    world.act_all()
    return deeds(done)


def fail(world: World, seat: Seat, fault: Fault = Fault.CRASH) -> list[Action]:
    done = world.feed(Failed(seat, world.alive[seat], fault))
    world.act_all()
    return deeds(done)


def probe(world: World, seat: Seat, times: int) -> None:
    for _ in range(times):
        world.feed(ProbePassed(seat, world.alive[seat]))
        world.act_all()


def whole(**changes: object) -> World:
    """A hot pair whose primary serves under term 1."""
    world = World(replace(Settings(), **changes))
    world.act_all()
    for seat in list(world.alive):
        ready(world, seat)
    return world


def test_at_the_start_the_backup_waits_for_the_primary_and_serves_when_that_takes_too_long() -> None:
    world = World(Settings())
    world.act_all()
    assert ready(world, B) == []
    assert wait(world, 1999) == []
    assert wait(world, 1) == [Serve(Role.BACKUP, 1)]


def test_at_the_start_a_primary_that_fails_is_not_waited_for() -> None:
    world = World(Settings())
    world.act_all()
    ready(world, B)
    assert fail(world, P, Fault.START_FAILED)[0] == Serve(Role.BACKUP, 1)


@pytest.mark.parametrize("fault", sorted(set(Fault) - {Fault.SLOW, Fault.MEMORY_GROWTH, Fault.TAMPERED}))
def test_the_other_side_serves_before_the_faulty_worker_is_ended(fault: Fault) -> None:
    assert fail(whole(), P, fault) == [Serve(Role.BACKUP, 2), Stop(P, 1, drain=False)]


def test_a_fault_of_the_standby_is_no_failover() -> None:
    world = whole()
    assert fail(world, B, Fault.WRONG_ANSWER) == [Stop(B, 1, drain=False)]
    assert world.serving == (Role.PRIMARY, 1)


def test_when_both_sides_fail_their_canaries_nobody_serves_and_both_start_again() -> None:
    world = whole()
    fail(world, P, Fault.WRONG_ANSWER)
    assert fail(world, B, Fault.WRONG_ANSWER) == [Unserve(2), Stop(B, 1, drain=False)]
    assert wait(world, 50) == [Start(P, 2, then_load=True), Start(B, 2, then_load=True)]
    assert ready(world, B) == [Serve(Role.BACKUP, 3)]
    assert NoteKind.RESTORED in world.kinds()


def test_a_growing_member_finishes_what_it_has_after_the_other_took_over() -> None:
    assert fail(whole(), P, Fault.MEMORY_GROWTH) == [Serve(Role.BACKUP, 2), Stop(P, 1, drain=True)]


def test_what_a_slow_member_holds_is_sent_to_the_other_that_took_over() -> None:
    assert fail(whole(), P, Fault.SLOW) == [Serve(Role.BACKUP, 2), Stop(P, 1, drain=False)]


def test_a_slow_member_serves_on_while_nobody_can_take_over_and_leaves_then() -> None:
    world = whole()
    fail(world, B)
    assert fail(world, P, Fault.SLOW) == []
    wait(world, 50)
    assert ready(world, B) == [Serve(Role.BACKUP, 2), Stop(P, 1, drain=False)]


def test_a_bundle_tampered_on_disk_does_not_stop_what_was_verified_before() -> None:
    world = whole()
    assert fail(world, P, Fault.TAMPERED) == []
    assert world.state.member(P).state is MemberState.READY


def test_a_replica_that_fails_is_no_failover() -> None:
    world = whole(replicas=2)
    assert fail(world, P) == [Stop(P, 1, drain=False)]
    assert fail(world, Seat(Role.PRIMARY, 1))[0] == Serve(Role.BACKUP, 2)


def test_restarts_wait_twice_as_long_each_time_and_end_in_quarantine() -> None:
    world = whole()
    waits = []
    for _ in range(5):
        fail(world, B)
        waits.append(world.state.member(B).start_at_ms - world.now_ms)
        wait(world, waits[-1])
    assert waits == [50, 100, 200, 400, 800]
    fail(world, B)
    assert world.state.member(B).state is MemberState.QUARANTINED
    assert wait(world, 3_600_000) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=12))
def test_backoff_is_what_counting_failures_of_the_last_minute_says(gaps: list[int]) -> None:
    world = whole(restarts_max=100, start_max_ms=1_000_000)
    failed_at: list[int] = []
    for gap in gaps:
        if B not in world.alive:
            wait(world, max(0, world.state.member(B).start_at_ms - world.now_ms))
        wait(world, gap)
        failed_at.append(world.now_ms)
        fail(world, B)
        recent = sum(1 for at in failed_at if at > world.now_ms - 60_000)
        assert world.state.member(B).start_at_ms - world.now_ms == min(10_000, 50 * 2 ** (recent - 1))


def test_the_last_seat_is_never_quarantined_but_tries_slowly() -> None:
    world = whole(restarts_max=1)
    for _ in range(2):
        fail(world, B)
        wait(world, 100)
    assert world.state.member(B).state is MemberState.QUARANTINED
    for _ in range(4):
        fail(world, P)
        assert world.state.member(P).state is MemberState.DOWN
        wait(world, 10_000)
    assert ready(world, P) == [Serve(Role.PRIMARY, 2)]


def test_a_failure_that_a_poison_request_caused_is_not_counted() -> None:
    world = whole(restarts_max=0)
    fail(world, B)
    assert world.state.member(B).state is MemberState.QUARANTINED
    assert deeds(world.feed(Excused(B))) == [Start(B, 2, then_load=True)]
    assert world.state.member(B).failures_ms == ()


def test_a_start_that_takes_too_long_has_failed() -> None:
    world = whole(start_max_ms=5000)
    fail(world, B)
    wait(world, 50)
    assert wait(world, 4999) == []
    assert wait(world, 1) == [Stop(B, 2, drain=False)]


def test_failback_comes_after_clean_probes_and_takes_twice_as_many_after_each_failover() -> None:
    world = whole(restarts_max=100)
    needed = []
    for _ in range(9):
        fail(world, P)
        wait(world, world.state.member(P).start_at_ms - world.now_ms)
        ready(world, P)
        needed.append(probes_needed(world.state))
        probe(world, P, needed[-1] - 1)
        assert world.serving[0] is Role.BACKUP
        probe(world, P, 1)
        assert world.serving[0] is Role.PRIMARY
    assert needed == [20, 40, 80, 160, 320, 640, 1280, 1280, 1280]


def test_a_primary_that_fails_whenever_it_serves_soon_hardly_serves() -> None:
    world = whole(restarts_max=100, failback_probes=2)
    for _ in range(3600):  # an hour, a probe a second
        wait(world, 1000)
        if world.serving[0] is Role.PRIMARY:
            fail(world, P)
        elif P in world.starting and world.state.member(P).state is MemberState.STARTING:
            ready(world, P)
        elif P in world.alive:
            probe(world, P, 1)
    assert world.kinds().count(NoteKind.FAILBACK) < 60
    assert world.kinds().count(NoteKind.OUTAGE) == 0


@pytest.mark.parametrize("failback", [Failback.MANUAL, Failback.NEVER])
def test_without_automatic_failback_the_backup_serves_on(failback: Failback) -> None:
    world = whole(failback=failback)
    fail(world, P)
    wait(world, 50)
    ready(world, P)
    probe(world, P, 100)
    assert world.serving == (Role.BACKUP, 2)
    asked = SwitchAsked(Role.PRIMARY)
    assert (refusal(world.state, asked) is None) is (failback is Failback.MANUAL)
    assert fail(world, B)[0] == Serve(Role.PRIMARY, 3)  # better than nobody


def test_what_an_operator_switched_stays() -> None:
    world = whole()
    assert deeds(world.feed(SwitchAsked(Role.BACKUP))) == [Serve(Role.BACKUP, 2)]
    world.act_all()
    probe(world, P, 1000)
    assert world.serving == (Role.BACKUP, 2)
    assert world.kinds()[-1] is NoteKind.SWITCHOVER


def test_a_held_member_hands_over_first_and_comes_back_when_released() -> None:
    world = whole()
    assert deeds(world.feed(HoldAsked(P))) == [Serve(Role.BACKUP, 2), Stop(P, 1, drain=True)]
    world.act_all()
    assert wait(world, 3_600_000) == []
    assert deeds(world.feed(ReleaseAsked(P))) == [Start(P, 2, then_load=True)]
    world.act_all()
    ready(world, P)
    probe(world, P, 20)
    assert world.serving == (Role.PRIMARY, 3)


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (SwitchAsked(Role.PRIMARY), "serves already"),
        (SwitchAsked(Role.BACKUP), "not ready"),
        (HoldAsked(P), "end the service"),
        (ReleaseAsked(P), "neither held nor quarantined"),
    ],
)
def test_what_would_do_harm_is_refused_in_words(event: SwitchAsked | HoldAsked | ReleaseAsked, words: str) -> None:
    world = whole()
    fail(world, B)
    before = world.state
    (note,) = world.feed(event)
    assert world.state == before
    assert note.kind is NoteKind.REFUSED
    assert words in note.text == refusal(before, event)


@pytest.mark.parametrize(
    ("verify", "replicas", "may_go"),
    [
        (VerifyMode.OFF, 1, 1),
        (VerifyMode.PAIR, 1, 0),
        (VerifyMode.PAIR, 2, 1),
        (VerifyMode.REPLICAS, 2, 2),
    ],
)
def test_no_hold_leaves_too_few_to_agree_in_verify_mode(verify: VerifyMode, replicas: int, may_go: int) -> None:
    world = whole(verify=verify, replicas=replicas)
    backups = [seat for seat in world.alive if seat.role is Role.BACKUP]
    others = [seat for seat in world.alive if seat.role is Role.PRIMARY]
    held = 0
    while held < replicas * 2 and (why_not := refusal(world.state, HoldAsked((backups + others)[held]))) is None:
        world.feed(HoldAsked((backups + others)[held]))
        world.act_all()
        held += 1
    assert held == may_go
    assert "end the service" in str(why_not)


def test_who_is_down_can_be_held_in_verify_mode_too() -> None:
    world = whole(verify=VerifyMode.PAIR)
    fail(world, B)
    assert refusal(world.state, HoldAsked(B)) is None
    assert refusal(world.state, HoldAsked(P)) is not None


def test_a_warm_standby_is_staged_and_loaded_when_it_is_needed_and_staged_again_afterwards() -> None:
    world = World(Settings(standby=Tier.WARM, failback_probes=1))
    world.act_all()
    world.feed(Staged(B, 1))
    ready(world, P)
    assert fail(world, P) == [Unserve(1), Stop(P, 1, drain=False), Load(B, 1)]
    assert ready(world, B) == [Serve(Role.BACKUP, 2)]
    wait(world, 50)
    ready(world, P)
    done = world.feed(ProbePassed(P, 2))
    assert deeds(done) == [Serve(Role.PRIMARY, 3), Stop(B, 1, drain=True), Start(B, 2, then_load=False)]


def test_a_cold_standby_starts_when_it_is_needed_and_sleeps_again_afterwards() -> None:
    world = World(Settings(standby=Tier.COLD, failback_probes=1))
    world.act_all()
    assert world.alive == {P: 1}
    ready(world, P)
    assert fail(world, P) == [Unserve(1), Stop(P, 1, drain=False), Start(B, 1, then_load=True)]
    ready(world, B)
    wait(world, 50)
    ready(world, P)
    assert deeds(world.feed(ProbePassed(P, 2))) == [Serve(Role.PRIMARY, 3), Stop(B, 1, drain=True)]
    world.act_all()
    assert wait(world, 3_600_000) == []


def test_a_slow_primary_wakes_a_cold_standby_and_is_never_missed() -> None:
    world = World(Settings(standby=Tier.COLD))
    world.act_all()
    ready(world, P)
    assert fail(world, P, Fault.SLOW) == [Start(B, 1, then_load=True)]
    assert ready(world, B) == [Serve(Role.BACKUP, 2), Stop(P, 1, drain=False)]


def test_a_switch_to_a_sleeping_standby_happens_once_that_is_ready() -> None:
    world = World(Settings(standby=Tier.COLD))
    world.act_all()
    ready(world, P)
    assert deeds(world.feed(SwitchAsked(Role.BACKUP))) == [Start(B, 1, then_load=True)]
    world.act_all()
    assert ready(world, B) == [Serve(Role.BACKUP, 2)]


def test_a_switch_is_given_up_when_the_standby_fails_to_start() -> None:
    world = World(Settings(standby=Tier.COLD))
    world.act_all()
    ready(world, P)
    world.feed(SwitchAsked(Role.BACKUP))
    world.act_all()
    fail(world, B, Fault.START_FAILED)
    assert wait(world, 3_600_000) == []
    assert world.serving == (Role.PRIMARY, 1)


def test_a_released_member_begins_with_a_clean_record() -> None:
    world = whole(restarts_max=1)
    fail(world, B)
    wait(world, 50)
    fail(world, B)
    world.feed(ReleaseAsked(B))
    world.act_all()
    fail(world, B)
    assert world.state.member(B).start_at_ms == world.now_ms + 50


def test_a_draining_pair_fails_over_but_starts_nothing() -> None:
    world = whole()
    world.feed(DrainAsked())
    assert fail(world, P) == [Serve(Role.BACKUP, 2), Stop(P, 1, drain=False)]
    assert wait(world, 3_600_000) == []
    assert refusal(world.state, HoldAsked(B)) is not None


def worn_out() -> World:
    """A pair whose disk is full, and whose backup serves under the last reserved term."""
    world = whole()
    world.is_full = True
    for to in (Role.BACKUP, Role.PRIMARY, Role.BACKUP):
        world.feed(SwitchAsked(to))
        world.act_all()
    assert (world.terms, world.state.next_term) == ([1, 2, 3, BLOCK], None)
    return world


def test_without_a_reserved_term_left_nobody_takes_over_until_there_is_one() -> None:
    world = worn_out()
    assert fail(world, B) == [Unserve(BLOCK), Stop(B, 1, drain=False)]
    assert any("no reserved term is left" in note.text for note in world.notes if note.kind is NoteKind.OUTAGE)
    assert world.state.ready(Role.PRIMARY)
    world.reserved += 2 * BLOCK  # others have reserved meanwhile
    world.is_full = False
    world.act_all()
    assert world.serving == (Role.PRIMARY, 3 * BLOCK + 1)


def test_without_a_reserved_term_left_who_is_to_be_replaced_goes_on_and_operators_are_refused() -> None:
    world = worn_out()
    assert fail(world, B, Fault.SLOW) == []
    assert world.serving == (Role.BACKUP, BLOCK)
    for event in (SwitchAsked(Role.PRIMARY), HoldAsked(B)):
        assert "no reserved term is left" in (refusal(world.state, event) or "")
    assert refusal(world.state, HoldAsked(P)) is None
    world.is_full = False
    world.act_all()
    assert world.serving == (Role.PRIMARY, BLOCK + 1)


def test_a_new_life_serves_above_every_reserved_term() -> None:
    world = whole()
    world.crash()
    world.act_all()
    assert ready(world, P) == [Serve(Role.PRIMARY, world.terms[0] + BLOCK)]
