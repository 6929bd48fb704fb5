"""Small models, rows they know, and a project with a tflite source: no TensorFlow starts here."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from tiny_models import MODELS, dense_rows


@pytest.fixture(scope="session")
def dense_tflite() -> bytes:
    return (MODELS / "tiny_dense.tflite").read_bytes()


@pytest.fixture(scope="session")
def embedding_tflite() -> bytes:
    return (MODELS / "tiny_embedding.tflite").read_bytes()


@pytest.fixture(scope="session")
def dense_onnx() -> bytes:
    return (MODELS / "tiny_dense.onnx").read_bytes()


@pytest.fixture(scope="session")
def embedding_onnx() -> bytes:
    return (MODELS / "tiny_embedding.onnx").read_bytes()


def _recipe(source: str, source_format: str, changes: dict[str, object]) -> dict[str, object]:
    data = {split: f"data/{split}.npz" for split in ("train", "calibration", "validation", "test")}
    words = dict.fromkeys(("title", "intended_use", "limits", "data_source", "licence"), "x")
    return {
        "model": "tiny",
        "about": words,
        "source": {"path": source, "format": source_format},
        "data": data,
        "metric": "accuracy",
        "budgets": {"loss_max_abs": 0.05},
        "variants": {"dense": {}},
        "schemes": {"tflite": ["f32", "f16", "w8", "w8d", "w8a8"]},
        **changes,
    }


Project = Callable[..., Path]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a function that makes a project of one tiny model and works in it."""

    def make(source: str = "tiny_dense.tflite", source_format: str = "tflite", **changes: object) -> Path:
        monkeypatch.chdir(tmp_path)
        (tmp_path / source).write_bytes((MODELS / source).read_bytes())
        (tmp_path / "data").mkdir()
        for seed, split in enumerate(("train", "calibration", "validation", "test")):
            inputs, labels = dense_rows(2048 if split == "train" else 600, seed)
            np.savez(tmp_path / "data" / f"{split}.npz", y=labels, **inputs)
        recipes = tmp_path / "recipes" / "models"
        recipes.mkdir(parents=True)
        (recipes / "tiny.yaml").write_text(yaml.safe_dump(_recipe(source, source_format, changes)))
        return tmp_path

    return make
