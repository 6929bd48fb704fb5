"""Whether data can judge a model at all: asked before anything expensive starts."""

from dataclasses import replace

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.recipe import Metric, Recipe
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import Split, batches
from pipeline.engines.base import Session
from pipeline.score.fidelity import decides
from pipeline.score.forms import Form, find_form
from pipeline.score.metrics import binary, lists_of, positive_ranks, require_classes
from pipeline.score.predict import judged_outputs

_ROWS_LOOKED_AT = 256
CLASS_ROWS_MIN = 10  # for AUC: of two rows of a class the upper end covered the true loss in 66 %, of three in 79 %
UNITS_MIN = 50  # resampling fewer rows says nothing: one row gives an interval of no width, within any budget


def require_judgeable(recipe: Recipe, session: Session, split: Split, place: str = "The data") -> None:
    """Check that a split can bound a loss of this model by the recipe's metric; runs no row through the model.

    Raises RecipeError when it is not clear which output is judged, and DataError, naming ``place``, when there are
    fewer than ``UNITS_MIN`` rows (or lists; for AUC ``CLASS_ROWS_MIN`` of a class), or labels are missing, of the wrong
    shape, out of range or of one class.
    """
    outputs = judged_outputs(recipe, session)
    try:
        _require_enough(recipe, split)
        if recipe.metric is not Metric.FIDELITY:
            shape = next(spec.shape for spec in session.outputs if spec.name == outputs[0])
            _require_labels(recipe, split, shape)
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def fitting_outputs(recipe: Recipe, session: Session, split: Split) -> tuple[str, ...]:
    """Return the outputs that the split's labels can judge by the recipe's metric; runs a few rows.

    Where classes or chances are judged, only outputs whose answers are probabilities fit. Raises ModelError when the
    model cannot be run.
    """
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    answers = session.run(cast_tensors(next(batches(split, _ROWS_LOOKED_AT)), dtypes, "The data"))
    return tuple(name for name in sorted(answers) if _fits(replace(recipe, output=name), session, split, answers[name]))


def _fits(recipe: Recipe, session: Session, split: Split, answers: Array) -> bool:
    try:
        require_judgeable(recipe, session, split)
    except DataError:
        return False
    return recipe.metric not in (Metric.ACCURACY, Metric.AUC) or decides(answers, recipe.threshold)


def _require_enough(recipe: Recipe, split: Split) -> None:
    lists = recipe.metric.is_ranking
    units = len(lists_of(split.groups, split.rows).starts) if lists else split.rows
    if units < UNITS_MIN:
        raise DataError(
            f"{units} {'lists' if lists else 'rows'} are too few to bound a loss: at least {UNITS_MIN} are needed, "
            "and thousands make the bound sharp."
        )


def require_telling_labels(metric: Metric, split: Split) -> None:
    """Check what labels can be asked before a model is there: whether two models could do differently by the metric.

    Raises DataError for labels of one class, too few of one, others than 0 and 1 where a metric needs these, or lists
    without exactly one positive.
    """
    labels = split.labels
    if labels is None or metric in (Metric.RMSE, Metric.FIDELITY):
        return
    if metric is not Metric.ACCURACY:
        _require_binary(metric, split, labels)
    elif labels.min() == labels.max():
        raise DataError(
            f"all labels are {labels.flat[0]:g}, one class only, so that any constant is right; add others."
        )


def _require_labels(recipe: Recipe, split: Split, answers: tuple[int, ...]) -> None:
    labels = required_labels(recipe, split)
    form = find_form(recipe.metric, labels.shape, answers)
    if recipe.metric is Metric.ACCURACY and (form is not Form.CLASSES or answers[-1] > 0):
        require_classes(labels, answers[-1] if form is Form.CLASSES else 1)
    require_telling_labels(recipe.metric, split)


def _require_binary(metric: Metric, split: Split, labels: Array) -> None:
    positive = binary(labels.reshape(len(labels)))
    if metric.is_ranking:
        lists = lists_of(split.groups, split.rows)
        positive_ranks(np.zeros(len(labels)), positive, lists)
    elif positive.min() == positive.max():
        raise DataError("AUC needs rows of both classes, the labels hold one only; use other rows or another metric.")
    elif (rare := min(int(positive.sum()), int((~positive).sum()))) < CLASS_ROWS_MIN:
        raise DataError(
            f"{rare} rows of one class are too few to bound a loss of AUC: at least {CLASS_ROWS_MIN} of each are "
            "needed, and hundreds make the bound sharp."
        )


def required_labels(recipe: Recipe, split: Split) -> Array:
    """Return the labels; raises DataError without any."""
    if split.labels is None:
        raise DataError(f"there are no labels, and {recipe.metric} needs them; add the key 'y', or judge by fidelity.")
    return split.labels
