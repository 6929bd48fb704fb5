"""``hotspare revoke MODEL``: the pair in force under a channel that says what must not be loaded any more."""

import argparse
import tempfile
from pathlib import Path

from pipeline.bundle.channel import Revocations
from pipeline.bundle.verify import verify_bundle
from pipeline.commands.build.project import Project, opened_project
from pipeline.commands.build.published import find_bundle
from pipeline.commands.build.reissuing import add_output_arguments, reissue, show
from pipeline.core.errors import PromotionRefused, UsageError
from pipeline.core.names import Role
from pipeline.registry.agreement import Seen
from pipeline.registry.channel_plan import Keep
from pipeline.registry.history import Held

EXAMPLE = "hotspare revoke credit --bundle ID --dry-run"
_ID_CHARS = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a promoted model")
    parser.add_argument("--bundle", action="append", default=[], metavar="ID", help="a bundle that nobody loads again")
    parser.add_argument("--key", action="append", default=[], metavar="HINT", help="a key whose signatures are void")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Sign a channel for the pair in force that revokes more; revocations stay in every later channel."""
    revoke = Revocations(*(_hex(texts) for texts in (args.key, args.bundle)))
    if revoke == Revocations():
        raise UsageError("Nothing is named; give --bundle ID or --key HINT, whole as `hotspare inspect` tells them.")
    with opened_project() as project:
        seen = project.look(args.model, project.offered_if_it_answers(args.model))
        if seen.in_force is None:
            raise PromotionRefused(f"{args.model} was never promoted; no node loads it.")
        _require_others(project, seen, seen.in_force, revoke)
        made = reissue(project, seen, seen.in_force.refs, args.dry_run, revoke=revoke)
    if isinstance(made.plan, Keep):
        return show(args, made, "The channel in force revokes all of that already.")
    verb, bundles, keys = "would revoke" if args.dry_run else "revokes", len(revoke.bundles), len(revoke.keys)
    return show(args, made, f"Channel seq {made.seq} {verb} {bundles} bundle(s) and {keys} key(s).{made.published}")


def _hex(texts: list[str]) -> tuple[str, ...]:
    for text in texts:
        if len(text) != _ID_CHARS or set(text) - set("0123456789abcdef"):
            raise UsageError(
                f"{text} is no whole id; give its 64 hexadecimal digits, as `hotspare inspect` tells them."
            )
    return tuple(texts)


def _require_others(project: Project, seen: Seen, held: Held, revoke: Revocations) -> None:
    """Refuse to revoke what is in force: nodes would have nothing left to load."""
    back = f"run `hotspare rollback {seen.model}` or promote another pair first"
    for role in Role:
        if held.channel.ref(role).bundle_id in revoke.bundles:
            raise PromotionRefused(f"That is the {role} in force, seq {held.channel.seq}; {back}.")
    if not revoke.keys:
        return
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
        for role in Role:
            place = find_bundle(project.registry, seen.model, held, role, project.trust, Path(folder))
            hint = verify_bundle(place, project.trust, project.now).key_hint
            if hint in revoke.keys:
                advice = f"pack it with another key (`hotspare pack {seen.model}`), or {back}"
                raise PromotionRefused(f"The key {hint[:12]} signed the {role} in force; {advice}.")
