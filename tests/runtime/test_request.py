"""One request: what it does when members are late, fail, end, disagree; and what holds whatever happens."""

from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.names import Role
from pipeline.runtime import request
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.request import (
    ATTEMPTS_MAX,
    TASTER_REPLICA,
    Abstain,
    AnswerBad,
    AnswerGood,
    Arrived,
    Available,
    Compare,
    Compared,
    Lost,
    MembersChanged,
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
    first_request,
    request_step,
)
from pipeline.runtime.service import RefusalKind
from pipeline.runtime.settings import VerifyMode

P, P1, B = Seat(Role.PRIMARY), Seat(Role.PRIMARY, 1), Seat(Role.BACKUP)
TASTER = Seat(Role.PRIMARY, TASTER_REPLICA)
BOTH = Available(((P, 1, 0),), ((B, 1, 0),), taster=True)
NOBODY = Available((), (), taster=True)
FINAL = (Release, Abstain, Refuse)


def lived(
    *events: tuple[RequestEvent, Available] | RequestEvent, verify: VerifyMode = VerifyMode.OFF
) -> list[RequestAction]:
    """What follows from events, without wake-ups; the deadline is at 1000, a hedge is due 10 ms after sending."""
    state, actions = first_request(1000.0, 10.0, verify), []
    for given_ in events:
        event, available = given_ if isinstance(given_, tuple) else (given_, BOTH)
        state, more = request_step(state, event, available)
        actions += [action for action in more if not isinstance(action, WakeAt)]
    return actions


def test_a_good_answer_is_released() -> None:
    assert lived(Arrived(0), AnswerGood(P, 1, 1)) == [Send(P, 1, False), Release(P, 1)]


def test_a_late_member_is_hedged_with_the_standby_and_the_first_answer_is_released() -> None:
    actions = lived(Arrived(0), RequestTick(9.9), RequestTick(10), AnswerGood(B, 1, 12), AnswerGood(P, 1, 13))
    assert actions == [Send(P, 1, False), Send(B, 1, True), Release(B, 1)]


def test_a_hedge_wakes_exactly_when_it_is_due() -> None:
    state, actions = request_step(first_request(1000.0, 10.0), Arrived(3.0), BOTH)
    assert actions == (WakeAt(13.0), Send(P, 1, False))
    assert request_step(state, RequestTick(13.0), BOTH)[1] == (WakeAt(1000.0), Send(B, 1, True))


def test_a_member_that_was_killed_from_outside_loses_nothing() -> None:
    after = Available(((B, 1, 0),), (), taster=True)
    assert lived(Arrived(0), (Lost(P, 1, 2), after), AnswerGood(B, 1, 3))[1:] == [Send(B, 1, False), Release(B, 1)]


def test_the_standby_is_asked_where_the_role_that_serves_has_nobody_else() -> None:
    assert lived(Arrived(0), Lost(P, 1, 2), AnswerGood(B, 1, 3))[1:] == [Send(B, 1, False), Release(B, 1)]


@pytest.mark.parametrize("verify", VerifyMode)
def test_while_nobody_serves_a_ready_standby_is_not_asked(verify: VerifyMode) -> None:
    """Its answer would bear the last term, which is over, or was only reserved by the server before."""
    grace = Available((), ((B, 1, 0),), taster=True)
    assert lived((Arrived(0), grace), verify=verify) == []


def test_an_error_of_one_side_is_answered_by_the_other() -> None:
    assert lived(Arrived(0), AnswerBad(P, 1, 2), AnswerGood(B, 1, 3))[1:] == [Send(B, 1, False), Release(B, 1)]


@pytest.mark.parametrize(("fault", "words"), [(Fault.ERRORS, "errors"), (Fault.BAD_OUTPUT, "outputs")])
def test_a_request_that_both_sides_fail_is_refused_alone(fault: Fault, words: str) -> None:
    last = lived(Arrived(0), AnswerBad(P, 1, 2, fault), AnswerBad(B, 1, 3, fault))[-1]
    assert isinstance(last, Refuse)
    assert last.kind is RefusalKind.BAD_REQUEST
    assert words in last.sentence


def test_an_error_waits_for_the_other_side_to_come_back() -> None:
    alone = Available(((P, 1, 0),), (), taster=True)
    actions = lived((Arrived(0), alone), (AnswerBad(P, 1, 2), alone), MembersChanged(300), AnswerGood(B, 1, 301))
    assert actions == [Send(P, 1, False), Send(B, 1, False), Release(B, 1)]


def test_when_nobody_serves_a_request_waits_and_is_sent_once_somebody_does() -> None:
    assert lived((Arrived(0), NOBODY), MembersChanged(200), AnswerGood(P, 1, 201)) == [Send(P, 1, False), Release(P, 1)]


def test_when_nobody_ever_serves_it_is_refused_as_unavailable_at_its_deadline() -> None:
    last = lived((Arrived(0), NOBODY), (RequestTick(1000), NOBODY))[-1]
    assert isinstance(last, Refuse)
    assert last.kind is RefusalKind.UNAVAILABLE


def test_an_answer_after_the_deadline_is_not_released() -> None:
    last = lived(Arrived(0), AnswerGood(P, 1, 1000.5))[-1]
    assert isinstance(last, Refuse)
    assert last.kind is RefusalKind.DEADLINE


def test_a_suspect_is_tried_on_a_taster_alone_and_answered_if_that_lives() -> None:
    actions = lived(Arrived(0), Lost(P, 1, 2, suspect=True), AnswerGood(TASTER, 7, 300))
    assert actions == [Send(P, 1, False), Taste(), Release(TASTER, 7)]


def test_a_request_that_ends_the_taster_too_is_poison() -> None:
    last = lived(Arrived(0), Lost(P, 1, 2, suspect=True), Lost(TASTER, 7, 300, suspect=True))[-1]
    assert isinstance(last, Refuse)
    assert last.kind is RefusalKind.POISON


def test_a_taster_that_was_killed_from_outside_is_no_proof() -> None:
    actions = lived(Arrived(0), Lost(P, 1, 2, suspect=True), Lost(TASTER, 7, 300), AnswerGood(TASTER, 8, 500))
    assert actions[1:] == [Taste(), Taste(), Release(TASTER, 8)]


def test_a_suspect_waits_for_a_busy_taster_and_is_never_sent_to_a_member() -> None:
    busy = Available(BOTH.serving, BOTH.others, taster=False)
    actions = lived(
        (Arrived(0), busy), (Lost(P, 1, 2, suspect=True), busy), (RequestTick(500), busy), MembersChanged(600)
    )
    assert actions == [Send(P, 1, False), Taste()]


def test_a_suspect_that_the_taster_answers_with_an_error_goes_to_the_other_side() -> None:
    actions = lived(Arrived(0), Lost(P, 1, 2, suspect=True), AnswerBad(TASTER, 7, 300), AnswerGood(B, 1, 301))
    assert actions[1:] == [Taste(), Send(B, 1, False), Release(B, 1)]


def test_the_least_loaded_replica_is_asked() -> None:
    available = Available(((P, 1, 5), (P1, 1, 2)), ((B, 1, 0),), taster=True)
    assert lived((Arrived(0), available)) == [Send(P1, 1, False)]


def test_pair_mode_asks_both_at_once_and_releases_what_agrees() -> None:
    events = (Arrived(0), AnswerGood(B, 1, 1), AnswerGood(P, 1, 2), Compared(True, 2))
    actions = lived(*events, verify=VerifyMode.PAIR)
    assert actions == [Send(P, 1, False), Send(B, 1, False), Compare(0, 1), Release(P, 1)]


def test_pair_mode_withholds_what_differs() -> None:
    events = (Arrived(0), AnswerGood(B, 1, 1), AnswerGood(P, 1, 2), Compared(False, 2))
    assert isinstance(lived(*events, verify=VerifyMode.PAIR)[-1], Abstain)


def test_pair_mode_never_releases_one_answer_alone() -> None:
    alone = Available(((P, 1, 0),), (), taster=True)
    actions = lived(
        (Arrived(0), alone), (AnswerGood(P, 1, 1), alone), (RequestTick(1000), alone), verify=VerifyMode.PAIR
    )
    assert [type(action) for action in actions] == [Send, Abstain]


AGAIN = Available(((B, 1, 0),), ((P, 2, 0),), taster=True)


def test_pair_mode_hears_the_side_that_ended_from_a_taster_of_that_side_alone() -> None:
    before = (Arrived(0), AnswerGood(B, 1, 1), (Lost(P, 1, 2, suspect=True), AGAIN))
    events = (*before, (AnswerGood(TASTER, 1, 200), AGAIN), (Compared(True, 201), AGAIN))
    assert lived(*events, verify=VerifyMode.PAIR)[2:] == [Taste(Role.PRIMARY), Compare(1, 2), Release(B, 1)]


def test_pair_mode_has_both_sides_tasted_where_both_ended() -> None:
    backups = Seat(Role.BACKUP, TASTER_REPLICA)
    before = (Arrived(0), Lost(P, 1, 2, suspect=True), Lost(B, 1, 2, suspect=True))
    events = (*before, (AnswerGood(TASTER, 1, 200), AGAIN), (AnswerGood(backups, 2, 300), AGAIN), Compared(True, 301))
    found = lived(*events, verify=VerifyMode.PAIR)[2:]
    assert found == [Taste(Role.PRIMARY), Taste(Role.BACKUP), Compare(2, 3), Release(TASTER, 1)]


def test_pair_mode_asks_no_member_what_was_a_suspect_when_it_came() -> None:
    state = first_request(1000.0, 10.0, VerifyMode.PAIR)._replace(phase=Phase.TASTING)
    state, first = request_step(state, Arrived(0), BOTH)
    state, then = request_step(state, AnswerGood(TASTER, 1, 50), BOTH)
    assert [one for one in (*first, *then) if not isinstance(one, WakeAt)] == [Taste(Role.PRIMARY), Taste(Role.BACKUP)]


def test_what_ends_one_side_and_is_an_error_to_the_other_is_refused_as_poison() -> None:
    taster = Seat(Role.BACKUP, TASTER_REPLICA)
    (*_, last) = lived(Arrived(0), (Lost(P, 1, 2, suspect=True), AGAIN), (AnswerBad(taster, 1, 200), AGAIN))
    assert isinstance(last, Refuse)
    assert last.kind is RefusalKind.POISON


def test_a_request_that_fails_again_and_again_is_refused_in_the_end() -> None:
    state, _ = request_step(first_request(1000.0, 10.0), Arrived(0), BOTH)
    for incarnation in range(1, ATTEMPTS_MAX + 1):
        after = Available(((P, incarnation + 1, 0),), (), taster=True)
        state, actions = request_step(state, Lost(P, incarnation, incarnation), after)
    assert isinstance(actions[-1], Refuse)
    assert actions[-1].kind is RefusalKind.UNAVAILABLE


THREE = Available(((P, 1, 0), (P1, 1, 0)), ((B, 1, 0),), taster=True)


@pytest.mark.parametrize(
    ("verdicts", "last"),
    [
        ([True], Release(P, 1)),
        ([False, True], Release(B, 1)),  # another bundle's tolerance may take in both replicas
        ([False, False, True], Release(B, 1)),
        ([False, False, False], None),
    ],
)
def test_replicas_vote_and_a_third_opinion_settles(verdicts: list[bool], last: Release | None) -> None:
    state, _ = request_step(first_request(1000.0, 10.0, VerifyMode.REPLICAS), Arrived(0), THREE)
    state, _ = request_step(state, AnswerGood(P, 1, 1), THREE)
    state, actions = request_step(state, AnswerGood(P1, 1, 2), THREE)
    for agree in verdicts:
        assert any(isinstance(action, Compare) for action in actions)
        state, actions = request_step(state, Compared(agree, 3), THREE)
        if any(isinstance(action, Send) for action in actions):
            state, actions = request_step(state, AnswerGood(B, 1, 4), THREE)
    assert actions == (last,) if last else isinstance(actions[-1], Abstain)


def without_shortcuts(state: RequestState, event: RequestEvent, available: Available) -> object:
    """What the machine comes to by its general rules alone."""
    with patch.object(request, "_simply_answered", return_value=None), patch.object(request, "_simply_sent") as sent:
        sent.return_value = None
        return request_step(state, event, available)


@dataclass
class Life:
    """A request among members that come and go; it checks every action against what it may be."""

    verify: VerifyMode
    hedge_ms: float
    now: float = 0.0
    members: dict[Seat, int] = field(default_factory=lambda: {P: 1, P1: 1, B: 1})
    serving: Role | None = Role.PRIMARY
    taster: bool = True
    sent: list[tuple[Seat, int]] = field(default_factory=list)
    pending: set[tuple[Seat, int]] = field(default_factory=set)
    good: set[tuple[Seat, int]] = field(default_factory=set)
    comparing: tuple[int, int] | None = None
    agreed: set[tuple[Seat, int]] = field(default_factory=set)
    tasted: int = 0
    is_suspect: bool = False
    ended: set[Role] = field(default_factory=set)  # sides of which a member ended at it
    heard: set[Role] = field(default_factory=set)  # sides of which a taster spoke
    wake: float | None = None
    finals: list[RequestAction] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = first_request(100.0, self.hedge_ms, self.verify)

    def available(self) -> Available:
        ready = [(seat, incarnation, 0) for seat, incarnation in self.members.items()]
        serving = tuple(choice for choice in ready if choice[0].role is self.serving)
        others = tuple(choice for choice in ready if choice[0].role is not self.serving)
        return Available(serving, others, self.taster)

    def feed(self, event: RequestEvent) -> None:
        at_length = without_shortcuts(self.state, event, self.available())
        self.state, actions = request_step(self.state, event, self.available())
        assert (self.state, actions) == at_length
        assert not (self.finals and actions), "something after the last word"
        for action in actions:
            self.check(action)
        if self.now >= 100.0:
            assert self.finals, "no last word at the deadline"

    def check(self, action: RequestAction) -> None:
        match action:
            case Send(seat, incarnation):
                assert (seat, incarnation) not in self.sent, "twice to one incarnation"
                assert self.members[seat] == incarnation
                assert not self.is_suspect, "a suspect was sent to a member"
                assert seat.role not in self.ended, "it ended another member of this side"
                self.sent.append((seat, incarnation))
                self.pending.add((seat, incarnation))
            case Taste(role):
                assert self.taster and self.is_suspect
                assert role is None or (role in self.ended and role not in self.heard)
                self.tasted += 1
                key = Seat(role or Role.PRIMARY, TASTER_REPLICA), self.tasted
                self.sent.append(key)
                self.pending.add(key)
            case Compare(a, b):
                assert self.comparing is None
                self.comparing = (a, b)
            case WakeAt(moment):
                assert self.now <= moment <= 100.0
                self.wake = moment
            case _:
                self.check_final(action)

    def check_final(self, action: RequestAction) -> None:
        self.finals.append(action)
        if isinstance(action, Release):
            key = (action.seat, action.incarnation)
            assert key in (self.good if self.verify is VerifyMode.OFF else self.agreed)
            assert self.now < 100.0
        if isinstance(action, Refuse) and action.kind is RefusalKind.POISON:
            assert self.tasted

    def answers(self, key: tuple[Seat, int], kind: str) -> None:
        if key not in self.pending:
            return
        self.pending.discard(key)
        seat, incarnation = key
        is_taster = seat.replica == TASTER_REPLICA
        if kind in ("good", "bad") and is_taster:
            self.heard.add(seat.role)
            self.is_suspect = self.verify is VerifyMode.PAIR and not self.ended <= self.heard
        if kind == "good":
            self.good.add(key)
            self.feed(AnswerGood(seat, incarnation, self.now))
        elif kind == "bad":
            self.feed(AnswerBad(seat, incarnation, self.now))
        else:
            self.is_suspect = self.is_suspect or kind == "suspect"
            if kind == "suspect" and not is_taster:
                self.ended.add(seat.role)
            if not is_taster:
                self.members.pop(seat, None)
                self.serving = next((s.role for s in self.members), None)
            self.feed(Lost(seat, incarnation, self.now, suspect=kind == "suspect"))
            late = AnswerGood(seat, incarnation, self.now)  # stopped, deposed, woken up again
            assert request_step(self.state, late, self.available())[1] == () or self.now >= 100.0

    def compare(self, agree: bool) -> None:
        if self.comparing is not None:
            places, self.comparing = self.comparing, None
            if agree:
                self.agreed |= {
                    (self.state.attempts[place].seat, self.state.attempts[place].incarnation) for place in places
                }
            self.feed(Compared(agree, self.now))

    def happens(self, kind: str, what: Any) -> None:
        if kind == "wait":
            self.now += what
            if self.wake is not None and self.now >= self.wake and not self.finals:
                self.feed(RequestTick(self.now))
        elif kind == "answer" and self.sent:
            self.answers(self.sent[what[0] % len(self.sent)], what[1])
        elif kind == "compare":
            self.compare(what)
        elif kind == "ready" and what not in self.members:
            self.members[what] = 2 + len(self.sent)
            self.serving = self.serving or what.role
            self.feed(MembersChanged(self.now))
        elif kind == "taster":
            self.taster = what
            self.feed(MembersChanged(self.now))


STEP = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([0.5, 3.0, 12.0, 40.0])),
    st.tuples(st.just("answer"), st.tuples(st.integers(0, 3), st.sampled_from(["good", "bad", "lost", "suspect"]))),
    st.tuples(st.just("compare"), st.booleans()),
    st.tuples(st.just("ready"), st.sampled_from([P, P1, B])),
    st.tuples(st.just("taster"), st.booleans()),
)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(VerifyMode), st.sampled_from([1.0, 5.0, 200.0]), st.lists(STEP, max_size=25))
def test_every_request_gets_exactly_one_answer_in_time(
    verify: VerifyMode, hedge_ms: float, steps: list[tuple[str, Any]]
) -> None:
    life = Life(verify, hedge_ms)
    life.feed(Arrived(0.0))
    for kind, what in steps:
        life.happens(kind, what)
    while not life.finals:
        assert life.wake is not None
        life.now = max(life.now, life.wake)
        life.feed(RequestTick(life.now))
    assert len(life.finals) == 1
    assert life.state.phase is Phase.DONE
    assert len(life.state.attempts) <= ATTEMPTS_MAX
