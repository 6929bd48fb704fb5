"""``hotspare reconcile``: find and mend what channel, registry and depot disagree about; safe to run twice at once."""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.mending import align
from pipeline.commands.build.project import Project, named_models, opened_project
from pipeline.commands.build.publishing import Repair
from pipeline.core.errors import HotspareError, PromotionRefused, Untrusted
from pipeline.registry.agreement import Drift, Seen, find_drift
from pipeline.registry.history import Held

EXAMPLE = "hotspare reconcile --dry-run"


@dataclass(frozen=True)
class Line:
    """One disagreement and what became of it: ``mended``, ``would be mended`` or ``needs you``."""

    model: str
    part: str
    finding: str
    fate: str


_MENDED, _WOULD, _NEEDED = "mended", "would be mended", "needs you"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", nargs="*", help="by default all that artifacts/trust.yaml names")
    parser.add_argument(
        "--replace-depot", action="store_true", help="publish over a channel in the depot that no pinned key signed"
    )
    parser.add_argument(
        "--check-depot", action="store_true", help="read every chunk of the release there; write damaged ones again"
    )
    parser.add_argument("--dry-run", action="store_true", help="mend nothing; say what disagrees")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def run(args: argparse.Namespace) -> int:
    """Look, mend, look again; what only a person can mend is told with what to do, and refused in the end."""
    with opened_project() as project:
        models = named_models(args.models, project.trust)
        lines = [line for model in models for line in _reconcile(project, model, args)]
    if args.json:
        show_json({"dry_run": args.dry_run, "drift": lines})
    elif lines:
        rows = [(line.model, line.part, line.fate, line.finding) for line in lines]
        show_table("Disagreements", ["model", "part", "", "finding"], rows)
    else:
        print(f"Channel, registry and depot agree about {', '.join(models)}.")
    left = [f"{line.model} {line.part}: {line.finding}" for line in lines if line.fate == _NEEDED]
    if left:
        raise PromotionRefused("Some of it only you can mend:", left)
    return 0


def _reconcile(project: Project, model: str, args: argparse.Namespace) -> Iterator[Line]:
    """Yield what disagreed about one model; what keeps it from being looked at is a line, too."""
    depot, problem = _depot_channel(project, model)
    foreign = str(problem) if isinstance(problem, Untrusted) and args.replace_depot else None
    if problem is not None and foreign is None:
        yield Line(model, "depot", _in_words(model, problem), _NEEDED)
    try:
        seen, mendable = _mend(project, model, depot, args.dry_run)
    except HotspareError as error:
        yield Line(model, "channel", str(error), _NEEDED)
        return
    for one in mendable:
        yield Line(model, one.part, one.finding, _WOULD if args.dry_run else _MENDED)
    for one in find_drift(seen):
        if one.mend is None:
            yield Line(model, one.part, one.finding, _NEEDED)
    if problem is None or foreign is not None:
        yield from _publish(project, seen, args.dry_run, foreign)
    if problem is None and args.check_depot and not args.dry_run:
        yield from _check_depot(project, model)


def _mend(project: Project, model: str, depot: Held | None, dry_run: bool) -> tuple[Seen, Sequence[Drift]]:
    """Return what is seen in the end, and what was mended, or would be."""
    if dry_run:
        seen = project.look(model, depot)
        return seen, [one for one in find_drift(seen) if one.mend is not None]
    mended = align(project.registry, model, project.trust, depot)
    return project.look(model, depot), mended


def _in_words(model: str, problem: HotspareError) -> str:
    if not isinstance(problem, Untrusted):
        return str(problem)
    return f"{problem} If it is nobody's, run `hotspare reconcile {model} --replace-depot`."


def _depot_channel(project: Project, model: str) -> tuple[Held | None, HotspareError | None]:
    try:
        return project.depot_channel(model), None
    except HotspareError as error:
        return None, error


def _publish(project: Project, seen: Seen, dry_run: bool, foreign: str | None = None) -> Iterator[Line]:
    """Publish what is in force where the depot has less, or, as ``foreign`` says, something else that is to go."""
    newest = seen.in_force
    if project.policy.depot is None or newest is None:
        return
    if seen.depot is not None and seen.depot.place == newest.place:
        return
    told = f"it has seq {seen.depot.channel.seq}" if seen.depot else "it has no channel"
    finding = foreign or f"{told}, in force is {newest.channel.seq}"
    if dry_run:
        yield Line(seen.model, "depot", finding, _WOULD)
        return
    try:
        project.repair_depot(seen.model, Repair(replaces_foreign=foreign is not None))
        yield Line(seen.model, "depot", finding, _MENDED)
    except HotspareError as error:
        yield Line(seen.model, "depot", str(error), _NEEDED)


def _check_depot(project: Project, model: str) -> Iterator[Line]:
    """Read what the depot holds of the release, and write again what is damaged."""
    try:
        done = project.repair_depot(model, Repair(reads_chunks=True))
    except HotspareError as error:
        yield Line(model, "depot", str(error), _NEEDED)
        return
    if done is not None and done.bytes_new:
        yield Line(model, "depot", f"{done.bytes_new:,} bytes of it were damaged or lost", _MENDED)
