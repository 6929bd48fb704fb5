"""Answers given while degraded are scored by labels, beside the float model's answers to the same questions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from sealed import RECIPE

from pipeline.core.errors import DataError
from pipeline.core.names import Role
from pipeline.core.recipe import Metric
from pipeline.drill.live.judging import ROLE_HEADER, Questions, Reference
from pipeline.drill.live.plan import Exchange
from pipeline.drill.live.scoring import Scoring, degraded_scores, scoring

COUNT = 40
LABELS = np.arange(COUNT) % 2
FLOAT = {"p": (0.2 + 0.6 * LABELS)[:, np.newaxis].astype(np.float32)}
GIVEN = Scoring(RECIPE, LABELS, FLOAT)
QUESTIONS = Questions("tiny", {}, ("{}",) * COUNT, {"a": Reference("a", Role.BACKUP, "tiny", FLOAT, {"p": 0.01})})


def answered(question: int, value: float, role: Role = Role.BACKUP, status: int = 200) -> Exchange:
    body = json.dumps({"outputs": [{"name": "p", "shape": [1, 1], "datatype": "FP32", "data": [value]}]})
    return Exchange(question, 0.0, 0.1, 1.0, status, {ROLE_HEADER: role}, body)


def test_only_what_the_backup_answered_is_scored_each_question_once():
    right = [answered(n, 0.9 if LABELS[n] else 0.1) for n in range(20)]
    wrong = [answered(n, 0.1 if LABELS[n] else 0.9, Role.PRIMARY) for n in range(20, 40)]
    again = [answered(0, 0.99), answered(COUNT, 0.5), answered(21, 0.5, status=503)]
    assert degraded_scores(GIVEN, [*right, *wrong, *again], QUESTIONS) == {"degraded_score": 1.0, "float_score": 1.0}


def test_a_backup_that_is_worse_than_the_float_model_shows():
    worse = [answered(n, 0.5 if n < 20 else float(LABELS[n])) for n in range(40)]
    found = degraded_scores(GIVEN, worse, QUESTIONS)
    assert found["degraded_score"] < found["float_score"] == 1.0


@pytest.mark.parametrize(
    ("given", "exchanges"),
    [
        (None, [answered(1, 0.5)]),
        (GIVEN, []),
        (GIVEN, [answered(0, 0.5), answered(2, 0.5)]),  # labels of one kind
        (GIVEN, [replace(answered(0, 0.5), body="no json")]),
        (GIVEN, [replace(answered(n, 0.5), body=json.dumps({"outputs": []})) for n in range(9)]),
    ],
)
def test_where_nothing_can_be_said_nothing_is(given, exchanges):
    assert degraded_scores(given, exchanges, QUESTIONS) == {}


def test_a_ranking_is_not_scored_by_single_rows(tmp_path):
    with pytest.raises(DataError, match="ranks lists"):
        scoring(replace(RECIPE, metric=Metric.NDCG_AT_10), tmp_path / "rows.npz", 10)
