"""A pair as the registry tells it: its versions' tags say what was measured, its verified bundles what it is."""

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
from pipeline.core.recipe import Diversity
from pipeline.registry.promotion import Facts, Pair, Provenance, Rehearsal, Standing
from pipeline.registry.store import Version, version_of

LATEST_TAG = "latest_build"
PAIRED_TAG = "paired_with"
_LOSS_MAX, _DIVERSE = "loss_max_abs", "diverse"


@dataclass(frozen=True)
class Vouched:
    """What a bundle says of itself, read from a copy that was verified: whoever may set tags has no say in it."""

    ref: BundleRef
    name: CandidateName
    io_contract_sha256: str


def standing_tags(facts: Facts, role: Role) -> dict[str, str]:
    """Return what a version has to say so that its pair can be judged without its build on disk."""
    return {
        PAIRED_TAG: facts.standing(Role.BACKUP if role is Role.PRIMARY else Role.PRIMARY).bundle_id,
        _LOSS_MAX: f"{facts.loss_max_abs:.9g}",
        _DIVERSE: ",".join(facts.diverse),
    }


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
    model: str,
    versions: tuple[Version, ...],
    bundles: Mapping[Role, Vouched],
    now: datetime,
    rehearsal: Rehearsal | None = None,
    drills: tuple[str, ...] = (),
    scripts: Mapping[str, str] | None = None,
) -> Facts:
    """Return what the gates look at, of a registered pair whose build need not be on disk.

    ``rehearsal`` is of a verified attestation: tags that tell of a drill open no gate. Raises MissingStageError for a
    bundle that is not registered, or whose version does not tell its figures.
    """
    pair = Pair(*(bundles[role].ref.bundle_id for role in Role))
    versions_of_pair = dict(_both(model, versions, pair))
    primary, backup = (_standing(model, role, versions_of_pair[role], bundles[role]) for role in Role)
    first = versions_of_pair[Role.PRIMARY]
    return Facts(
        model,
        _figure(model, first, _LOSS_MAX),
        _diverse(model, first),
        primary,
        backup,
        now,
        rehearsal,
        drills,
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
        _figure(model, version, "loss_high"),
        _figure(model, version, "latency_ratio_p50"),
    )


def _figure(model: str, version: Version, key: str) -> float:
    text = _said(model, version, key)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _nonsense(model, version, key, text, "number")
    return value


def _diverse(model: str, version: Version) -> tuple[Diversity, ...]:
    text = _said(model, version, _DIVERSE, "")
    try:
        return tuple(Diversity(one) for one in text.split(",") if one)
    except ValueError as error:
        raise _nonsense(model, version, _DIVERSE, text, "list of what can differ") from error


def _nonsense(model: str, version: Version, key: str, text: str, wanted: str) -> MissingStageError:
    return MissingStageError(
        f"Version {version.number} of {model} says {printable(text)} for its {key}, which is no {wanted}; "
        "run `hotspare register` where its build is."
    )


def _said(model: str, version: Version, key: str, default: str | None = None) -> str:
    value = version.tags.get(key, default)
    if value is None:
        raise MissingStageError(
            f"Version {version.number} of {model} does not say its {key}: it was registered by an older hotspare; "
            "run `hotspare register` where its build is."
        )
    return value
