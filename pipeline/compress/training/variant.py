"""One job, done: load, tune, check, export."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from pipeline.compress.collapse import collapse_of
from pipeline.compress.job import ROWS_CHECKED_MAX, Job, Result
from pipeline.compress.sources.source import KERAS_2
from pipeline.compress.training.exporting import export
from pipeline.compress.training.loop import OnStep
from pipeline.compress.training.strategies import Team, team_of
from pipeline.compress.training.trained import Trained, load_trained, of_keras
from pipeline.core.errors import VariantRefused
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import batches, open_split


def make_result(job: Job, kind: str, on_step: OnStep) -> Result | None:
    """Make the variant and write its exports into the job's folder; equal jobs give equal weights.

    Returns None in a process that only helped with the training. Raises ModelError, DataError or VariantRefused.
    """
    team = team_of(job.fine_tuning.distribute)
    tf.keras.utils.set_random_seed(job.seed)
    tf.config.experimental.enable_op_determinism()
    if kind == KERAS_2:
        tf.keras.backend.experimental.enable_tf_random_generator()  # random state in variables, not hidden in graphs
    source = load_trained(Path(job.source), kind)
    rows = _validation_rows(source, job)
    trained = source if job.variant == "dense" else _tuned(source, kind, job, team, on_step)
    if not team.is_chief:
        return None
    _require_answers(source, trained, rows, job)
    exports = {name: export(trained, name, rows, Path(job.out)) for name in job.formats}
    return Result(trained.made_by, exports)


def _validation_rows(trained: Trained, job: Job) -> dict[str, Array]:
    path = Path(job.validation)
    dtypes = {spec.name: np.dtype(spec.dtype.as_numpy_dtype) for spec in trained.inputs}
    return cast_tensors(next(batches(open_split(path, sorted(dtypes)), ROWS_CHECKED_MAX)), dtypes, str(path))


def _tuned(source: Trained, kind: str, job: Job, team: Team, on_step: OnStep) -> Trained:
    # Here, not above: dense needs none of it.
    from pipeline.compress.training.tuning import tune

    student = load_trained(Path(job.source), kind)  # once more: the source teaches, and answers are held against it
    tuned = tune(student, source.keras_model, job, team, on_step)
    return of_keras(tuned.model, f"{source.made_by} + {tuned.path}")


def _require_answers(source: Trained, trained: Trained, rows: dict[str, Array], job: Job) -> None:
    collapse = collapse_of(_answers(source, rows), _answers(trained, rows))
    if collapse is not None:
        raise VariantRefused(
            f"{job.variant} {collapse}: it has collapsed; check the labels of {job.train}, or lower the learning_rate "
            f"or sparsity of variants.{job.variant}."
        )


def _answers(trained: Trained, rows: dict[str, Array]) -> dict[str, Array]:
    answers = trained.answer({name: tf.constant(values) for name, values in rows.items()})
    return {name: values.numpy() for name, values in answers.items()}
