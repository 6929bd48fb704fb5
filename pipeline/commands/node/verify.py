"""``hotspare verify BUNDLE``: tell whether this node may load it, which drill it went through, where it comes from."""

import argparse
import json
from pathlib import Path

from pipeline.bundle.attestation import DrillStatement, verify_attestation
from pipeline.bundle.provenance import GIT, LOCK, ProvenanceStatement, verify_provenance
from pipeline.bundle.reading import read_small
from pipeline.commands.node.admission import Admitted, add_trust_arguments, admit, described, told
from pipeline.core.clock import utc_now
from pipeline.core.errors import NotAccepted
from pipeline.core.names import Role

EXAMPLE = (
    "hotspare verify artifacts/bundles/credit-backup --trust artifacts/trust.yaml --channel artifacts/channels/credit"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_trust_arguments(parser)
    parser.add_argument("--drill", type=Path, metavar="FILE", help="a drill's attestation.json: verify it, too")
    parser.add_argument("--provenance", type=Path, metavar="FILE", help="a release's provenance.json: verify it, too")


def run(args: argparse.Namespace) -> int:
    """Verify the bundle and say what was, and what was not, checked. Writes nothing: no floor moves."""
    admitted = admit(args, utc_now())
    drill = None if args.drill is None else _drill(args.drill, admitted)
    origin = None if args.provenance is None else _origin(args.provenance, admitted)
    if args.json:
        attested = {
            **({} if drill is None else {"drill": _described(drill)}),
            **({} if origin is None else {"provenance": _origin_described(origin)}),
        }
        print(json.dumps({**described(admitted), **attested}, indent=2, sort_keys=True))
    else:
        attestations = [*([] if drill is None else _told(drill)), *([] if origin is None else _origin_told(origin))]
        print("\n".join([*told(admitted), *attestations]))
    return 0


def _drill(path: Path, admitted: Admitted) -> DrillStatement:
    """Verify an attestation that must be about this bundle, in the role that its channel gives it, if one does.

    Raises the Untrusted error that fits; a drill that failed is no error, it is told.
    """
    statement = verify_attestation(read_small(path), admitted.policy, str(path))
    bundle = admitted.bundle
    roles = [role for role in Role if statement.bundle_id(role) == bundle.bundle_id]
    if not roles or statement.predicate.model != bundle.model:
        raise NotAccepted(f"{path} attests a drill of other bundles than {bundle.bundle_id}; fetch this bundle's own.")
    if bundle.role not in (None, *roles):
        raise NotAccepted(
            f"{path} attests a drill of this bundle as {roles[0]}; its channel makes it the {bundle.role}."
        )
    return statement


def _described(drill: DrillStatement) -> dict[str, object]:
    found = drill.predicate
    return {
        "passed": found.passed,
        "world": found.world,
        "ended_at": found.ended_at,
        "rto_ms_p95": found.rto_ms_p95,
        "drills": {one.name: one.passed for one in found.drills},
        "bundle_ids": {role: drill.bundle_id(role) for role in Role},
    }


def _told(drill: DrillStatement) -> list[str]:
    found = drill.predicate
    rto = "not all restored" if found.rto_ms_p95 is None else f"restored within {found.rto_ms_p95:.0f} ms (95 %)"
    rto = "no request noticed (95 %)" if found.rto_ms_p95 == 0 else rto
    verdict = "passed" if found.passed else "MISSED ITS OBJECTIVES"
    names = ", ".join(one.name if one.passed else f"{one.name} (missed)" for one in found.drills)
    return [f"drill       {verdict}, {found.world}, {found.ended_at}: {names}; {rto}"]


def _origin(path: Path, admitted: Admitted) -> ProvenanceStatement:
    """Verify provenance that must be about this bundle; raises the Untrusted error that fits."""
    statement = verify_provenance(read_small(path), admitted.policy, str(path))
    bundle = admitted.bundle
    if (statement.bundle_id, statement.asked.model) != (bundle.bundle_id, bundle.model):
        raise NotAccepted(f"{path} tells of another bundle than {bundle.bundle_id}; fetch this bundle's own.")
    return statement


def _origin_described(origin: ProvenanceStatement) -> dict[str, object]:
    run = origin.predicate.runDetails
    return {
        "builder": origin.builder,
        "invocation": run.metadata.invocationId,
        "finished_at": run.metadata.finishedOn,
        "materials": origin.materials,
    }


def _origin_told(origin: ProvenanceStatement) -> list[str]:
    materials = origin.materials
    commit = f"commit {materials[GIT]}" if GIT in materials else "no commit"
    finished_at = origin.predicate.runDetails.metadata.finishedOn
    return [
        f"provenance  {commit}, {LOCK} {materials[LOCK][:12]}…, {len(materials)} materials",
        f"built by    {origin.builder}, {finished_at}",
    ]
