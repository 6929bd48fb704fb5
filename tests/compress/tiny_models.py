"""The small models of tests/fixtures/models, the rows they know, and their answers."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipeline.compress.schemes.storing import calibrate, prepare, store
from pipeline.core.names import Format, Scheme
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.open import open_session

MODELS = Path(__file__).parents[1] / "fixtures" / "models"


def dense_rows(rows: int, seed: int) -> tuple[dict[str, Array], Array]:
    """Return features (rows, 8) and labels (rows,) of the rule that tiny_dense learnt."""
    x = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)
    return {"features": x}, (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype(np.int32)


def embedding_rows(rows: int, seed: int) -> dict[str, Array]:
    """Return ids (rows, 1) of both tables of tiny_embedding."""
    rng = np.random.default_rng(seed)
    return {
        "user": rng.integers(0, 50, (rows, 1), dtype=np.int32),
        "item": rng.integers(0, 80, (rows, 1), dtype=np.int32),
    }


def answers(model_format: Format, model: bytes, inputs: dict[str, Array]) -> Array:
    """Return the model's only output."""
    return open_session(model_format, model).run(inputs)["probability"]


def onnx_in(parent: bytes, scheme: Scheme, rows: Iterable[Tensors] = ()) -> bytes:
    """Prepare a float onnx model, calibrate it on ``rows`` where the scheme asks for that, and store it."""
    prepared = prepare(Format.ONNX, parent)
    return store(Format.ONNX, prepared, scheme, calibrate(Format.ONNX, prepared, rows) if scheme.needs_ranges else None)
