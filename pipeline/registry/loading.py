"""Reading what the stages left of one model, verified, into one value."""

import math
import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from pipeline.bundle.attestation import ATTESTATION_FILE, verify_attestation
from pipeline.bundle.io_contract import TensorContract
from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.bundle.reading import read_small
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core import layout
from pipeline.core.canonical import sha256_file, sha256_hex
from pipeline.core.environment import PERSON, for_children
from pipeline.core.errors import MissingStageError, Tampered
from pipeline.core.files import read_bytes, read_json
from pipeline.core.names import Role
from pipeline.core.recipe import RECIPES, load_recipe
from pipeline.core.records import read_record
from pipeline.engines.base import Quantization, TensorSpec
from pipeline.registry.record import Build, Drill, Lineage, Sealed
from pipeline.score.scorecard import Scorecard
from pipeline.score.selection import SELECTION_FILE, Selected
from pipeline.score.store import read_scored

_REPORT_FILE = "index.html"
_DRILL_FILE, _METRICS_FILE = "drill.json", "metrics.json"


def packed_models() -> tuple[str, ...]:
    """Return the models that have a recipe and at least one bundle, sorted.

    Raises MissingStageError when there is none.
    """
    known = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    found = tuple(model for model in known if any(layout.bundle_dir(model, role).is_dir() for role in Role))
    if not found:
        raise MissingStageError("artifacts/bundles holds no bundle of a recipe; run `hotspare pack MODEL` first.")
    return found


def experiment_name(environ: Mapping[str, str]) -> str | None:
    """Return the dvc experiment that this process belongs to, or None.

    ``dvc exp run`` sets both variables for every stage, ``dvc repro`` neither (dvc/repo/experiments/queue/base.py).
    """
    return environ.get("DVC_EXP_NAME") or environ.get("DVC_EXP_BASELINE_REV") or None


def project_root(environ: Mapping[str, str]) -> Path:
    """Return the project's folder: of the project that started the dvc experiment, if one did, not of its copy."""
    return Path(environ.get("DVC_ROOT", ".")) if experiment_name(environ) else Path()


def read_lineage(experiment: str | None) -> Lineage:
    """Return where the working folder's build comes from, as far as git and dvc tell."""
    lock = Path("dvc.lock")
    return Lineage(_git_commit(), sha256_file(lock) if lock.is_file() else None, experiment, acting_person(os.environ))


def acting_person(environ: Mapping[str, str]) -> str | None:
    """Return who runs this command: ``HOTSPARE_PERSON``, else git's ``user.email``; None where neither says.

    It is what the person says of themselves. It keeps two people from mixing up their duties, not a thief from lying.
    """
    return environ.get(PERSON) or _git("config", "user.email")


def load_build(model: str, lineage: Lineage, now: datetime) -> Build:
    """Read one model's scorecards, selection and bundles, and verify the bundles as a node does.

    Raises MissingStageError for what is missing or belongs to another selection, and the Untrusted error that fits.
    """
    recipe = load_recipe(model)
    selected = read_record(Selected, layout.selection_dir(model) / SELECTION_FILE, f"select {model}")
    _, scored = read_scored(model)
    cards = {card.candidate: card for card in scored}
    report = layout.report_dir(model) / _REPORT_FILE
    policy = load_policy(layout.TRUST_POLICY)
    primary, backup = (
        _seal(role, cards, selected, verify_bundle(_bundle_place(model, role), policy, now)) for role in Role
    )
    return Build(
        recipe=recipe,
        cards=tuple(cards.values()),
        selected=selected,
        primary=primary,
        backup=backup,
        scorecards=layout.scorecards_dir(model),
        selection=layout.selection_dir(model),
        report=report if report.is_file() else None,
        trust=layout.TRUST_POLICY,
        lineage=lineage,
        loaded_at=now,
        drill=load_drill(model, policy),
    )


def load_drill(model: str, policy: TrustPolicy) -> Drill | None:
    """Read and verify a model's latest drill in the working folder; see :func:`read_drill`."""
    return read_drill(layout.drill_dir(model), model, policy)


def read_drill(folder: Path, model: str, policy: TrustPolicy) -> Drill | None:
    """Read and verify the drill in a folder; None where there is none.

    Raises the Untrusted error that fits for an attestation that is not ours, or that is about another report.
    """
    if not (folder / ATTESTATION_FILE).is_file():
        return None
    data = read_small(folder / ATTESTATION_FILE)
    statement = verify_attestation(data, policy, str(folder / ATTESTATION_FILE))
    advice = f"run `hotspare drill {model}` again"
    report = read_bytes(folder / _DRILL_FILE, Tampered, advice)
    if statement.predicate.model != model or statement.predicate.report_sha256 != sha256_hex(report):
        raise Tampered(f"{folder / ATTESTATION_FILE} attests another report than {_DRILL_FILE}; {advice}.")
    figures = read_json(folder / _METRICS_FILE, Tampered, advice)
    try:
        metrics = dict(_numbers(figures))
    except (OverflowError, RecursionError) as error:
        raise Tampered(f"{folder / _METRICS_FILE} holds figures that no drill writes; {advice}.") from error
    return Drill(statement, sha256_hex(data), folder, metrics)


def _numbers(value: object, prefix: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise OverflowError(prefix)
        yield prefix, float(value)


def _bundle_place(model: str, role: Role) -> Path:
    place = layout.bundle_dir(model, role)
    if not place.is_dir():
        raise MissingStageError(f"{place} does not exist; run `hotspare pack {model}` first.")
    return place


def _seal(role: Role, cards: dict[str, Scorecard], selected: Selected, bundle: VerifiedBundle) -> Sealed:
    place = layout.bundle_dir(selected.model, role)
    wanted = selected.primary if role is Role.PRIMARY else selected.backup
    card = cards.get(wanted)
    model_sha256 = sha256_hex(bundle.files[bundle.manifest.entrypoint.path])
    if (bundle.model, bundle.candidate) != (selected.model, wanted) or card is None or card.sha256 != model_sha256:
        raise MissingStageError(
            f"{place} holds {bundle.model} {bundle.candidate} of another build than the selection of {wanted}; "
            f"run `hotspare pack {selected.model}` again."
        )
    return Sealed(
        role=role,
        card=card,
        bundle_id=bundle.bundle_id,
        bundle=place,
        size_bytes=bundle.size,
        io_contract_sha256=bundle.manifest.io_contract_sha256,
        inputs=tuple(map(_spec, bundle.io.inputs)),
        outputs=tuple(map(_spec, bundle.io.outputs)),
        parent=bundle.manifest.parent,
        key_hint=bundle.key_hint,
    )


def _spec(tensor: TensorContract) -> TensorSpec:
    found = tensor.quantization
    quantization = None if found is None else Quantization(found.scale, found.zero_point)
    return TensorSpec(tensor.name, tensor.dtype, tensor.shape, quantization)


def _git_commit() -> str | None:
    return _git("rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    try:
        command = ["git", *arguments]
        found = subprocess.run(command, capture_output=True, text=True, env=for_children(), check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
