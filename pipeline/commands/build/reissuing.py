"""Signing a channel for a registered pair, or saying what that would change, for promote, rollback, revoke, follow."""

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.bundle.channel import BundleRef, Revocations
from pipeline.bundle.verify import verify_bundle
from pipeline.commands.build.channel_change import Change, changes, show_changes
from pipeline.commands.build.console import show_json
from pipeline.commands.build.project import Project
from pipeline.commands.build.promotion_effects import Promotion, promote_pair
from pipeline.commands.build.published import find_bundle
from pipeline.core.errors import PromotionRefused
from pipeline.core.names import Role
from pipeline.registry.agreement import Seen
from pipeline.registry.channel_plan import NOTHING, Issue, Keep, channel_of, plan_pair, refs_in_force
from pipeline.registry.history import Held


@dataclass(frozen=True)
class Reissued:
    """What came of it; ``done`` is None where nothing was to be done yet."""

    plan: Keep | Issue
    changes: tuple[Change, ...]
    done: Promotion | None
    published: str

    @property
    def seq(self) -> int | None:
        """Return the number in force, or the one that would be; None where the channel stays."""
        if self.done is not None:
            return self.done.seq
        return self.plan.seq if isinstance(self.plan, Issue) else None


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what such commands print."""
    parser.add_argument("--dry-run", action="store_true", help="sign nothing; show what would change")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def reissue(
    project: Project,
    seen: Seen,
    refs: Mapping[Role, BundleRef] | None,
    dry_run: bool,
    *,
    rollback_of: int | None = None,
    revoke: Revocations = NOTHING,
    why: str | None = None,
) -> Reissued:
    """Sign a channel that makes ``refs`` the pair in force, move the aliases, publish; or only plan it.

    None in place of ``refs``: the pair in force stays, and so do the aliases.
    """
    terms, trust = project.policy.channel, project.trust
    named = refs_in_force(seen) if refs is None else refs
    plan = plan_pair(seen, named, terms, project.now, rollback_of=rollback_of, revoke=revoke, why=why)
    then = channel_of(seen, named, plan, trust, rollback_of, revoke) if isinstance(plan, Issue) else None
    lines = changes(seen, then)
    if dry_run:
        return Reissued(plan, lines, None, "")
    done = promote_pair(
        project.registry, seen.model, refs, terms, trust, project.now,
        rollback_of=rollback_of, revoke=revoke, why=why, depot=seen.depot,
    )  # fmt: skip
    return Reissued(done.plan, lines, done, project.publish(seen.model))


def require_sound(project: Project, seen: Seen, held: Held, refused: str) -> None:
    """Verify a channel's bundles as of now: a key may have been revoked since, a copy damaged.

    Raises PromotionRefused, which begins with ``refused``, the Untrusted error that fits, or MissingStageError.
    """
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
        for role in Role:
            place = find_bundle(project.registry, seen.model, held, role, project.trust, Path(folder))
            bundle = verify_bundle(place, project.trust, project.now)
            if bundle.key_hint in seen.revoked.keys:
                raise PromotionRefused(
                    f"{refused}: the key {bundle.key_hint[:12]} that signed its {role} is revoked; "
                    "pack that build with another key, delete its version in MLflow, and register it."
                )


def show(args: argparse.Namespace, made: Reissued, outcome: str, **more: object) -> int:
    """Print the outcome: what would change for people, everything for machines."""
    if args.json:
        told = {"model": args.model, "dry_run": args.dry_run, "seq": made.seq, "outcome": outcome}
        show_json({**told, **more, "changes": made.changes})
        return 0
    if args.dry_run:
        show_changes(args.model, made.changes)
    print(outcome)
    return 0
