"""Fine-tunes a Keras model into a variant, phase by phase, and checks that the variant keeps its promise."""

from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.compress.job import ROWS_CHECKED_MAX, Job
from pipeline.compress.training.checkpointing import Checkpoints, open_checkpoints
from pipeline.compress.training.feeding import Rows, hold_out, open_rows
from pipeline.compress.training.identity import digest_of
from pipeline.compress.training.loop import Course, OnStep, Pace, put, run, values_of
from pipeline.compress.training.objective import Kind, Objective, compiled_loss, kind_of, label_loss_of
from pipeline.compress.training.phases import SETTLE, Phase, native_phase, plan, prunes
from pipeline.compress.training.promise import require_clusters, require_zeros
from pipeline.compress.training.schedule import steps_an_epoch
from pipeline.compress.training.stepping import Stepper, ask
from pipeline.compress.training.strategies import Team
from pipeline.compress.training.trained import Trained
from pipeline.compress.training.weights import able_weights, variables
from pipeline.core.errors import DataError, VariantRefused
from pipeline.core.names import Pruning, Variant
from pipeline.core.recipe import Distribution

_ROWS_SHRUNK_ON_MAX = 4096  # where rows are large, structured pruning takes fewer
_NOT_TAKEN = (ValueError, RuntimeError, TypeError, AttributeError, NotImplementedError, tf.errors.OpError)


@dataclass(frozen=True)
class Tuned:
    """A plain model with what was learnt, and which paths made it, e.g. ``tfmot 0.8.1``."""

    model: Any
    path: str


def tune(trained: Trained, teacher: Any, job: Job, team: Team, on_step: OnStep) -> Tuned:
    """Fine-tune ``trained.keras_model`` into the job's variant; ``teacher`` is the float model, loaded once more.

    Takes up a checkpoint of an equal job. Raises DataError for bad rows, VariantRefused when the model has nothing to
    tune, the loss becomes NaN, or the promise is not kept.
    """
    dtypes = {spec.name: np.dtype(spec.dtype.as_numpy_dtype) for spec in trained.inputs}
    rows, validation = open_rows(job.train, dtypes), open_rows(job.validation, dtypes)
    variant = Variant.parse(job.variant)
    objective = _objective(trained.keras_model, teacher, job, rows, validation)
    plain = _shrunk(trained.keras_model, variant, job, rows)
    student = plain if job.fine_tuning.distribute is Distribution.NONE else _under(team.strategy, plain)
    digest = digest_of(job, trained.made_by)
    kept, held_out = hold_out(rows, job.seed) if job.fine_tuning.patience is not None else (rows, rows)
    with open_checkpoints(Path(job.state), digest, team.is_chief) as checkpoints:
        work = _Work(job, variant, kept, held_out, objective, teacher, team, checkpoints)
        paths = work.run_all(student, on_step)
    put(variables(plain), values_of(variables(student)))
    _require_promise(plain, job, variant)
    return Tuned(plain, ", ".join(dict.fromkeys([*paths, *([team.words] if team.words else [])])))


@dataclass(frozen=True)
class _Work:
    job: Job
    variant: Variant
    rows: Rows
    held_out: Rows
    objective: Objective
    teacher: Any
    team: Team
    checkpoints: Checkpoints

    def run_all(self, model: Any, on_step: OnStep) -> list[str]:
        """Run the phases that are left on ``model``; returns the path that made each of all phases."""
        if self.job.fine_tuning.epochs == 0:
            return ["channels removed, not fine-tuned"]
        names, first = plan(self.variant), self.checkpoints.progress.phase
        if self.checkpoints.progress.start is not None:
            put(variables(model), self.checkpoints.arrays(self.checkpoints.progress.start))
        pace = self._pace(len(names), on_step)
        paths = list(self.checkpoints.progress.paths)
        for index, name in enumerate(names[first:], first):
            if self.checkpoints.progress.phase != index or self.checkpoints.progress.start is None:
                self.checkpoints.begin(index, values_of(variables(model)), paths)
            tf.keras.utils.set_random_seed(self.job.seed + index)
            phase = self._phase(name, model)
            paths.append(phase.path)
            run(self._course(index, name, phase, pace))
        return paths

    @property
    def _steps(self) -> int:
        replicas = self.team.strategy.num_replicas_in_sync
        return steps_an_epoch(self.rows.count, self.job.fine_tuning.batch_size, replicas)

    def _pace(self, phases: int, on_step: OnStep) -> Pace:
        progress, setting = self.checkpoints.progress, self.job.fine_tuning
        done = (progress.phase * setting.epochs + progress.epoch) * self._steps
        return Pace(phases, on_step, monotonic(), done)

    def _phase(self, name: str, model: Any) -> Phase:
        """Set up a phase: by tfmot where it can take all of a Keras 2 model, else by our own masks and clusters."""
        steps = self._steps * self.job.fine_tuning.epochs
        is_alone = self.job.fine_tuning.distribute is Distribution.NONE
        try:
            if is_alone and name != SETTLE and _is_keras_2(model):
                from pipeline.compress.training.tfmot_phases import tfmot_phase

                return tfmot_phase(name, model, self.variant, asked_sparsity(self.job), steps)
        except _NOT_TAKEN:
            pass  # one layer that tfmot does not know aborts all: its exceptions are as many as its layers
        try:
            return native_phase(name, model, self.variant, asked_sparsity(self.job), steps, self.team.strategy)
        except ValueError as error:
            raise VariantRefused(f"{self.job.variant} cannot be made of this model: {error}.") from error

    def _course(self, index: int, name: str, phase: Phase, pace: Pace) -> Course:
        rate = self.job.fine_tuning.learning_rate
        stepper = Stepper(phase, self.teacher, self.objective, rate, self.team.strategy)
        return Course(self.job, index, name, phase, stepper, self.rows, self.held_out, self.checkpoints, pace)


def asked_sparsity(job: Job) -> float:
    """Return the share of zeros (0..1) that the recipe asks for, or else the one that the variant's name promises."""
    variant, asked = Variant.parse(job.variant), job.fine_tuning.sparsity
    return asked if asked is not None and variant.pruning is not Pruning.TWO_OF_FOUR else variant.sparsity or 0.0


def _is_keras_2(model: Any) -> bool:
    return type(model).__module__.startswith("tf_keras")


def _library(model: Any) -> Any:
    import importlib

    return importlib.import_module("tf_keras" if _is_keras_2(model) else "keras")


def _shrunk(model: Any, variant: Variant, job: Job, rows: Rows) -> Any:
    if variant.pruning is not Pruning.STRUCTURED:
        return model
    from pipeline.compress.training.structured import shrink

    sample = rows.take(np.linspace(0, rows.count - 1, min(rows.count, _ROWS_SHRUNK_ON_MAX)).astype(np.int64))
    try:
        return shrink(model, asked_sparsity(job), dict(zip(rows.names, sample.inputs, strict=True)))
    except ValueError as error:
        raise VariantRefused(f"{job.variant} cannot be made of this model: {error}.") from error


def _under(strategy: Any, model: Any) -> Any:
    """Copy a model so that its variables belong to a strategy."""
    with strategy.scope():
        copy = _library(model).models.clone_model(model)
    put(variables(copy), values_of(variables(model)))
    return copy


def _objective(model: Any, teacher: Any, job: Job, rows: Rows, validation: Rows) -> Objective:
    sample = next(validation.in_order(ROWS_CHECKED_MAX))
    answers = [answer.numpy() for answer in ask(teacher, [tf.constant(values) for values in sample.inputs], False)]
    kinds = tuple(
        kind_of(values, _activation(tensor), job.metric) for values, tensor in zip(answers, _flat(model), strict=True)
    )
    if len(answers) > 1 or validation.labels is None or not rows.can_judge(answers[0]):
        return Objective(kinds, 1.0, None)
    for split in (rows, validation):
        _require_labels(split, kinds[0], answers[0].shape[-1])
    ratio = job.fine_tuning.distill_ratio
    loss = compiled_loss(_library(model), getattr(model, "loss", None), answers[0].shape[-1])
    if loss is None:
        loss = label_loss_of(kinds[0], job.metric)
    return Objective(kinds, ratio, loss)


def _require_labels(rows: Rows, kind: Kind, width: int) -> None:
    """Raise DataError for labels that an output of ``width`` numbers a row cannot tell."""
    labels = rows.labels
    if labels is None or kind is Kind.NUMBERS or (kind is not Kind.CHANCES and labels.size != len(labels)):
        return
    least, most = float(labels.min()), float(labels.max())
    highest = 1 if kind is Kind.CHANCES else width - 1
    if least < 0 or most > highest:
        raise DataError(
            f"{rows.place}: y holds labels from {least:g} to {most:g}, but the model tells 0 to {highest}; "
            "correct them."
        )


def _flat(model: Any) -> list[Any]:
    return tf.nest.flatten(model.outputs)


def _activation(tensor: Any) -> str | None:
    layer = tensor._keras_history[0]
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return str(name) if name else None


def _require_promise(model: Any, job: Job, variant: Variant) -> None:
    if prunes(variant):
        pruned = [np.asarray(weight.variable) for weight in able_weights(model, variant.pruning)]
        require_zeros(job.variant, pruned, variant, asked_sparsity(job))
    if variant.clusters:
        found = {weight.name: np.asarray(weight.variable) for weight in able_weights(model)}
        require_clusters(job.variant, found, variant.clusters)
