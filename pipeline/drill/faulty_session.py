"""An engine session that does wrong when it is told to: the faults of a drill, inside a real worker."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.core.errors import InternalError, ModelError
from pipeline.core.files import read_bytes
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.drill.orders import Order, OrderKind, OrderReader
from pipeline.engines.base import Session, TensorSpec
from pipeline.engines.open import open_session

OpenSession = Callable[[Format, bytes, int], Session]
Outputs = dict[str, Array]

_EXIT_STATUS = 3
_MEGABYTE = 1 << 20


class FaultySession:
    """A session that follows orders; without one it answers as the session that it wraps."""

    def __init__(self, session: Session, orders: OrderReader, reopen: Callable[[bytes], Session]) -> None:
        """Wrap a session; ``reopen`` loads the bytes of another model in its place."""
        self._session = session
        self._orders = orders
        self._reopen = reopen
        self._corrupted: Session | None = None
        self._followed: Order | None = None
        self._runs = 0
        self._kept: list[bytes] = []
        self._random = random.Random(os.getpid())  # noqa: S311  # jitter, no secret

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs, sorted by name."""
        return self._session.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Return the outputs, sorted by name."""
        return self._session.outputs

    def run(self, inputs: Tensors) -> Outputs:
        """Predict as the wrapped session does, or as ordered."""
        order = self._orders.current()
        if order is None or (order.poison is not None and not _holds(inputs, order.poison)):
            return self._session.run(inputs)
        if order != self._followed:
            self._followed, self._runs = order, 0
        self._runs += 1
        return self._follow(order, inputs)

    def _follow(self, order: Order, inputs: Tensors) -> Outputs:
        if order.kind is OrderKind.CORRUPT_WEIGHTS:
            return self._with_other_weights(order).run(inputs)
        if order.kind in _SPOILED:
            return {name: _SPOILED[order.kind](array, order) for name, array in self._session.run(inputs).items()}
        _BEFORE[order.kind](self, order)
        return self._session.run(inputs)

    def _with_other_weights(self, order: Order) -> Session:
        if self._corrupted is None:
            if order.model is None:
                raise InternalError("An order to corrupt weights names no model; give it one.")
            self._corrupted = self._reopen(read_bytes(Path(order.model)))
        return self._corrupted

    def hang(self, order: Order) -> None:
        """Spin: the process is busy and hears nothing."""
        end = time.monotonic() + (order.ms / 1000 or float("inf"))
        while time.monotonic() < end:
            pass

    def hang_sleep(self, order: Order) -> None:
        """Sleep: as a call that never comes back."""
        end = time.monotonic() + (order.ms / 1000 or float("inf"))
        while time.monotonic() < end:
            time.sleep(1.0)

    def slow(self, order: Order) -> None:
        """Wait before the answer."""
        wait_ms = order.ms + self._random.random() * order.jitter_ms + order.ramp_ms * (self._runs - 1)
        time.sleep(wait_ms / 1000)

    def fail(self, order: Order) -> None:
        """Refuse to answer, as an engine would."""
        raise ModelError(f"The model cannot be run (a drill ordered {order.kind}); withdraw the order.")

    def crash(self, _order: Order) -> None:
        """End by SIGSEGV, as a bug in an engine would."""
        signal.signal(signal.SIGSEGV, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGSEGV)

    def grow(self, order: Order) -> None:
        """Keep memory that is written to, so that it counts."""
        self._kept.append(b"\1" * (order.grow_mb * _MEGABYTE))

    def leave(self, _order: Order) -> None:
        """End the process as a library that calls exit() would."""
        os._exit(_EXIT_STATUS)


_BEFORE: dict[OrderKind, Callable[[FaultySession, Order], None]] = {
    OrderKind.HANG: FaultySession.hang,
    OrderKind.HANG_SLEEP: FaultySession.hang_sleep,
    OrderKind.SLOW: FaultySession.slow,
    OrderKind.ERRORS: FaultySession.fail,
    OrderKind.CRASH: FaultySession.crash,
    OrderKind.GROW: FaultySession.grow,
    OrderKind.EXIT: FaultySession.leave,
}
_SPOILED: dict[OrderKind, Callable[[Array, Order], Array]] = {
    OrderKind.MALFORMED: lambda array, _order: np.concatenate([array, array], axis=-1),
    OrderKind.NAN: lambda array, _order: np.full_like(array, np.nan),
    OrderKind.WRONG_DTYPE: lambda array, _order: array.astype(np.float64),
    OrderKind.WRONG_ANSWERS: lambda array, order: np.asarray(array + np.asarray(order.bias, array.dtype)),
}


def _holds(inputs: Tensors, poison: float) -> bool:
    return any(bool(np.any(array == np.asarray(poison).astype(array.dtype))) for array in inputs.values())


def faulty(folder: Path, inner: OpenSession = open_session) -> OpenSession:
    """Return an ``open_session`` whose sessions take orders from ``folder``."""

    def open_faulty(model_format: Format, model: bytes, threads: int = 1) -> Session:
        def reopen(content: bytes) -> Session:
            return inner(model_format, content, threads)

        reader = OrderReader(folder, model)
        if not reader.may_start():
            raise ModelError("The model cannot be loaded (a drill ordered that); the next tries will.")
        return FaultySession(inner(model_format, model, threads), reader, reopen)

    return open_faulty
