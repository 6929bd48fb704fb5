"""How close a candidate's outputs are to the reference's, without looking at labels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array
from pipeline.score.decisions import in_top
from pipeline.score.forms import are_probabilities
from pipeline.score.metrics import Floats, Lists, column, decisions, lists_of, row_means
from pipeline.score.scorecard import PLACES, Fidelity

# float32 rounding alone is noise at about -150 dB: above this, outputs are the same for any purpose.
SNR_CAP_DB = 150.0


@dataclass(frozen=True)
class Yardstick:
    """How one output's fidelity is measured: by its decisions, or by the share of its variance that is kept."""

    decides: bool
    energy: float  # mean squared distance of the reference's rows from their mean row
    threshold: float

    def kept(self, answers: Array, reference: Array) -> Floats:
        """Return each row's part (n,) of the fidelity, whose mean is 1 for answers equal to the reference's."""
        if self.decides:
            return row_means(decisions(answers, self.threshold) == decisions(reference, self.threshold))
        lost = row_means((np.asarray(answers, np.float64) - np.asarray(reference, np.float64)) ** 2)
        return 1 - lost / self.energy if self.energy else np.asarray(lost == 0, np.float64)


def yardstick(reference: Array, threshold: float) -> Yardstick:
    """Choose how an output is measured, from the float model's own answers to the rows of a split."""
    numbers = np.asarray(reference, np.float64)
    energy = float(np.mean((numbers - numbers.mean(axis=0)) ** 2))
    return Yardstick(decides(reference, threshold), energy, threshold)


def decides(reference: Array, threshold: float) -> bool:
    """Tell whether answers are probabilities that decide: softmax rows or one column within 0..1.

    Answers that all decide the same show nothing by their decisions, and are taken as numbers.
    """
    one_column = reference.size == len(reference) and reference.min() >= 0 and reference.max() <= 1
    if not one_column and not are_probabilities(reference):
        return False
    decided = decisions(reference, threshold)
    return bool(decided.min() != decided.max())


def kept_rows(
    yardsticks: Mapping[str, Yardstick], answers: Mapping[str, Array], reference: Mapping[str, Array]
) -> Floats:
    """Return each row's fidelity (n,), averaged over all outputs."""
    return np.asarray(np.mean([rule.kept(answers[name], reference[name]) for name, rule in yardsticks.items()], axis=0))


def compare_outputs(
    metric: Metric, scores: Array, reference: Array, groups: Array | None, threshold: float
) -> Fidelity:
    """Return the share of equal decisions (rankings: of lists with the same best row), or for rmse the SNR in dB."""
    if metric is Metric.RMSE:
        return Fidelity("snr_db", round(signal_to_noise_db(scores, reference), PLACES))
    if metric.is_ranking:
        agreement = same_best(column(scores), column(reference), lists_of(groups, len(scores)))
    else:
        agreement = float(np.mean(decisions(scores, threshold) == decisions(reference, threshold)))
    return Fidelity("top1_agreement", round(agreement, PLACES))


def same_best(scores: Floats, reference: Floats, lists: Lists) -> float:
    """Return the share (0..1) of lists whose best row is the same; of equal scores the first row is the best."""
    same = in_top(scores, lists, 1) & in_top(reference, lists, 1)
    return float(same.sum() / len(lists.starts))


def signal_to_noise_db(scores: Array, reference: Array) -> float:
    """Return 10 log10 of the reference's energy over the difference's, in dB, kept within ±150.

    Infinities that both hold at the same places (masks of attention) say nothing and are left out; others are noise
    beyond measure.
    """
    found, wanted = np.asarray(scores, np.float64), np.asarray(reference, np.float64)
    differ = found != wanted
    if not differ.any():
        return SNR_CAP_DB
    if not (np.isfinite(found[differ]).all() and np.isfinite(wanted[differ]).all()):
        return -SNR_CAP_DB
    signal = float(np.sum(wanted[np.isfinite(wanted)] ** 2))
    noise = float(np.sum((found[differ] - wanted[differ]) ** 2))
    if noise == 0:
        return SNR_CAP_DB
    if signal == 0:
        return -SNR_CAP_DB
    return max(-SNR_CAP_DB, min(SNR_CAP_DB, 10 * (math.log10(signal) - math.log10(noise))))
