"""Simulated worlds whose true loss is known: the upper end of the interval covers it as often as it promises."""

import dataclasses

import numpy as np
import pytest

from pipeline.core.recipe import Metric
from pipeline.score.metrics import auc
from pipeline.score.soft import soft_losses
from pipeline.score.task import ask, doubt, measure, task_score

WORLDS = 400
PROMISED = 0.95  # the upper end of a two-sided 90 % interval
SLACK = 0.02  # two standard errors of a share of 0.95 among 400


def rows(random, count, noise):
    """Return calibrated probabilities of the reference, a candidate's noisy ones, and labels."""
    logits = 2 * random.normal(size=count) - 1
    reference, candidate = (1 / (1 + np.exp(-(logits + wide * random.normal(size=count)))) for wide in (0, noise))
    return reference, candidate, (random.random(count) < reference).astype(int)


def true_loss(metric, noise):
    reference, candidate, labels = rows(np.random.default_rng(99), 1_000_000, noise)
    if metric is Metric.FIDELITY:
        return ((reference >= 0.5) != (candidate >= 0.5)).mean()
    if metric is Metric.AUC:
        return auc(reference, labels) - auc(candidate, labels)
    right = [np.where(item >= 0.5, reference, 1 - reference).mean() for item in (reference, candidate)]
    return right[0] - right[1]


def world(recipe, seed, noise, count, further):
    random = np.random.default_rng([seed, count, further])
    reference, candidate, labels = rows(random, count, noise)
    answers, ours = {"p": reference[:, None]}, {"p": candidate[:, None]}
    question = ask(recipe, answers, None if recipe.metric is Metric.FIDELITY else labels, None)
    extra = None
    if further:
        more, more_ours, _ = rows(random, further, noise)
        extra = soft_losses(question, ours, {"p": more_ours[:, None]}, {"p": more[:, None]})
    measured = measure(question, ours), measure(question, answers)
    return task_score("validation", question, *measured, doubt(question, ours), extra)


@pytest.mark.slow
@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.AUC, Metric.FIDELITY])
@pytest.mark.parametrize(("noise", "further"), [(0.05, 0), (0.05, 600), (0.6, 600)])
def test_the_upper_end_covers_the_true_loss_as_often_as_promised(recipe, metric, noise, further):
    truth = true_loss(metric, noise)
    scores = [world(dataclasses.replace(recipe, metric=metric), seed, noise, 300, further) for seed in range(WORLDS)]
    covered = np.mean([score.loss_high >= truth for score in scores])
    assert covered >= PROMISED - SLACK
    assert np.mean([score.loss_low <= truth for score in scores]) >= PROMISED - SLACK


def test_further_rows_sharpen_an_interval_and_are_told(recipe):
    plain, sharp = (world(recipe, 0, 1.5, 300, further) for further in (0, 6000))
    assert (plain.extra_rows, plain.width_ratio) == (None, None)
    assert sharp.extra_rows == 6000
    assert sharp.width_ratio < 0.98
    assert sharp.loss_high - sharp.loss_low < plain.loss_high - plain.loss_low


def test_further_rows_that_show_no_turn_do_not_take_back_those_that_were_seen(recipe_with):
    recipe = recipe_with(metric=Metric.FIDELITY)
    reference = np.linspace(0, 1, 1500)[:, None]
    ours = np.where(np.abs(reference - 0.5) < 0.002, 1 - reference, reference)
    question = ask(recipe, {"p": reference}, None, None)
    extra = soft_losses(question, {"p": ours}, {"p": reference[:500]}, {"p": reference[:500]})
    measured = measure(question, {"p": ours}), measure(question, question.reference)
    score = task_score("validation", question, *measured, doubt(question, {"p": ours}), extra)
    assert score.loss_abs == pytest.approx(6 / 1500, abs=1e-6)
    assert score.loss_low < score.loss_abs < score.loss_high


def test_too_few_further_rows_change_nothing(recipe):
    assert world(recipe, 5, 0.6, 300, 20).extra_rows is None


@pytest.mark.parametrize(
    ("noise", "least", "most"), [(0, 0, 0), (1e-6, 0, 1e-4), (0.004, 0.001, 0.01), (0.05, 0.01, 0.03)]
)
def test_no_turned_decision_among_the_rows_is_no_promise_that_none_turns(recipe_with, noise, least, most):
    recipe = recipe_with(metric=Metric.ACCURACY)
    random = np.random.default_rng(3)
    reference, _, labels = rows(random, 300, 0)
    reference = np.where(np.abs(reference - 0.5) < 0.05, 0.6, reference)  # none is near enough to turn
    candidate = reference * (1 + noise * random.normal(size=300))
    question = ask(recipe, {"p": reference[:, None]}, labels, None)
    ours = {"p": np.clip(candidate, 0, 1)[:, None]}
    measured = measure(question, ours), measure(question, question.reference)
    score = task_score("validation", question, *measured, doubt(question, ours), None)
    assert score.loss_abs == 0
    assert least <= score.loss_high <= most
