"""``hotspare register``: log every packed model to MLflow, then promote what passes the policy."""

import argparse
import os
from dataclasses import dataclass

from pipeline.bundle.policy import load_policy
from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.judging import judged, without_approval
from pipeline.commands.build.mending import align
from pipeline.commands.build.project import Project, one_at_a_time
from pipeline.commands.build.reissuing import reissue
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError, PromotionRefused, SurroundingsError
from pipeline.registry.access import open_registry
from pipeline.registry.channel_plan import Issue
from pipeline.registry.gates import Refuse
from pipeline.registry.history import taken_back
from pipeline.registry.loading import (
    acting_person,
    experiment_name,
    load_build,
    packed_models,
    project_root,
    read_lineage,
)
from pipeline.registry.promotion_policy import Mode
from pipeline.registry.promotion_policy import load_policy as load_promotion_policy
from pipeline.registry.record import Build
from pipeline.registry.registering import Registered, log_build, log_drill, register_build
from pipeline.registry.store import Registry

EXAMPLE = "hotspare register"


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    model: str
    role: str
    candidate: str
    version: int | None
    alias: str | None
    happened: str


@dataclass(frozen=True)
class Fate:
    """What became of a model's pair after it was registered."""

    happened: str
    refused: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", nargs="*", help="models of recipes/models/; by default all that have bundles")
    parser.add_argument("--json", action="store_true", help="print what was registered as JSON")


def run(args: argparse.Namespace) -> int:
    """Verify every bundle, then register and promote model by model; a refusal is told after all are registered."""
    policy, trust = load_promotion_policy(), load_policy(layout.TRUST_POLICY)
    experiment, root, now = experiment_name(os.environ), project_root(os.environ), utc_now()
    lineage = read_lineage(experiment)
    builds = [load_build(model, lineage, now) for model in args.models or packed_models()]
    with one_at_a_time(root):
        registry = open_registry(root)
        if experiment:
            return _show(args, registry, [line for build in builds for line in _log_only(registry, build, experiment)])
        lines, refusals, failures = [], list[str](), list[HotspareError]()
        project = Project(registry, policy, trust, now)
        for build in builds:
            registered = register_build(registry, build)
            try:
                fate = _promote(project, build)
            except PromotionRefused as error:
                fate = Fate("not promoted", error.reasons or (str(error),))
            except SurroundingsError as error:  # a depot is down: the other models go on
                fate = Fate("see below")
                failures.append(error)
            lines += _lines(registry, build, registered, fate)
            refusals += [f"{build.model}: {reason}" for reason in fate.refused]
    _show(args, registry, lines)
    if failures:
        raise failures[0]
    if refusals:
        raise PromotionRefused("Registered, but not promoted; the pairs promoted before stay in force.", refusals)
    return 0


def _log_only(registry: Registry, build: Build, experiment: str) -> list[Line]:
    run_id, made = log_build(registry, build)
    log_drill(registry, build, run_id)
    happened = f"{'logged' if made else 'known'}; experiment {experiment} promotes nothing"
    return [Line(build.model, str(s.role), s.card.candidate, None, None, happened) for s in build.sealed]


def _promote(project: Project, build: Build) -> Fate:
    model, pair = build.model, build.facts().pair
    depot = project.offered(model)
    align(project.registry, model, project.trust, depot)
    seen = project.look(model, depot)
    is_current = seen.in_force is not None and seen.in_force.pair == pair
    by_hand = project.policy.mode is Mode.MANUAL
    policy = without_approval(project.policy) if by_hand else project.policy
    verdict = judged(policy, build, seen, acting_person(os.environ))
    if isinstance(verdict, Refuse):
        return Fate("not promoted", verdict.reasons)
    if by_hand and not is_current:
        return Fate(f"waits for `hotspare promote {model}`")
    if pair in taken_back(seen.all_held) and not is_current:
        return Fate(f"was taken back; `hotspare promote {model}` brings it again")
    made = reissue(project, seen, build.refs, dry_run=False)
    told = f"channel seq {made.seq}"
    return Fate(f"{made.plan.why}, {told}" if isinstance(made.plan, Issue) else told)


def _lines(registry: Registry, build: Build, registered: Registered, fate: Fate) -> list[Line]:
    aliases = registry.aliases(build.model)
    return [
        Line(
            build.model,
            str(entry.role),
            entry.candidate,
            entry.number,
            ", ".join(sorted(alias for alias, number in aliases.items() if number == entry.number)) or None,
            f"{'registered' if entry.made else 'known'}; {fate.happened}",
        )
        for entry in registered.entries
    ]


def _show(args: argparse.Namespace, registry: Registry, lines: list[Line]) -> int:
    if args.json:
        show_json(lines)
        return 0
    cells = [
        (line.model, line.role, line.candidate, str(line.version or "-"), line.alias or "-", line.happened)
        for line in lines
    ]
    show_table(
        f"MLflow at {registry.place}", ["model", "role", "candidate", "version", "alias", "what happened"], cells
    )
    return 0
