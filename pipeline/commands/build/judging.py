"""Judging a build by the gates of promotion, for ``register`` and ``promote``."""

from pipeline.drill.results import due_scripts
from pipeline.drill.script import SCRIPTS, load_script
from pipeline.registry.promotion import Promote, PromotionPolicy, Refuse, decide
from pipeline.registry.record import Build


def judged(policy: PromotionPolicy, build: Build) -> Promote | Refuse:
    """Judge a build; where a drill is asked for, the scripts that the recipe lists are read as they are now.

    Raises RecipeError for a listed script that is missing or malformed.
    """
    if not policy.gates.ask_for_drill:
        return decide(policy, build.facts())
    scripts = [load_script(SCRIPTS / f"{name}.drill") for name in build.recipe.drills]
    return decide(policy, build.facts(due_scripts(scripts, build.recipe.objectives)))
