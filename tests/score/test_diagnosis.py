"""A diagnosis names the rows that changed, the groups that lose and the tensors where noise comes in."""

import json

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.cli import main
from pipeline.core.errors import DataError, ModelError
from pipeline.core.files import write_atomic
from pipeline.core.names import Format
from pipeline.core.recipe import Metric
from pipeline.core.tensors import encode_npz
from pipeline.score import cost
from pipeline.score.diagnosis import ROWS_NAMED, changes_of
from pipeline.score.noise import Inside, compare_tensors, inside, rows_to_keep
from pipeline.score.slices import groups, read_slices, slice_scores, worst_slice
from pipeline.score.store import read_diagnoses, read_scored
from pipeline.score.task import ask


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    monkeypatch.setattr(cost, "_PAIRS_MOST", 30)
    monkeypatch.setattr(cost, "probe", lambda *_: (1.5, 50.0))


def column(values):
    return {"p": np.asarray(values, np.float64)[:, None]}


def test_changes_count_both_directions_and_name_the_rows(recipe_with):
    reference, labels = column([0.9, 0.9, 0.1, 0.1]), np.array([1, 0, 0, 1])
    question = ask(recipe_with(metric=Metric.ACCURACY), reference, labels, None)
    changes = changes_of(question, column([0.1, 0.1, 0.1, 0.9]))
    assert (changes.flipped, changes.units, changes.named) == (3, 4, (0, 1, 3))
    assert (changes.right_to_wrong, changes.wrong_to_right) == (1, 2)


def test_of_many_changed_rows_the_first_are_named(recipe_with):
    question = ask(recipe_with(metric=Metric.AUC), column(np.full(100, 0.9)), np.arange(100) % 2, None)
    changes = changes_of(question, column(np.full(100, 0.1)))
    assert changes.flipped == 100
    assert changes.named == tuple(range(ROWS_NAMED))


def test_a_ranking_changes_by_lists_that_lose_or_gain_their_hit(recipe_with):
    lists, places = np.repeat(np.arange(3), 20), np.tile(np.arange(20), 3)
    labels = (places == 0).astype(int)
    reference = column(-places.astype(float))
    scores = -places.astype(float)
    scores[20] = -15.5  # the second list's positive falls out of its ten best
    question = ask(recipe_with(metric=Metric.HIT_RATE_AT_10), reference, labels, lists)
    changes = changes_of(question, column(scores))
    assert (changes.flipped, changes.units, changes.named, changes.right_to_wrong) == (1, 3, (1,), 1)


def test_numbers_decide_nothing(recipe_with):
    question = ask(recipe_with(metric=Metric.RMSE), column([1.0, 2.0]), np.array([1.0, 2.0]), None)
    assert changes_of(question, column([1.0, 3.0])) is None
    question = ask(recipe_with(metric=Metric.FIDELITY), column([1.0, 2.0]), None, None)
    assert changes_of(question, column([1.0, 3.0])) is None


def test_changes_without_labels_say_not_which_was_right(recipe_with):
    question = ask(recipe_with(metric=Metric.FIDELITY), column([0.9, 0.1]), None, None)
    changes = changes_of(question, column([0.1, 0.1]))
    assert (changes.flipped, changes.right_to_wrong) == (1, None)


def test_the_group_that_loses_most_is_named(recipe_with):
    labels = np.arange(100) % 2
    reference = column(np.where(labels, 0.9, 0.1))
    sex = np.repeat([0, 1], 50)
    ours = column(np.where(labels & (sex == 0), 0.9, 0.1))
    question = ask(recipe_with(metric=Metric.ACCURACY), reference, labels, None)
    scores = slice_scores(question, ours, {"sex": sex})
    assert [(item.group, item.rows, item.value, item.loss_abs) for item in scores] == [
        ("0", 50, 1.0, 0.0),
        ("1", 50, 0.5, 0.5),
    ]
    assert worst_slice(scores).group == "1"
    assert worst_slice(slice_scores(question, reference, {"sex": sex})) is None


def test_groups_of_one_class_have_no_auc_and_are_left_out(recipe_with):
    labels = np.repeat([0, 1], 50)
    question = ask(recipe_with(metric=Metric.AUC), column(labels / 2), labels, None)
    assert slice_scores(question, column(labels / 2), {"same": labels}) == ()


def test_many_different_numbers_are_cut_into_quarters_that_hold_every_row_once():
    found = list(groups(np.random.default_rng(0).normal(size=1000)))
    assert len(found) == 4
    assert np.array_equal(sum(chosen.astype(int) for _, chosen in found), np.ones(1000))


def test_slices_are_words_too():
    assert [name for name, _ in groups(np.array(["f", "m", "f"]))] == ["f", "m"]


def test_a_slice_that_is_missing_or_misshapen_is_one_sentence(recipe_with, tmp_path):
    path = tmp_path / "v.npz"
    write_atomic(path, encode_npz({"x": np.zeros((4, 2)), "age": np.zeros((4, 2))}))
    with pytest.raises(DataError, match="no array 'sex', which the recipe's slices name; it holds"):
        read_slices(recipe_with(slices=("sex",)), path, 4)
    with pytest.raises(DataError, match=r"'age' has shape \(4, 2\), but needs one value a row"):
        read_slices(recipe_with(slices=("age",)), path, 4)
    write_atomic(path, encode_npz({"age": np.array([30.0, np.nan, 30.0, 41.0])}))
    with pytest.raises(DataError, match="1 of 4 rows of age hold NaN or infinity, the first is row 1; fill or drop"):
        read_slices(recipe_with(slices=("age",)), path, 4)


def test_noise_and_saturation_are_measured_against_the_float_tensor():
    values = np.linspace(-2, 2, 400, dtype=np.float32)[:, None]
    stored = Inside("CONV_2D", np.clip(values, -1, 1), -1.0, 1.0)
    found = compare_tensors({"a": stored, "only_here": stored}, {"a": Inside("CONV_2D", values)})
    assert (found.compared, found.rows) == (1, 400)
    assert found.worst[0].saturated_ratio == pytest.approx(0.5, abs=0.01)
    assert 0 < found.worst[0].snr_db < 15


@pytest.mark.parametrize(("numbers", "rows"), [(10, 64), (10_000_000, 2), (10**9, 1)])
def test_large_models_are_compared_on_fewer_rows(numbers, rows):
    assert rows_to_keep(numbers, 1000) == rows


@pytest.mark.parametrize("model_format", list(Format))
def test_a_file_has_no_noise_against_itself(fixture_models, model_format):
    model = (fixture_models / f"tiny_dense.{model_format}").read_bytes()
    x = {"features": np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)}
    kept = inside(model_format, model, x)
    found = compare_tensors(kept, kept)
    assert found.compared >= 2
    assert {item.snr_db for item in found.worst} == {150.0}


@pytest.mark.parametrize("model_format", list(Format))
def test_a_broken_file_says_that_its_tensors_cannot_be_read(model_format):
    with pytest.raises(ModelError, match="its tensors cannot be read"):
        inside(model_format, b"no model", {"features": np.zeros((1, 8), np.float32)})


def test_score_writes_diagnoses_beside_the_cards_and_tells_them(project, capsys):
    project.edit_recipe("metric: accuracy", "metric: accuracy\nslices: [half]")
    for name in ("validation", "test"):
        project.split(name, half=np.repeat(["first", "second"], 200))
    assert main(["score", "credit", "--json"]) == 0
    told = {item["candidate"]: item for item in json.loads(capsys.readouterr().out)["diagnoses"]}
    bent = told["p50.f32.onnx"]
    assert bent["changes"]["right_to_wrong"] > bent["changes"]["wrong_to_right"]
    assert bent["worst_slice"]["slice"] == "half"
    assert set(read_diagnoses("credit", read_scored("credit")[0])) == set(told)
    assert main(["score", "credit"]) == 0
    shown = capsys.readouterr().out
    assert "p50.f32.onnx loses most where half is" in shown
    assert f"-{bent['changes']['right_to_wrong']} +{bent['changes']['wrong_to_right']}" in shown


def test_data_with_inputs_alone_are_scored_by_fidelity(project, capsys):
    project.edit_recipe("metric: accuracy", "metric: fidelity")
    for name in ("validation", "test"):
        project.split(name, y=None)
    assert main(["score", "credit"]) == 0
    assert main(["select", "credit", "--json"]) == 0
    _, cards = read_scored("credit")
    assert (cards[0].task.value, cards[0].task.loss_high) == (1.0, 0.0)
    assert cards[1].task.value > 0.99


def test_tensors_of_a_graph_that_holds_a_sequence_are_compared_without_it():
    pieces = [numpy_helper.from_array(np.array(value, np.int64), name) for name, value in (("two", 2), ("first", 0))]
    nodes = [
        helper.make_node("Relu", ["x"], ["m"]),
        helper.make_node("SplitToSequence", ["m", "two"], ["s"], axis=1),
        helper.make_node("SequenceAt", ["s", "first"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 4), ("y", 2))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], pieces)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    found = inside(Format.ONNX, model.SerializeToString(), {"x": np.ones((60, 4), np.float32)})
    assert {name: item.values.shape for name, item in found.items()} == {"m": (60, 4), "y": (60, 2)}
