"""Soft losses: what a row is expected to lose if the float model's own probabilities were true. Pure."""

import numpy as np

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array
from pipeline.score.fidelity import kept_rows
from pipeline.score.forms import are_probabilities
from pipeline.score.metrics import Floats, binary, column, decisions, row_means, with_class_axis
from pipeline.score.sharpening import Extra
from pipeline.score.task import Answers, Question


def soft_losses(question: Question, answers: Answers, further: Answers, further_reference: Answers) -> Extra | None:
    """Return the soft losses of a candidate on the judged rows and on further ones; None where none is known.

    Accuracy: the probability of the reference's class less that of the candidate's. AUC: the change of each row's
    place among the labelled rows of the other class (its linear influence). rmse: the squared change. Fidelity: its
    own loss, which needs no labels at all.
    """
    metric = question.recipe.metric
    if metric is Metric.FIDELITY:
        sticks = question.yardsticks
        labelled = kept_rows(sticks, answers, question.reference)
        return Extra(1 - labelled, 1 - kept_rows(sticks, further, further_reference))
    if metric.is_ranking or question.fitted is None:
        return None
    here = question.scores(answers), question.scores(question.reference)
    there = question.scores(further), question.scores(further_reference)
    if metric is Metric.RMSE:
        return Extra(_squared_change(*here), _squared_change(*there))
    if metric is Metric.AUC:
        return Extra(_place_change(question, here, here), _place_change(question, here, there))
    threshold = question.recipe.threshold
    return Extra(_class_change(*here, threshold), _class_change(*there, threshold))


def _squared_change(scores: Array, reference: Array) -> Floats:
    return row_means((np.asarray(scores, np.float64) - np.asarray(reference, np.float64)) ** 2)


def _class_change(scores: Array, reference: Array, threshold: float) -> Floats:
    ours, theirs = decisions(scores, threshold), decisions(reference, threshold)
    probable: Floats = with_class_axis(reference)
    if probable.shape[-1] == 1 and probable.min() >= 0 and probable.max() <= 1:
        probable = np.concatenate([1 - probable, probable], axis=-1)
    elif not are_probabilities(reference):
        return row_means(ours != theirs)
    of_theirs, of_ours = (np.take_along_axis(probable, item[..., None], axis=-1) for item in (theirs, ours))
    return row_means((of_theirs - of_ours).reshape(len(ours), -1))


def _place_change(question: Question, anchors: tuple[Array, Array], rows: tuple[Array, Array]) -> Floats:
    labels = binary(question.fitted.labels) if question.fitted is not None else np.zeros(0, np.bool_)
    reference = column(rows[1])
    places = [_places(column(anchor), labels, column(row)) for anchor, row in zip(anchors, rows, strict=True)]
    of_positive, of_negative = (theirs - ours for ours, theirs in zip(*places, strict=True))
    share = labels.mean()
    probable = reference if reference.min() >= 0 and reference.max() <= 1 else np.full(len(reference), share)
    return np.asarray(probable / share * of_positive + (1 - probable) / (1 - share) * of_negative)


def _places(
    anchors: Floats, positive: np.ndarray[tuple[int], np.dtype[np.bool_]], scores: Floats
) -> tuple[Floats, Floats]:
    """Return the share of negatives below each score, and of positives above it, ties counting one half."""
    return _share_below(anchors[~positive], scores), 1 - _share_below(anchors[positive], scores)


def _share_below(anchors: Floats, scores: Floats) -> Floats:
    ordered = np.sort(anchors)
    both = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    return np.asarray(both / (2 * len(ordered)))
