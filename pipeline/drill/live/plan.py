"""What a load generator is to send, and what it tells of it."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError, InternalError
from pipeline.core.files import read_bytes, read_json
from pipeline.core.printable import printable
from pipeline.core.schema import read
from pipeline.drill.nouns import Arrivals

_LOG_BYTES_MAX = 32 << 20
_LOG_TIMES_MAX = 1_000_000
_GAPS_AT_ONCE = 256


@dataclass(frozen=True)
class Extra:
    """A request beside the others, e.g. one that is poison."""

    at_s: float
    body: str


@dataclass(frozen=True)
class Plan:
    """Bodies to send in turn, at a rate, for some seconds; a request without an answer by its deadline is lost."""

    port: int
    path: str
    bodies: tuple[str, ...]
    rate: float
    seconds: float
    seed: int = 0
    arrivals: Arrivals = Arrivals.POISSON
    deadline_ms: float = 1000.0
    connections: int = 32
    host: str = "127.0.0.1"
    extras: tuple[Extra, ...] = ()
    due_s: tuple[float, ...] = ()  # REPLAY: seconds after the start


@dataclass
class Exchange:
    """One request and what came back; times in ms after the start. ``status`` 0: no answer, and ``error`` says why.

    ``question`` numbers the body; extras count on behind the plan's bodies.
    """

    question: int
    scheduled_ms: float
    sent_ms: float | None = None
    done_ms: float | None = None
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    error: str = ""

    @property
    def latency_ms(self) -> float | None:
        """Return how long the answer took, counted from when the request was due."""
        return None if self.done_ms is None else self.done_ms - self.scheduled_ms


@dataclass(frozen=True)
class Record:
    """All exchanges of a plan; ``began_s`` is ``time.monotonic()`` at its start."""

    began_s: float
    exchanges: tuple[Exchange, ...]


def schedule(plan: Plan) -> list[tuple[float, int]]:
    """Return (seconds after the start, question) of every request, in time's order; the same for the same seed."""
    due = [(at_s, number % len(plan.bodies)) for number, at_s in enumerate(_times(plan))]
    return sorted([*due, *((extra.at_s, len(plan.bodies) + n) for n, extra in enumerate(plan.extras))])


def _times(plan: Plan) -> list[float]:
    if plan.arrivals is Arrivals.REPLAY:
        return sorted(at_s for at_s in plan.due_s if 0 <= at_s < plan.seconds)
    gaps = itertools.repeat(1 / plan.rate) if plan.arrivals is Arrivals.CONSTANT else _random_gaps(plan)
    times = itertools.accumulate(gaps, initial=0.0)
    return list(itertools.takewhile(lambda at_s: at_s < plan.seconds, times))


def _random_gaps(plan: Plan) -> Iterator[float]:
    draw = np.random.default_rng(plan.seed)
    while True:
        yield from draw.exponential(1 / plan.rate, _GAPS_AT_ONCE).tolist()


def read_due_times(log: Path) -> tuple[float, ...]:
    """Read a request log: one due time in seconds a line, the first one being the start.

    Raises DataError, which tells no content: a script can name any file that whoever plays it may read.
    """
    place = printable(str(log))
    if not log.is_file() or log.stat().st_size > _LOG_BYTES_MAX:
        raise DataError(f"{place} is no file of at most {_LOG_BYTES_MAX} bytes; give one time in seconds a line.")
    try:
        times = sorted(float(line) for line in read_bytes(log, DataError).decode().splitlines() if line.strip())
    except ValueError:
        times = []
    if not times or len(times) > _LOG_TIMES_MAX or not np.isfinite([*times, times[-1] - times[0]]).all():
        raise DataError(f"{place} holds something else than times of requests; give one time in seconds a line.")
    return tuple(at_s - times[0] for at_s in times)


def read_record(path: Path) -> Record:
    """Read what a generator wrote."""
    return read(Record, read_json(path, InternalError))


def encoded(plan: Plan) -> list[bytes]:
    """Return the bytes of every request, head and body, in the order of questions."""
    bodies = [*plan.bodies, *(extra.body for extra in plan.extras)]
    return [_request(plan, body.encode()) for body in bodies]


def _request(plan: Plan, body: bytes) -> bytes:
    head = (
        f"POST {plan.path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
