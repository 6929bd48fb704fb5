"""An asyncio event loop on virtual time: nothing is waited for, time jumps to the next timer."""

import asyncio
import contextvars
import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from pipeline.core.errors import InternalError

_THREAD_S = 0.02  # what was given to another thread takes so long, and then happens at once
_STALLS = 0.5  # how often a process that is short of processor time wakes up late


class _Due(asyncio.TimerHandle):
    """A call that is due, without what asyncio keeps of it for debugging: a drill makes thousands."""

    __slots__ = ()

    def __init__(
        self, when: float, callback: Callable[..., object], args: tuple[object, ...],
        loop: "VirtualLoop", context: contextvars.Context,
    ) -> None:  # fmt: skip
        self._when = when
        self._callback = callback
        self._args = args
        self._loop = loop
        self._context = context
        self._cancelled = False
        self._source_traceback = None

    def cancel(self) -> None:
        """Let it not be called; it lies where it is until its time comes."""
        self._cancelled, self._callback, self._args = True, _nothing, ()


def _nothing() -> None:
    """Stand for a call that was cancelled."""


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without sockets, signals or threads; what is due at one moment happens in the order it was asked for.

    Of ``BaseEventLoop`` it replaces how calls are kept and how it goes on, ``_run_once``. While ``stall_ms`` is above
    0 the process is short of processor time: it may wake up late. ``problems`` collects what callbacks raised.
    """

    def __init__(self, draw: random.Random, began_s: float = 1000.0) -> None:
        super().__init__()
        self._ready: deque[_Due]
        self._stopping: bool
        self.stall_ms = 0.0
        self.problems: list[str] = []
        self._draw = draw
        self._now_s = began_s
        self._timers: list[tuple[float, int, _Due]] = []
        self._order = itertools.count()
        self._shared = contextvars.copy_context()
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now_s

    def now_ms(self) -> float:
        """Return virtual milliseconds."""
        return self._now_s * 1000

    def create_task(  # type: ignore[override]  # of any coroutine
        self, coro: Coroutine[Any, Any, Any], *, name: str = "", context: contextvars.Context | None = None
    ) -> asyncio.Task[Any]:
        """Begin with a coroutine next; tasks are numbered for debugging, and these have no number."""
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_soon(  # type: ignore[override]  # arguments of any types
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Call a function next."""
        due = _Due(self._now_s, callback, args, self, context or self._shared)
        self._ready.append(due)
        return due

    def call_at(  # type: ignore[override]  # as above
        self, when: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call a function when its time has come."""
        due = _Due(when, callback, args, self, context or self._shared)
        heapq.heappush(self._timers, (when, next(self._order), due))
        return due

    def call_later(  # type: ignore[override]  # as above
        self, delay: float, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Call a function after a while."""
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Run what is ready until the loop is stopped; where nothing is, let time jump.

        Raises InternalError where nothing ever will be.
        """
        ready = self._ready
        while not self._stopping:
            if not ready:
                self._jump()
            due = ready.popleft()
            if not due._cancelled:
                due._run()

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
