"""One job, done: load, tune, check, export."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.compress.collapse import collapse_of
from pipeline.compress.job import ROWS_CHECKED_MAX, Job, Result, Step
from pipeline.compress.training.exporting import export
from pipeline.compress.training.trained import Trained, load_trained, of_keras
from pipeline.core.errors import DataError, VariantRefused
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import batches, open_split


def make_result(job: Job, kind: str, on_step: Callable[[Step], None]) -> Result:
    """Make the variant and write its exports into the job's folder; equal jobs give equal weights.

    Raises ModelError, DataError or VariantRefused.
    """
    tf.keras.utils.set_random_seed(job.seed)
    tf.config.experimental.enable_op_determinism()
    trained = load_trained(Path(job.source), kind)
    rows = _validation_rows(trained, job)
    before = _answers(trained, rows)
    if job.variant != "dense":
        trained = _tuned(trained, job, on_step)
    collapse = collapse_of(before, _answers(trained, rows))
    if collapse is not None:
        raise VariantRefused(
            f"{job.variant} {collapse}: it has collapsed; check the labels of {job.train}, or lower the learning_rate "
            f"or sparsity of variants.{job.variant}."
        )
    exports = {name: export(trained, name, rows, Path(job.out)) for name in job.formats}
    return Result(trained.made_by, exports)


def _validation_rows(trained: Trained, job: Job) -> dict[str, Array]:
    path, dtypes = Path(job.validation), _dtypes(trained)
    return cast_tensors(next(batches(open_split(path, sorted(dtypes)), ROWS_CHECKED_MAX)), dtypes, str(path))


def _dtypes(trained: Trained) -> dict[str, np.dtype[np.generic]]:
    return {spec.name: np.dtype(spec.dtype.as_numpy_dtype) for spec in trained.inputs}


def _tuned(trained: Trained, job: Job, on_step: Callable[[Step], None]) -> Trained:
    # Here, not above: importing tfmot switches tf.keras, and dense needs none of it.
    from pipeline.compress.training.tuning import tune

    path, dtypes = Path(job.train), _dtypes(trained)
    split = open_split(path, sorted(dtypes))
    if split.labels is None:
        raise DataError(f"{job.train} holds no labels (key 'y'), and fine-tuning {job.variant} learns from them.")
    model = tune(
        trained.keras_model, job, cast_tensors(split.inputs, dtypes, str(path)), np.asarray(split.labels), on_step
    )
    return of_keras(model, f"{trained.made_by} + tfmot {version('tensorflow-model-optimization')}")


def _answers(trained: Trained, rows: dict[str, Array]) -> dict[str, Array]:
    answers = trained.answer({name: tf.constant(values) for name, values in rows.items()})
    return {name: values.numpy() for name, values in answers.items()}
