"""The locked test rows: opened after the decision, for the chosen two alone, so that they stay a fair last look."""

from pathlib import Path

from pipeline.core.errors import MissingStageError
from pipeline.core.names import Role
from pipeline.core.recipe import Recipe
from pipeline.core.records import Candidates
from pipeline.score.predict import load_candidate
from pipeline.score.scorecard import Scorecard, TaskScore
from pipeline.score.scoring import Judged, judge, judged_for, session_score
from pipeline.score.selection import Choice

TEST = "test"


def open_locked_test(recipe: Recipe, candidates: Candidates, folder: Path, choice: Choice) -> dict[Role, TaskScore]:
    """Score the chosen two on the recipe's test split.

    Raises MissingStageError when a file is no longer the one that was scored, ModelError when it cannot be run,
    DataError for an unusable split.
    """
    judged = judge(recipe, candidates, folder, TEST, Path(recipe.data.test))
    chosen = {Role.PRIMARY: choice.primary, Role.BACKUP: choice.backup}
    return {role: _score(recipe, candidates, folder, judged, card) for role, card in chosen.items()}


def _score(recipe: Recipe, candidates: Candidates, folder: Path, judged: Judged, card: Scorecard) -> TaskScore:
    record = next((item for item in candidates.candidates if str(item.name) == card.candidate), None)
    if record is None or record.sha256 != card.sha256:
        raise MissingStageError(f"{card.candidate} was made again after it was scored; run `hotspare score` again.")
    session = load_candidate(folder, record, recipe.serving.threads).session
    return session_score(recipe, judged_for(judged, record.scheme), session)


def locked_warnings(recipe: Recipe, choice: Choice, scores: dict[Role, TaskScore]) -> tuple[str, ...]:
    """Say in words where the locked rows exceed the loss budget; this changes nothing of the decision. Pure."""
    names = {Role.PRIMARY: choice.primary.candidate, Role.BACKUP: choice.backup.candidate}
    most = recipe.budgets.loss_max_abs
    return tuple(
        f"The {role} {names[role]} loses {task.loss_abs:.6g} {task.metric} on the {task.rows:,} locked rows, up to "
        f"{task.loss_high:.6g} with its interval: more than the budget {most:.6g}. The choice stands; look at it again."
        for role, task in scores.items()
        if task.loss_high > most
    )
