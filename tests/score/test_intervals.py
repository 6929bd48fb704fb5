"""The bootstrap's weights act like drawing rows again, and the interval covers what it should."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.recipe import Metric
from pipeline.score.intervals import RESAMPLES, Draws, percentiles, resamples, weighted_metric
from pipeline.score.metrics import task_metric


def binary_task(rows, noise, seed=0):
    random = np.random.default_rng(seed)
    labels = (random.random(rows) < 0.25).astype(int)
    reference = 1 / (1 + np.exp(-(labels * 1.5 - 1 + random.normal(size=rows))))
    return labels, reference, np.clip(reference + noise * random.normal(size=rows), 0, 1)


def interval(metric, candidate, reference, labels, groups=None, seed=1):
    weighted = [weighted_metric(metric, scores, labels, groups, 0.5) for scores in (candidate, reference)]
    ours, theirs = (Draws(units, seed).apply(of_weights) for of_weights, units in weighted)
    return percentiles(theirs - ours if metric.higher_is_better else ours - theirs, 0.9)


@settings(max_examples=40)
@given(
    st.lists(st.integers(0, 11), min_size=12, max_size=12), st.sampled_from([Metric.AUC, Metric.ACCURACY, Metric.RMSE])
)
def test_weights_act_like_drawing_the_rows_again(drawn, metric):
    scores = np.array([0.1, 0.4, 0.4, 0.4, 0.6, 0.7, 0.2, 0.2, 0.9, 0.5, 0.5, 0.3])
    labels = np.array([0, 1, 0, 1, 1, 0, 0, 1, 1, 1, 0, 0])
    again = np.array(drawn)
    if metric is Metric.AUC and len(set(labels[again].tolist())) < 2:
        return
    weighted, units = weighted_metric(metric, scores, labels, None, 0.5)
    weights = np.bincount(again, minlength=units)[None, :].astype(float)
    assert weighted(weights)[0] == pytest.approx(task_metric(metric, scores[again], labels[again]))


def test_rankings_resample_whole_lists():
    scores, labels = np.array([0.9, 0.1, 0.2, 0.8, 0.3]), np.array([1, 0, 1, 0, 0])
    weighted, units = weighted_metric(Metric.NDCG_AT_10, scores, labels, np.array([1, 1, 2, 2, 2]), 0.5)
    assert units == 2
    gains = [1.0, 1 / np.log2(4)]
    assert weighted(np.array([[2.0, 0.0], [0.0, 2.0], [1.0, 1.0]])) == pytest.approx([*gains, np.mean(gains)])


def test_every_resample_draws_as_many_rows_as_there_are_and_repeats_with_its_seed():
    blocks = list(resamples(50, seed=3))
    weights = np.concatenate(blocks)
    assert weights.shape == (RESAMPLES, 50)
    assert np.all(weights.sum(axis=1) == 50)
    assert np.array_equal(weights, np.concatenate(list(resamples(50, seed=3))))
    assert not np.array_equal(weights, np.concatenate(list(resamples(50, seed=4))))


def test_large_splits_come_in_blocks_of_bounded_memory():
    assert next(resamples(3_000_000, seed=0)).shape == (1, 3_000_000)


def test_a_twin_of_the_reference_loses_exactly_nothing():
    labels, reference, _ = binary_task(500, 0)
    assert interval(Metric.AUC, reference, reference, labels) == (0.0, 0.0)


def test_a_worse_model_loses_and_a_better_one_gains_whatever_the_direction_of_the_metric():
    labels, good, bad = binary_task(2000, 0.5)
    low, high = interval(Metric.AUC, bad, good, labels)
    assert 0 < low < high
    low, high = interval(Metric.RMSE, bad, good, labels)
    assert 0 < low < high
    low, high = interval(Metric.RMSE, good, bad, labels)
    assert low < high < 0


def test_ninety_percent_intervals_cover_the_true_loss_about_nine_times_in_ten():
    covered = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        labels = random.random(300) < 0.5
        reference = np.where(random.random(300) < 0.9, labels, ~labels).astype(float)
        candidate = np.where(random.random(300) < 0.95, reference, 1 - reference)
        low, high = interval(Metric.ACCURACY, candidate, reference, labels.astype(int), seed=seed)
        covered += low <= 0.04 <= high  # 5 % of decisions turn: 90 % of them from right to wrong, 10 % back
    assert 80 <= covered <= 98


def test_resamples_of_one_class_are_left_out():
    labels = np.array([1, 0, 0])
    low, high = interval(Metric.AUC, np.array([0.5, 0.4, 0.6]), np.array([0.9, 0.1, 0.2]), labels)
    assert 0 <= low <= high <= 1


def test_a_thousand_resamples_of_4500_rows_take_less_than_two_seconds_of_processor():
    labels, reference, candidate = binary_task(4500, 0.05)
    started = time.process_time()
    interval(Metric.AUC, candidate, reference, labels)
    assert time.process_time() - started < 2
