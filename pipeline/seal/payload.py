"""The payload of a bundle: values in, the bytes of every file out; equal values give equal bytes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipeline.bundle.canaries import CANARIES_FILE
from pipeline.bundle.golden import Golden
from pipeline.bundle.manifest import (
    CARD_FILE,
    ENGINE_OF,
    GOLDEN_FILE,
    IO_FILE,
    LICENSE_FILE,
    MANIFEST_FILE,
    SCORECARD_FILE,
    TOLERANCES_FILE,
    WARMUP_FILE,
    Engine,
    Entrypoint,
    Manifest,
    Parent,
    RecipeMark,
    Runtime,
    Target,
)
from pipeline.core.canonical import readable_json, sha256_hex
from pipeline.core.names import CandidateName, Scheme
from pipeline.core.recipe import Metric, Recipe
from pipeline.core.records import CandidateRecord
from pipeline.core.schema import plain
from pipeline.core.tensors import Tensors, encode_npz
from pipeline.engines.base import Session
from pipeline.engines.open import open_session
from pipeline.score.fidelity import decides
from pipeline.score.scorecard import Scorecard, TaskScore, without_timings
from pipeline.seal.card import model_card
from pipeline.seal.golden_rows import golden_and_canaries
from pipeline.seal.measured import describe_io, measure_distance

_CALIBRATION_ROWS = 1024
_INTEGER_ACTIVATIONS = {Scheme.W8A8, Scheme.W8A16, Scheme.W8D, Scheme.W4D}
_RUNTIMES = {
    Engine.LITERT: ("ai-edge-litert", ">=2.3,<3"),
    Engine.ONNXRUNTIME: ("onnxruntime", ">=1.20,<2"),
}
_DETERMINISM = (
    "Equal inputs give equal outputs on one machine with one engine version; across machines, threads and batch sizes "
    "they agree within golden/tolerances.json."
)
_NOTES = (
    "The first axis of every tensor counts rows. Inputs are prepared outside the model, as for its training; "
    "outputs are used as they are."
)


@dataclass(frozen=True)
class PayloadInputs:
    """All that a payload is made from; ``reference`` is the float model that ``recipe.reference`` names."""

    recipe: Recipe
    record: CandidateRecord
    model: bytes
    card: Scorecard
    locked_test: TaskScore
    calibration: Tensors
    reference: bytes | None = None


def build_payload(given: PayloadInputs) -> dict[str, bytes]:
    """Return the bytes of every payload file by its path: no clock, host, role or sequence number in them.

    Raises ModelError when the model cannot be run, DataError when the calibration rows do not fit it.
    """
    recipe, record = given.recipe, given.record
    rows = {name: array[:_CALIBRATION_ROWS] for name, array in given.calibration.items()}
    is_integer = bool(_INTEGER_ACTIVATIONS & {record.scheme, *record.assignment.values()})
    golden, canaries = golden_and_canaries(record.format, given.model, rows, recipe.seed, is_integer)
    session = open_session(record.format, given.model)
    io = readable_json(plain(describe_io(session, rows, recipe.metric is not Metric.RMSE, _NOTES)))
    manifest = _manifest(recipe, record, sha256_hex(io))
    return {
        MANIFEST_FILE: readable_json(plain(manifest)),
        manifest.entrypoint.path: given.model,
        IO_FILE: io,
        WARMUP_FILE: encode_npz(golden.inputs),
        GOLDEN_FILE: encode_npz(golden.outputs),
        TOLERANCES_FILE: readable_json(plain(_with_distance(golden, given, session, rows).tolerances)),
        CANARIES_FILE: readable_json(plain(canaries)),
        SCORECARD_FILE: readable_json(sealed_scorecard(given.card, given.locked_test)),
        CARD_FILE: model_card(recipe, record, given.card, given.locked_test, len(given.model), canaries).encode(
            "utf-8"
        ),
        LICENSE_FILE: f"{recipe.about.title}\n\nSPDX-License-Identifier or terms: {recipe.about.licence}\n".encode(),
    }


def _with_distance(golden: Golden, given: PayloadInputs, session: Session, rows: Tensors) -> Golden:
    """Add how far the candidate is from the float model that all candidates of the recipe are measured against."""
    if given.reference is None:
        return golden
    recipe = given.recipe
    parents = open_session(recipe.reference.format, given.reference).run(rows)
    has_decisions = recipe.metric is not Metric.RMSE and not recipe.metric.is_ranking
    deciding = {name for name, array in parents.items() if has_decisions and decides(array, recipe.threshold)}
    distance = measure_distance(session.run(rows), parents, sha256_hex(given.reference), recipe.threshold, deciding)
    return replace(golden, tolerances=replace(golden.tolerances, from_parent=distance))


def sealed_scorecard(card: Scorecard, locked_test: TaskScore) -> Mapping[str, object]:
    """Return the scorecard as bundles carry it: nothing machine-dependent, the locked-test figures beside it."""
    return {**without_timings(card), "locked_test": plain(locked_test)}


def _manifest(recipe: Recipe, record: CandidateRecord, io_sha256: str) -> Manifest:
    engine = ENGINE_OF[record.format]
    package, version_range = _RUNTIMES[engine]
    return Manifest(
        schema_version=1,
        model=recipe.model,
        candidate=str(record.name),
        entrypoint=Entrypoint(record.format, f"model/model.{record.format}", engine),
        runtime=Runtime(package, version_range, recipe.serving.threads),
        targets=tuple(Target(arch, recipe.serving.min_ram_mb) for arch in recipe.serving.arch),
        io_contract_sha256=io_sha256,
        parent=Parent(str(CandidateName(record.variant, Scheme.F32, record.format)), record.parent_sha256),
        recipe=RecipeMark(recipe.model, recipe.build_sha256()),
        determinism=_DETERMINISM,
        licence=recipe.about.licence,
    )
