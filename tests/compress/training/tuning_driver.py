"""Makes tiny models with one Keras and runs many fine-tuning jobs in one process: TensorFlow starts once.

``python tuning_driver.py FOLDER 2|3 JOBS.json``: a list of ``{"name", "model", "variant", "tuning"}`` in, one line out
for each job.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.compress.job import Job, Step
from pipeline.core.names import Format
from pipeline.core.recipe import FineTuning, Metric, SourceFormat
from pipeline.core.schema import plain, read


def job_of(folder: Path, asked: dict) -> Job:
    """Return the job of a tiny model in ``folder``."""
    model = asked["model"]
    out = folder / "out" / asked["name"]
    out.mkdir(parents=True, exist_ok=True)
    tuning = {"epochs": 3, "learning_rate": 0.003, "batch_size": 64, **asked.get("tuning", {})}
    return Job(
        variant=asked["variant"],
        source=str(folder / f"{model}.keras"),
        source_format=SourceFormat.KERAS,
        train=str(folder / f"{asked.get('train', model)}.npz"),
        validation=str(folder / f"{asked.get('validation', model)}.npz"),
        metric=Metric(asked.get("metric", "accuracy")),
        fine_tuning=read(FineTuning, tuning),
        formats=(Format.TFLITE,),
        seed=3,
        out=str(out),
        state=str(folder / "state" / asked["name"]),
    )


class _Stopped(BaseException):
    """The run was broken off."""


def _noting(steps: list[Step], stop_at: int | None) -> Callable[[Step], None]:
    def note(step: Step) -> None:
        steps.append(step)
        if step.done == stop_at:
            raise _Stopped

    return note


def main() -> None:
    folder, library, jobs = Path(sys.argv[1]), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
    os.environ.update(_environment(library))
    from pipeline.compress.training.variant import make_result
    from pipeline.core.errors import HotspareError

    if not (folder / "signal.keras").exists():
        _save_models(folder, library)
    for asked in jobs:
        steps: list[Step] = []
        for stop_at in [*asked.get("stops_at", []), None]:  # each time it goes on from what is on disk
            try:
                result = plain(make_result(job_of(folder, asked), f"Keras {library}", _noting(steps, stop_at)))
            except HotspareError as error:
                result = {"error": f"{type(error).__name__}: {error}"}
            except _Stopped:
                continue
        told = {"name": asked["name"], "steps": [plain(step) for step in steps], **result}
        print("RESULT", json.dumps(told), flush=True)


def _environment(library: str) -> dict[str, str]:
    return {
        "TF_USE_LEGACY_KERAS": "1" if library == "2" else "0",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
    }


def _save_models(folder: Path, library: str) -> None:
    import importlib

    import numpy as np

    keras = importlib.import_module("tf_keras" if library == "2" else "keras")
    layers = keras.layers
    rng = np.random.default_rng(5)
    keras.utils.set_random_seed(1)

    x = rng.normal(size=(640, 12, 4)).astype(np.float32)
    y = (x.mean(axis=(1, 2)) * 6 + 1.5).clip(0, 2.99).astype(np.int64)
    np.savez(folder / "signal.npz", x=x, y=y)
    np.savez(folder / "nine.npz", x=x, y=y + 7)
    np.savez(folder / "unlabelled.npz", x=x)
    np.savez(folder / "turned.npz", x=x, y=2 - y)
    np.savez(folder / "one_hot.npz", x=x, y=np.eye(3)[y])
    signal = keras.Input((12, 4), name="x")
    hidden = layers.Conv1D(8, 3, activation="relu")(signal)
    hidden = layers.Dropout(0.1)(layers.BatchNormalization()(hidden))
    hidden = layers.Dense(16, activation="relu")(layers.Flatten()(hidden))
    model = keras.Model(signal, layers.Dense(3, activation="softmax", name="class")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=12, batch_size=32, verbose=0)
    model.save(folder / "signal.keras")
    keras.Model(signal, model.output).save(folder / "bare.keras")

    flat = rng.normal(size=(640, 8)).astype(np.float32)
    np.savez(folder / "pair.npz", x=flat)
    table = keras.Input((8,), name="x")
    hidden = layers.Dense(16, activation="tanh")(table)
    outputs = [layers.Dense(1, name="price")(hidden), layers.Reshape((2, 2), name="grid")(layers.Dense(4)(hidden))]
    keras.Model(table, outputs).save(folder / "pair.keras")

    tokens = rng.integers(0, 20, (640, 6)).astype(np.int32)
    np.savez(folder / "text.npz", x=tokens, y=(tokens < 6).any(axis=1).astype(np.int32))
    ids = keras.Input((6,), dtype="int32", name="x")
    hidden = layers.GRU(8, unroll=True)(layers.Embedding(20, 8)(ids))
    model = keras.Model(ids, layers.Dense(1, activation="sigmoid", name="found")(hidden))
    model.compile("adam", "binary_crossentropy")
    model.fit(tokens, (tokens < 6).any(axis=1), epochs=8, batch_size=32, verbose=0)
    model.save(folder / "text.keras")


if __name__ == "__main__":
    main()
