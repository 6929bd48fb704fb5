"""One real file: stored, run on the guide rows, weighed. A pure function of its arguments, wherever it runs."""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

from pipeline.compress.schemes.calibration import Clipping
from pipeline.compress.schemes.storing import correct_biases, require_answers, store_unrun
from pipeline.compress.search.divergence import divergence
from pipeline.compress.search.kit import Kit, decode_kit
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import DataError, InternalError, ModelError, SchemeRefused
from pipeline.core.files import read_bytes
from pipeline.core.names import Scheme
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session
from pipeline.engines.open import open_session

ZSTD_LEVEL = 19  # as scorecards weigh it
_KITS_KEPT = 8
_SLOW_ROWS = 64  # 16-bit activations run in reference kernels, about forty times slower
_WARM_UP_CALLS = 5
_PAIRS_LEAST = 20
_PAIRS_MOST = 200
_SECONDS_MOST = 0.15


@dataclass(frozen=True)
class Build:
    """How one file is made from a float export: ``uniform`` for all of it, or a scheme for each group named."""

    uniform: Scheme | None = None
    assignment: tuple[tuple[str, Scheme], ...] = ()  # sorted; groups that are left out stay float32
    clipping: Clipping = Clipping.NONE
    corrected: bool = False  # biases take over the mean error

    @property
    def schemes(self) -> frozenset[Scheme]:
        """Return the number formats that occur, without float32."""
        found = {self.uniform} if self.uniform is not None else {scheme for _, scheme in self.assignment}
        return frozenset(found - {Scheme.F32})

    @property
    def needs_ranges(self) -> bool:
        """Tell whether calibration matters."""
        return any(scheme.needs_ranges for scheme in self.schemes)


@dataclass(frozen=True)
class Trial:
    """A file to make, and what to measure beside its bytes and divergence."""

    build: Build
    compressed: bool = False
    timed: bool = False


@dataclass(frozen=True)
class Figures:
    """What was measured of one file; with ``refused``, why there is none (the other figures mean nothing then)."""

    bytes: int = 0
    sha256: str = ""
    divergence: float = 0.0
    bytes_zstd: int | None = None
    latency_ratio: float | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Parcel:
    """An encoded kit on its way to another process: a file of this machine, or its bytes; equal digests are equal."""

    digest: str
    path: str | None = field(default=None, compare=False)
    data: bytes | None = field(default=None, compare=False, repr=False)


def measure(parcel: Parcel, trial: Trial) -> Figures:
    """Make one file and measure it; raises nothing that another file could not also raise."""
    bench = _bench(parcel)
    try:
        return _figures(bench, trial)
    except (SchemeRefused, ModelError, DataError) as error:
        return Figures(refused=str(error))


def build_file(kit: Kit, build: Build) -> bytes:
    """Return the file; equal arguments give equal bytes. Raises SchemeRefused when it cannot be made."""
    with _quiet_libraries():
        return _file(kit, build)


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Silence what the quantizers log of every single file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _file(kit: Kit, build: Build) -> bytes:
    wanted = build.uniform if build.uniform is not None else dict(build.assignment)
    ranges = kit.ranges.get(build.clipping) if build.needs_ranges else None
    stored = store_unrun(kit.format, kit.prepared, wanted, ranges)
    return correct_biases(kit.format, kit.prepared, stored, [kit.rows]) if build.corrected else stored


@dataclass(frozen=True)
class _Bench:
    """A kit unpacked in this process, with the float export loaded."""

    kit: Kit
    float_session: Session


@functools.lru_cache(maxsize=_KITS_KEPT)
def _bench(parcel: Parcel) -> _Bench:
    data = parcel.data if parcel.data is not None else read_bytes(Path(str(parcel.path)))
    if sha256_hex(data) != parcel.digest:
        raise InternalError(f"{parcel.path} has changed while the search ran; run it again.")
    kit = decode_kit(data)
    return _Bench(kit, open_session(kit.format, kit.prepared))


def _figures(bench: _Bench, trial: Trial) -> Figures:
    kit = bench.kit
    model = build_file(kit, trial.build)
    session = open_session(kit.format, model)
    if (session.inputs, session.outputs) != (bench.float_session.inputs, bench.float_session.outputs):
        raise SchemeRefused("It takes or gives other tensors than its float export; the two could not be swapped.")
    require_answers(session)
    rows = _SLOW_ROWS if Scheme.W8A16 in trial.build.schemes else len(next(iter(kit.rows.values())))
    answers = session.run(first_rows(kit.rows, rows))
    few = first_rows(kit.rows, kit.latency_rows)
    return Figures(
        bytes=len(model),
        sha256=sha256_hex(model),
        divergence=divergence(kit.yardstick, answers, first_rows(kit.answers, rows)),
        bytes_zstd=len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(model)) if trial.compressed else None,
        latency_ratio=latency_ratio(session, bench.float_session, few) if trial.timed else None,
    )


def first_rows(tensors: Tensors, rows: int) -> dict[str, Array]:
    """Return the first rows of every tensor, as many as there are."""
    return {name: array[:rows] for name, array in tensors.items()}


def latency_ratio(session: Session, reference: Session, rows: Tensors) -> float:
    """Time both in turn and compare the fastest calls: what else the machine does only ever adds time."""
    calls: tuple[Callable[[], object], ...] = (lambda: session.run(rows), lambda: reference.run(rows))
    for _ in range(_WARM_UP_CALLS):
        for call in calls:
            call()
    fastest = [float("inf"), float("inf")]
    until = time.perf_counter() + _SECONDS_MOST
    for pair in range(_PAIRS_MOST):
        if pair >= _PAIRS_LEAST and time.perf_counter() > until:
            break
        for index, call in enumerate(calls):
            started = time.perf_counter_ns()
            call()
            fastest[index] = min(fastest[index], time.perf_counter_ns() - started)
    return round(fastest[0] / fastest[1], 4)
