"""The benchmark's own model: a small convnet on Fashion-MNIST, which none of hotspare's examples resembles.

The images come from Debian's package ``dataset-fashion-mnist`` (MIT licence). The 60,000 training images fit the
network and its variants; the 10,000 test images, which no training step sees, are dealt into validation and locked
rows.
"""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.files import replacing_dir, write_atomic
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import About, Budgets, Data, FineTuning, Metric, Recipe, Source, SourceFormat
from pipeline.core.tensors import Array, encode_npz

MODEL = "fashion"
IMAGES = Path("/usr/share/datasets/fashion-mnist")
CALIBRATION_ROWS = 1000
VALIDATION_ROWS = 5000
SEED = 20
_HEADER_BYTES = {"images": 16, "labels": 8}  # the idx format: magic and sizes, then bytes
_PIXELS = 28


def prepare(root: Path, epochs: int) -> Recipe:
    """Make the splits and the trained model below ``root`` unless they are there; returns their recipe.

    Raises DataError when the data set is not installed, CalledProcessError when the training process fails.
    """
    folder = root / "trained" / MODEL
    if not (folder / "model.keras").exists():
        with replacing_dir(folder) as aside:
            _write_splits(aside)
            subprocess.run(
                [sys.executable, str(Path(__file__).with_name("fashion_network.py")), aside, str(epochs)], check=True
            )
    return recipe(folder)


def recipe(folder: Path) -> Recipe:
    """Return the recipe of the model in ``folder``: every kind of variant, the loss budget of the examples."""
    shrinking = FineTuning(epochs=6, learning_rate=0.001, batch_size=128, distill_ratio=0.7)
    return Recipe(
        model=MODEL,
        about=About(
            title="Fashion-MNIST convnet",
            intended_use="Measures compression on pictures of clothes.",
            limits="A benchmark; 28 × 28 grey pictures.",
            data_source="Fashion-MNIST (Zalando Research), MIT licence.",
            licence="Apache-2.0",
        ),
        source=Source(str(folder / "model.keras"), SourceFormat.KERAS),
        data=Data(**{name: str(folder / f"{name}.npz") for name in ("train", "calibration", "validation", "test")}),
        metric=Metric.ACCURACY,
        budgets=Budgets(loss_max_abs=0.01),
        variants={"dense": FineTuning(), "p30s": shrinking},
        schemes={Format.TFLITE: (Scheme.F32,), Format.ONNX: (Scheme.F32,)},
        seed=SEED,
    )


def _write_splits(folder: Path) -> None:
    train, held_out = _read("train"), _read("t10k")
    order = np.random.default_rng(SEED).permutation(len(held_out["y"]))
    held_out = {name: values[order] for name, values in held_out.items()}
    parts = {
        "calibration": (train, slice(0, CALIBRATION_ROWS)),
        "train": (train, slice(CALIBRATION_ROWS, None)),
        "validation": (held_out, slice(0, VALIDATION_ROWS)),
        "test": (held_out, slice(VALIDATION_ROWS, None)),
    }
    for name, (rows, part) in parts.items():
        write_atomic(folder / f"{name}.npz", encode_npz({key: values[part] for key, values in rows.items()}))


def _read(part: str) -> dict[str, Array]:
    pixels = _idx(part, "images", 3).reshape(-1, _PIXELS, _PIXELS, 1)
    return {"image": (pixels / np.float32(255)).astype(np.float32), "y": _idx(part, "labels", 1).astype(np.int32)}


def _idx(part: str, kind: str, axes: int) -> Array:
    path = IMAGES / f"{part}-{kind}-idx{axes}-ubyte.gz"
    if not path.exists():
        raise DataError(f"{path} is missing; install Debian's package: apt-get install -y dataset-fashion-mnist.")
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=_HEADER_BYTES[kind])
