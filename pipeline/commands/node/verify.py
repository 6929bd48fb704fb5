"""``hotspare verify BUNDLE``: tell whether this node may load it, and which drill it went through."""

import argparse
import json
from pathlib import Path

from pipeline.bundle.attestation import DrillStatement, verify_attestation
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


def run(args: argparse.Namespace) -> int:
    """Verify the bundle and say what was, and what was not, checked. Writes nothing: no floor moves."""
    admitted = admit(args, utc_now())
    drill = None if args.drill is None else _drill(args.drill, admitted)
    if args.json:
        facts = {**described(admitted), **({} if drill is None else {"drill": _described(drill)})}
        print(json.dumps(facts, indent=2, sort_keys=True))
    else:
        print("\n".join([*told(admitted), *([] if drill is None else _told(drill))]))
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
