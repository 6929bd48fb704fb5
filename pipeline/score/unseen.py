"""Decisions that no row showed turning and that others would: what keeps an interval from vanishing on luck. Pure.

Of a candidate that turns 1 % of the decisions, a hundred rows show none in one case of three, and a plain bootstrap of
them promises a loss of exactly 0. So one more row is put among them, decided right by the reference and wrong by the
candidate (Gaffke's bound for bounded means, Learned-Miller & Thomas 2019; with right-or-wrong rows it is close to
Clopper and Pearson's). It counts as much as a turned decision is to be expected among the rows: nothing for a file
that answers like the reference to the last digits, a whole row where one or more should have turned.
"""

import numpy as np

from pipeline.core.tensors import Array
from pipeline.score.forms import are_probabilities
from pipeline.score.metrics import Floats, decisions, with_class_axis

_LEAST = 1e-7  # probabilities are kept this far from 0 and 1, where their logarithm ends


def unseen_rows(answers: Array, reference: Array, threshold: float) -> float:
    """Return how much the one more row counts, 0..1, for scores (n, ..., k) that decide."""
    expected = turn_rate(answers, reference, threshold)
    return min(1.0, expected * decisions(reference, threshold).size)


def turn_rate(answers: Array, reference: Array, threshold: float) -> float:
    """Return the expected share (0..1) of turned decisions if any row's change could befall any other row.

    With all n² pairs of a change and a margin it sees rates far below one in n.
    """
    margins, changed = _margins(reference, reference, threshold), _margins(answers, reference, threshold)
    ordered = np.sort(margins)
    turned = np.searchsorted(ordered, margins - changed) - np.searchsorted(ordered, 0.0)
    return float(np.abs(turned).mean() / margins.size)


def _margins(scores: Array, reference: Array, threshold: float) -> Floats:
    """Return how far each decision of the reference is from turning in ``scores`` (at or below 0: turned)."""
    probable = are_probabilities(reference) or (reference.min() >= 0 and reference.max() <= 1)
    numbers: Floats = with_class_axis(scores)
    if numbers.shape[-1] == 1:
        return (_logit(numbers) - _logit(np.float64(threshold)) if probable else numbers - threshold).ravel()
    if probable:
        numbers = np.log(np.maximum(numbers, _LEAST))
    best = decisions(reference, threshold)[..., None]
    of_best = np.take_along_axis(numbers, best, axis=-1)[..., 0]
    others = numbers.copy()
    np.put_along_axis(others, best, -np.inf, axis=-1)
    return np.asarray(of_best - others.max(axis=-1)).ravel()


def _logit(probabilities: Floats | np.float64) -> Floats:
    kept = np.clip(probabilities, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(kept / (1 - kept)))
