"""A pair as the registry tells it: its verified bundles say what it is, its recipe what is asked, tags little else."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.bundle.channel import BundleRef
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import MissingStageError
from pipeline.core.names import CandidateName, Role
from pipeline.core.printable import printable
from pipeline.core.recipe import Recipe
from pipeline.registry.gates import Facts, Provenance, Rehearsal, Standing
from pipeline.registry.pair import Pair
from pipeline.registry.store import Version, version_of

LATEST_TAG = "latest_build"
PAIRED_TAG = "paired_with"


@dataclass(frozen=True)
class Vouched:
    """What a bundle says of itself, read from a copy that was verified: whoever may set tags has no say in it."""

    ref: BundleRef
    name: CandidateName
    io_contract_sha256: str
    loss_high: float
    key_hint: str


def standing_tags(facts: Facts, role: Role) -> dict[str, str]:
    """Return what a version has to say so that its pair can be found without its build on disk."""
    return {PAIRED_TAG: facts.standing(Role.BACKUP if role is Role.PRIMARY else Role.PRIMARY).bundle_id}


def latest_text(pair: Pair) -> str:
    """Return the tag of a registered model that says which build was registered last."""
    return canonical_json({"backup": pair.backup, "primary": pair.primary}).decode("ascii")


def latest_pair(tags: Mapping[str, str]) -> Pair | None:
    """Read that tag; None where it is missing or says nothing."""
    try:
        value = json.loads(tags.get(LATEST_TAG, ""))
    except (ValueError, RecursionError):
        return None
    primary, backup = (value.get("primary"), value.get("backup")) if isinstance(value, dict) else (None, None)
    return Pair(primary, backup) if isinstance(primary, str) and isinstance(backup, str) else None


def pair_of(versions: tuple[Version, ...], primary: Version) -> Pair | None:
    """Return the pair that a version was registered to be the primary of, or None when its tags do not say."""
    backup = version_of(versions, primary.tags.get(PAIRED_TAG, ""))
    return Pair(primary.bundle_id, backup.bundle_id) if backup and primary.bundle_id else None


def is_registered_pair(versions: tuple[Version, ...], pair: Pair) -> bool:
    """Tell whether both bundles have versions that were registered as one pair, whichever way round."""
    found = [version_of(versions, one) for one in (pair.primary, pair.backup)]
    if None in found:
        return False
    mates = [one.tags.get(PAIRED_TAG) for one in found if one]
    return mates[0] == pair.backup or mates[1] == pair.primary


def facts_of(
    recipe: Recipe,
    versions: tuple[Version, ...],
    bundles: Mapping[Role, Vouched],
    now: datetime,
    rehearsal: Rehearsal | None = None,
    scripts: Mapping[str, str] | None = None,
) -> Facts:
    """Return what the gates look at, of a registered pair whose build need not be on disk.

    What may be lost is the recipe's word, what was lost the signed bundles'; of the figures only the latency, which
    belongs to a machine and therefore to no bundle, is a tag. ``rehearsal`` is of a verified attestation: tags that
    tell of a drill open no gate. Raises MissingStageError for a bundle that is not registered, or whose version does
    not tell its latency.
    """
    pair = Pair(*(bundles[role].ref.bundle_id for role in Role))
    versions_of_pair = dict(_both(recipe.model, versions, pair))
    primary, backup = (_standing(recipe.model, role, versions_of_pair[role], bundles[role]) for role in Role)
    return Facts(
        recipe.model,
        recipe.budgets.loss_max_abs,
        recipe.select.backup.diverse,
        primary,
        backup,
        now,
        rehearsal,
        recipe.drills,
        scripts or {},
        provenance_of(versions, pair),
    )


def provenance_of(versions: tuple[Version, ...], pair: Pair) -> Provenance:
    """Return where a registered pair comes from: what is not known of both bundles is not known."""
    found = [version_of(versions, one) for one in (pair.primary, pair.backup)]
    tags = [one.tags for one in found if one is not None]
    builders = tuple(sorted({one["builder"] for one in tags if "builder" in one}))
    is_whole = len(tags) == 2
    return Provenance(
        tags[0].get("git_commit") if is_whole and all("git_commit" in one for one in tags) else None,
        tags[0].get("dvc_lock_sha256") if is_whole and all("dvc_lock_sha256" in one for one in tags) else None,
        builders if is_whole and all("builder" in one for one in tags) else (),
    )


def _both(model: str, versions: tuple[Version, ...], pair: Pair) -> tuple[tuple[Role, Version], ...]:
    found = {role: version_of(versions, one) for role, one in zip(Role, (pair.primary, pair.backup), strict=True)}
    missing = [role for role, version in found.items() if version is None]
    if missing:
        raise MissingStageError(
            f"{model}: the {' and the '.join(missing)} of this pair not registered; run `hotspare register` where "
            "the bundles are."
        )
    return tuple((role, version) for role, version in found.items() if version is not None)


def _standing(model: str, role: Role, version: Version, bundle: Vouched) -> Standing:
    return Standing(
        role,
        bundle.ref.bundle_id,
        str(bundle.name),
        bundle.name.scheme,
        bundle.name.format,
        bundle.io_contract_sha256,
        bundle.loss_high,
        _figure(model, version, "latency_ratio_p50"),
        bundle.key_hint,
    )


def _figure(model: str, version: Version, key: str) -> float:
    text = version.tags.get(key)
    if text is None:
        raise MissingStageError(
            f"Version {version.number} of {model} does not say its {key}: it was registered by an older hotspare; "
            "run `hotspare register` where its build is."
        )
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MissingStageError(
            f"Version {version.number} of {model} says {printable(text)} for its {key}, which is no number; "
            "run `hotspare register` where its build is."
        )
    return value
