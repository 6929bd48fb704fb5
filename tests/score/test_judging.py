"""Judging sessions: labels of any fitting shape, no labels at all, several outputs, and data that cannot judge."""

import dataclasses

import numpy as np
import pytest

from pipeline.core.errors import DataError, ModelError, RecipeError
from pipeline.core.files import write_atomic
from pipeline.core.recipe import Metric
from pipeline.core.tensors import encode_npz
from pipeline.data.splits import Split
from pipeline.engines.base import TensorSpec
from pipeline.score.judgeable import fitting_outputs, require_judgeable
from pipeline.score.scoring import judge_session, judged_for, session_score, units_needed

ROWS = 400


class Fake:
    """A session that answers by functions of its one input ``x``."""

    def __init__(self, **answers):
        self._answers = answers
        blank = np.zeros((1, 8), np.float32)
        self.inputs = (TensorSpec("x", "float32", (-1, 8)),)
        self.outputs = tuple(
            TensorSpec(name, "float32", (-1, *answer(blank).shape[1:])) for name, answer in sorted(answers.items())
        )

    def run(self, inputs):
        return {name: answer(inputs["x"]) for name, answer in self._answers.items()}


def softmax(values):
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def rows(seed=0, count=ROWS):
    return np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)


@pytest.fixture
def judged(recipe_with, tmp_path, monkeypatch):
    """Judge ``candidate`` against ``reference`` on a split with the given labels."""
    monkeypatch.chdir(tmp_path)

    def judge(metric, reference, candidate, y=None, further=0, output=None, scheme="w8"):
        recipe = recipe_with(metric=metric, output=output)
        tensors = {"x": rows()} | ({} if y is None else {"y": y})
        write_atomic(tmp_path / "validation.npz", encode_npz(tensors))
        if further:
            write_atomic(tmp_path / "calibration.npz", encode_npz({"x": rows(1, further)}))
        found = judge_session(recipe, reference, "validation", tmp_path / "validation.npz")
        return session_score(recipe, judged_for(found, scheme), candidate)

    return judge


def classes(noise=0.0):
    return Fake(p=lambda x: softmax(3 * x[:, :4] + noise * x[:, 4:]))


def test_fidelity_of_a_classifier_is_the_share_of_equal_decisions(judged):
    score = judged(Metric.FIDELITY, classes(), classes(0.5))
    same = (rows()[:, :4].argmax(1) == (3 * rows()[:, :4] + 0.5 * rows()[:, 4:]).argmax(1)).mean()
    assert (score.value, score.reference_value) == (pytest.approx(same), 1.0)
    assert score.loss_low <= score.loss_abs <= score.loss_high
    assert score.loss_abs == pytest.approx(1 - same)


def test_fidelity_of_numbers_is_the_share_of_variance_kept_whatever_the_shape(judged):
    float_model = Fake(image=lambda x: x.reshape(-1, 2, 2, 2) * 10 + 5)
    noisy = Fake(image=lambda x: x.reshape(-1, 2, 2, 2) * 10 + 5 + 2 * np.sign(x.reshape(-1, 2, 2, 2)))
    assert judged(Metric.FIDELITY, float_model, noisy).value == pytest.approx(1 - 4 / 100, abs=0.005)


def test_fidelity_is_the_mean_over_all_outputs_or_of_the_one_that_is_named(judged):
    both = Fake(p=classes()._answers["p"], z=lambda x: x[:, :3])
    bad = Fake(p=classes()._answers["p"], z=lambda x: 0 * x[:, :3])
    assert judged(Metric.FIDELITY, both, bad).value == pytest.approx(0.5, abs=0.02)
    assert judged(Metric.FIDELITY, both, bad, output="p").value == 1.0


def test_further_rows_are_simply_more_rows_for_fidelity(judged):
    few, more = (judged(Metric.FIDELITY, classes(), classes(0.5), further=further) for further in (0, 4000))
    assert more.extra_rows == 4000
    assert more.width_ratio < 0.5
    assert more.loss_high - more.loss_low < few.loss_high - few.loss_low


@pytest.mark.parametrize("scheme", ["w8a8", "w8a16", "mixed-1"])
def test_rows_that_gave_a_files_ranges_or_chose_it_are_no_evidence_for_it(judged, scheme):
    plain, fitted = (
        judged(Metric.FIDELITY, classes(), classes(0.5), further=further, scheme=scheme) for further in (0, 4000)
    )
    assert fitted == plain
    assert fitted.extra_rows is None


def test_a_reference_that_decides_all_rows_alike_is_measured_by_its_numbers(judged):
    timid = Fake(p=lambda x: 0.1 + 0.01 * np.tanh(x[:, :1]))
    flat = Fake(p=lambda x: 0.1 + 0 * x[:, :1])
    assert judged(Metric.FIDELITY, timid, flat).value < 0.1


def test_an_autoencoder_is_judged_against_labels_of_its_own_shape(judged):
    y = rows().reshape(-1, 2, 4)
    exact, off = (Fake(out=lambda x, gap=gap: x.reshape(-1, 2, 4, 1) + gap) for gap in (0.0, 0.5))
    score = judged(Metric.RMSE, exact, off, y)
    assert (score.reference_value, score.value) == (0.0, 0.5)


def test_tags_of_a_sequence_are_right_by_the_position(judged):
    tags = rows().reshape(-1, 2, 4).argmax(-1)
    tagger = Fake(p=lambda x: softmax(x.reshape(-1, 2, 4)))
    half = Fake(p=lambda x: softmax(x.reshape(-1, 2, 4) * np.array([1, -1])[:, None]))
    score = judged(Metric.ACCURACY, tagger, half, tags)
    assert score.reference_value == 1.0
    assert score.value == pytest.approx(0.5, abs=0.001)


def test_one_hot_labels_are_read_as_classes(judged):
    one_hot = np.eye(4)[rows()[:, :4].argmax(1)]
    assert judged(Metric.ACCURACY, classes(), classes(), one_hot).value == 1.0


def test_one_hot_labels_are_classes_for_logits_too(judged):
    y = rows()[:, :4].argmax(1)
    logits, noisy = (Fake(z=lambda x, noise=noise: 3 * x[:, :4] + noise * x[:, 4:]) for noise in (0, 2))
    assert judged(Metric.ACCURACY, logits, noisy, np.eye(4)[y]) == judged(Metric.ACCURACY, logits, noisy, y)


def test_tags_of_which_several_may_hold_are_right_one_by_one(judged):
    y = (rows()[:, :4] > 0).astype(int)
    tags, half = (Fake(p=lambda x, sign=sign: 1 / (1 + np.exp(-x[:, :4] * sign))) for sign in (1, [1, 1, -1, -1]))
    assert judged(Metric.ACCURACY, tags, half, y).value == pytest.approx(0.5, abs=0.001)


def test_auc_takes_the_second_of_two_softmax_columns(judged):
    y = (rows()[:, 0] > 0).astype(int)
    two = Fake(p=lambda x: softmax(np.stack([0 * x[:, 0], x[:, 0]], axis=1)))
    assert judged(Metric.AUC, two, two, y).value == 1.0


def test_several_outputs_need_the_judged_one_named(judged):
    both = Fake(p=classes()._answers["p"], z=lambda x: x[:, :3])
    with pytest.raises(RecipeError, match="has the outputs p, z; name the one"):
        judged(Metric.ACCURACY, both, both, rows()[:, :4].argmax(1))
    with pytest.raises(RecipeError, match="no output 'q'; it has p, z"):
        judged(Metric.FIDELITY, both, both, output="q")
    assert judged(Metric.ACCURACY, both, both, rows()[:, :4].argmax(1), output="p").value == 1.0


def test_a_candidate_of_another_shape_is_refused(judged):
    with pytest.raises(ModelError, match=r"\(400, 3\).*\(400, 4\)"):
        judged(Metric.FIDELITY, classes(), Fake(p=lambda x: softmax(x[:, :3])))


def labelled(y):
    return Split({"x": rows(count=len(y))}, y, None)


@pytest.mark.parametrize(
    ("metric", "y", "words"),
    [
        (Metric.ACCURACY, np.arange(49) % 4, "49 rows are too few"),
        (Metric.ACCURACY, np.arange(ROWS) % 5, "needs labels of 0 to 3; 80 of the 400 rows hold others, such as 4"),
        (Metric.ACCURACY, np.zeros(ROWS), "one class only"),
        (Metric.ACCURACY, np.zeros((ROWS, 3)), r"y has shape \(400, 3\) and the model answers in shape \(n, 4\)"),
        (Metric.RMSE, np.zeros(ROWS), r"needs labels of shape \(n, 4\)"),
        (Metric.AUC, np.arange(ROWS) % 2, "auc needs one score a row"),
        (Metric.ACCURACY, None, "no labels, and accuracy needs them; add the key 'y', or judge by fidelity"),
    ],
)
def test_data_that_cannot_judge_are_refused_before_any_row_is_run(recipe_with, metric, y, words):
    session = classes()
    session._answers = {}  # running it would fail
    split = labelled(y) if y is not None else dataclasses.replace(labelled(np.zeros(ROWS)), labels=None)
    with pytest.raises(DataError, match=f"data.npz: .*{words}"):
        require_judgeable(recipe_with(metric=metric), session, split, "data.npz")


def test_auc_of_one_class_is_refused(recipe_with):
    session = Fake(p=lambda x: x[:, :1])
    with pytest.raises(DataError, match="the labels hold one only"):
        require_judgeable(recipe_with(metric=Metric.AUC), session, labelled(np.ones(ROWS)))


def test_auc_of_a_few_rows_of_a_class_is_refused_because_their_luck_is_no_bound(recipe_with):
    session, recipe = Fake(p=lambda x: x[:, :1]), recipe_with(metric=Metric.AUC)
    for few in (np.arange(ROWS) < 9, np.arange(ROWS) >= 9):
        with pytest.raises(DataError, match="9 rows of one class are too few to bound a loss of AUC: at least 10"):
            require_judgeable(recipe, session, labelled(few.astype(int)))
    require_judgeable(recipe, session, labelled((np.arange(ROWS) < 10).astype(int)))


def test_data_without_labels_can_be_judged_by_fidelity(recipe_with):
    require_judgeable(
        recipe_with(metric=Metric.FIDELITY), classes(), dataclasses.replace(labelled(rows()), labels=None)
    )


def test_rows_needed_shrink_the_interval_to_the_budget(make_card):
    task = make_card("p50.w8d", loss=0.004, width=0.012).task
    assert units_needed(task, 0.01) == 400  # half the width needs four times the 100 rows
    assert units_needed(task, 0.016) == 100
    assert units_needed(task, 0.004) is None
    assert units_needed(task, 0.001) is None


def test_of_several_outputs_those_that_the_labels_fit_are_told(recipe_with):
    fake = Fake(
        kind=lambda x: softmax(x[:, :3]), amount=lambda x: 9 * x[:, :3], chance=lambda x: 1 / (1 + x[:, :1] ** 2)
    )
    thirds, price = np.arange(ROWS) % 3, rows()[:, 0]

    def fitting(metric, labels):
        return fitting_outputs(recipe_with(metric=metric), fake, Split({"x": rows()}, labels, None))

    assert fitting(Metric.ACCURACY, thirds) == ("kind",)
    assert fitting(Metric.AUC, thirds % 2) == ("chance",)
    assert fitting(Metric.RMSE, price) == ("chance",)
    assert fitting(Metric.RMSE, 9 * rows()[:, :3]) == ("amount", "kind")
