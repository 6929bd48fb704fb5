"""Replaying the recipe for a wished version that has no backup of its own build, and registering what came of it."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime

from pipeline.commands.build.follower_memory import Memory, Say, recipe_digest, stages_s
from pipeline.commands.build.follower_moments import Moments, moment_of
from pipeline.commands.build.project import Project
from pipeline.commands.build.replaying import OnStage, Replayed, Took
from pipeline.commands.build.trained_source import place_source
from pipeline.core.clock import utc_now
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.registry.follow_terms import FollowTerms
from pipeline.registry.following import BUILT_TAG, Rebuild, Wish
from pipeline.registry.lag import measure_lag
from pipeline.registry.loading import load_build, read_lineage
from pipeline.registry.registering import register_build

Opened = Callable[[], AbstractContextManager[Project]]
Replay = Callable[[Recipe, OnStage], Replayed]


def replay_key(model: str, wish: Wish) -> tuple[object, ...]:
    """Return what a replay's outcome hangs on; another version or recipe is worth another try."""
    return wish.version.number, recipe_digest(model)


def rebuild(
    model: str, step: Rebuild, opened: Opened, replay: Replay, moments: Moments, memory: Memory, say: Say
) -> None:
    """Put the wished source in place, replay, register; raises what these raise."""
    recipe, wish = load_recipe(model), step.wish
    memory.replayed.add(replay_key(model, wish))
    with opened() as project:
        placed = step.from_source and place_source(project.registry, recipe, wish.version)
        moment, terms = moment_of(project, model, wish, moments), project.policy.follow
    say("info", "rebuilding", version=wish.version.number, source_placed=placed)
    with _watched(moment, terms, memory, say):
        replayed = replay(recipe, lambda stage: say("info", "stage", stage=stage))
    registered = _register(model, step, opened)
    memory.took = (*replayed.stages, registered)
    seconds = replayed.seconds + registered.seconds
    say("info", "rebuilt", seconds=round(seconds, 3), stages_s=round(stages_s(memory.took), 3))


def _register(model: str, step: Rebuild, opened: Opened) -> Took:
    began = time.monotonic()
    with opened() as project:
        build = load_build(model, read_lineage(None), project.now)
        register_build(project.registry, build)
        if step.from_source:
            project.registry.tag_version(model, step.wish.version.number, BUILT_TAG, build.primary.bundle_id)
    return Took("register", time.monotonic() - began)


@contextmanager
def _watched(moment: datetime, terms: FollowTerms, memory: Memory, say: Say) -> Iterator[None]:
    """Raise the alarm in time, though a stage may take hours."""
    left = terms.lag_alarm_s - (utc_now() - moment).total_seconds()
    timer = threading.Timer(
        max(0.0, left) + 0.001,
        lambda: memory.alarm(measure_lag("channel", 1, moment, None, utc_now()), terms, say),
    )
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
