"""The real training process, on few made-up rows: names, shapes, reproducible bytes."""

import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from pipeline.core.canonical import sha256_hex
from pipeline.core.tensors import encode_npz
from pipeline.examples.job import MODEL_FILE, SCORES_FILE, Job
from pipeline.examples.process import run_training

ROWS = 120


def splits(example: str) -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    if example == "recommendation":
        inputs = {
            "user_id": rng.integers(0, 943, ROWS).astype(np.int32),
            "item_id": rng.integers(0, 1682, ROWS).astype(np.int32),
        }
    else:
        inputs = {"features": rng.standard_normal((ROWS, 5)).astype(np.float32)}
    split = {**inputs, "y": (np.arange(ROWS) % 2).astype(np.float32), "weight": np.ones(ROWS, np.float32)}
    return dict.fromkeys(("train", "validation", "test"), split)


def train(example: str, folder) -> None:
    folder.mkdir()
    for name, tensors in splits(example).items():
        (folder / f"{name}.npz").write_bytes(encode_npz(tensors))
    run_training(Job(example, 5, str(folder), str(folder), False), folder)


@pytest.mark.slow
@pytest.mark.parametrize("example", ["credit", "recommendation"])
def test_a_training_writes_scores_and_equal_jobs_give_equal_bytes(tmp_path, example):
    for run in ("first", "second"):
        train(example, tmp_path / run)
    with np.load(tmp_path / "first" / SCORES_FILE) as scores:
        assert sorted(scores.files) == ["test", "validation"]
        for values in scores.values():
            assert values.shape == (ROWS,)
            assert values.dtype == np.float32
            assert ((values >= 0) & (values <= 1)).all()
    models = [(tmp_path / run / MODEL_FILE).read_bytes() for run in ("first", "second")]
    assert sha256_hex(models[0]) == sha256_hex(models[1])
    assert b"1980-01-01" in zipfile.ZipFile(tmp_path / "first" / MODEL_FILE).read("metadata.json")


SIGNATURES = """
import os; os.environ["TF_USE_LEGACY_KERAS"] = "1"
import numpy as np
import tf_keras
from pipeline.examples.training.networks import NETWORKS
for name, build in NETWORKS.items():
    model = build({"features": np.zeros((2, 5), np.float32)})
    described = [f"{item.name}:{item.dtype}:{item.shape}" for item in model.inputs]
    kinds = sorted({type(layer).__name__ for layer in model.layers})
    print(name, *described, "->", *model.output_names, model.output_shape, model.count_params(), *kinds)
"""


@pytest.mark.slow
def test_networks_have_the_published_names_and_layers_that_can_be_pruned():
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, "-c", SIGNATURES], capture_output=True, text=True, check=True, env=quiet)
    printed = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "user_id:<dtype: 'int32'>:(None,) item_id:<dtype: 'int32'>:(None,) -> score" in printed["recommendation"]
    for name in ("credit", "diagnosis"):
        assert "features:<dtype: 'float32'>:(None, 5) -> probability (None, 1)" in printed[name]
    assert " 362945 " in printed["recommendation"]
    layers = {word for line in printed.values() for word in line.split()[1:] if word.isalpha() and word[0].isupper()}
    assert layers <= {
        "InputLayer",
        "Dense",
        "Dropout",
        "BatchNormalization",
        "ReLU",
        "Embedding",
        "Multiply",
        "Concatenate",
    }
