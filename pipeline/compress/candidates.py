"""Every candidate of a recipe: each float export in each scheme, and what a search finds; checked and written."""

import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from pipeline.compress.rows import session_batches
from pipeline.compress.schemes.coverage import Coverage, Stored, coverage, require_coverage, stored_weights
from pipeline.compress.schemes.operator_coverage import coverage_of_operators
from pipeline.compress.schemes.storing import calibrate, prepare, store, weight_groups
from pipeline.compress.search.families import FloatExport
from pipeline.compress.search.fanout import LocalBackend, SearchBackend
from pipeline.compress.search.pool import Effort, Watcher
from pipeline.compress.search.run import Found, NewFile, search
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import MissingStageError, SchemeRefused
from pipeline.core.files import read_bytes, replacing_dir, write_atomic
from pipeline.core.findings import FINDINGS_FILE
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
from pipeline.engines.open import open_session

CALIBRATION_ROWS_A_BATCH = 256
CANDIDATES_MIN = 2
_QUANTIZERS = {Format.TFLITE: "ai-edge-quantizer", Format.ONNX: "onnxruntime"}


@dataclass(frozen=True)
class Parent:
    """One float export, loaded once for all of its schemes."""

    export: FloatExport
    weights: tuple[Stored, ...]
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """One candidate in memory."""

    record: CandidateRecord
    model: bytes


Follow = Callable[[Sequence[CandidateName]], Iterable[CandidateName]]


def _unwatched(effort: Effort) -> None:
    del effort


def make_candidates(
    recipe: Recipe,
    follow: Follow = lambda names: names,
    root: Path = ARTIFACTS,
    backend: SearchBackend | None = None,
    watcher: Watcher = _unwatched,
) -> Candidates:
    """Make every candidate that the recipe asks for, search for more where it says so, write the candidates' folder.

    ``follow`` may show progress over the names, ``watcher`` over a search, which runs on ``backend`` (this machine's
    cores by default). A scheme that does not work is recorded as refused; a search that finds nothing within the
    budget says so in its findings. A killed search is resumed by the same call.
    Raises MissingStageError without the float exports, DataError for bad rows, SurroundingsError when workers die,
    and SchemeRefused with every reason when the reference or a second candidate is missing.
    """
    parents: dict[tuple[str, Format], Parent] = {}
    made: list[Made] = []
    refused: list[RefusedCandidate] = []
    for name in follow(recipe.candidates()):
        key = (name.variant, name.format)
        if key not in parents:
            parents[key] = load_parent(recipe, *key, root)
        try:
            made.append(make_candidate(parents[key], name, Path(recipe.data.calibration)))
        except SchemeRefused as error:
            refused.append(RefusedCandidate(str(name), str(error)))
    work = root / "work" / "search" / recipe.model
    found = _search(recipe, parents, made, work, backend or LocalBackend(), watcher) if recipe.search else None
    if found is not None:
        made += [_found(parents[one.name.variant, one.name.format], one) for one in found.new]
    _require_enough(recipe, made, refused)
    result = Candidates(recipe.model, tuple(item.record for item in made), tuple(refused))
    _write(candidates_dir(recipe.model, root), made, result, found)
    shutil.rmtree(work, ignore_errors=True)
    return result


def _search(
    recipe: Recipe,
    parents: dict[tuple[str, Format], Parent],
    made: Sequence[Made],
    work: Path,
    backend: SearchBackend,
    watcher: Watcher,
) -> Found:
    exports = [parent.export for _, parent in sorted(parents.items())]
    existing = {item.record.sha256: item.record.name for item in made}
    return search(recipe, exports, existing, work, backend, watcher)


def load_parent(recipe: Recipe, variant: str, model_format: Format, root: Path = ARTIFACTS) -> Parent:
    """Load a variant's float export and calibrate it where that is needed.

    Raises MissingStageError when ``prune`` did not write it or it has changed, DataError for bad calibration rows.
    """
    folder = variant_dir(recipe.model, variant, root)
    stage = f"prune {recipe.model} {variant}"
    export = read_record(VariantRecord, folder / VARIANT_FILE, stage).exports.get(model_format)
    if export is None:
        raise MissingStageError(f"{folder} holds no {model_format} export; run `hotspare {stage}` again.")
    data = read_bytes(folder / export.file, MissingStageError, f"run `hotspare {stage}` again")
    if sha256_hex(data) != export.sha256:
        raise MissingStageError(f"{folder / export.file} is not what its record says; run `hotspare {stage}` again.")
    return _parent(recipe, variant, model_format, data)


def _parent(recipe: Recipe, variant: str, model_format: Format, data: bytes) -> Parent:
    session = open_session(model_format, data)
    prepared = prepare(model_format, data)
    groups = weight_groups(model_format, prepared)
    schemes = {*recipe.schemes[model_format]}
    if recipe.search is not None:
        schemes |= {scheme for group in groups for scheme in group.choices}
    ranges = None
    if any(scheme.needs_ranges for scheme in schemes):
        rows = session_batches(session, Path(recipe.data.calibration), CALIBRATION_ROWS_A_BATCH)
        ranges = calibrate(model_format, prepared, rows)
    return Parent(
        FloatExport(variant, model_format, data, prepared, session, ranges),
        stored_weights(model_format, data),
        tuple(group.name for group in groups),
    )


def make_candidate(parent: Parent, name: CandidateName, calibration: Path) -> Made:
    """Store a float export in a scheme, then count and check what came out.

    Raises SchemeRefused when the scheme fails, misses most weights, or changes what goes in or out.
    """
    export = parent.export
    if name.scheme == Scheme.F32:
        return _made(parent, name, export.model, "copy of the float export")
    model = store(name.format, export.prepared, Scheme(name.scheme), export.ranges)
    made = _made(parent, name, model, _quantizer(name.format))
    require_coverage(str(name), _coverage(parent, name.format, model))
    _require_same_answers_form(parent, name, model, calibration)
    return made


def _found(parent: Parent, one: NewFile) -> Made:
    return _made(parent, one.name, one.model, f"{_quantizer(one.name.format)}, searched: {one.words}", one.assignment)


def _made(
    parent: Parent, name: CandidateName, model: bytes, made_by: str, assignment: dict[str, Scheme] | None = None
) -> Made:
    found = _coverage(parent, name.format, model)
    record = CandidateRecord(
        variant=name.variant,
        scheme=name.scheme,
        format=name.format,
        file=name.file_name,
        sha256=sha256_hex(model),
        parent_sha256=sha256_hex(parent.export.model),
        made_by=made_by,
        weight_count=found.weight_count,
        weight_bits_mean=found.weight_bits_mean,
        quantized_ratio=found.quantized_ratio,
        sparsity_ratio=found.sparsity_ratio,
        assignment=assignment or {},
        operators=coverage_of_operators(name.format, model, parent.groups),
    )
    return Made(record, model)


def _coverage(parent: Parent, model_format: Format, model: bytes) -> Coverage:
    return coverage(parent.weights, stored_weights(model_format, model))


def _quantizer(model_format: Format) -> str:
    package = _QUANTIZERS[model_format]
    return f"{package} {version(package)}"


def _require_same_answers_form(parent: Parent, name: CandidateName, model: bytes, calibration: Path) -> None:
    """Refuse a candidate that another one could not stand in for: other names, types or shapes, or NaN answers."""
    session = open_session(name.format, model)
    if (session.inputs, session.outputs) != (parent.export.session.inputs, parent.export.session.outputs):
        raise SchemeRefused(f"{name} takes or gives other tensors than its float parent; the two could not be swapped.")
    outputs = session.run(next(session_batches(session, calibration, CALIBRATION_ROWS_A_BATCH)))
    broken = [output for output, values in outputs.items() if not np.isfinite(np.asarray(values, np.float64)).all()]
    if broken:
        raise SchemeRefused(f"{name} answers NaN or infinity in {', '.join(broken)}; its numbers overflow this scheme.")


def _require_enough(recipe: Recipe, made: Sequence[Made], refused: Sequence[RefusedCandidate]) -> None:
    names = {item.record.name for item in made}
    if recipe.reference not in names or len(names) < CANDIDATES_MIN:
        raise SchemeRefused(
            f"{recipe.model}: {len(names)} candidate(s) could be made; the float reference and another one are needed.",
            [f"{item.candidate}: {item.reason}" for item in refused],
        )


def _write(folder: Path, made: Sequence[Made], record: Candidates, found: Found | None) -> None:
    with replacing_dir(folder) as aside:
        for item in made:
            write_atomic(aside / item.record.file, item.model)
        if found is not None:
            write_record(aside / FINDINGS_FILE, found.findings)
        write_record(aside / CANDIDATES_FILE, record)
