"""Candidate files to sessions, sessions and splits to outputs: each step checked, because a figure follows from it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import MissingStageError, ModelError
from pipeline.core.files import read_bytes
from pipeline.core.records import CandidateRecord
from pipeline.core.tensors import Array
from pipeline.data.splits import Split, batches
from pipeline.engines.base import Session
from pipeline.engines.open import open_session

_BATCH_ROWS = 2048


@dataclass(frozen=True)
class Loaded:
    """A candidate file in memory, the session over those bytes, and where they came from."""

    record: CandidateRecord
    path: Path
    model: bytes
    session: Session


def load_candidate(folder: Path, record: CandidateRecord, threads: int) -> Loaded:
    """Load a candidate that ``quantize`` wrote.

    Raises MissingStageError when the file is missing or is not the one that was recorded, ModelError when it cannot
    be loaded.
    """
    path = folder / record.file
    model = read_bytes(path, MissingStageError, "run `hotspare quantize` first")
    if sha256_hex(model) != record.sha256:
        raise MissingStageError(f"{path} has changed since it was made; run `hotspare quantize` again.")
    return Loaded(record, path, model, open_session(record.format, model, threads))


def predict(loaded: Loaded, split: Split) -> Array:
    """Return the outputs (n, k) for every row of a split.

    Raises ModelError when the model has not exactly one output, or when that is not one finite row per input row.
    """
    outputs = [loaded.session.run(rows) for rows in batches(split, _BATCH_ROWS)]
    if len(outputs[0]) != 1:
        names = ", ".join(sorted(outputs[0]))
        raise ModelError(f"{loaded.path} has the outputs {names}; scoring needs exactly one: export the one to judge.")
    scores = np.concatenate([next(iter(part.values())) for part in outputs])
    _check(loaded.path, scores, split.rows)
    return scores


def _check(path: Path, scores: Array, rows: int) -> None:
    if scores.ndim not in (1, 2) or scores.shape[0] != rows:
        raise ModelError(f"{path} answers {rows} rows with an array of shape {scores.shape}; it cannot be scored.")
    bad = np.flatnonzero(~np.isfinite(scores.astype(np.float64)).reshape(rows, -1).all(axis=1))
    if bad.size:
        raise ModelError(f"{path} answers {bad.size} of {rows} rows with NaN or infinity, first row {bad[0]}.")
