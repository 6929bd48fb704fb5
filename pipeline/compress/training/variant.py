"""One job, done: load, tune, check, export."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.compress.job import ROWS_CHECKED_MAX, Job, Result, Step
from pipeline.compress.rows import typed
from pipeline.compress.training.exporting import export
from pipeline.compress.training.trained import Trained, load_trained, of_keras
from pipeline.core.errors import DataError, VariantRefused
from pipeline.core.tensors import Array
from pipeline.data.splits import batches, open_split

_SPREAD_MIN = 1e-6


def make_result(job: Job, kind: str, on_step: Callable[[Step], None]) -> Result:
    """Make the variant and write its exports into the job's folder; equal jobs give equal weights.

    Raises ModelError, DataError or VariantRefused.
    """
    tf.keras.utils.set_random_seed(job.seed)
    tf.config.experimental.enable_op_determinism()
    trained = load_trained(Path(job.source), kind)
    rows = _validation_rows(trained, job)
    if job.variant != "dense":
        trained = _tuned(trained, job, on_step)
    _require_alive(trained, job.variant, rows)
    exports = {name: export(trained, name, rows, Path(job.out)) for name in job.formats}
    return Result(trained.made_by, exports)


def _validation_rows(trained: Trained, job: Job) -> dict[str, Array]:
    path, dtypes = Path(job.validation), _dtypes(trained)
    return typed(next(batches(open_split(path, sorted(dtypes)), ROWS_CHECKED_MAX)), dtypes, path)


def _dtypes(trained: Trained) -> dict[str, np.dtype[np.generic]]:
    return {spec.name: np.dtype(spec.dtype.as_numpy_dtype) for spec in trained.inputs}


def _tuned(trained: Trained, job: Job, on_step: Callable[[Step], None]) -> Trained:
    # Here, not above: importing tfmot switches tf.keras, and dense needs none of it.
    from pipeline.compress.training.tuning import tune

    path, dtypes = Path(job.train), _dtypes(trained)
    split = open_split(path, sorted(dtypes))
    if split.labels is None:
        raise DataError(f"{job.train} holds no labels (key 'y'), and fine-tuning {job.variant} learns from them.")
    model = tune(trained.keras_model, job, typed(split.inputs, dtypes, path), np.asarray(split.labels), on_step)
    return of_keras(model, f"{trained.made_by} + tfmot {version('tensorflow-model-optimization')}")


def _require_alive(trained: Trained, variant: str, rows: dict[str, Array]) -> None:
    """Refuse a model that answers NaN, or the same for every row: it has collapsed."""
    for name, values in trained.answer({key: tf.constant(value) for key, value in rows.items()}).items():
        answers: Any = np.asarray(values)
        if not np.isfinite(answers).all():
            raise VariantRefused(f"{variant} answers NaN or infinity in {name!r} on validation rows; it has collapsed.")
        if len(answers) > 1 and float(np.ptp(answers, axis=0).max()) < _SPREAD_MIN:
            raise VariantRefused(
                f"{variant} gives one answer in {name!r} for every validation row; it has collapsed: "
                f"lower variants.{variant}.learning_rate or its sparsity."
            )
