"""Orders to faulty sessions: small files in one folder, and a counter that tells every session when to look again.

A folder has one writer. An order is addressed to one process (``pid-123``), to every process that loads one model
(``model-<first 12 digits of its sha256>``) or to ``all``; the nearest address wins. A session without an order pays for
one read of mapped memory a run.
"""

import mmap
import os
import struct
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.core.canonical import readable_json, sha256_hex
from pipeline.core.errors import InternalError, UsageError
from pipeline.core.files import read_json, write_atomic
from pipeline.core.schema import plain, read

EVERYBODY = "all"

_BOARD_FILE = "board"
_COUNTER = struct.Struct("=Q")


class OrderKind(StrEnum):
    """What a session is told to do wrong."""

    HANG = "hang"  # busy, and deaf
    HANG_SLEEP = "hang_sleep"  # idle, and deaf
    SLOW = "slow"
    ERRORS = "errors"
    MALFORMED = "malformed"  # one column more than the model has
    NAN = "nan"
    WRONG_DTYPE = "wrong_dtype"
    WRONG_ANSWERS = "wrong_answers"  # a bias on every output
    CORRUPT_WEIGHTS = "corrupt_weights"  # goes on with another model: see corruption.py
    CRASH = "crash"  # SIGSEGV
    GROW = "grow"  # keeps more memory at each run
    EXIT = "exit"
    FAIL_START = "fail_start"  # the next ``times`` sessions of a model cannot be opened


@dataclass(frozen=True)
class Order:
    """One order. Where ``poison`` is given, it is meant only for requests with that number among their inputs.

    ``ms`` is how long a hang lasts (0: for ever) or how much a slow answer waits, to which comes up to ``jitter_ms``,
    and ``ramp_ms`` more for each run since the order.
    """

    kind: OrderKind
    ms: float = 0.0
    jitter_ms: float = 0.0
    ramp_ms: float = 0.0
    bias: float = 0.2
    grow_mb: int = 0
    model: str | None = None  # file of the model that CORRUPT_WEIGHTS goes on with
    poison: float | None = None
    times: int = 1


def process_address(pid: int) -> str:
    """Return the address of one process."""
    return f"pid-{pid}"


def model_address(model: bytes) -> str:
    """Return the address of every process that loads these bytes."""
    return f"model-{sha256_hex(model)[:12]}"


def start_address(model: bytes) -> str:
    """Return the address of every process that is about to load these bytes."""
    return f"start-{model_address(model)}"


class OrderBook:
    """The writer's side of a folder of orders."""

    def __init__(self, folder: Path) -> None:
        """Begin a folder; orders of an earlier book in it are withdrawn."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for old in (*folder.glob("*.json"), *folder.glob("*.taken")):
            old.unlink()
        board = folder / _BOARD_FILE
        if not board.exists():
            write_atomic(board, bytes(_COUNTER.size))
        self._counter = _map_counter(board, writable=True)
        self._bump()

    def give(self, address: str, order: Order) -> None:
        """Give an order; it holds from the next run on, in processes that start later too, until it is withdrawn."""
        write_atomic(_order_file(self._folder, address), readable_json(plain(order)))
        self._bump()

    def withdraw(self, address: str) -> None:
        """Take an order back."""
        _order_file(self._folder, address).unlink(missing_ok=True)
        self._bump()

    def _bump(self) -> None:
        self._counter[0] += 1


class OrderReader:
    """A session's side of a folder of orders. Raises UsageError where there is no such folder."""

    def __init__(self, folder: Path, model: bytes) -> None:
        self._folder = folder
        board = folder / _BOARD_FILE
        if not board.exists():
            raise UsageError(f"{folder} is no folder of orders; make it with OrderBook first.")
        self._counter = _map_counter(board, writable=False)
        self._start = _order_file(folder, start_address(model))
        self._addresses = (process_address(os.getpid()), model_address(model), EVERYBODY)
        self._seen = -1
        self._order: Order | None = None

    def current(self) -> Order | None:
        """Return what is ordered now."""
        count = self._counter[0]
        if count != self._seen:
            self._order = self._read()
            self._seen = count
        return self._order

    def may_start(self) -> bool:
        """Tell whether a session may be opened now; one that may not uses up one of the times that were ordered."""
        if not self._start.exists():
            return True
        order = read(Order, read_json(self._start, InternalError))
        return not any(_taken(self._start.with_suffix(f".{number}.taken")) for number in range(order.times))

    def _read(self) -> Order | None:
        files = (_order_file(self._folder, address) for address in self._addresses)
        found = next((file for file in files if file.exists()), None)
        return None if found is None else read(Order, read_json(found, InternalError))


def _taken(path: Path) -> bool:
    """Take a number if nobody has, whichever process asks."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _order_file(folder: Path, address: str) -> Path:
    return folder / f"{address}.json"


def _map_counter(board: Path, writable: bool) -> "memoryview[int]":
    with board.open("r+b" if writable else "rb") as stream:
        access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        return memoryview(mmap.mmap(stream.fileno(), _COUNTER.size, access=access)).cast("Q")
