"""Flights on a ground of a few lines: whatever happens, each request is answered once, and nothing of it stays."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from flight_ground import BACKUP, PRIMARY, Ground, Held
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.names import Role
from pipeline.runtime.flights import Blame, Flights
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.request import first_request
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind
from pipeline.runtime.settings import VerifyMode

ROW = {"x": np.zeros((1, 2), np.float32)}
DEADLINE_MS = 60.0


class Scene:
    def __init__(self) -> None:
        self.ground = Ground()
        self.flights = Flights(self.ground, itertools.count(1))

    def fly(self, deadline_ms: float = DEADLINE_MS, hedge_ms: float = 1e9, verify: VerifyMode = VerifyMode.OFF) -> Any:
        state = first_request(self.ground.now_ms() + deadline_ms, hedge_ms, verify)
        return asyncio.ensure_future(self.flights.fly(state, ROW, 1))

    def held(self, seat: Seat) -> int:
        return self.ground.workers[seat].requests.pop(0)

    def is_empty(self) -> bool:
        held = {one for worker in self.ground.workers.values() for one in worker.requests}
        return not self.flights.flying and not self.flights.suspected and self.flights.by_id.keys() <= held


def scene(play: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        stage = Scene()
        await asyncio.wait_for(play(stage), 30)
        assert stage.is_empty()

    asyncio.run(run())


async def started() -> None:
    await asyncio.sleep(0)


def test_an_answer_is_stamped_with_the_term_in_which_it_was_asked_for() -> None:
    async def play(stage: Scene) -> None:
        asked = stage.fly()
        await started()
        stage.ground.term = 6
        stage.flights.good(stage.held(PRIMARY), ROW)
        answer = await asked
        assert (answer.role, answer.term, answer.hedged) == (Role.PRIMARY, 5, False)

    scene(play)


def test_what_a_lost_worker_held_goes_to_another_at_once() -> None:
    async def play(stage: Scene) -> None:
        asked = stage.fly()
        await started()
        stage.ground.workers[PRIMARY].usable = False
        stage.flights.lost([stage.held(PRIMARY)], suspect=False)
        stage.flights.good(stage.held(BACKUP), ROW)
        assert (await asked).role is Role.BACKUP
        assert stage.ground.sendings == [(False, False), (False, True)]

    scene(play)


def test_a_late_worker_is_hedged_and_its_own_answer_is_not_heard_any_more() -> None:
    async def play(stage: Scene) -> None:
        asked = stage.fly(deadline_ms=10_000, hedge_ms=1)
        while not stage.ground.workers[BACKUP].requests:
            await asyncio.sleep(0.001)
        late = stage.held(PRIMARY)
        stage.flights.good(stage.held(BACKUP), ROW)
        answer = await asked
        assert (answer.role, answer.hedged) == (Role.BACKUP, True)
        stage.flights.good(late, ROW)

    scene(play)


def test_a_suspect_goes_to_a_taster_only_and_poison_excuses_whom_it_ended() -> None:
    async def play(stage: Scene) -> None:
        asked = stage.fly(deadline_ms=10_000)
        await started()
        stage.flights.lost([stage.held(PRIMARY)], suspect=True)
        (flight,) = stage.ground.tasted
        assert not stage.ground.workers[BACKUP].requests
        taster = Held(Seat(Role.PRIMARY, -1))
        stage.flights.give(flight, taster, taster.seat, 1)  # type: ignore[arg-type]
        stage.flights.lost(taster.requests, suspect=True)
        refused = await asked
        assert refused.kind is RefusalKind.POISON
        assert PRIMARY in stage.ground.excused

    scene(play)


def test_the_other_side_gets_as_a_shadow_only_what_no_member_ended_or_is_late_at() -> None:
    async def play(stage: Scene) -> None:
        plain = stage.fly()
        await started()
        stage.flights.good(stage.held(PRIMARY), ROW)
        await plain
        assert len(stage.ground.shadowed) == 1
        late = stage.fly(deadline_ms=10_000, hedge_ms=1.0)
        while not stage.ground.workers[BACKUP].requests:
            await asyncio.sleep(0.001)
        stage.flights.good(stage.held(BACKUP), ROW)
        await late
        stage.flights.lost([stage.held(PRIMARY)], suspect=True)
        suspect = stage.fly(deadline_ms=10_000)
        await started()
        stage.flights.lost([stage.held(PRIMARY)], suspect=True)
        (flight,) = stage.ground.tasted
        taster = Held(Seat(Role.BACKUP, -1))
        stage.flights.give(flight, taster, taster.seat, 1)  # type: ignore[arg-type]
        stage.flights.good(taster.requests.pop(), ROW)
        await suspect
        assert len(stage.ground.shadowed) == 1

    scene(play)


def test_who_is_to_blame_shows_when_the_other_has_tried() -> None:
    async def play(stage: Scene) -> None:
        asked = stage.fly()
        await started()
        primary, backup = stage.ground.workers[PRIMARY], stage.ground.workers[BACKUP]
        stage.flights.bad(stage.held(PRIMARY), Blame(primary, Fault.ERRORS, "it failed"))  # type: ignore[arg-type]
        assert stage.ground.blamed == []
        stage.flights.good(stage.held(BACKUP), ROW)
        await asked
        assert stage.ground.blamed == [(Fault.ERRORS, True)]
        asked = stage.fly()
        await started()
        stage.flights.bad(stage.held(PRIMARY), Blame(primary, Fault.ERRORS, "it failed"))  # type: ignore[arg-type]
        stage.flights.bad(stage.held(BACKUP), Blame(backup, Fault.ERRORS, "it failed"))  # type: ignore[arg-type]
        assert (await asked).kind is RefusalKind.BAD_REQUEST
        assert stage.ground.blamed == [(Fault.ERRORS, True)]

    scene(play)


@pytest.mark.parametrize("has_patience", [True, False])
def test_an_error_that_nobody_else_was_heard_on_proves_nothing(has_patience: bool) -> None:
    async def play(stage: Scene) -> None:
        primary = stage.ground.workers[PRIMARY]
        stage.ground.workers[BACKUP].usable = False
        asked = stage.fly(deadline_ms=100)
        await started()
        stage.flights.bad(stage.held(PRIMARY), Blame(primary, Fault.ERRORS, "it failed"))  # type: ignore[arg-type]
        if not has_patience:
            asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert stage.ground.blamed == [(Fault.ERRORS, None)]

    scene(play)


@pytest.mark.parametrize("agrees", [True, False])
def test_in_verify_mode_both_are_asked_and_their_agreement_decides(agrees: bool) -> None:
    async def play(stage: Scene) -> None:
        stage.ground.agrees = agrees
        asked = stage.fly(verify=VerifyMode.PAIR)
        await started()
        stage.flights.good(stage.held(BACKUP), ROW)
        assert not asked.done()
        stage.flights.good(stage.held(PRIMARY), ROW)
        outcome = await asked
        assert isinstance(outcome, Answer) if agrees else outcome.kind is RefusalKind.ABSTAINED
        assert stage.ground.sendings == [(False, False)] * 2  # neither is sent again: both are wanted

    scene(play)


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async def play(stage: Scene) -> None:
        asked = stage.fly(deadline_ms=10_000, hedge_ms=1)
        await started()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        stage.flights.good(stage.held(PRIMARY), ROW)
        stage.flights.members_changed()

    scene(play)


def test_what_a_worker_computes_for_nobody_any_more_keeps_its_size_until_it_is_done() -> None:
    async def play(stage: Scene) -> None:
        refused = await stage.fly(deadline_ms=100)
        assert refused.kind is RefusalKind.DEADLINE
        (held,) = stage.ground.workers[PRIMARY].requests
        assert stage.flights.rows_of(held) == 1  # a large one whose client gave up is no hang
        assert stage.flights.asked_by(stage.held(PRIMARY)) is None

    scene(play)


def test_a_suspect_that_was_given_up_before_its_worker_was_found_out_is_doubted_unless_another_answered_it() -> None:
    async def play(stage: Scene) -> None:
        await stage.fly(deadline_ms=100)
        stage.flights.lost([stage.held(PRIMARY)], suspect=True)
        assert len(stage.ground.doubts) == 1
        hedged = stage.fly(deadline_ms=10_000, hedge_ms=1)
        while not stage.ground.workers[BACKUP].requests:
            await asyncio.sleep(0.001)
        stage.flights.good(stage.held(BACKUP), ROW)
        await hedged
        stage.flights.lost([stage.held(PRIMARY)], suspect=True)
        assert len(stage.ground.doubts) == 1

    scene(play)


@pytest.mark.parametrize("has_patience", [True, False])
def test_a_suspect_that_is_given_up_before_a_taster_could_tell_is_doubted(has_patience: bool) -> None:
    async def play(stage: Scene) -> None:
        asked = stage.fly(deadline_ms=100)
        await started()
        stage.flights.lost([stage.held(PRIMARY)], suspect=True)
        if not has_patience:
            asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert stage.ground.doubts == stage.ground.tasted

    scene(play)


def test_a_sending_that_cannot_be_encoded_raises_and_leaves_nothing_behind() -> None:
    async def play(stage: Scene) -> None:
        def refuse(*_: object) -> None:
            raise ValueError("too large")

        stage.ground.workers[PRIMARY].infer = refuse  # type: ignore[method-assign,assignment]
        with pytest.raises(ValueError, match="too large"):
            await stage.fly()

    scene(play)


ACTS = st.lists(
    st.tuples(
        st.sampled_from(["good", "bad", "lost", "suspect", "gone", "back", "changed", "fly", "cancel"]),
        st.sampled_from([PRIMARY, BACKUP]),
    ),
    max_size=25,
)


@given(acts=ACTS, verify=st.sampled_from([VerifyMode.OFF, VerifyMode.PAIR]))
def test_whatever_happens_every_request_gets_one_outcome_by_its_deadline(acts, verify) -> None:
    async def play(stage: Scene) -> None:
        asked = [stage.fly(deadline_ms=20, verify=verify)]
        for act, seat in acts:
            await started()
            perform(stage, act, seat, asked, verify)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, Answer | NotAnswered | asyncio.CancelledError) for one in outcomes)

    scene(play)


def perform(stage: Scene, act: str, seat: Seat, asked: list[Any], verify: VerifyMode) -> None:
    worker = stage.ground.workers[seat]
    if act == "fly":
        asked.append(stage.fly(deadline_ms=20, verify=verify))
    elif act == "cancel":
        asked[0].cancel()
    elif act == "gone":
        worker.usable = False
        ids, worker.requests = worker.requests, []
        stage.flights.lost(ids, suspect=False)
    elif act == "back":
        worker.usable, worker.incarnation = True, worker.incarnation + 1
        stage.flights.members_changed()
    elif act == "changed":
        stage.flights.members_changed()
    elif worker.requests:
        answer(stage, act, worker)


def answer(stage: Scene, act: str, worker: Held) -> None:
    request_id = worker.requests.pop(0)
    if act == "good":
        stage.flights.good(request_id, ROW)
    elif act == "bad":
        stage.flights.bad(request_id, Blame(worker, Fault.ERRORS, "it failed"))  # type: ignore[arg-type]
    else:
        stage.flights.lost([request_id], suspect=act == "suspect")
