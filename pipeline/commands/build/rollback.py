"""``hotspare rollback MODEL``: a new channel that names an older pair again; nothing ever counts downwards."""

import argparse
import tempfile
from pathlib import Path

from pipeline.bundle.verify import verify_bundle
from pipeline.commands.build.project import Project, opened_project
from pipeline.commands.build.published import find_bundle
from pipeline.commands.build.reissuing import add_output_arguments, reissue, show
from pipeline.core.errors import PromotionRefused, Unreachable
from pipeline.core.names import Role
from pipeline.registry.agreement import Seen
from pipeline.registry.history import Held
from pipeline.registry.returning import choose_return

EXAMPLE = "hotspare rollback credit --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a promoted model")
    parser.add_argument(
        "--to", type=int, metavar="SEQ", help="the channel whose pair is to serve again; by default the one before"
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Choose the older channel, verify its bundles again, sign the new one.

    No gate and no freeze is asked: the pair passed them when it was promoted, and a freeze keeps out what is new,
    not the way back from it.
    """
    with opened_project() as project:
        seen = project.look(args.model, _depot_if_it_answers(project, args.model))
        chosen, leaves = choose_return(seen, args.to)
        _verify_again(project, chosen, seen)
        made = reissue(project, seen, chosen.refs, args.dry_run, rollback_of=leaves)
    verb, back = "would be signed" if args.dry_run else "is signed", chosen.channel.seq
    outcome = f"Channel seq {made.seq} {verb}: the pair of seq {back} in place of seq {leaves}.{made.published}"
    return show(args, made, outcome, to=back, rollback_of=leaves)


def _depot_if_it_answers(project: Project, model: str) -> Held | None:
    """Return the depot's channel; one that does not answer must not keep anybody from going back."""
    try:
        return project.depot_channel(model)
    except Unreachable:
        return None


def _verify_again(project: Project, chosen: Held, seen: Seen) -> None:
    """Verify what is gone back to as of now: its key may have been revoked, its copy damaged."""
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
        for role in Role:
            place = find_bundle(project.registry, seen.model, chosen, role, project.trust, Path(folder))
            bundle = verify_bundle(place, project.trust, project.now)
            if bundle.key_hint in seen.revoked.keys:
                raise PromotionRefused(
                    f"{seen.model} cannot go back to seq {chosen.channel.seq}: the key {bundle.key_hint[:12]} that "
                    f"signed its {role} is revoked; pack and register that build with another key."
                )
