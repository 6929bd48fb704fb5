"""One model's pair for a release: packed twice, compared, verified by two verifiers, with what is attested of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.attestation import ATTESTATION_FILE, DrillStatement, verify_attestation
from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.bundle.reading import read_payload, read_small
from pipeline.bundle.statement import Statement
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.commands.build.pack import seal_pair
from pipeline.core import layout
from pipeline.core.canonical import sha256_file, sha256_hex
from pipeline.core.checks import Finding, Word
from pipeline.core.errors import Tampered, Untrusted
from pipeline.core.names import Role
from pipeline.core.recipe import RECIPES, Recipe
from pipeline.core.records import CANDIDATES_FILE
from pipeline.seal.second_opinion import require_second_opinion


@dataclass(frozen=True)
class Signer:
    """The key that signs a release, and the policy that must accept what it signs."""

    key: ec.EllipticCurvePrivateKey
    trust: TrustPolicy
    is_ephemeral: bool


@dataclass(frozen=True)
class ReadyPair:
    """A pair that may be archived, the drill of exactly this pair if one is attested, and the findings on the way."""

    recipe: Recipe
    places: Mapping[Role, Path]
    bundles: Mapping[Role, VerifiedBundle]
    drill: tuple[DrillStatement, bytes] | None
    inputs: Mapping[str, str]
    findings: tuple[Finding, ...]

    def drilled(self) -> "ReadyPair":
        """Return the pair with the drill that is attested by now."""
        drill, said = _drill(self.recipe.model, self.bundles)
        return replace(self, drill=drill, findings=(*self.findings[:-1], said))


def ready_pair(recipe: Recipe, signer: Signer, scratch: Path, now: datetime) -> ReadyPair:
    """Pack a model's pair twice below ``scratch``, compare, and verify both bundles with both verifiers.

    Raises MissingStageError for what a stage has not left, the Untrusted error that fits when a verifier refuses.
    """
    packs = [scratch / name / recipe.model for name in ("first", "second")]
    for into in packs:
        seal_pair(recipe, signer.key, into=into)
    first, second = (
        {
            role: verify_bundle(layout.bundle_dir(recipe.model, role, into), signer.trust, now)
            for role in Role
        }
        for into in packs
    )  # fmt: skip
    places = {role: layout.bundle_dir(recipe.model, role, packs[0]) for role in Role}
    for place in places.values():
        require_second_opinion(place, signer.key.public_key())
    drill, said = _drill(recipe.model, first)
    findings = (*_same_twice(first, second), *_same_as_packed(recipe.model, first), _verified(first), said)
    return ReadyPair(recipe, places, first, drill, _inputs(recipe, first), findings)


def _same_twice(first: Mapping[Role, VerifiedBundle], second: Mapping[Role, VerifiedBundle]) -> Iterator[Finding]:
    for role in Role:
        one, other = first[role].files, second[role].files
        differ = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        if differ:
            yield Finding(f"{role} packed twice", Word.FAIL, f"{', '.join(differ)} came out differently")
        else:
            yield Finding(f"{role} packed twice", Word.PASS, f"{first[role].bundle_id} both times")


def _same_as_packed(model: str, fresh: Mapping[Role, VerifiedBundle]) -> Iterator[Finding]:
    """Compare with what ``pack`` left: payloads alone, for another key may have signed it."""
    for role in Role:
        place, what = layout.bundle_dir(model, role), f"{role} as packed before"
        if not place.is_dir():
            yield Finding(what, Word.NOTE, f"{place} is not there to compare with")
            continue
        files = tuple(sorted((name, sha256_hex(data)) for name, data in fresh[role].files.items()))
        try:
            read_payload(place, Statement(files), None)
        except Tampered as error:
            yield Finding(what, Word.FAIL, f"not what comes out now: {error} Run `hotspare pack {model}` to see why.")
        else:
            yield Finding(what, Word.PASS, f"{place} holds the same payload")


def _verified(fresh: Mapping[Role, VerifiedBundle]) -> Finding:
    files = sum(len(bundle.files) for bundle in fresh.values())
    return Finding("two verifiers", Word.PASS, f"ours and model-signing's accept both bundles, {files} files")


def _drill(model: str, fresh: Mapping[Role, VerifiedBundle]) -> tuple[tuple[DrillStatement, bytes] | None, Finding]:
    """Return the attested drill if it is of exactly this pair; promotion asks for one, an archive does without."""
    place, advice = layout.drill_dir(model) / ATTESTATION_FILE, f"run `hotspare drill {model}`, or add --drill"
    if not place.is_file():
        return None, Finding("drill", Word.NOTE, f"no drill is attested; {advice}")
    if not layout.TRUST_POLICY.is_file():
        return None, Finding("drill", Word.NOTE, f"{layout.TRUST_POLICY} is not there to check {place} by")
    data = read_small(place)
    try:
        statement = verify_attestation(data, load_policy(layout.TRUST_POLICY), str(place))
    except Untrusted as error:
        return None, Finding("drill", Word.NOTE, f"{error} It is left out; {advice}.")
    if not statement.is_of({role: fresh[role].bundle_id for role in Role}):
        return None, Finding("drill", Word.NOTE, f"the attested drill is of another pair; {advice}")
    told = statement.predicate
    verdict = "passed" if told.passed else "missed an objective"
    return (statement, data), Finding("drill", Word.PASS, f"this pair {verdict}, {told.world}, {told.ended_at}")


def _inputs(recipe: Recipe, bundles: Mapping[Role, VerifiedBundle]) -> dict[str, str]:
    """Return the sha256 of what went in, by path: files of the recipe's, and the candidates."""
    data = recipe.data
    paths = [
        RECIPES / f"{recipe.model}.yaml",
        Path(recipe.source.path),
        layout.candidates_dir(recipe.model) / CANDIDATES_FILE,
    ]
    paths += [Path(text) for text in (data.train, data.calibration, data.validation, data.test)]
    models = {f"{b.model} {b.candidate}": sha256_hex(b.files[b.manifest.entrypoint.path]) for b in bundles.values()}
    # A folder (a SavedModel) or what comes from a function has no digest of its own; dvc.lock has it.
    return {**{path.as_posix(): sha256_file(path) for path in paths if path.is_file()}, **models}
