"""``hotspare retire``: remove from the depot the releases that nobody goes back to; the registry keeps its copies."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from pipeline.bundle.channel import Channel
from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.project import Project, named_models, opened_project
from pipeline.core.clock import to_text
from pipeline.core.errors import PromotionRefused, Unreachable, Untrusted, UsageError
from pipeline.delivery.retiring import Removal, harmed, old_bundles, plan_removal, remove
from pipeline.delivery.transports.opening import open_writable
from pipeline.registry.history import Held

_KEEP = 5
_DAYS = 7.0
_DAYS_MAX = 36_500.0

EXAMPLE = "hotspare retire credit --keep 5 --dry-run"


@dataclass(frozen=True, order=True)
class Line:
    """A bundle that goes: the last channel that named it, and the chunks that go with it."""

    model: str
    seq: int
    bundle: str
    issued_at: str
    chunks: int
    bytes: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", nargs="*", help="by default all that artifacts/trust.yaml names")
    parser.add_argument(
        "--keep", type=int, default=_KEEP, metavar="N", help=f"releases of a model that stay ({_KEEP}; at least 2)"
    )
    parser.add_argument(
        "--days", type=float, default=_DAYS, metavar="D", help=f"nor what was in force in the last D days ({_DAYS:g})"
    )
    parser.add_argument("--dry-run", action="store_true", help="remove nothing; show what would go")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    """Look, remove, and look again for what was published meanwhile."""
    if args.keep < 2 or not 0 <= args.days <= _DAYS_MAX:
        raise UsageError("--keep is 2 or more (the release in force and the one before), --days a number from 0 on.")
    with opened_project() as project:
        if project.policy.depot is None:
            raise UsageError("mlflow/promotion.yaml names no depot, so there is nothing to remove releases from.")
        models = named_models(args.models, project.trust)
        old: dict[str, Channel] = {}
        for model in models:
            old |= _old(project, model, args)
        with open_writable(project.policy.depot) as depot:
            there = depot.bundle_ids()
            removals = plan_removal(depot, there, old)
            if removals and not args.dry_run:
                remove(depot, removals)
                _look_again(project, models, removals, harmed(depot, there, removals))
            note = depot.frees_later if removals else None
    lines = sorted(_line(removal, old[removal.bundle_id]) for removal in removals)
    _show(args, lines, note)
    return 0


def _line(removal: Removal, last: Channel) -> Line:
    issued_at = to_text(last.dates.issued_at)
    return Line(last.model, last.seq, removal.bundle_id, issued_at, len(removal.chunks), removal.size)


def _old(project: Project, model: str, args: argparse.Namespace) -> dict[str, Channel]:
    """Return the old bundles of a model whose newest release the depot has: else one may be on its way there."""
    seen = project.look(model, _offered(project, model))
    if seen.depot is None or seen.in_force is None:
        return {}
    if seen.depot.place != seen.in_force.place:
        raise PromotionRefused(
            f"The depot offers seq {seen.depot.channel.seq} of {model}, in force is seq {seen.in_force.channel.seq}; "
            f"publish that first: `hotspare reconcile {model}`."
        )
    since = project.now - timedelta(days=args.days)
    return old_bundles([one.channel for one in seen.all_held], args.keep, since)


def _offered(project: Project, model: str) -> Held | None:
    """Return what the depot offers; what is not ours names bundles that nobody here can tell."""
    try:
        return project.depot_channel(model)
    except Untrusted as error:
        raise PromotionRefused(
            f"{error} What is in use there cannot be told, so nothing is removed; pin the key that signed it, or, if "
            f"it is nobody's, run `hotspare reconcile {model} --replace-depot`."
        ) from error


def _look_again(project: Project, models: Sequence[str], removals: Sequence[Removal], lacking: Sequence[str]) -> None:
    """Raise Unreachable where somebody promoted or published meanwhile what lacks now what was removed.

    A channel is recorded before it is published, so one that names a removed bundle is seen here.
    """
    removed = {removal.bundle_id for removal in removals}
    names = [f"the bundle {one[:12]}" for one in lacking]
    for model in models:
        newest = project.look(model).in_force
        if newest is not None and not removed.isdisjoint(newest.channel.bundle_ids.values()):
            names.append(f"seq {newest.channel.seq} of {model}")
    if names:
        raise Unreachable(
            f"Published meanwhile was {' and '.join(names)}, which lacks chunks that were removed; publish it again "
            "where it was promoted: `hotspare promote MODEL --renew`."
        )


def _show(args: argparse.Namespace, lines: Sequence[Line], note: str | None) -> None:
    total = sum(line.bytes for line in lines)
    if args.json:
        show_json({"dry_run": args.dry_run, "removed": lines, "bytes": total, "note": note})
        return
    if not lines:
        print("Every release in the depot is one that stays; nothing is removed.")
        return
    rows = [
        (line.model, line.bundle[:12], str(line.seq), line.issued_at, f"{line.chunks:,}", f"{line.bytes:,}")
        for line in lines
    ]
    show_table("Old releases", ["model", "bundle", "last of seq", "issued", "chunks", "bytes"], rows)
    verb = "would be removed" if args.dry_run else "are removed"
    print(
        f"{len(lines)} bundles {verb}, {total:,} bytes of chunks that no other is made of.{f' {note}' if note else ''}"
    )
