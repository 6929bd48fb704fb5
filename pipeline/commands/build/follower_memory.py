"""What a follower's parts share: how a round ended, what was told already, what was judged a moment ago."""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from pipeline.commands.build.project import Project
from pipeline.commands.build.replaying import Took
from pipeline.core.canonical import sha256_file
from pipeline.core.recipe import RECIPES
from pipeline.registry.agreement import Seen
from pipeline.registry.follow_terms import DEFAULT_FOLLOW_TERMS, FollowTerms
from pipeline.registry.lag import Lag
from pipeline.registry.pair import Pair

T = TypeVar("T")
JUDGED_AGAIN_S = 60.0


class Say(Protocol):
    """Takes one thing that happened, for the log."""

    def __call__(self, level: str, event: str, **facts: object) -> None:
        """Take it; ``level`` is info, warning, error or alarm."""


@dataclass(frozen=True)
class Fate:
    """How a round ended: what is in force, and what was wished and is refused."""

    pair: Pair | None = None
    seq: int | None = None
    moved_at: datetime | None = None
    refused: tuple[str, ...] = ()
    terms: FollowTerms = DEFAULT_FOLLOW_TERMS


@dataclass(frozen=True)
class Judged(Generic[T]):
    """How something was judged, when (monotonic seconds), and under which circumstances."""

    around: object
    at: float
    outcome: T

    def holds(self, around: object) -> bool:
        """Tell whether it need not be judged again: bundles are not fetched at every look."""
        return self.around == around and time.monotonic() - self.at <= JUDGED_AGAIN_S


@dataclass
class Memory:
    """What one process has told and tried; losing it costs a line of log or a needless look."""

    told: set[tuple[object, ...]] = field(default_factory=set)
    failed: dict[tuple[object, ...], tuple[str, ...]] = field(default_factory=dict)
    replayed: set[tuple[object, ...]] = field(default_factory=set)
    refusal: Judged[Fate] | None = None
    unrenewed: Judged[tuple[str, ...]] | None = None
    published: tuple[int, int] | None = None
    took: tuple[Took, ...] = ()
    alarms: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    serving: dict[str, Pair] = field(default_factory=dict)

    def is_new(self, *what: object) -> bool:
        """Tell whether this was not told yet, and take it for told."""
        is_new = what not in self.told
        self.told.add(what)
        return is_new

    def begin_move(self) -> None:
        """Forget what was measured and alarmed of the move before."""
        self.took = ()
        self.alarms.clear()
        self.told = {what for what in self.told if what[0] != "alarm"}

    def alarm(self, lag: Lag, terms: FollowTerms, say: Say) -> None:
        """Tell once of each thing that is too late."""
        if lag.alarms(terms.lag_alarm_s) and self.is_new("alarm", lag.of, lag.has_followed):
            self.alarms.add(lag.of)
            say("alarm", "lag", **{**plain(lag), "seconds": round(lag.seconds, 3)}, allowed_s=terms.lag_alarm_s)


def circumstances(project: Project, seen: Seen) -> object:
    """Return what a judgement hangs on, beside the time and the working folder."""
    place = seen.in_force.place if seen.in_force else None
    return seen.aliases, place, seen.versions, project.policy, recipe_digest(seen.model)


def recipe_digest(model: str) -> str | None:
    """Return the digest of a model's recipe, or None where there is none."""
    recipe = RECIPES / f"{model}.yaml"
    return sha256_file(recipe) if recipe.is_file() else None


def stages_s(took: Iterable[Took]) -> float:
    """Return how long all steps took."""
    return sum(one.seconds for one in took)


def plain(value: Took | Lag) -> dict[str, object]:
    """Return what the log holds of a value."""
    return dict(vars(value))
