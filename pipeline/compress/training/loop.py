"""Runs the epochs of one phase: progress, early stop, a checkpoint after each."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import numpy as np

from pipeline.compress.job import Job, Step
from pipeline.compress.training.checkpointing import Checkpoints, Progress
from pipeline.compress.training.feeding import Rows, epoch_batches, shuffled
from pipeline.compress.training.phases import Phase
from pipeline.compress.training.schedule import seconds_left, steps_an_epoch
from pipeline.compress.training.stepping import Stepper
from pipeline.compress.training.weights import variables
from pipeline.core.errors import VariantRefused
from pipeline.core.tensors import Array

_EVENTS = 50  # a phase, about
OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class Pace:
    """Turns steps into progress events: ``phases`` phases of equal length, and since when, after how many, we count."""

    phases: int
    on_step: OnStep
    began: float
    began_at: int

    def tell(self, doing: str, done: int, total: int, loss: float) -> None:
        """Say how far the whole work is."""
        left = seconds_left(monotonic() - self.began, done - self.began_at, total - self.began_at)
        self.on_step(Step(doing, done, total, loss, left))


@dataclass(frozen=True)
class Course:
    """One phase being trained."""

    job: Job
    index: int
    name: str
    phase: Phase
    stepper: Stepper
    rows: Rows
    held_out: Rows
    checkpoints: Checkpoints
    pace: Pace

    @property
    def steps(self) -> int:
        """Return the steps of one epoch."""
        return steps_an_epoch(self.rows.count, self.job.fine_tuning.batch_size, self.stepper.replicas)

    @property
    def state(self) -> list[Any]:
        """List every variable that a restart must find as it was."""
        return [*variables(self.phase.model), *(hold.mask for hold in self.phase.holds), *self.stepper.variables]


def run(course: Course) -> Any:
    """Train the phase to its end, from where its checkpoint stands; returns the plain model with what was learnt.

    Raises VariantRefused when the loss becomes NaN.
    """
    if course.checkpoints.progress.now is not None:
        put(course.state, course.checkpoints.arrays(course.checkpoints.progress.now))
    while not _is_done(course):
        _one_epoch(course)
    if course.checkpoints.progress.best is not None:
        put(course.state, course.checkpoints.arrays(course.checkpoints.progress.best))
    return course.phase.finish()


def values_of(state: Sequence[Any]) -> list[Array]:
    """Read variables; every worker of a strategy must do so together."""
    return [np.asarray(variable.numpy()) for variable in state]


def put(state: Sequence[Any], values: Sequence[Array]) -> None:
    """Set variables."""
    for variable, value in zip(state, values, strict=True):
        variable.assign(value)


def _is_done(course: Course) -> bool:
    progress = course.checkpoints.progress
    return progress.ended or progress.epoch >= course.job.fine_tuning.epochs


def _one_epoch(course: Course) -> None:
    before = course.checkpoints.progress
    course.stepper.reseed(course.job.seed, course.index, before.epoch)
    _check(course, _trained(course, before.epoch))
    after, is_best = _judged(course, replace(before, epoch=before.epoch + 1))
    course.checkpoints.note(after, values_of(course.state), is_best)


def _trained(course: Course, epoch: int) -> float:
    """Train one epoch; returns the sum of its losses."""
    order = shuffled(course.rows.count, course.job.seed, course.index, epoch)
    batches = epoch_batches(course.rows, order, course.job.fine_tuning.batch_size, course.steps)
    total = 0.0
    for step, batch in enumerate(batches):
        course.phase.before_step(epoch * course.steps + step)
        loss = course.stepper.train(batch)
        total += loss  # stays a tensor: reading it waits for the step
        _tell(course, epoch, step + 1, loss)
    return float(total)


def _tell(course: Course, epoch: int, done: int, loss: Any) -> None:
    epochs = course.job.fine_tuning.epochs
    a_phase = course.steps * epochs
    in_phase = course.steps * epoch + done
    if in_phase == a_phase or in_phase % max(1, a_phase // _EVENTS) == 0:
        doing = f"{course.name}, epoch {epoch + 1} of {epochs}"
        course.pace.tell(doing, course.index * a_phase + in_phase, course.pace.phases * a_phase, float(loss))


def _check(course: Course, loss: float) -> None:
    if not math.isfinite(loss):
        variant, setting = course.job.variant, course.job.fine_tuning
        raise VariantRefused(
            f"Fine-tuning {variant} diverged: its loss became NaN; "
            f"lower variants.{variant}.learning_rate ({setting.learning_rate:g})."
        )


def _judged(course: Course, progress: Progress) -> tuple[Progress, bool]:
    """Judge an epoch on the rows held out where the recipe has patience, once the promise holds in full."""
    patience = course.job.fine_tuning.patience
    if patience is None or progress.epoch * course.steps <= course.phase.settled_at:
        return progress, False
    loss = _held_out_loss(course)
    if progress.best_loss is None or loss < progress.best_loss:
        return replace(progress, best_loss=loss, waited=0), True
    waited = progress.waited + 1
    return replace(progress, waited=waited, ended=waited >= patience), False


def _held_out_loss(course: Course) -> float:
    batches = course.held_out.in_order(course.job.fine_tuning.batch_size)
    return math.fsum(course.stepper.judge(batch) * batch.rows for batch in batches) / course.held_out.count
