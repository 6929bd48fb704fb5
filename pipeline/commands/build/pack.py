"""``hotspare pack MODEL``: seal the primary and the backup into signed bundles."""

import argparse
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.statement import bundle_id
from pipeline.commands.build.console import show_json, show_table
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import MissingStageError
from pipeline.core.files import read_bytes
from pipeline.core.layout import ARTIFACTS, bundle_dir, candidates_dir, scorecards_dir, selection_dir
from pipeline.core.names import Role
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.core.records import CANDIDATES_FILE, CandidateRecord, Candidates, read_record
from pipeline.core.tensors import Tensors, cast_tensors
from pipeline.data.splits import open_split
from pipeline.engines.open import open_session
from pipeline.score.scorecard import Scorecard, card_file
from pipeline.score.selection import SELECTION_FILE, Selected
from pipeline.seal.keys import load_private_key
from pipeline.seal.payload import PayloadInputs, build_payload
from pipeline.seal.signing import seal_bundle

EXAMPLE = "hotspare pack credit"


@dataclass(frozen=True)
class Packed:
    """One sealed bundle."""

    role: Role
    path: Path
    id: str
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/")
    parser.add_argument("--json", action="store_true", help="print the bundles' ids as JSON")


def run(args: argparse.Namespace) -> int:
    """Build both payloads, then sign and publish them, each all or nothing."""
    packed = seal_pair(load_recipe(args.model), load_private_key())
    if args.json:
        show_json({item.role: {"path": str(item.path), "bundle_id": item.id, "size": item.bytes} for item in packed})
        return 0
    rows = [(str(item.path), item.id, f"{item.bytes:,}") for item in packed]
    show_table(f"{args.model}: sealed", ["bundle", "id", "bytes"], rows)
    return 0


def seal_pair(
    recipe: Recipe, key: ec.EllipticCurvePrivateKey, root: Path = ARTIFACTS, into: Path | None = None
) -> tuple[Packed, ...]:
    """Seal the selected pair; both payloads are built before either is signed. Raises MissingStageError.

    The bundles go where ``pack`` puts them below ``into``, by default below ``root``, which the stages' files are in.
    """
    selected = read_record(Selected, selection_dir(recipe.model, root) / SELECTION_FILE, f"select {recipe.model}")
    payloads = {role: build_payload(_inputs(recipe, selected, role, root)) for role in Role}
    return tuple(
        _publish(bundle_dir(recipe.model, role, into or root), role, payload, key) for role, payload in payloads.items()
    )


def _inputs(recipe: Recipe, selected: Selected, role: Role, root: Path) -> PayloadInputs:
    candidate = selected.primary if role is Role.PRIMARY else selected.backup
    folder = candidates_dir(recipe.model, root)
    record = _record(folder, recipe.model, candidate)
    model = _model_bytes(folder, recipe.model, record)
    cards = scorecards_dir(recipe.model, root)
    return PayloadInputs(
        recipe=recipe,
        record=record,
        model=model,
        card=read_record(Scorecard, cards / card_file(candidate), f"score {recipe.model}"),
        locked_test=selected.locked_test[role],
        calibration=_calibration(recipe, record, model),
        reference=_reference(folder, recipe),
    )


def _reference(folder: Path, recipe: Recipe) -> bytes:
    return _model_bytes(folder, recipe.model, _record(folder, recipe.model, str(recipe.reference)))


def _record(folder: Path, model: str, candidate: str) -> CandidateRecord:
    stage = f"quantize {model}"
    found = read_record(Candidates, folder / CANDIDATES_FILE, stage)
    for record in found.candidates:
        if str(record.name) == candidate:
            return record
    raise MissingStageError(f"The selected {candidate} is not among the candidates; run `hotspare {stage}` again.")


def _model_bytes(folder: Path, model: str, record: CandidateRecord) -> bytes:
    path = folder / record.file
    data = read_bytes(path, MissingStageError, f"run `hotspare quantize {model}` first")
    if sha256_hex(data) != record.sha256:
        raise MissingStageError(f"{path} is not what was measured; run `hotspare quantize {model}` again.")
    return data


def _calibration(recipe: Recipe, record: CandidateRecord, model: bytes) -> Tensors:
    path = Path(recipe.data.calibration)
    dtypes = {spec.name: spec.dtype for spec in open_session(record.format, model).inputs}
    return cast_tensors(open_split(path, sorted(dtypes)).inputs, dtypes, str(path))


def _publish(folder: Path, role: Role, payload: dict[str, bytes], key: ec.EllipticCurvePrivateKey) -> Packed:
    seal_bundle(folder, payload, key)
    files = tuple(sorted((name, sha256_hex(data)) for name, data in payload.items()))
    return Packed(role, folder, bundle_id(files), sum(map(len, payload.values())))
