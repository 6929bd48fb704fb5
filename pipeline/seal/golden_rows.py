"""Which synthetic rows a bundle carries: some as they come, the canaries, and for tables rows that look them up."""

import numpy as np

from pipeline.bundle.canaries import CanaryPlan
from pipeline.bundle.golden import Golden
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.seal.canaries import canary_plan, cover, read_constants, try_corruptions
from pipeline.seal.measured import measure_golden
from pipeline.seal.synthetic import spread_over_ids, synthetic_rows

GOLDEN_ROWS = 32
_POOL_ROWS = 128
_POOL_BYTES_MAX = 1 << 20  # of pictures fewer rows are tried, so that packing stays quick
_LOOKUP_ROWS_MAX = 2048
_LOOKUP_BYTES_MAX = 16 << 10  # what the rows that only look tables up may add to a bundle


def golden_and_canaries(
    model_format: Format, model: bytes, calibration: Tensors, seed: int, integer_activations: bool
) -> tuple[Golden, CanaryPlan]:
    """Return a model's golden rows with their answers, and which of them are canaries for what.

    The first 32 rows depend on the calibration rows and the seed alone, so that the bundles of one model share them.
    Raises ModelError or DataError as :func:`measure_golden` does.
    """
    row_bytes = sum(array[:1].nbytes for array in calibration.values())
    rows = max(GOLDEN_ROWS, min(_POOL_ROWS, _POOL_BYTES_MAX // max(1, row_bytes)))
    pool = synthetic_rows(calibration, rows, seed)
    measured = measure_golden(model_format, model, pool, integer_activations)
    file = read_constants(model_format, model)
    tried = try_corruptions(model_format, model, file, pool, measured.tolerances.absolute, seed)
    chosen = cover(tried, rows)
    kept = [*range(GOLDEN_ROWS), *(row for row in chosen if row >= GOLDEN_ROWS)]
    inputs = {name: array[kept] for name, array in pool.items()}
    if any(item.entries for item in file.constants):
        inputs = _joined(inputs, _looking_up(calibration, row_bytes, seed))
    golden = measure_golden(model_format, model, inputs, integer_activations)
    return golden, canary_plan(file, tried, chosen, [kept.index(row) for row in chosen], golden)


def _looking_up(calibration: Tensors, row_bytes: int, seed: int) -> dict[str, Array]:
    room = min(_LOOKUP_ROWS_MAX, _LOOKUP_BYTES_MAX // max(1, row_bytes))
    return spread_over_ids(calibration, room, seed)


def _joined(first: Tensors, second: Tensors) -> dict[str, Array]:
    return {name: np.concatenate([array, second[name]]) for name, array in first.items()}
