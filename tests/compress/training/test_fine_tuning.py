"""Every family of variants on both Kerases, through the training process's own entry: one start of TensorFlow each."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.compress.schemes.tflite_file import constant_of, parse_tflite
from pipeline.core.tensors import Array

pytestmark = pytest.mark.slow

SHORT = {"epochs": 2}
IMPATIENT = {"epochs": 20, "patience": 1, "learning_rate": 0.02, "batch_size": 256}
PATIENT = {"epochs": 20, "patience": 9, "learning_rate": 0.005, "batch_size": 256}
BLEND = {"epochs": 2, "distill_ratio": 0.5}
JOBS: list[dict[str, Any]] = [
    {"name": "p50", "model": "signal", "variant": "p50", "tuning": SHORT},
    {"name": "p50 resumed", "model": "signal", "variant": "p50", "tuning": SHORT, "stops_at": [6, 15]},
    {"name": "one hot", "model": "signal", "variant": "p50", "train": "one_hot", "tuning": SHORT},
    {"name": "bare", "model": "bare", "variant": "p50", "train": "signal", "validation": "signal", "tuning": SHORT},
    {
        "name": "bare one hot",
        "model": "bare",
        "variant": "p50",
        "train": "one_hot",
        "validation": "one_hot",
        "tuning": SHORT,
    },
    {"name": "p24", "model": "signal", "variant": "p24", "train": "unlabelled", "tuning": SHORT},
    {"name": "p50b", "model": "signal", "variant": "p50b", "tuning": IMPATIENT},
    {"name": "judged", "model": "signal", "variant": "p50b", "tuning": PATIENT},
    {"name": "judged otherwise", "model": "signal", "variant": "p50b", "validation": "turned", "tuning": PATIENT},
    {"name": "p50s", "model": "signal", "variant": "p50s", "tuning": {"epochs": 4}},
    {"name": "p50s untuned", "model": "signal", "variant": "p50s", "tuning": {"epochs": 0}},
    {"name": "all", "model": "signal", "variant": "p50c16qat", "tuning": BLEND},
    {"name": "all resumed", "model": "signal", "variant": "p50c16qat", "tuning": BLEND, "stops_at": [15, 24, 57]},
    {"name": "pair", "model": "pair", "variant": "p50c16", "metric": "rmse", "tuning": SHORT},
    {"name": "text", "model": "text", "variant": "p50c8qat", "tuning": SHORT},
    {"name": "mirrored", "model": "signal", "variant": "p50", "tuning": {"epochs": 2, "distribute": "mirrored"}},
    {"name": "nine", "model": "signal", "variant": "p50", "train": "nine", "tuning": SHORT},
]
Told = dict[str, Any]


@pytest.fixture(scope="module", params=["2", "3"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Told]:
    folder = tmp_path_factory.mktemp(f"keras{request.param}")
    (folder / "jobs.json").write_text(json.dumps(JOBS))
    driver = Path(__file__).with_name("tuning_driver.py")
    command = [sys.executable, str(driver), str(folder), request.param, str(folder / "jobs.json")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.removeprefix("RESULT ") for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return {
        told["name"]: {**told, "folder": folder / "out", "library": request.param} for told in map(json.loads, lines)
    }


def kernels(made: dict[str, Told], name: str) -> list[Array]:
    """Return the weight tensors of an export, without vectors; dense layers are (outputs, inputs)."""
    assert "error" not in made[name], made[name]["error"]
    parsed = parse_tflite((made[name]["folder"] / name / "model.tflite").read_bytes())
    found = [t for t in parsed.subgraphs[0].tensors if constant_of(parsed, t) is not None and t.type == 0]
    arrays = [np.frombuffer(bytes(constant_of(parsed, t)), np.float32).reshape(t.shape) for t in found]
    return [array for array in arrays if array.ndim > 1 and array.size >= 64]


def test_magnitude_pruning_zeroes_half_and_no_weight_is_minus_zero(made: dict[str, Told]) -> None:
    found = kernels(made, "p50")
    assert len(found) == 2
    for kernel in found:
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.01)
        assert not np.signbit(kernel[kernel == 0]).any() or made["p50"]["library"] == "2"


@pytest.mark.parametrize(("name", "as_classes"), [("one hot", "p50"), ("bare one hot", "bare")])
def test_one_hot_labels_teach_what_class_numbers_teach(made: dict[str, Told], name: str, as_classes: str) -> None:
    assert made[name]["exports"] == made[as_classes]["exports"]


def test_two_of_four_learns_from_answers_where_there_are_no_labels(made: dict[str, Told]) -> None:
    for kernel in kernels(made, "p24"):
        assert (np.count_nonzero(kernel.reshape(-1, 4), axis=1) <= 2).all()  # inputs are last in a stored kernel


def test_blocks_are_neighbours_in_the_file_and_patience_ends_early(made: dict[str, Told]) -> None:
    for kernel in kernels(made, "p50b"):
        empty = (kernel.reshape(-1, 4) == 0).all(axis=1)
        assert empty.mean() == pytest.approx(0.5, abs=0.02)
    assert max(step["done"] for step in made["p50b"]["steps"]) < 60


def test_validation_labels_pick_no_epoch_because_they_are_to_certify_it(made: dict[str, Told]) -> None:
    assert made["judged otherwise"]["exports"] == made["judged"]["exports"]


def test_structured_pruning_makes_tensors_smaller(made: dict[str, Told]) -> None:
    small, untuned, whole = (kernels(made, name) for name in ("p50s", "p50s untuned", "p50"))
    assert sum(k.size for k in small) < 0.6 * sum(k.size for k in whole)
    assert [k.shape for k in untuned] == [k.shape for k in small]
    assert not any(np.array_equal(ours, theirs) for ours, theirs in zip(untuned, small, strict=True))


@pytest.mark.parametrize(("name", "count", "sparsity"), [("all", 16, 0.5), ("pair", 16, 0.5), ("text", 8, 0.5)])
def test_combined_variants_keep_zeros_and_clusters(
    made: dict[str, Told], name: str, count: int, sparsity: float
) -> None:
    found = kernels(made, name)
    assert found
    for kernel in found:
        assert len(np.unique(kernel)) <= count
        assert np.mean(kernel == 0) >= sparsity - 0.02


@pytest.mark.parametrize("name", ["p50", "all"])
def test_broken_off_and_taken_up_again_gives_the_same_bytes(made: dict[str, Told], name: str) -> None:
    assert made[f"{name} resumed"]["exports"] == made[name]["exports"]
    assert len(made[f"{name} resumed"]["steps"]) > len(made[name]["steps"])


def test_the_record_tells_which_path_made_it(made: dict[str, Told]) -> None:
    by = {name: told.get("made_by", "") for name, told in made.items()}
    if made["p50"]["library"] == "2":
        assert by["p50"].endswith("+ tfmot 0.8.1")
        assert by["all"].endswith("+ tfmot 0.8.1")
        assert "native" in by["text"]  # cells of recurrent layers: not by tfmot
    else:
        assert by["p50"].endswith("+ native masks")
        assert by["all"].endswith("+ native masks, native clusters, native rounding of weights")
    assert by["mirrored"].endswith("native masks, mirrored over 1 devices")


def test_steps_tell_loss_and_time_left_over_all_phases(made: dict[str, Told]) -> None:
    steps = made["all"]["steps"]
    assert [step["done"] for step in steps] == sorted(step["done"] for step in steps)
    assert (steps[-1]["done"], steps[-1]["total"], steps[-1]["seconds_left"]) == (60, 60, 0)
    assert all(np.isfinite(step["loss"]) for step in steps)
    assert {step["doing"].partition(",")[0] for step in steps} == {"prune", "cluster", "quantize"}


def test_labels_that_the_model_cannot_tell_are_refused(made: dict[str, Told]) -> None:
    assert "nine.npz: y holds labels from 7 to 9, but the model tells 0 to 2" in made["nine"]["error"]
    assert made["nine"]["error"].startswith("DataError")
