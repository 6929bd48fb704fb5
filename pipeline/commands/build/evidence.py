"""Judging any registered pair: the working folder's own by its files, another by what the registry keeps of it."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.bundle.channel import BundleRef
from pipeline.bundle.manifest import SCORECARD_FILE
from pipeline.bundle.strict_json import parse_strict
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.commands.build.judging import judged
from pipeline.commands.build.project import Project
from pipeline.core.errors import HotspareError, Malformed, MissingStageError, NotAccepted, Untrusted
from pipeline.core.names import CandidateName, Role
from pipeline.core.recipe import load_recipe
from pipeline.drill.results import due_scripts
from pipeline.drill.script import SCRIPTS, load_script
from pipeline.registry.agreement import Seen
from pipeline.registry.gates import Facts, Gate, Promote, Refuse, Rehearsal, decide
from pipeline.registry.loading import load_build, read_drill, read_lineage
from pipeline.registry.pair import Pair
from pipeline.registry.record import Build
from pipeline.registry.registered import Vouched, facts_of, is_registered_pair
from pipeline.registry.store import Version, version_of


@dataclass(frozen=True)
class Judged:
    """A pair that was judged, and how a channel would name it."""

    verdict: Promote | Refuse
    refs: Mapping[Role, BundleRef]


def local_build(project: Project, model: str) -> Build | None:
    """Return the build that is packed in the working folder, or None where there is none that is whole and verified."""
    try:
        return load_build(model, read_lineage(None), project.now)
    except (MissingStageError, Untrusted):
        return None


def judge_pair(project: Project, seen: Seen, pair: Pair, build: Build | None) -> Judged:
    """Judge a registered pair; nobody is known to approve it, for MLflow does not tell who moved an alias.

    Raises MissingStageError for versions of an older hotspare, the Untrusted error that fits for what the registry
    holds and no pinned key signed.
    """
    if build is not None and build.facts().pair == pair:
        verdict, refs = judged(project.policy, build, seen, None), build.refs
    else:
        bundles = _verified(project, seen, pair)
        verdict = decide(project.policy, _facts(project, seen, pair, bundles))
        refs = {role: one.ref for role, one in bundles.items()}
    one = Gate("one pair", *_registered_as_one(seen, pair))
    gates = (*verdict.gates, one)
    return Judged(Promote(gates) if all(gate.passed for gate in gates) else Refuse(gates), refs)


def _registered_as_one(seen: Seen, pair: Pair) -> tuple[bool, str]:
    if is_registered_pair(seen.versions, pair) or pair in [one.pair for one in seen.all_held]:
        return True, "both were registered as one pair"
    return False, "the two were not registered as one pair; move the alias `primary`, its backup comes with it"


def _facts(project: Project, seen: Seen, pair: Pair, bundles: Mapping[Role, Vouched]) -> Facts:
    recipe = load_recipe(seen.model)
    due = {}
    if project.policy.gates.ask_for_drill:
        due = due_scripts([load_script(SCRIPTS / f"{name}.drill") for name in recipe.drills], recipe.objectives)
    rehearsal = _rehearsal(project, seen, pair)
    facts = facts_of(recipe, seen.versions, bundles, project.now, rehearsal, due)
    in_force = seen.in_force.pair if seen.in_force else None
    return replace(facts, in_force=in_force, revoked_keys=seen.revoked.keys)


def _rehearsal(project: Project, seen: Seen, pair: Pair) -> Rehearsal | None:
    """Return what the registry's copy of the pair's drill attests; None where no pinned key signed it."""
    version = version_of(seen.versions, pair.primary)
    run_id = version.tags.get("drill_run_id") if version else None
    if run_id is None:
        return None
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
        place = Path(folder) / "drill"
        project.registry.fetch_run_files(run_id, "drill", place)
        try:
            drill = read_drill(place, seen.model, project.trust)
        except Untrusted:
            return None
    return drill.rehearsal if drill else None


def _verified(project: Project, seen: Seen, pair: Pair) -> dict[Role, Vouched]:
    """Verify the registry's copies of both bundles, as a node will, and return what they say of themselves."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
        for role, bundle_id in zip(Role, (pair.primary, pair.backup), strict=True):
            version = version_of(seen.versions, bundle_id)
            if version is None:
                raise MissingStageError(
                    f"The registry has no version with the {role} {bundle_id[:12]} of {seen.model}."
                )
            bundle = _verified_copy(project, seen.model, version, Path(folder) / role)
            ref, name = BundleRef(bundle.bundle_id, bundle.size), CandidateName.parse(bundle.candidate)
            found[role] = Vouched(ref, name, bundle.manifest.io_contract_sha256, _loss_high(bundle), bundle.key_hint)
    return found


def _verified_copy(project: Project, model: str, version: Version, place: Path) -> VerifiedBundle:
    project.registry.fetch_bundle(model, version.number, place)
    bundle = verify_bundle(place, project.trust, project.now)
    if (bundle.model, bundle.bundle_id) != (model, version.bundle_id):
        raise NotAccepted(
            f"Version {version.number} of {model} holds {bundle.model} {bundle.bundle_id[:12]}, not the bundle that "
            "its tag tells; register it again."
        )
    return bundle


def _loss_high(bundle: VerifiedBundle) -> float:
    """Return the upper end of the bundle's loss on validation, as its signed scorecard tells it."""
    where = f"the {SCORECARD_FILE} of {bundle.bundle_id[:12]}"
    match parse_strict(bundle.files[SCORECARD_FILE], where):
        case {"task": {"loss_high": int() | float() as high}}:
            return float(high)
    raise Malformed(f"{where} does not say what the bundle may lose; pack it again.")


def in_words(error: HotspareError) -> tuple[str, ...]:
    """Return an error's reasons, or its own sentence."""
    return getattr(error, "reasons", ()) or (str(error),)
