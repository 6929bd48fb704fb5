"""What files answer to all rows of both splits, asked once: to deal the rows anew then costs arithmetic alone.

Answers are those of the engines, in batches of all rows together. Where an engine's answer to a row depends on its
neighbours in a batch (onnxruntime's dynamic int8 takes one range for a whole batch), a deal made from the start could
differ from this in the last digits.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from measuring import Bench

from pipeline.core.errors import DataError, ModelError, SchemeRefused
from pipeline.core.names import Format
from pipeline.core.recipe import Recipe
from pipeline.core.tensors import Array
from pipeline.data.splits import Split
from pipeline.engines.open import open_session
from pipeline.score.scorecard import TaskScore
from pipeline.score.scoring import Judged, candidate_answers
from pipeline.score.task import Answers, ask, doubt, measure, task_score


@dataclass(frozen=True)
class Known:
    """A file's answers to all rows."""

    rows: Answers


class Pool:
    """The rows of validation and test together, and what was answered to them so far."""

    def __init__(self, bench: Bench) -> None:
        """Join the splits of a bench, and the float reference's answers to them."""
        parts = (bench.validation, bench.locked)
        self.recipe = bench.recipe
        self.split = joined(parts[0].split, parts[1].split)
        self.reference = joined_arrays(*(part.question.reference for part in parts))
        self.validation_units = len(np.unique(units(parts[0].split)))
        self._validation_rows = parts[0].split.rows
        self._known: dict[str, Known | str] = {}
        self._whole = self._judged("all rows", np.arange(self.split.rows), self.recipe)

    @property
    def own_deal(self) -> tuple[Array, Array]:
        """Return the row numbers of the recipe's own validation and test split."""
        rows = np.arange(self.split.rows)
        return rows[: self._validation_rows], rows[self._validation_rows :]

    def judged(self, name: str, part: Array, seed: int) -> "Part":
        """Judge the float reference on the rows ``part``, resampled by ``seed``."""
        return Part(self._judged(name, part, replace(self.recipe, seed=seed)), part)

    def known(self, sha256: str, model_format: Format, make: Callable[[], bytes]) -> Known | str:
        """Return the answers of a file of this digest, or the sentence that says why it has none."""
        if sha256 not in self._known:
            self._known[sha256] = self._asked(model_format, make)
        return self._known[sha256]

    def _asked(self, model_format: Format, make: Callable[[], bytes]) -> Known | str:
        try:
            session = open_session(model_format, make(), self.recipe.serving.threads)
            return Known(candidate_answers(self._whole, session, "A file"))
        except (ModelError, DataError, SchemeRefused) as error:
            return str(error)

    def _judged(self, name: str, part: Array, recipe: Recipe) -> Judged:
        split, reference = cut(self.split, part), cut_arrays(self.reference, part)
        question = ask(recipe, reference, split.labels, split.groups)
        return Judged(name, split, question, measure(question, reference), None)


@dataclass(frozen=True)
class Part:
    """One dealt split with the float reference's score on it; ``rows`` are its row numbers in the pool."""

    judged: Judged
    rows: Array

    def score(self, known: Known, confidence: float) -> TaskScore:
        """Score a file as :func:`pipeline.score.scoring.judged_score` does, from answers that are known already."""
        question = self.judged.question
        budgets = replace(question.recipe.budgets, confidence=confidence)
        question = replace(question, recipe=replace(question.recipe, budgets=budgets))
        answers = cut_arrays(known.rows, self.rows)
        measured, unseen = measure(question, answers), doubt(question, answers)
        return task_score(self.judged.name, question, measured, self.judged.reference_measured, unseen, None)


def joined(first: Split, second: Split) -> Split:
    """Put two splits behind each other; lists are numbered anew, because both count theirs from the same number."""
    labels, groups = None, None
    if first.labels is not None and second.labels is not None:
        labels = np.concatenate([first.labels, second.labels])
    if first.groups is not None and second.groups is not None:
        start = int(first.groups.max()) + 1 - int(second.groups.min())
        groups = np.concatenate([first.groups, second.groups + start]).astype(np.int32)
    return Split(joined_arrays(first.inputs, second.inputs), labels, groups)


def joined_arrays(first: Mapping[str, Array], second: Mapping[str, Array]) -> dict[str, Array]:
    """Put arrays of the same name behind each other."""
    return {name: np.concatenate([array, second[name]]) for name, array in first.items()}


def cut(split: Split, part: Array) -> Split:
    """Return the rows ``part`` of a split."""
    inputs = cut_arrays(split.inputs, part)
    return Split(
        inputs,
        None if split.labels is None else split.labels[part],
        None if split.groups is None else split.groups[part],
    )


def cut_arrays(arrays: Mapping[str, Array], part: Array) -> dict[str, Array]:
    """Return the rows ``part`` of every array."""
    return {name: array[part] for name, array in arrays.items()}


def units(split: Split) -> Array:
    """Return what each row (n,) is dealt with: its list, or itself."""
    return np.arange(split.rows) if split.groups is None else np.asarray(split.groups)


def deal(split: Split, validation_units: int, seed: int) -> tuple[Array, Array]:
    """Return the row numbers of a new validation and a new locked split, in rising order."""
    owner = units(split)
    drawn = np.random.default_rng(seed).permutation(np.unique(owner))
    is_validation = np.isin(owner, drawn[:validation_units])
    return np.flatnonzero(is_validation), np.flatnonzero(~is_validation)
