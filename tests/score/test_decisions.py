"""Flips, calibration, list overlap and fidelity, on cases small enough to count by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.recipe import Metric
from pipeline.score.decisions import calibration_error, compare_decisions, top_overlap
from pipeline.score.fidelity import SNR_CAP_DB, compare_outputs, signal_to_noise_db
from pipeline.score.metrics import lists_of

LABELS = np.array([1, 0, 1, 0])


def test_flips_are_counted_at_the_threshold_not_at_one_half():
    reference, scores = np.array([0.35, 0.25, 0.9, 0.1]), np.array([0.25, 0.35, 0.6, 0.1])
    assert compare_decisions(Metric.AUC, scores, reference, LABELS, None, 0.3).flips_ratio == 0.5
    assert compare_decisions(Metric.AUC, scores, reference, LABELS, None, 0.5).flips_ratio == 0.0
    assert compare_outputs(Metric.AUC, scores, reference, None, 0.3).value == 0.5


def test_flips_over_classes_compare_the_largest_columns():
    reference, scores = np.eye(3)[[0, 1, 2, 0]], np.eye(3)[[0, 1, 1, 0]]
    assert compare_decisions(Metric.ACCURACY, scores, reference, np.array([0, 1, 2, 0]), None, 0.5).flips_ratio == 0.25


def test_calibration_is_perfect_when_the_probability_is_the_frequency():
    assert calibration_error(np.full(4, 0.5), LABELS) == 0.0


def test_calibration_error_is_the_gap_between_probability_and_frequency():
    assert calibration_error(np.full((4, 1), 0.9), LABELS) == pytest.approx(0.4)
    assert calibration_error(np.array([[0.2, 0.8]] * 4), np.array([1, 1, 0, 0])) == pytest.approx(0.3)


def test_scores_that_are_no_probabilities_have_no_calibration_error():
    assert calibration_error(np.array([-2.0, 3.0, 1.0, 0.0]), LABELS) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=50))
def test_calibration_error_agrees_with_a_plain_loop(rows):
    scores, labels = map(np.array, zip(*rows, strict=True))
    expected = 0.0
    for index in range(15):
        last = index == 14
        inside = (np.floor(scores * 15) == index) | (last & (scores == 1.0))
        if inside.any():
            expected += inside.sum() / len(scores) * abs(scores[inside].mean() - labels[inside].mean())
    assert calibration_error(scores, labels) == pytest.approx(expected, abs=1e-6)


def test_top_ten_overlap_counts_the_shared_head_of_each_list():
    groups = np.repeat([7, 9], 20)
    reference = np.r_[np.arange(20.0), np.arange(20.0)]
    scores = np.r_[np.arange(20.0), np.roll(np.arange(20.0), 3)]  # second list: three of its ten best fall out
    assert top_overlap(scores, reference, lists_of(groups, 40)) == pytest.approx((1.0 + 0.7) / 2)


def test_short_lists_overlap_wholly():
    assert top_overlap(np.array([1.0, 2, 3]), np.array([3.0, 2, 1]), lists_of(np.zeros(3), 3)) == 1.0


def test_rankings_report_overlap_and_the_same_best_row_and_nothing_else():
    groups, labels = np.array([0, 0, 1, 1]), np.array([1, 0, 1, 0])
    reference, scores = np.array([0.9, 0.1, 0.8, 0.2]), np.array([0.9, 0.1, 0.2, 0.8])
    decision = compare_decisions(Metric.HIT_RATE_AT_10, scores, reference, labels, groups, 0.5)
    assert (decision.top10_overlap, decision.flips_ratio, decision.calibration_error) == (1.0, None, None)
    assert compare_outputs(Metric.HIT_RATE_AT_10, scores, reference, groups, 0.5).value == 0.5


def test_signal_to_noise_is_in_decibels_and_bounded():
    reference = np.array([1.0, -1.0])
    assert signal_to_noise_db(reference * 1.1, reference) == pytest.approx(20.0)
    assert signal_to_noise_db(reference, reference) == SNR_CAP_DB
    assert signal_to_noise_db(np.full(2, 1e150), np.full(2, 1e-160)) == -SNR_CAP_DB
    masked, moved = np.array([-np.inf, 1.0, 2.0]), np.array([-np.inf, 1.1, 2.2])
    assert signal_to_noise_db(moved, masked) == pytest.approx(20.0)
    assert signal_to_noise_db(np.array([0.0, 1.0, 2.0]), masked) == -SNR_CAP_DB
    assert signal_to_noise_db(reference, np.zeros(2)) == -SNR_CAP_DB
    assert compare_outputs(Metric.RMSE, reference * 1.1, reference, None, 0.5).kind == "snr_db"
