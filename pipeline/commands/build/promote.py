"""``hotspare promote MODEL``: make the registered latest build the current pair, by hand."""

import argparse
import os
from collections.abc import Sequence

from pipeline.commands.build.channel_change import show_changes
from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.judging import judged
from pipeline.commands.build.project import Project, opened_project
from pipeline.commands.build.reissuing import Reissued, add_output_arguments, reissue
from pipeline.core.errors import MissingStageError, PromotionRefused
from pipeline.registry.agreement import Seen
from pipeline.registry.channel_plan import Keep
from pipeline.registry.gates import Gate, Refuse
from pipeline.registry.loading import acting_person, load_build, read_lineage
from pipeline.registry.record import Build
from pipeline.registry.store import version_of

EXAMPLE = "hotspare promote credit --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/ whose latest build is registered")
    parser.add_argument("--approver", metavar="NAME", help="who promotes; else HOTSPARE_PERSON, else git's user.email")
    parser.add_argument(
        "--renew", action="store_true", help="sign a fresh channel for the pair in force, e.g. with a new key"
    )
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Judge the gates; when all pass, sign the channel and move the aliases."""
    with opened_project() as project:
        gates, made = _renew(args, project) if args.renew else _promote(args, project)
    if args.json:
        told = {"model": args.model, "gates": gates, "dry_run": args.dry_run, "seq": made.seq}
        show_json({**told, "outcome": _in_words(made), "changes": made.changes})
        return 0
    if gates:
        rows = [(gate.name, "pass" if gate.passed else "FAIL", gate.finding) for gate in gates]
        show_table(f"{args.model}: gates of mlflow/promotion.yaml", ["gate", "", "finding"], rows)
    if args.dry_run:
        show_changes(args.model, made.changes)
    print(_in_words(made))
    return 0


def _promote(args: argparse.Namespace, project: Project) -> tuple[Sequence[Gate], Reissued]:
    build = load_build(args.model, read_lineage(None), project.now)
    seen = project.look(args.model, project.offered(args.model))
    _check_registered(seen, build)
    verdict = judged(project.policy, build, seen, args.approver or acting_person(os.environ))
    if isinstance(verdict, Refuse):
        raise PromotionRefused(f"{args.model} is not promoted; the pair promoted before stays.", verdict.reasons)
    return verdict.gates, reissue(project, seen, build.refs, args.dry_run)


def _renew(args: argparse.Namespace, project: Project) -> tuple[Sequence[Gate], Reissued]:
    """Sign the pair in force anew: nothing about it changes, so no gate is asked again."""
    seen = project.look(args.model, project.offered_if_it_answers(args.model))
    if seen.in_force is None:
        raise PromotionRefused(f"{args.model} was never promoted; there is nothing to renew.")
    return (), reissue(project, seen, seen.in_force.refs, args.dry_run, why="renewed")


def _check_registered(seen: Seen, build: Build) -> None:
    missing = [str(one.bundle) for one in build.sealed if version_of(seen.versions, one.bundle_id) is None]
    if missing:
        raise MissingStageError(f"{' and '.join(missing)} not registered yet; run `hotspare register` first.")


def _in_words(made: Reissued) -> str:
    plan, done = made.plan, made.done
    if isinstance(plan, Keep):
        moved = done.aliases_moved if done else ()
        repaired = f"; aliases put right: {', '.join(moved)}" if moved else ""
        return f"This pair is the current one already; nothing to sign{repaired}.{made.published}"
    verb = "is signed" if done else "would be signed"
    told = f"Channel seq {plan.seq} {verb} ({plan.why}); nodes accept it until {plan.not_after:%Y-%m-%d}."
    if done is not None and done.seq > plan.seq:
        told += f" Another folder signed meanwhile: in force is seq {done.seq}."
    return told + made.published
