"""How close a candidate's outputs are to the reference's, without looking at labels."""

import math

import numpy as np

from pipeline.core.recipe import Metric
from pipeline.core.tensors import Array
from pipeline.score.decisions import in_top
from pipeline.score.metrics import column, decisions, lists_of
from pipeline.score.scorecard import Fidelity

# float32 rounding alone is noise at about -150 dB: above this, outputs are the same for any purpose.
SNR_CAP_DB = 150.0


def compare_outputs(
    metric: Metric, scores: Array, reference: Array, groups: Array | None, threshold: float
) -> Fidelity:
    """Return the share of equal decisions (rankings: of lists with the same best row), or for rmse the SNR in dB."""
    if metric is Metric.RMSE:
        return Fidelity("snr_db", signal_to_noise_db(scores, reference))
    if metric.is_ranking:
        lists = lists_of(groups, len(scores))
        same = in_top(column(scores), lists, 1) & in_top(column(reference), lists, 1)
        return Fidelity("top1_agreement", float(same.sum() / len(lists.starts)))
    return Fidelity("top1_agreement", float(np.mean(decisions(scores, threshold) == decisions(reference, threshold))))


def signal_to_noise_db(scores: Array, reference: Array) -> float:
    """Return 10 log10 of the reference's energy over the difference's, in dB, kept within ±150."""
    signal = float(np.sum(np.asarray(reference, np.float64) ** 2))
    noise = float(np.sum((np.asarray(scores, np.float64) - np.asarray(reference, np.float64)) ** 2))
    if noise == 0:
        return SNR_CAP_DB
    if signal == 0:
        return -SNR_CAP_DB
    return max(-SNR_CAP_DB, min(SNR_CAP_DB, 10 * math.log10(signal / noise)))
