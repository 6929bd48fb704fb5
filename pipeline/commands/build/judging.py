"""Judging a build by the gates of promotion, for ``register`` and ``promote``."""

from dataclasses import replace

from pipeline.drill.results import due_scripts
from pipeline.drill.script import SCRIPTS, load_script
from pipeline.registry.agreement import Seen
from pipeline.registry.gates import Promote, Refuse, decide
from pipeline.registry.promotion_policy import PromotionPolicy
from pipeline.registry.record import Build
from pipeline.registry.registered import provenance_of


def judged(policy: PromotionPolicy, build: Build, seen: Seen, approver: str | None) -> Promote | Refuse:
    """Judge a registered build; where a drill is asked for, the scripts that the recipe lists are read as they are now.

    ``approver`` is who promotes. Raises RecipeError for a listed script that is missing or malformed.
    """
    due = {}
    if policy.gates.ask_for_drill:
        scripts = [load_script(SCRIPTS / f"{name}.drill") for name in build.recipe.drills]
        due = due_scripts(scripts, build.recipe.objectives)
    facts = build.facts(due)
    provenance = provenance_of(seen.versions, facts.pair)
    in_force = seen.in_force.pair if seen.in_force else None
    revoked = seen.revoked.keys
    return decide(
        policy, replace(facts, provenance=provenance, approver=approver, in_force=in_force, revoked_keys=revoked)
    )


def without_approval(policy: PromotionPolicy) -> PromotionPolicy:
    """Return the policy as ``register`` judges by it where a person promotes: of the build, not of the moment."""
    return replace(policy, gates=replace(policy.gates, separate_duties=False), freeze=())
