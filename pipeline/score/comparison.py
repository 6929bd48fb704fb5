"""A candidate's answers beside the reference's, output by output: decisions and fidelity. Pure."""

import numpy as np

from pipeline.core.recipe import Metric
from pipeline.score.decisions import compare_decisions
from pipeline.score.fidelity import compare_outputs, signal_to_noise_db
from pipeline.score.scorecard import PLACES, Decision, Fidelity
from pipeline.score.task import Answers, Question


def decision_of(question: Question, answers: Answers) -> Decision:
    """Return how the decisions change; judged by fidelity, over all outputs that decide."""
    recipe = question.recipe
    if question.fitted is None:
        agreement = _agreement(question, answers)
        return Decision(None if agreement is None else round(1 - agreement, PLACES))
    scores, reference = question.scores(answers), question.scores(question.reference)
    return compare_decisions(
        recipe.metric, scores, reference, question.fitted.labels, question.groups, recipe.threshold
    )


def fidelity_of(question: Question, answers: Answers) -> Fidelity:
    """Return the agreement of decisions, or where an output decides nothing the least SNR of such outputs."""
    recipe = question.recipe
    if recipe.metric is not Metric.FIDELITY:
        scores, reference = question.scores(answers), question.scores(question.reference)
        return compare_outputs(recipe.metric, scores, reference, question.groups, recipe.threshold)
    numbers = [name for name, stick in question.yardsticks.items() if not stick.decides]
    if numbers:
        worst = min(signal_to_noise_db(answers[name], question.reference[name]) for name in numbers)
        return Fidelity("snr_db", round(worst, PLACES))
    return Fidelity("top1_agreement", round(_agreement(question, answers) or 0.0, PLACES))


def _agreement(question: Question, answers: Answers) -> float | None:
    kept = [
        stick.kept(answers[name], question.reference[name])
        for name, stick in question.yardsticks.items()
        if stick.decides
    ]
    return float(np.mean(kept)) if kept else None
