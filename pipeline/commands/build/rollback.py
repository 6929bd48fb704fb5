"""``hotspare rollback MODEL``: a new channel that names an older pair again; nothing ever counts downwards."""

import argparse

from pipeline.commands.build.project import opened_project
from pipeline.commands.build.reissuing import add_output_arguments, reissue, require_sound, show
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
        seen = project.look(args.model, project.offered_if_it_answers(args.model))
        chosen, leaves = choose_return(seen, args.to)
        require_sound(project, seen, chosen, f"{seen.model} cannot go back to seq {chosen.channel.seq}")
        made = reissue(project, seen, chosen.refs, args.dry_run, rollback_of=leaves)
    verb, back = "would be signed" if args.dry_run else "is signed", chosen.channel.seq
    outcome = f"Channel seq {made.seq} {verb}: the pair of seq {back} in place of seq {leaves}.{made.published}"
    return show(args, made, outcome, to=back, rollback_of=leaves)
