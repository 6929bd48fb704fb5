"""Trains one example: ``python -m pipeline.examples.training JOB.json``. Seeded; equal jobs give equal weights."""

import os

# Keras 2, which tfmot prunes and quantizes; TensorFlow reads both variables when it is imported.
os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import json
import sys
from pathlib import Path

import tensorflow as tf
import tf_keras

from pipeline.core.errors import DataError
from pipeline.core.files import write_atomic
from pipeline.core.schema import read
from pipeline.core.tensors import Array, encode_npz, map_npz
from pipeline.examples.job import MODEL_FILE, SCORES_FILE, Job
from pipeline.examples.training.fitting import FITTINGS, fit
from pipeline.examples.training.networks import NETWORKS
from pipeline.examples.training.saving import save_reproducibly

_ROWS_A_BATCH = 16384


def train(job: Job) -> None:
    """Train the job's network and write the model and its scores."""
    tf.config.experimental.enable_op_determinism()
    tf_keras.utils.set_random_seed(job.seed)
    splits = {name: map_npz(job.split(name), DataError) for name in ("train", "validation", "test")}
    network = NETWORKS[job.example](splits["train"])
    fit(network, splits["train"], FITTINGS[job.example], job.seed, job.show_progress)
    scores = {name: _scores(network, splits[name]) for name in ("validation", "test")}
    save_reproducibly(network, Path(job.out) / MODEL_FILE)
    write_atomic(Path(job.out) / SCORES_FILE, encode_npz(scores))


def _scores(network: tf_keras.Model, split: dict[str, Array]) -> Array:
    inputs = {name: split[name] for name in network.input_names}
    scores: Array = network.predict(inputs, batch_size=_ROWS_A_BATCH, verbose=0)[:, 0]
    return scores


if __name__ == "__main__":
    train(read(Job, json.loads(Path(sys.argv[1]).read_text("utf-8"))))
