"""Every candidate of a recipe: each float export in each scheme, checked, counted and written with its record."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.compress.calibration import activation_ranges
from pipeline.compress.coverage import Stored, coverage, require_coverage, stored_weights
from pipeline.compress.onnx_schemes import quantize_onnx
from pipeline.compress.rows import session_batches
from pipeline.compress.tflite_schemes import quantizable, quantize_tflite
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import MissingStageError, SchemeRefused
from pipeline.core.files import read_bytes, replacing_dir, write_atomic
from pipeline.core.layout import ARTIFACTS, candidates_dir, variant_dir
from pipeline.core.names import CandidateName, Format, Scheme
from pipeline.core.recipe import Recipe
from pipeline.core.records import (
    CANDIDATES_FILE,
    VARIANT_FILE,
    CandidateRecord,
    Candidates,
    RefusedCandidate,
    VariantRecord,
    read_record,
    write_record,
)
from pipeline.engines.base import Session
from pipeline.engines.open import open_session

CALIBRATION_ROWS_A_BATCH = 256
CANDIDATES_MIN = 2
_QUANTIZERS = {Format.TFLITE: "ai-edge-quantizer", Format.ONNX: "onnxruntime"}


@dataclass(frozen=True)
class Parent:
    """One float export, loaded once for all of its schemes."""

    model: bytes
    session: Session
    weights: tuple[Stored, ...]


@dataclass(frozen=True)
class Made:
    """One candidate in memory."""

    record: CandidateRecord
    model: bytes


Follow = Callable[[Sequence[CandidateName]], Iterable[CandidateName]]


def make_candidates(recipe: Recipe, follow: Follow = lambda names: names, root: Path = ARTIFACTS) -> Candidates:
    """Make every candidate that the recipe asks for and write ``<root>/candidates/<model>/``.

    ``follow`` may show progress over the names. A scheme that does not work is recorded as refused.
    Raises MissingStageError without the float exports, DataError for bad calibration rows, and SchemeRefused with
    every reason when the reference or a second candidate is missing.
    """
    parents: dict[tuple[str, Format], Parent] = {}
    made: list[Made] = []
    refused: list[RefusedCandidate] = []
    for name in follow(recipe.candidates()):
        key = (name.variant, name.format)
        if key not in parents:
            parents[key] = load_parent(recipe.model, *key, root)
        try:
            made.append(make_candidate(parents[key], name, Path(recipe.data.calibration)))
        except SchemeRefused as error:
            refused.append(RefusedCandidate(str(name), str(error)))
    _require_enough(recipe, made, refused)
    result = Candidates(recipe.model, tuple(item.record for item in made), tuple(refused))
    _write(candidates_dir(recipe.model, root), made, result)
    return result


def load_parent(model: str, variant: str, model_format: Format, root: Path = ARTIFACTS) -> Parent:
    """Load a variant's float export; raises MissingStageError when ``prune`` did not write it or it has changed."""
    folder = variant_dir(model, variant, root)
    stage = f"prune {model} {variant}"
    export = read_record(VariantRecord, folder / VARIANT_FILE, stage).exports.get(model_format)
    if export is None:
        raise MissingStageError(f"{folder} holds no {model_format} export; run `hotspare {stage}` again.")
    data = read_bytes(folder / export.file, MissingStageError, f"run `hotspare {stage}` again")
    if sha256_hex(data) != export.sha256:
        raise MissingStageError(f"{folder / export.file} is not what its record says; run `hotspare {stage}` again.")
    return Parent(data, open_session(model_format, data), stored_weights(model_format, data))


def make_candidate(parent: Parent, name: CandidateName, calibration: Path) -> Made:
    """Store a float export in a scheme, then count and check what came out.

    Raises SchemeRefused when the scheme fails, misses most weights, or changes what goes in or out.
    """
    model = _in_scheme(parent, name, calibration)
    found = coverage(parent.weights, stored_weights(name.format, model))
    if name.scheme != Scheme.F32:
        require_coverage(str(name), found)
        _require_same_answers_form(parent, name, model, calibration)
    record = CandidateRecord(
        variant=name.variant,
        scheme=name.scheme,
        format=name.format,
        file=name.file_name,
        sha256=sha256_hex(model),
        parent_sha256=sha256_hex(parent.model),
        made_by=_made_by(name),
        weight_count=found.weight_count,
        weight_bits_mean=found.weight_bits_mean,
        quantized_ratio=found.quantized_ratio,
        sparsity_ratio=found.sparsity_ratio,
    )
    return Made(record, model)


def _in_scheme(parent: Parent, name: CandidateName, calibration: Path) -> bytes:
    if name.scheme == Scheme.F32:
        return parent.model
    rows = session_batches(parent.session, calibration, CALIBRATION_ROWS_A_BATCH)
    if name.format is Format.ONNX:
        return quantize_onnx(parent.model, Scheme(name.scheme), rows)
    prepared = quantizable(parent.model)
    ranges = activation_ranges(prepared, rows) if name.scheme == Scheme.W8A8 else None
    return quantize_tflite(prepared, Scheme(name.scheme), ranges)


def _require_same_answers_form(parent: Parent, name: CandidateName, model: bytes, calibration: Path) -> None:
    """Refuse a candidate that another one could not stand in for: other names, types or shapes, or NaN answers."""
    session = open_session(name.format, model)
    if (session.inputs, session.outputs) != (parent.session.inputs, parent.session.outputs):
        raise SchemeRefused(f"{name} takes or gives other tensors than its float parent; the two could not be swapped.")
    outputs = session.run(next(session_batches(session, calibration, CALIBRATION_ROWS_A_BATCH)))
    broken = [output for output, values in outputs.items() if not np.isfinite(np.asarray(values, np.float64)).all()]
    if broken:
        raise SchemeRefused(f"{name} answers NaN or infinity in {', '.join(broken)}; its numbers overflow this scheme.")


def _made_by(name: CandidateName) -> str:
    package = _QUANTIZERS[name.format]
    return "copy of the float export" if name.scheme == Scheme.F32 else f"{package} {version(package)}"


def _require_enough(recipe: Recipe, made: Sequence[Made], refused: Sequence[RefusedCandidate]) -> None:
    names = {item.record.name for item in made}
    if recipe.reference not in names or len(names) < CANDIDATES_MIN:
        raise SchemeRefused(
            f"{recipe.model}: {len(names)} candidate(s) could be made; the float reference and another one are needed.",
            [f"{item.candidate}: {item.reason}" for item in refused],
        )


def _write(folder: Path, made: Sequence[Made], record: Candidates) -> None:
    with replacing_dir(folder) as aside:
        for item in made:
            write_atomic(aside / item.record.file, item.model)
        write_record(aside / CANDIDATES_FILE, record)
