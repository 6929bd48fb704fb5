"""Dynamic batching: requests that come while another batch is computed are computed as one, up to a number of rows."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.tensors import Array
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind

Outcome = Answer | NotAnswered
Parts = Sequence[Mapping[str, Array]]  # the inputs of requests that are computed as one
Infer = Callable[[Parts, float], Awaitable[Outcome]]  # what to compute, deadline

# What one request may have caused must not hit its neighbours: they are asked again, each alone.
_ALONE = (RefusalKind.BAD_REQUEST, RefusalKind.POISON, RefusalKind.DEADLINE, RefusalKind.ABSTAINED)


@dataclass(frozen=True)
class _Seat:
    """One request in a batch."""

    inputs: Mapping[str, Array]
    rows: int
    until_s: float
    future: "asyncio.Future[Outcome]"


class Batcher:
    """Gathers requests of equal row shape, computes them together, hands out the rows.

    While nothing is under way a request leaves with those that came in the same turn of the event loop: an idle pair
    keeps nobody waiting. Else it waits for the batch under way, at most ``wait_ms``: that one's worker may be hung.
    """

    def __init__(self, infer: Infer, rows_max: int, wait_ms: float) -> None:
        self._infer = infer
        self._rows_max = rows_max
        self._wait_s = wait_ms / 1000
        self._waiting: list[_Seat] = []
        self._leaving: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def infer(self, inputs: Mapping[str, Array], deadline_ms: float) -> Outcome:
        """Answer one request, alone or with others."""
        rows = int(next(iter(inputs.values())).shape[0])
        if rows >= self._rows_max:
            return await self._infer((inputs,), deadline_ms)
        if self._waiting and not self._fits(inputs, rows):
            self._leave()
        loop = asyncio.get_running_loop()
        seat = _Seat(inputs, rows, loop.time() + deadline_ms / 1000, loop.create_future())
        self._waiting.append(seat)
        if sum(one.rows for one in self._waiting) >= self._rows_max:
            self._leave()
        elif self._leaving is None:
            self._leaving = loop.call_later(self._wait_s, self._leave) if self._tasks else loop.call_soon(self._leave)
        return await seat.future

    def _fits(self, inputs: Mapping[str, Array], rows: int) -> bool:
        first = self._waiting[0].inputs
        same = all(first[name].shape[1:] == array.shape[1:] for name, array in inputs.items())
        return same and sum(one.rows for one in self._waiting) + rows <= self._rows_max

    def _leave(self) -> None:
        """Send what waits on its way."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        seats, self._waiting = [one for one in self._waiting if not one.future.done()], []
        if seats:
            task = asyncio.get_running_loop().create_task(self._compute(seats))
            self._tasks.add(task)
            task.add_done_callback(functools.partial(self._computed, seats))

    def _computed(self, seats: list[_Seat], task: "asyncio.Task[None]") -> None:
        """Send the next on its way; tell a bug to everybody who waits: nobody is to wait for ever."""
        self._tasks.discard(task)
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        for one in seats:
            if error is not None and not one.future.done():
                one.future.set_exception(error)
        if not self._tasks:
            self._leave()

    async def _compute(self, seats: list[_Seat]) -> None:
        outcome = await self._together(seats)
        if isinstance(outcome, NotAnswered) and outcome.kind in _ALONE and len(seats) > 1:
            await asyncio.gather(*(self._alone(one) for one in seats))
            return
        start = 0
        for one in seats:
            _settle(one, _rows_of(outcome, start, start + one.rows))
            start += one.rows

    async def _together(self, seats: list[_Seat]) -> Outcome:
        parts = [one.inputs for one in seats]
        return await self._infer(parts, self._left_ms(min(one.until_s for one in seats)))

    async def _alone(self, seat: _Seat) -> None:
        _settle(seat, await self._infer((seat.inputs,), self._left_ms(seat.until_s)))

    def _left_ms(self, until_s: float) -> float:
        return max(1.0, 1000 * (until_s - asyncio.get_running_loop().time()))


def joined(parts: Parts) -> Mapping[str, Array]:
    """Return the rows of several requests as those of one."""
    return parts[0] if len(parts) == 1 else {name: np.concatenate([one[name] for one in parts]) for name in parts[0]}


def _rows_of(outcome: Outcome, start: int, end: int) -> Outcome:
    if isinstance(outcome, NotAnswered):
        return outcome
    return replace(outcome, outputs={name: array[start:end] for name, array in outcome.outputs.items()})


def _settle(seat: _Seat, outcome: Outcome) -> None:
    if not seat.future.done():
        seat.future.set_result(outcome)
