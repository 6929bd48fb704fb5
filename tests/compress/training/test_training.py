"""The training process itself, one start of TensorFlow a variant."""

import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import yaml
from tiny_models import MODELS, answers, dense_rows

from pipeline.cli import main
from pipeline.compress.job import Step
from pipeline.compress.schemes.tflite_file import constant_of, parse_tflite
from pipeline.compress.variants import make_variant
from pipeline.core.errors import ModelError, VariantRefused
from pipeline.core.names import Format
from pipeline.core.recipe import load_recipe
from pipeline.core.records import VariantRecord
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

pytestmark = pytest.mark.slow

Project = Callable[..., Path]
TUNING = {"epochs": 4, "learning_rate": 0.003, "batch_size": 64}
SCHEMES = {"tflite": ["f32", "w8"], "onnx": ["f32"]}


def _unseen(step: Step) -> None:
    assert 0 < step.done <= step.total


def made(project: Project, variant: str, source: str = "tiny_dense.keras", **changes: object) -> VariantRecord:
    variants = {"dense": {}, variant: {} if variant == "dense" else TUNING}
    project(**{"source": source, "source_format": "keras", "variants": variants, "schemes": SCHEMES, **changes})
    return make_variant(load_recipe("tiny"), variant, _unseen)


def export(variant: str, model_format: Format = Format.TFLITE) -> bytes:
    return Path(f"artifacts/variants/tiny/{variant}/model.{model_format}").read_bytes()


def matrices(model: bytes) -> list[Array]:
    """Return the weights of each dense layer as (units, inputs)."""
    parsed = parse_tflite(model)
    found = [t for t in parsed.subgraphs[0].tensors if constant_of(parsed, t) is not None and len(t.shape) == 2]
    return [np.frombuffer(bytes(constant_of(parsed, t)), np.float32).reshape(t.shape) for t in found]


def accuracy(model: bytes) -> float:
    inputs, labels = dense_rows(2000, seed=99)
    return float(np.mean((answers(Format.TFLITE, model, inputs)[:, 0] > 0.5) == labels))


def keras_by_hand(inputs: Array) -> Array:
    """Compute tiny_dense from the arrays inside its .keras file, without Keras."""
    with zipfile.ZipFile(MODELS / "tiny_dense.keras") as archive:
        weights = h5py.File(io.BytesIO(archive.read("model.weights.h5")))
    found: dict[str, Array] = {}
    weights.visititems(lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None)
    layers: dict[int, list[Array]] = {}
    for name, values in sorted(found.items()):
        if "layers" in name:
            layers.setdefault({32: 1, 16: 2, 1: 3}[values.shape[-1]], []).append(values)
    hidden = inputs
    for index in (1, 2, 3):
        bias, kernel = sorted(layers[index], key=lambda values: values.ndim)
        hidden = hidden @ kernel + bias
        hidden = np.maximum(hidden, 0) if index < 3 else 1 / (1 + np.exp(-hidden))
    return hidden


def test_dense_exports_equal_the_keras_model(project: Project) -> None:
    record = made(project, "dense")
    assert set(record.exports) == {Format.TFLITE, Format.ONNX}
    assert all(item.max_abs_diff < 1e-5 and item.rows_checked == 256 for item in record.exports.values())
    inputs, _ = dense_rows(500, seed=7)
    wanted = keras_by_hand(inputs["features"])
    for model_format in Format:
        np.testing.assert_allclose(answers(model_format, export("dense", model_format), inputs), wanted, atol=1e-5)


def test_p50_keeps_at_least_49_percent_zeros_and_its_skill(project: Project, capfd: pytest.CaptureFixture[str]) -> None:
    record = made(project, "p50")
    zeros = {matrix.shape: np.mean(matrix == 0) for matrix in matrices(export("p50"))}
    assert zeros.pop((1, 16)) == 0  # the small output layer is left whole
    assert len(zeros) == 2
    assert min(zeros.values()) >= 0.49
    assert record.sparsity_ratio == pytest.approx(0.5 * 768 / 832, abs=0.01)
    assert accuracy(export("p50")) >= 0.95
    assert "TensorFlow" not in capfd.readouterr().err.replace("TensorFlow Lite XNNPACK", "")


def test_p24_holds_at_most_two_of_each_four_weights(project: Project) -> None:
    made(project, "p24")
    for matrix in [matrix for matrix in matrices(export("p24")) if len(matrix) > 1]:
        blocks = matrix.reshape(matrix.shape[0], -1, 4)
        assert (np.count_nonzero(blocks, axis=2) <= 2).all()
        assert np.mean(matrix == 0) >= 0.5
    assert accuracy(export("p24")) >= 0.93


def test_qat_strips_to_the_same_layers_with_tuned_weights(project: Project) -> None:
    made(project, "qat")
    plain = (MODELS / "tiny_dense.tflite").read_bytes()
    assert [m.shape for m in matrices(export("qat"))] == [m.shape for m in matrices(plain)]
    operators = [len(parse_tflite(model).subgraphs[0].operators) for model in (export("qat"), plain)]
    assert operators[0] == operators[1]
    assert not any(np.array_equal(new, old) for new, old in zip(matrices(export("qat")), matrices(plain), strict=True))
    assert accuracy(export("qat")) >= 0.96


def test_embedding_tables_are_pruned_and_a_second_run_gives_the_same_bytes(project: Project) -> None:
    folder = project(
        source="tiny_embedding.keras",
        source_format="keras",
        variants={"dense": {}, "p50": TUNING},
        schemes={"tflite": ["f32", "w8"]},
    )
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        user, item = rng.integers(0, 50, (2000, 1)), rng.integers(0, 80, (2000, 1))
        np.savez(folder / "data" / f"{split}.npz", user=user, item=item, y=(user % 4 == item % 4)[:, 0].astype(int))
    record = make_variant(load_recipe("tiny"), "p50", _unseen)
    assert record.sparsity_ratio >= 0.48
    assert make_variant(load_recipe("tiny"), "p50", _unseen) == record


def test_fine_tuning_that_unlearns_is_refused_and_leaves_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = project(
        source="tiny_dense.keras", source_format="keras", variants={"dense": {}, "p50": TUNING}, schemes=SCHEMES
    )
    inputs, labels = dense_rows(2048, seed=0)
    np.savez(folder / "data" / "train.npz", y=1 - labels, **inputs)
    assert main(["prune", "tiny", "p50"]) == VariantRefused.exit_code
    message = capsys.readouterr().err
    assert "p50 hardly follows its source in 'probability'" in message
    assert len(message.splitlines()) == 1
    assert not Path("artifacts/variants/tiny/p50").exists()


def test_damaged_keras_file_is_a_model_error(project: Project) -> None:
    folder = project(source="tiny_dense.keras", source_format="keras", schemes=SCHEMES)
    with zipfile.ZipFile(folder / "tiny_dense.keras", "w") as archive:
        archive.writestr("metadata.json", '{"keras_version": "2.21.0"}')
    with pytest.raises(ModelError, match=r"tiny_dense\.keras holds no config\.json"):
        make_variant(load_recipe("tiny"), "dense", _unseen)


KERAS_3_MODEL = """
import keras
features = keras.Input((8,), name="features")
hidden = keras.layers.Dense(16, activation="relu")(features)
model = keras.Model(features, keras.layers.Dense(1, activation="sigmoid", name="probability")(hidden))
model.save("three.keras")
keras.Sequential([keras.Input((8,), name="features"), *model.layers[1:]]).save("sequential.keras")
model.export("saved", verbose=False)
"""


def test_keras_3_file_and_saved_model_are_exported_dense_with_one_answer(project: Project) -> None:
    folder = project()
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_USE_LEGACY_KERAS": "0"}
    subprocess.run([sys.executable, "-c", KERAS_3_MODEL], check=True, env=environment, capture_output=True)
    recipe = folder / "recipes" / "models" / "tiny.yaml"
    plain = yaml.safe_load(recipe.read_text())
    inputs, _ = dense_rows(300, seed=3)
    found = []
    for path, source_format in (("three.keras", "keras"), ("sequential.keras", "keras"), ("saved", "savedmodel")):
        changed = {**plain, "source": {"path": path, "format": source_format}, "schemes": SCHEMES}
        recipe.write_text(yaml.safe_dump(changed))
        make_variant(load_recipe("tiny"), "dense", _unseen)
        for model_format in Format:
            session = open_session(model_format, export("dense", model_format))
            name = session.inputs[0].name
            found.append(next(iter(session.run({name: inputs["features"]}).values())))
    for values in found[1:]:
        np.testing.assert_allclose(values, found[0], atol=1e-5)
