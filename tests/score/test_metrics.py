"""The task metrics agree with scikit-learn, and ties gain nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import DataError
from pipeline.core.recipe import Metric
from pipeline.score.metrics import list_gains, midranks, task_metric

# Few distinct values make ties common.
SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.5, 0.75, 1.0])
ROWS = st.lists(st.tuples(SCORES, st.integers(0, 1)), min_size=2, max_size=60)
LISTS = st.lists(st.lists(SCORES, min_size=2, max_size=25), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def oracle():
    from sklearn import metrics

    return metrics


def columns(rows):
    scores, labels = zip(*rows, strict=True)
    return np.array(scores, np.float32)[:, None], np.array(labels)


def ranking(lists):
    scores = np.concatenate([np.array(one) for one in lists])
    groups = np.repeat(np.arange(len(lists)), [len(one) for one in lists]).astype(np.int32)
    labels = np.concatenate([np.r_[1, np.zeros(len(one) - 1)] for one in lists])
    return scores[:, None], labels, groups


@given(ROWS)
def test_auc_agrees_with_scikit_learn(oracle, rows):
    scores, labels = columns(rows)
    if len(set(labels.tolist())) == 2:
        assert task_metric(Metric.AUC, scores, labels) == pytest.approx(oracle.roc_auc_score(labels, scores[:, 0]))


@given(ROWS, SCORES)
def test_binary_accuracy_agrees_with_scikit_learn(oracle, rows, threshold):
    scores, labels = columns(rows)
    expected = oracle.accuracy_score(labels, scores[:, 0] >= threshold)
    assert task_metric(Metric.ACCURACY, scores, labels, threshold=threshold) == pytest.approx(expected)


def test_accuracy_over_classes_takes_the_largest_column():
    scores = np.array([[0.1, 0.7, 0.2], [0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    assert task_metric(Metric.ACCURACY, scores, np.array([1, 0, 1])) == pytest.approx(2 / 3)


@given(ROWS)
def test_rmse_agrees_with_scikit_learn(oracle, rows):
    scores, labels = columns(rows)
    expected = oracle.root_mean_squared_error(labels, scores[:, 0])
    assert task_metric(Metric.RMSE, scores, labels) == pytest.approx(expected, abs=1e-7)


@given(LISTS)
def test_ranking_gains_agree_with_sorting_each_list(lists):
    scores, labels, groups = ranking(lists)
    ranks = [1 + sum(other >= one[0] for other in one[1:]) for one in lists]
    hits = [float(rank <= 10) for rank in ranks]
    discounted = [hit / np.log2(rank + 1) for hit, rank in zip(hits, ranks, strict=True)]
    assert list_gains(Metric.HIT_RATE_AT_10, scores, labels, groups).tolist() == hits
    assert list_gains(Metric.NDCG_AT_10, scores, labels, groups) == pytest.approx(discounted)


@given(st.permutations(range(20)), st.integers(0, 19))
def test_ndcg_without_ties_agrees_with_scikit_learn(oracle, order, positive):
    scores, labels = np.array([order], float), np.zeros((1, 20))
    labels[0, positive] = 1
    ours = task_metric(Metric.NDCG_AT_10, scores[0], labels[0], np.zeros(20, np.int32))
    assert ours == pytest.approx(oracle.ndcg_score(labels, scores, k=10))


@pytest.mark.parametrize("metric", [Metric.HIT_RATE_AT_10, Metric.NDCG_AT_10])
def test_a_constant_model_gains_nothing_in_rankings(metric):
    scores, labels, groups = ranking([[0.5] * 100] * 3)
    assert task_metric(metric, scores, labels, groups) == 0.0


def test_a_constant_model_has_an_auc_of_one_half():
    assert task_metric(Metric.AUC, np.full(10, 0.3), np.arange(10) % 2) == 0.5


def test_midranks_share_the_mean_of_tied_places():
    assert midranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]


@pytest.mark.parametrize(
    ("metric", "scores", "labels", "groups", "words"),
    [
        (Metric.AUC, [0.1, 0.2], [1, 1], None, "both classes"),
        (Metric.AUC, [0.1, 0.2], [1, 2], None, "0 and 1"),
        (Metric.AUC, [[0.1, 0.9], [0.2, 0.8]], [0, 1], None, "one score a row"),
        (Metric.ACCURACY, [[0.1, 0.9], [0.2, 0.8]], [1, 2], None, "labels of 0 to 1; 1 of the 2 rows hold others"),
        (Metric.ACCURACY, [[0.1, 0.8, 0.1], [0.2, 0.8, 0.0]], [0, 1.5], None, "such as 1.5"),
        (Metric.ACCURACY, [0.1, 0.9], [-1, 1], None, "such as -1"),
        (Metric.HIT_RATE_AT_10, [0.1, 0.2], [1, 0], None, "'group'"),
        (Metric.HIT_RATE_AT_10, [0.1, 0.2], [1, 0], [1], "one id a row"),
        (Metric.HIT_RATE_AT_10, [0.1, 0.2], [1, 1], [3, 3], "exactly one positive"),
        (Metric.NDCG_AT_10, [0.1, 0.2, 0.3], [1, 1, 0], [1, 2, 1], "lie apart"),
    ],
)
def test_labels_that_cannot_carry_the_metric_are_refused_in_words(metric, scores, labels, groups, words):
    with pytest.raises(DataError, match=words):
        task_metric(metric, np.array(scores), np.array(labels), None if groups is None else np.array(groups))
