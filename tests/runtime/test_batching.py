import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime.batching import Batcher, Parts, joined
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind

BAD = -1.0


class Engine:
    """Doubles rows; a batch with a bad row is refused as a whole."""

    def __init__(self, kind: RefusalKind = RefusalKind.BAD_REQUEST) -> None:
        self.asked: list[tuple[int, float]] = []
        self._kind = kind

    async def __call__(self, parts: Parts, deadline_ms: float) -> Answer | NotAnswered:
        inputs = joined(parts)
        self.asked.append((len(inputs["x"]), deadline_ms))
        await asyncio.sleep(0)
        if np.any(inputs["x"] == BAD):
            return NotAnswered(self._kind, "bad")
        return Answer({"y": 2 * inputs["x"]}, "id", "candidate", Role.PRIMARY, 1, False)


def together(
    requests: Sequence[Array], infer: Callable[..., Awaitable[Answer | NotAnswered]], rows_max: int = 16
) -> list[Answer | NotAnswered | BaseException]:
    async def run() -> list[Answer | NotAnswered | BaseException]:
        batcher = Batcher(infer, rows_max, wait_ms=1)
        asking = (batcher.infer({"x": one}, 1000) for one in requests)
        return await asyncio.wait_for(asyncio.gather(*asking, return_exceptions=True), 30)

    return asyncio.run(run())


def rows(*values: float) -> Array:
    return np.array(values, np.float32)[:, None]


@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=30), rows_max=st.integers(1, 16))
def test_everybody_gets_the_answer_to_their_own_rows_and_no_batch_is_too_large(sizes, rows_max) -> None:
    engine = Engine()
    requests = [rows(*(10.0 * number + row for row in range(size))) for number, size in enumerate(sizes)]
    outcomes = together(requests, engine, rows_max)
    for request, outcome in zip(requests, outcomes, strict=True):
        assert isinstance(outcome, Answer)
        np.testing.assert_array_equal(outcome.outputs["y"], 2 * request)
    assert all(count <= rows_max or count in sizes for count, *_ in engine.asked)
    assert len(engine.asked) <= len(sizes)


@given(bad=st.sets(st.integers(0, 9), min_size=1), kind=st.sampled_from([RefusalKind.BAD_REQUEST, RefusalKind.POISON]))
def test_what_is_bad_fails_alone(bad, kind) -> None:
    engine = Engine(kind)
    outcomes = together([rows(BAD if number in bad else number) for number in range(10)], engine)
    assert {number for number, outcome in enumerate(outcomes) if isinstance(outcome, NotAnswered)} == bad


def test_an_overloaded_pair_is_not_asked_again_by_each() -> None:
    engine = Engine(RefusalKind.OVERLOADED)
    outcomes = together([rows(BAD), rows(1.0), rows(2.0)], engine)
    assert all(isinstance(outcome, NotAnswered) for outcome in outcomes)
    assert len(engine.asked) == 1


def test_rows_of_another_shape_wait_in_a_batch_of_their_own() -> None:
    engine = Engine()
    wide = np.ones((2, 3), np.float32)
    outcomes = together([rows(1.0), wide, rows(2.0)], engine)
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert isinstance(outcomes[1], Answer)
    np.testing.assert_array_equal(outcomes[1].outputs["y"], 2 * wide)


def test_a_bug_reaches_everybody_who_waits() -> None:
    async def broken(parts: Parts, deadline_ms: float) -> Answer:
        raise ZeroDivisionError

    outcomes = together([rows(1.0), rows(2.0)], broken)
    assert all(isinstance(outcome, ZeroDivisionError) for outcome in outcomes)


def test_who_goes_away_takes_no_place_in_the_batch() -> None:
    engine = Engine()

    async def run() -> None:
        batcher = Batcher(engine, 16, wait_ms=20)
        gone = asyncio.ensure_future(batcher.infer({"x": rows(BAD)}, 1000))
        stays = asyncio.ensure_future(batcher.infer({"x": rows(1.0)}, 1000))
        await asyncio.sleep(0)
        gone.cancel()
        assert isinstance(await stays, Answer)
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())
    assert [count for count, *_ in engine.asked] == [1]


def test_a_batch_has_the_shortest_deadline_of_its_requests() -> None:
    engine = Engine()

    async def run() -> None:
        batcher = Batcher(engine, 16, wait_ms=1)
        await asyncio.gather(batcher.infer({"x": rows(1.0)}, 5000), batcher.infer({"x": rows(2.0)}, 500))

    asyncio.run(run())
    (asked,) = engine.asked
    assert asked[0] == 2
    assert asked[1] <= 500


class Held:
    """An engine that answers when it is let."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.free = asyncio.Event()

    async def __call__(self, parts: Parts, *_: object) -> Answer:
        inputs = joined(parts)
        self.asked.append(len(inputs["x"]))
        await self.free.wait()
        return Answer({"y": 2 * inputs["x"]}, "id", "candidate", Role.PRIMARY, 1, False)


async def turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_an_idle_pair_keeps_nobody_waiting() -> None:
    async def run() -> list[int]:
        engine = Held()
        batcher = Batcher(engine, 16, wait_ms=60_000)
        one = asyncio.ensure_future(batcher.infer({"x": rows(1.0)}, 1000))
        await turns(4)
        engine.free.set()
        await asyncio.wait_for(one, 30)
        return engine.asked

    assert asyncio.run(run()) == [1]


def test_who_comes_while_a_batch_is_computed_leaves_together_when_it_is_done() -> None:
    async def run() -> tuple[list[int], list[int]]:
        engine = Held()
        batcher = Batcher(engine, 16, wait_ms=60_000)
        asking = []
        for number in range(4):
            asking.append(asyncio.ensure_future(batcher.infer({"x": rows(number)}, 1000)))
            await turns(4)
        before = list(engine.asked)
        engine.free.set()
        await asyncio.wait_for(asyncio.gather(*asking), 30)
        return before, engine.asked

    assert asyncio.run(run()) == ([1], [1, 3])


def test_a_batch_that_hangs_holds_the_next_up_for_the_wait_and_no_longer() -> None:
    async def run() -> list[int]:
        engine = Held()
        batcher = Batcher(engine, 16, wait_ms=1)
        asking = [asyncio.ensure_future(batcher.infer({"x": rows(0.0)}, 1000))]
        await turns(4)
        asking += [asyncio.ensure_future(batcher.infer({"x": rows(number)}, 1000)) for number in (1.0, 2.0)]
        async with asyncio.timeout(30):
            while len(engine.asked) == 1:
                await turns(1)
        engine.free.set()
        await asyncio.gather(*asking)
        return engine.asked

    assert asyncio.run(run()) == [1, 2]
