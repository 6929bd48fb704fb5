"""Candidate files to sessions, sessions and splits to outputs: each step checked, because a figure follows from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import MissingStageError, ModelError, RecipeError
from pipeline.core.files import read_bytes
from pipeline.core.recipe import Metric, Recipe
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


def judged_outputs(recipe: Recipe, session: Session) -> tuple[str, ...]:
    """Return the outputs that are judged: the one that the recipe names, the only one, or for fidelity all.

    Raises RecipeError when the recipe names none of several, or one that the model does not have.
    """
    names = tuple(sorted(spec.name for spec in session.outputs))
    listed = ", ".join(names)
    if recipe.output is not None:
        if recipe.output not in names:
            raise RecipeError(f"output: {recipe.model} has no output {recipe.output!r}; it has {listed}: name one.")
        return (recipe.output,)
    if len(names) > 1 and recipe.metric is not Metric.FIDELITY:
        raise RecipeError(f"output: {recipe.model} has the outputs {listed}; name the one that {recipe.metric} judges.")
    return names


def predict(session: Session, split: Split, outputs: Sequence[str], place: str) -> dict[str, Array]:
    """Return the named outputs (n, ...) for every row of a split.

    Raises ModelError, naming the file at ``place``, when one is missing or is not one finite row per input row.
    """
    parts = [session.run(rows) for rows in batches(split, _BATCH_ROWS)]
    missing = sorted(set(outputs) - parts[0].keys())
    if missing:
        raise ModelError(f"{place} has no output {', '.join(missing)}, which its float reference has.")
    answers = {name: np.concatenate([part[name] for part in parts]) for name in outputs}
    for array in answers.values():
        _check(place, array, split.rows)
    return answers


def _check(place: str, scores: Array, rows: int) -> None:
    if scores.ndim == 0 or scores.shape[0] != rows:
        raise ModelError(f"{place} answers {rows} rows with an array of shape {scores.shape}; it cannot be scored.")
    bad = np.flatnonzero(~np.isfinite(scores.astype(np.float64)).reshape(rows, -1).all(axis=1))
    if bad.size:
        raise ModelError(f"{place} answers {bad.size} of {rows} rows with NaN or infinity, first row {bad[0]}.")
