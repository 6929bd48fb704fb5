"""The example bundles that `make repro` leaves, judged by a second, independent implementation.

Nothing of hotspare is imported here: the model file is run on the bare engine, and the metrics are scikit-learn's or
spelled out, so that a mistake in our metrics, splits or packing cannot agree with itself.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

pytestmark = pytest.mark.slow

MODELS = ("credit", "diagnosis", "recommendation")
ROLES = ("primary", "backup")


@pytest.fixture(params=[f"{model}-{role}" for model in MODELS for role in ROLES])
def bundle(request: pytest.FixtureRequest, root: Path) -> Path:
    path = root / "artifacts" / "bundles" / request.param
    if not path.is_dir():
        if "CI" in os.environ:
            pytest.fail(f"{path} is missing: CI runs make repro first")
        pytest.skip("make repro has not run here")
    return path


def _answers(bundle: Path, rows: dict[str, np.ndarray]) -> np.ndarray:
    manifest = json.loads((bundle / "payload/bundle.json").read_text())
    model = bundle / "payload" / manifest["entrypoint"]["path"]
    if model.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        names = [item.name for item in session.get_inputs()]
        return np.asarray(session.run(None, {name: rows[name] for name in names})[0]).ravel()
    runner = Interpreter(model_path=str(model)).get_signature_runner()
    names = runner.get_input_details()
    return next(iter(runner(**{name: rows[name] for name in names}).values())).ravel()


def _metric(name: str, scores: np.ndarray, rows: dict[str, np.ndarray]) -> float:
    if name == "auc":
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(rows["y"], scores))
    assert name == "hit_rate_at_10"
    hits = []
    for user in np.unique(rows["group"]):
        mine = rows["group"] == user
        positive = scores[mine & (rows["y"] == 1)]
        assert len(positive) == 1
        hits.append(np.sum(scores[mine & (rows["y"] == 0)] >= positive[0]) < 10)
    return float(np.mean(hits))


def _scorecard(bundle: Path) -> dict:
    return json.loads((bundle / "payload/scorecard.json").read_text())


def test_the_scorecards_metric_is_recomputed_from_the_bundles_own_model(bundle: Path, root: Path) -> None:
    model = bundle.name.rsplit("-", 1)[0]
    task = _scorecard(bundle)["task"]
    with np.load(root / f"artifacts/trained/{model}/validation.npz") as archive:
        rows = dict(archive)
    assert _metric(task["metric"], _answers(bundle, rows), rows) == pytest.approx(task["value"], abs=2e-4)


def test_the_locked_test_figure_is_recomputed_too(bundle: Path, root: Path) -> None:
    model, role = bundle.name.rsplit("-", 1)
    selection = json.loads((root / f"artifacts/selections/{model}/selection.json").read_text())
    told = selection["locked_test"][role]
    with np.load(root / f"artifacts/trained/{model}/test.npz") as archive:
        rows = dict(archive)
    assert _metric(told["metric"], _answers(bundle, rows), rows) == pytest.approx(told["value"], abs=2e-4)


def test_every_bundle_is_within_its_budget_and_says_so_with_an_interval(bundle: Path) -> None:
    task = _scorecard(bundle)["task"]
    assert task["loss_low"] <= task["loss_abs"] <= task["loss_high"] <= 0.01


def test_the_recommendation_backup_takes_at_most_30_percent_of_the_float_bytes(root: Path) -> None:
    bundle = root / "artifacts/bundles/recommendation-backup"
    if not bundle.is_dir():
        pytest.skip("make repro has not run here")
    manifest = json.loads((bundle / "payload/bundle.json").read_text())
    model = bundle / "payload" / manifest["entrypoint"]["path"]
    float_model = root / "artifacts/variants/recommendation/dense/model.tflite"
    assert model.stat().st_size <= 0.30 * float_model.stat().st_size


def test_at_least_one_backup_won_through_pruning_on_a_measured_figure(root: Path) -> None:
    cards = {}
    for model in MODELS:
        path = root / f"artifacts/bundles/{model}-backup"
        if not path.is_dir():
            pytest.skip("make repro has not run here")
        cards[model] = _scorecard(path)
    pruned = [card for card in cards.values() if card["variant"].startswith("p")]
    assert pruned, {model: card["candidate"] for model, card in cards.items()}
    for card in pruned:
        dense = sorted((root / f"artifacts/scorecards/{card['model']}").glob("dense.*.json"))
        others = [json.loads(path.read_text()) for path in dense if "diagnosis.json" not in path.name]
        within = [other for other in others if other["task"]["loss_high"] <= 0.01]
        assert card["size"]["bytes_zstd"] < min(other["size"]["bytes_zstd"] for other in within)
