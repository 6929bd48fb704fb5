"""An asyncio event loop on virtual time: nothing is waited for, time jumps to the next timer."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from pipeline.core.errors import InternalError

_THREAD_S = 0.02  # what was given to another thread takes so long, and then happens at once
_RESOLUTION_S = 1e-9


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without sockets, signals or threads; what is due at one moment happens in the order it was asked for.

    It stands on what ``BaseEventLoop`` asks of its selector, as every loop of the standard library does. While
    ``stall_ms`` is above 0 the process is short of processor time: each time it would sleep, it wakes up late.
    ``problems`` collects what callbacks raised.
    """

    def __init__(self, draw: random.Random, began_s: float = 1000.0) -> None:
        super().__init__()
        self.stall_ms = 0.0
        self.problems: list[str] = []
        self._draw = draw
        self._now_s = began_s
        self._selector = self
        self._clock_resolution = _RESOLUTION_S
        self.set_exception_handler(self._complain)

    def time(self) -> float:
        """Return virtual seconds."""
        return self._now_s

    def now_ms(self) -> float:
        """Return virtual milliseconds."""
        return self._now_s * 1000

    def select(self, timeout: float | None) -> list[object]:
        """Let time jump; raises InternalError when nothing will ever happen any more."""
        if timeout is None:
            raise InternalError("Everybody in the simulated world waits for nothing; this is a bug of the simulation.")
        if timeout > 0:
            self._now_s += timeout
            if self.stall_ms and self._draw.random() < 0.5:
                self._now_s += self._draw.random() * self.stall_ms / 1000
        return []

    def _process_events(self, events: list[object]) -> None:
        """Take that there are none."""

    def _write_to_self(self) -> None:
        """Wake nobody: there is no other thread."""

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":  # type: ignore[override]  # noqa: ARG002
        """Call a function a little later, as if another thread had worked at it."""
        future = self.create_future()
        self.call_later(_THREAD_S, self._worked, future, func, args)
        return future

    def _worked(self, future: "asyncio.Future[Any]", func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        if future.cancelled():
            return
        try:
            result = func(*args)
        except Exception as error:  # noqa: BLE001 - as an executor does: it is raised where it is awaited
            future.set_exception(error)
        else:
            future.set_result(result)

    def _complain(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.problems.append(f"{context['message']}: {error!r}")
