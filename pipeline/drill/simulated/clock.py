"""An asyncio event loop on virtual time: nothing is waited for, time jumps to the next timer."""

import asyncio
import contextvars
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from pipeline.core.errors import InternalError

_THREAD_S = 0.02  # what was given to another thread takes so long, and then happens at once
_STALLS = 0.5  # how often a process that is short of processor time wakes up late


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without sockets, signals or threads; what is due at one moment happens in the order it was asked for.

    Of ``BaseEventLoop`` it replaces how timers are kept and how it goes on, ``_run_once``. While ``stall_ms`` is above
    0 the process is short of processor time: it may wake up late. ``problems`` collects what callbacks raised.
    """

    def __init__(self, draw: random.Random, began_s: float = 1000.0) -> None:
        super().__init__()
        self._ready: deque[asyncio.Handle]
        self.stall_ms = 0.0
        self.problems: list[str] = []
        self._draw = draw
        self._now_s = began_s
        self._timers: list[tuple[float, int, asyncio.Handle]] = []
        self._order = itertools.count()
        self._shared = contextvars.copy_context()
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now_s

    def now_ms(self) -> float:
        """Return virtual milliseconds."""
        return self._now_s * 1000

    def call_at(  # type: ignore[override]  # arguments of any types
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call a function when its time has come."""
        timer = asyncio.TimerHandle(when, callback, args, self, context or self._shared)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call a function after a while."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def do_at(self, when_s: float, call: Callable[..., object], *args: object) -> None:
        """Do something of the simulation's own at a moment: nobody cancels it, so it is lighter than a timer."""
        handle = asyncio.Handle(call, args, self, self._shared)
        heapq.heappush(self._timers, (when_s, next(self._order), handle))

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave it where it is: it is passed over when its time comes."""

    def _run_once(self) -> None:
        """Run what is ready; where nothing is, let time jump. Raises InternalError where nothing ever will be."""
        ready = self._ready
        if not ready:
            self._jump()
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _jump(self) -> None:
        timers = self._timers
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
        if not timers:
            raise InternalError("Everybody in the simulated world waits for nothing; this is a bug of the simulation.")
        if timers[0][0] > self._now_s:
            self._now_s = timers[0][0]
            if self.stall_ms and self._draw.random() < _STALLS:
                self._now_s += self._draw.random() * self.stall_ms / 1000
        while timers and timers[0][0] <= self._now_s:
            self._ready.append(heapq.heappop(timers)[2])

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]  # noqa: ARG002
        """Call a function a little later, as if another thread had worked at it."""
        return self.create_task(self._worked(func, args))

    async def _worked(self, func: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        await asyncio.sleep(_THREAD_S)
        return func(*args)

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.problems.append(f"{context['message']}: {error!r}")
