"""What holds for every pair, whatever happens in whatever order, and wherever its process dies."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pair_world import World

from pipeline.core.names import Role
from pipeline.runtime import pair as room
from pipeline.runtime.members import Fault, MemberState, Seat, Tier
from pipeline.runtime.pair import (
    DrainAsked,
    Event,
    Excused,
    Failed,
    HoldAsked,
    Note,
    ProbePassed,
    Ready,
    ReleaseAsked,
    Staged,
    Start,
    SwitchAsked,
    Tick,
    refusal,
    step,
)
from pipeline.runtime.settings import Failback, Settings

LIVE = {MemberState.STARTING, MemberState.STAGED, MemberState.READY}
OUT = {MemberState.HELD, MemberState.QUARANTINED}
FAULTS = sorted(set(Fault) - {Fault.POISON})
SETTINGS = st.builds(
    Settings,
    standby=st.sampled_from(Tier),
    replicas=st.integers(1, 2),
    failback=st.sampled_from(Failback),
    restarts_max=st.integers(1, 3),
    failback_probes=st.integers(1, 3),
    start_max_ms=st.just(500),
    backoff_max_ms=st.just(200),
)
WAITS_MS = st.sampled_from([0, 7, 60, 250, 600, 2500, 61_000])
DIES_AFTER = st.one_of(st.none(), st.none(), st.none(), st.integers(0, 6))
NEXT = st.integers(0, 3)


class Pairs(RuleBasedStateMachine):
    world: World

    @initialize(chosen=SETTINGS, before=st.integers(0, 1000))
    def begin(self, chosen: Settings, before: int) -> None:
        self.world = World(chosen, reserved=before)
        self.world.act_all()

    def happens(self, event: Event, dies_after: int | None) -> None:
        """Let an event happen; the process may die after any number of steps of what follows from it."""
        before = self.world.state
        actions = self.world.feed(event)
        for action in actions:
            if isinstance(action, Start):
                assert before.member(action.seat).state not in OUT or isinstance(event, (ReleaseAsked, Excused))
                assert action.incarnation == before.member(action.seat).incarnation + 1
        assert self.world.state.term >= before.term
        if dies_after is None:
            self.world.act_all()
            return
        for _ in range(dies_after):
            if self.world.todo:
                self.world.act()
        self.world.crash()
        self.world.act_all()

    def seat(self, number: int) -> Seat:
        members = self.world.state.members
        return members[number % len(members)].seat

    @rule(wait=WAITS_MS, dies_after=DIES_AFTER)
    def time_passes(self, wait: int, dies_after: int | None) -> None:
        self.world.now_ms += wait
        self.happens(Tick(self.world.now_ms), dies_after)

    @rule(number=NEXT, dies_after=DIES_AFTER)
    def a_worker_gets_ahead(self, number: int, dies_after: int | None) -> None:
        seat = self.seat(number)
        if seat in self.world.starting:
            loads = self.world.starting.pop(seat)
            event = (Ready if loads else Staged)(seat, self.world.alive[seat])
            self.happens(event, dies_after)

    @rule(number=NEXT, fault=st.sampled_from(FAULTS), dies_after=DIES_AFTER)
    def a_worker_fails(self, number: int, fault: Fault, dies_after: int | None) -> None:
        seat = self.seat(number)
        if seat in self.world.alive:
            self.happens(Failed(seat, self.world.alive[seat], fault), dies_after)

    @rule(number=NEXT, dies_after=DIES_AFTER)
    def a_probe_passes(self, number: int, dies_after: int | None) -> None:
        seat = self.seat(number)
        if seat in self.world.alive:
            self.happens(ProbePassed(seat, self.world.alive[seat]), dies_after)

    @rule(number=NEXT, kind=st.sampled_from([Ready, Staged, ProbePassed, Failed]), back=st.integers(1, 3))
    def the_dead_speak(self, number: int, kind: type, back: int) -> None:
        seat = self.seat(number)
        old = self.world.state.member(seat).incarnation - back
        event = Failed(seat, old, Fault.CRASH) if kind is Failed else kind(seat, old)
        assert step(self.world.state, event) == (self.world.state, ())

    @rule(number=NEXT)
    def one_that_was_stopped_speaks(self, number: int) -> None:
        seat = self.seat(number)
        member = self.world.state.member(seat)
        if member.state not in LIVE:
            for event in (Failed(seat, member.incarnation, Fault.KILLED), Ready(seat, member.incarnation)):
                assert step(self.world.state, event) == (self.world.state, ())

    @rule(wait=st.integers(0, 700_000))
    def a_calm_tick_changes_nothing_but_the_time(self, wait: int) -> None:
        state, tick = self.world.state, Tick(self.world.now_ms + wait)
        if room.is_calm(state):
            assert step(state, tick) == room._settled(room._taken(state, tick)[0], tick)

    @rule(number=NEXT, dies_after=DIES_AFTER)
    def a_request_was_to_blame(self, number: int, dies_after: int | None) -> None:
        self.happens(Excused(self.seat(number)), dies_after)

    @rule(event=st.sampled_from([SwitchAsked(role) for role in Role]), dies_after=DIES_AFTER)
    def an_operator_switches(self, event: SwitchAsked, dies_after: int | None) -> None:
        self.ask(event, dies_after)

    @rule(number=NEXT, kind=st.sampled_from([HoldAsked, ReleaseAsked]), dies_after=DIES_AFTER)
    def an_operator_keeps_house(self, number: int, kind: type, dies_after: int | None) -> None:
        self.ask(kind(self.seat(number)), dies_after)

    def ask(self, event: SwitchAsked | HoldAsked | ReleaseAsked, dies_after: int | None) -> None:
        before = self.world.state
        if refusal(before, event):
            after, actions = step(before, event)
            assert after == before
            assert [type(action) for action in actions] == [Note]
            return
        self.happens(event, dies_after)
        if before.serving is not None and dies_after is None:
            assert self.world.serving is not None, "an operator ended the service"

    @precondition(lambda self: not self.world.state.draining and self.world.now_ms > 5000)
    @rule()
    def the_server_ends(self) -> None:
        self.happens(DrainAsked(), None)

    @rule(is_full=st.booleans(), others=NEXT)
    def the_disk_fills_or_others_reserve_terms_on_it(self, is_full: bool, others: int) -> None:
        self.world.is_full = is_full
        self.world.reserved += others
        self.world.act_all()

    @rule()
    def terms_are_granted_early(self) -> None:
        if not self.world.is_full:
            self.world.grant()
            self.world.act_all()

    @invariant()
    def who_serves_is_ready(self) -> None:
        state = self.world.state
        assert self.world.serving == (None if state.serving is None else (state.serving, state.term))
        assert state.serving is None or state.ready(state.serving)
        assert state.serving is None or state.term <= self.world.reserved

    @invariant()
    def nobody_waits_while_somebody_could_serve(self) -> None:
        state = self.world.state
        if state.serving is None and state.next_term and (state.has_served or not state.primary_is_on_its_way()):
            assert not any(state.ready(role) for role in Role)

    @invariant()
    def everything_that_could_be_done_is_done(self) -> None:
        assert step(self.world.state, Tick(self.world.now_ms)) == (self.world.state, ())

    @invariant()
    def workers_are_where_the_machine_believes_them(self) -> None:
        for member in self.world.state.members:
            expected = member.incarnation if member.state in LIVE else None
            assert self.world.alive.get(member.seat) == expected

    @invariant()
    def the_last_seat_is_never_given_up(self) -> None:
        states = [member.state for member in self.world.state.members]
        assert set(states) != {MemberState.QUARANTINED}

    def teardown(self) -> None:
        """Whatever happened: once faults end and operators release what they held, the pair is whole again."""
        if not hasattr(self, "world"):
            return
        self.world.is_full = False
        if self.world.state.draining:
            self.world.crash()
            self.world.act_all()
        for _ in range(12):
            self.operators_release_all()
            self.one_calm_round()
        state = self.world.state
        assert state.serving is not None
        if state.settings.failback is Failback.AFTER_PROBES and not state.pinned:
            assert state.serving is Role.PRIMARY
        for member in state.members:
            assert member.state in self.expected_states(member.seat)
            assert member.leaving is None

    def operators_release_all(self) -> None:
        """Release who is held or quarantined; a start from before the calm may still take too long in it."""
        for member in self.world.state.members:
            if member.state in OUT:
                self.happens(ReleaseAsked(member.seat), None)

    def one_calm_round(self) -> None:
        self.world.now_ms += 250
        self.happens(Tick(self.world.now_ms), None)
        for number in range(len(self.world.state.members)):
            self.a_worker_gets_ahead(number, None)
            for _ in range(1 if self.world.state.serving is Role.PRIMARY else 20):
                self.a_probe_passes(number, None)

    def expected_states(self, seat: Seat) -> set[MemberState]:
        state = self.world.state
        if seat.role is Role.PRIMARY or state.serving is Role.BACKUP or state.settings.standby is Tier.HOT:
            return {MemberState.READY}
        return {MemberState.STAGED} if state.settings.standby is Tier.WARM else {MemberState.DOWN}


class TestPairs(Pairs.TestCase):
    settings = settings(max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.slow
class TestPairsAtLength(Pairs.TestCase):
    settings = settings(
        max_examples=400, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
    )
