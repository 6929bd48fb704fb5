"""How close a candidate's outputs are to the reference's, without looking at labels."""

import math

import numpy as np

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array
from pipeline.score.decisions import in_top
from pipeline.score.metrics import Floats, Lists, column, decisions, lists_of
from pipeline.score.scorecard import PLACES, Fidelity

# float32 rounding alone is noise at about -150 dB: above this, outputs are the same for any purpose.
SNR_CAP_DB = 150.0


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
    """Return 10 log10 of the reference's energy over the difference's, in dB, kept within ±150."""
    signal = float(np.sum(np.asarray(reference, np.float64) ** 2))
    noise = float(np.sum((np.asarray(scores, np.float64) - np.asarray(reference, np.float64)) ** 2))
    if noise == 0:
        return SNR_CAP_DB
    if signal == 0:
        return -SNR_CAP_DB
    return max(-SNR_CAP_DB, min(SNR_CAP_DB, 10 * math.log10(signal / noise)))
