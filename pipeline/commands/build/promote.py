"""``hotspare promote MODEL``: make the registered latest build the current pair, by hand."""

import argparse
import os
from collections.abc import Sequence

from pipeline.bundle.policy import load_policy
from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.judging import judged
from pipeline.commands.build.promotion_effects import current_channel, one_at_a_time, plan_promotion, promote
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.errors import MissingStageError, PromotionRefused, UsageError
from pipeline.registry.access import open_registry
from pipeline.registry.loading import experiment_name, load_build, project_root, read_lineage
from pipeline.registry.promotion import Gate, Issue, Keep, Refuse
from pipeline.registry.promotion import load_policy as load_promotion_policy
from pipeline.registry.record import Build
from pipeline.registry.store import Registry, version_of

EXAMPLE = "hotspare promote credit --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/ whose latest build is registered")
    parser.add_argument("--dry-run", action="store_true", help="judge every gate and say what would be done")
    parser.add_argument("--json", action="store_true", help="print the gates and the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    """Judge the gates; when all pass, sign the channel and move the aliases."""
    experiment = experiment_name(os.environ)
    if experiment:
        raise UsageError(f"This runs inside the dvc experiment {experiment}, which promotes nothing; apply it first.")
    policy, trust, now = load_promotion_policy(), load_policy(layout.TRUST_POLICY), utc_now()
    build = load_build(args.model, read_lineage(None), now)
    verdict = judged(policy, build)
    if isinstance(verdict, Refuse):
        raise PromotionRefused(f"{args.model} is not promoted; the pair promoted before stays.", verdict.reasons)
    root = project_root(os.environ)
    with one_at_a_time(root):
        registry = open_registry(root)
        _check_registered(registry, build)
        if args.dry_run:
            plan = plan_promotion(registry, build, policy.channel, current_channel(build.model, trust), now)
            return _show(args, verdict.gates, plan, (), dry=True)
        done = promote(registry, build, policy.channel, trust, now)
    return _show(args, verdict.gates, done.plan, done.aliases_moved, dry=False)


def _check_registered(registry: Registry, build: Build) -> None:
    versions = registry.versions(build.model)
    missing = [str(sealed.bundle) for sealed in build.sealed if version_of(versions, sealed.bundle_id) is None]
    if missing:
        raise MissingStageError(f"{' and '.join(missing)} not registered yet; run `hotspare register` first.")


def _show(
    args: argparse.Namespace, gates: Sequence[Gate], plan: Keep | Issue, moved: Sequence[str], *, dry: bool
) -> int:
    outcome = _in_words(plan, moved, dry)
    if args.json:
        seq = plan.seq if isinstance(plan, Issue) else None
        show_json({"model": args.model, "gates": gates, "dry_run": dry, "seq": seq, "outcome": outcome})
        return 0
    rows = [(gate.name, "pass" if gate.passed else "FAIL", gate.finding) for gate in gates]
    show_table(f"{args.model}: gates of mlflow/promotion.yaml", ["gate", "", "finding"], rows)
    print(outcome)
    return 0


def _in_words(plan: Keep | Issue, moved: Sequence[str], dry: bool) -> str:
    if isinstance(plan, Keep):
        repaired = f"; aliases put right: {', '.join(moved)}" if moved else ""
        return f"This pair is the current one already; nothing to sign{repaired}."
    verb = "would be signed" if dry else "is signed"
    return f"Channel seq {plan.seq} {verb} ({plan.why}); nodes accept it until {plan.not_after:%Y-%m-%d}."
