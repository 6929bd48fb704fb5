"""From a verified bundle to a session that answers as when it was packed, and how fast it does so here."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline.bundle.golden import check_golden, read_golden
from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.errors import Malformed
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session
from pipeline.engines.open import open_session as open_engine_session

OpenSession = Callable[[Format, bytes, int], Session]

ROWS_AT_ONCE = 256  # an engine gains nothing by more, and keeps for good what its largest batch took

_BASELINE_RUNS = 50
_BASELINE_MS = 15.0


@dataclass(frozen=True)
class Baseline:
    """Milliseconds of a one-row answer of the engine, right after warm-up; the last, right after several rows."""

    p50_ms: float
    p99_ms: float
    reshaped_ms: float


def load_ready(bundle: VerifiedBundle, open_session: OpenSession = open_engine_session) -> Session:
    """Load a verified bundle's model from its bytes and check that it answers as when it was packed.

    Raises ModelError, Malformed when io.json describes other tensors, GoldenMismatch.
    """
    entry = bundle.manifest.entrypoint
    session = open_session(entry.format, bundle.files[entry.path], bundle.manifest.runtime.threads)
    described = {(spec.name, spec.dtype, spec.shape) for spec in (*bundle.io.inputs, *bundle.io.outputs)}
    if described != {(spec.name, spec.dtype, spec.shape) for spec in (*session.inputs, *session.outputs)}:
        raise Malformed("io.json describes other tensors than the model has; pack the bundle again.")
    check_golden(read_golden(bundle.files), session.run)
    return session


def measure_baseline(session: Session, inputs: Tensors) -> Baseline:
    """Time answers to the first row of ``inputs``: at least 5 of them, at most 50, for 15 ms or so."""
    row = {name: np.ascontiguousarray(array[:1]) for name, array in inputs.items()}
    began = time.perf_counter()
    session.run(row)  # the golden rows were more than one: the engine shapes itself anew
    reshaped_ms = 1000 * (time.perf_counter() - began)
    times_ms: list[float] = []
    while len(times_ms) < _BASELINE_RUNS and (len(times_ms) < 5 or sum(times_ms) < _BASELINE_MS):
        began = time.perf_counter()
        session.run(row)
        times_ms.append(1000 * (time.perf_counter() - began))
    times_ms.sort()  # not numpy.quantile: it would import numpy.ma, which takes as long as all the rest of a start
    return Baseline(times_ms[len(times_ms) // 2], times_ms[len(times_ms) * 99 // 100], reshaped_ms)


def run_in_slices(session: Session, inputs: Tensors) -> dict[str, Array]:
    """Predict rows, a few hundred at a time: what a worker needs of memory is bounded by its model, not by requests.

    Models whose number of rows is fixed are run as they are. Raises what the session raises.
    """
    rows = int(next(iter(inputs.values())).shape[0])
    if rows <= ROWS_AT_ONCE or any(spec.shape[0] != -1 for spec in (*session.inputs, *session.outputs)):
        return session.run(inputs)
    starts = range(0, rows, ROWS_AT_ONCE)
    parts = [session.run({name: array[at : at + ROWS_AT_ONCE] for name, array in inputs.items()}) for at in starts]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
