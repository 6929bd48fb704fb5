"""``hotspare score`` and ``hotspare select`` end to end on tiny real models, and what they refuse."""

import csv
import json
import shutil

import numpy as np
import pytest

from pipeline.cli import main
from pipeline.core.files import write_atomic
from pipeline.score import cost
from pipeline.score.scorecard import without_timings
from pipeline.score.store import read_scored

FOLDER = "artifacts/candidates/credit"


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch):
    """Latency and memory figures are tested on their own; here they only have to be there."""
    monkeypatch.setattr(cost, "_PAIRS_MOST", 30)
    monkeypatch.setattr(cost, "probe", lambda *_: (1.5, 50.0))


def score(capsys):
    code = main(["score", "credit"])
    return code, capsys.readouterr()


def test_scorecards_are_written_for_every_usable_candidate_and_reasons_for_the_others(project, capsys):
    code, shown = score(capsys)
    assert code == 0
    scored, cards = read_scored("credit")
    assert scored.reference == "dense.f32"
    assert [card.candidate for card in cards] == ["dense.f32", "dense.f32.onnx", "p50.f32.onnx"]
    reasons = {item.candidate: item.reason for item in scored.refused}
    assert reasons["p50.w8d"] == "misses 90 % of the weights"
    assert "answers 400 of 400 rows with NaN or infinity, first row 0" in reasons["dense.w8d.onnx"]
    assert "p50.f32.onnx" in shown.out
    assert "no scorecard for dense.w8d.onnx: unusable" in shown.out


def test_figures_agree_with_what_the_files_really_answer(project, capsys):
    score(capsys)
    _, (reference, twin, bent) = read_scored("credit")
    assert reference.task.value > 0.95
    assert (reference.task.loss_abs, reference.task.loss_low, reference.task.loss_high) == (0.0, 0.0, 0.0)
    assert (reference.size.deployment_efficiency, reference.size.saving_ratio) == (1.0, 0.0)
    assert twin.task.value == pytest.approx(reference.task.value, abs=1e-4)
    assert twin.size.volume_ratio == pytest.approx(twin.size.bytes / reference.size.bytes, abs=1e-6)
    assert bent.decision.flips_ratio > 0.03
    assert bent.fidelity.value == pytest.approx(1 - bent.decision.flips_ratio, abs=1e-6)
    assert bent.decision.calibration_error > bent.decision.calibration_error_reference
    assert reference.timings.latency_p50_ms > 0


def test_no_loss_is_no_negative_zero_where_lower_is_better(project, capsys):
    project.edit_recipe("metric: accuracy", "metric: rmse")
    assert main(["score", "credit", "--json"]) == 0
    assert '"loss_abs": -0.0' not in capsys.readouterr().out


def test_rows_of_double_precision_are_scored_as_the_model_takes_them(project, capsys):
    score(capsys)
    reference = read_scored("credit")[1][0]
    rows = np.load(project.root / "validation.npz")["features"].astype(np.float64)
    project.split("validation", features=rows)
    assert score(capsys)[0] == 0
    assert without_timings(read_scored("credit")[1][0]) == without_timings(reference)


def test_scoring_twice_gives_the_same_cards_but_for_the_timings(project, capsys):
    score(capsys)
    first = [without_timings(card) for card in read_scored("credit")[1]]
    score(capsys)
    assert [without_timings(card) for card in read_scored("credit")[1]] == first


def test_metrics_and_plot_files_hold_one_entry_a_candidate(project, capsys):
    score(capsys)
    folder = project.root / "artifacts/scorecards/credit"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"dense.f32", "dense.f32.onnx", "p50.f32.onnx"}
    assert metrics["dense.f32"]["accuracy"] > 0.95
    rows = list(csv.DictReader((folder / "scorecards.csv").open()))
    assert [row["candidate"] for row in rows] == list(metrics)
    assert float(rows[0]["bytes"]) == metrics["dense.f32"]["bytes"]


def test_json_output_is_json_and_nothing_else(project, capsys):
    assert main(["score", "credit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scored"]["reference"] == "dense.f32"


@pytest.mark.parametrize(
    ("harm", "code", "words"),
    [
        (lambda project: shutil.rmtree(project.root / "artifacts"), 15, "run `hotspare quantize credit` first"),
        (lambda project: (project.root / FOLDER / "dense.f32.onnx").write_bytes(b"x"), 15, "has changed"),
        (lambda project: (project.root / FOLDER / "dense.f32.tflite").unlink(), 15, "does not exist"),
        (lambda project: (project.root / "validation.npz").unlink(), 11, "validation.npz"),
        (lambda project: project.split("validation", y=None), 11, "no labels"),
        (lambda project: project.split("validation", y=np.ones((400, 2), np.int32)), 11, "y has shape (400, 2)"),
        (
            lambda project: project.split("validation", y=np.arange(400) % 2 * 7),
            11,
            "validation.npz: Accuracy over 2 classes",
        ),
        (lambda project: project.edit_recipe("accuracy", "hit_rate_at_10"), 11, "'group'"),
        (lambda project: project.candidates({}), 12, "dense.f32, which is not there"),
        (lambda project: project.candidates({"dense.f32": b"no"}), 12, "tflite"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_the_old_scorecards(project, capsys, harm, code, words):
    kept = project.root / "artifacts/scorecards/credit/kept"
    harm(project)
    write_atomic(kept, b"")
    assert main(["score", "credit"]) == code
    shown = capsys.readouterr()
    assert words in shown.err
    assert "Traceback" not in shown.err
    assert kept.exists()


def test_select_writes_the_pair_its_reasons_and_the_locked_test(project, capsys):
    score(capsys)
    assert main(["select", "credit", "--json"]) == 0
    selected = json.loads(capsys.readouterr().out)
    assert {selected["primary"], selected["backup"]} == {"dense.f32", "dense.f32.onnx"}
    assert selected == json.loads((project.root / "artifacts/selections/credit/selection.json").read_text())
    assert selected["locked_test"]["backup"]["split"] == "test"
    assert selected["locked_test"]["backup"]["value"] > 0.95
    metrics = json.loads((project.root / "artifacts/selections/credit/metrics.json").read_text())
    assert metrics["backup"]["test_accuracy"] == selected["locked_test"]["backup"]["value"]


def test_explain_prints_every_candidate_with_its_reason(project, capsys):
    score(capsys)
    assert main(["select", "credit", "--explain"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("place 1 of", "NaN", "misses 90 %"):
        assert words in shown


def test_the_locked_rows_are_not_opened_when_selection_refuses(project, capsys):
    score(capsys)
    project.edit_recipe("loss_max_abs: 0.01", "loss_max_abs: 0.01, bytes_max: 10")
    (project.root / "test.npz").unlink()
    assert main(["select", "credit"]) == 20
    shown = capsys.readouterr()
    assert "0 of 5 candidates within the budgets" in shown.err
    assert "p50.w8d: misses 90 % of the weights" in shown.err
    assert not (project.root / "artifacts/selections").exists()


def test_a_loss_on_the_locked_rows_is_warned_of_and_changes_nothing(project, capsys, tiny_files):
    project.candidates({name: tiny_files[name] for name in ("dense.f32", "p50.f32.onnx")})
    score(capsys)
    loss_high = read_scored("credit")[1][1].task.loss_high
    project.edit_recipe("loss_max_abs: 0.01", f"loss_max_abs: {loss_high}")
    project.split("test", keep="negatives")  # the bent bias errs on negatives alone
    assert main(["select", "credit"]) == 0
    assert "warning: The backup p50.f32.onnx loses" in " ".join(capsys.readouterr().out.split())
    selected = json.loads((project.root / "artifacts/selections/credit/selection.json").read_text())
    assert selected["backup"] == "p50.f32.onnx"
    assert len([words for words in selected["warnings"] if "locked rows" in words]) == 1


def test_candidates_made_again_after_scoring_are_not_selected_on_old_figures(project, capsys, tiny_files):
    score(capsys)
    project.candidates({"dense.f32": tiny_files["dense.f32"], "dense.f32.onnx": tiny_files["p50.f32.onnx"]})
    assert main(["select", "credit"]) == 15
    assert "run `hotspare score` again" in capsys.readouterr().err


def test_select_before_score_names_the_stage_to_run(project, capsys):
    assert main(["select", "credit"]) == 15
    assert "run `hotspare score credit` first" in capsys.readouterr().err


def test_validation_rows_too_few_to_bound_a_loss_are_refused(project, capsys):
    project.split("validation", keep=slice(49))
    code, shown = score(capsys)
    assert code == 11
    assert "49 rows are too few to bound a loss: at least 50" in shown.err
