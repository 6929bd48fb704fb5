"""Selection, pure: scorecards and a recipe in; a primary, a backup and a verdict with reasons for each out."""

from dataclasses import dataclass
from typing import Annotated

from pipeline.core.names import Role
from pipeline.core.schema import Rule
from pipeline.score.scorecard import TaskScore

SELECTION_FILE = "selection.json"


@dataclass(frozen=True)
class Verdict:
    """What became of one candidate, and why, in words."""

    candidate: str
    eligible: Annotated[bool, Rule("Within every budget of the recipe.")]
    reasons: tuple[str, ...]
    ranks: Annotated[dict[Role, int], Rule("Place from 1 among the eligible, by each role's preference.")]
    role: Role | None = None


@dataclass(frozen=True)
class Selected:
    """The two chosen candidates (``selection.json``)."""

    model: str
    primary: str
    backup: str
    verdicts: tuple[Verdict, ...]
    locked_test: Annotated[dict[Role, TaskScore], Rule("The chosen two on rows opened after the decision.")]
    warnings: Annotated[tuple[str, ...], Rule("What the locked rows say against the choice.")] = ()
