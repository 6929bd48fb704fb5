"""How good the answers were that the backup gave: by labels, beside the float model's answers to the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core import layout
from pipeline.core.errors import DataError, HotspareError
from pipeline.core.names import Role
from pipeline.core.recipe import Metric, Recipe
from pipeline.core.records import CANDIDATES_FILE, Candidates, read_record
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import open_split
from pipeline.drill.live.judging import ROLE_HEADER, Questions, answered_outputs, spread
from pipeline.drill.live.plan import Exchange
from pipeline.score.judgeable import required_labels
from pipeline.score.predict import judged_outputs, load_candidate, predict
from pipeline.score.scoring import reference_record
from pipeline.score.task import Answers, ask, measure


@dataclass(frozen=True)
class Scoring:
    """A model's recipe, the labels of all questions (None: fidelity needs none), and the float model's answers."""

    recipe: Recipe
    labels: Array | None
    answers: Answers

    def score(self, questions: Sequence[int], answers: Answers) -> tuple[float, float]:
        """Return the metric over answers to these questions, and the float model's over its own.

        Raises DataError when so few labels cannot carry the metric.
        """
        picked = np.array(questions)
        floats = {name: array[picked] for name, array in self.answers.items()}
        labels = None if self.labels is None else self.labels[picked]
        question = ask(self.recipe, floats, labels, None)
        return measure(question, answers).value, measure(question, floats).value


def scoring(recipe: Recipe, rows: Path, count: int, root: Path = layout.ARTIFACTS) -> Scoring:
    """Let the float reference of a recipe answer the questions that are taken from ``rows``.

    Raises DataError for a ranking, whose lists single rows do not make, or rows without labels; MissingStageError
    without the float reference's file.
    """
    if recipe.metric.is_ranking:
        raise DataError(f"{recipe.model} ranks lists, and a drill asks single rows: while degraded it is not scored.")
    folder = layout.candidates_dir(recipe.model, root)
    candidates = read_record(Candidates, folder / CANDIDATES_FILE, f"quantize {recipe.model}")
    session = load_candidate(folder, reference_record(recipe, candidates), recipe.serving.threads).session
    split = open_split(rows, [spec.name for spec in session.inputs])
    labels = None if recipe.metric is Metric.FIDELITY else required_labels(recipe, split)
    taken = spread(split.rows, count)
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    inputs = cast_tensors({name: np.array(array[taken]) for name, array in split.inputs.items()}, dtypes, str(rows))
    few = type(split)(inputs, None, None)
    answers = predict(session, few, judged_outputs(recipe, session), f"The float reference of {recipe.model}")
    return Scoring(recipe, None if labels is None else np.array(labels[taken]), answers)


def degraded_scores(given: Scoring | None, exchanges: Sequence[Exchange], questions: Questions) -> dict[str, float]:
    """Return ``degraded_score`` and ``float_score`` over what the backup answered; nothing where that is not known."""
    answered: dict[int, Exchange] = {}
    for one in exchanges:
        if one.status == 200 and one.headers.get(ROLE_HEADER) == Role.BACKUP and one.question < len(questions.bodies):
            answered.setdefault(one.question, one)
    outputs = {number: answered_outputs(one.body) for number, one in sorted(answered.items())}
    asked = [number for number, found in outputs.items() if found is not None]
    if given is None or not asked:
        return {}
    try:
        answers = {
            name: np.concatenate([(outputs[number] or {})[name] for number in asked]).astype(np.float32)
            for name in given.answers
        }
        degraded, float_model = given.score(asked, answers)
    except (HotspareError, KeyError, ValueError):
        return {}  # too few labels of one kind, or outputs of a form that no metric takes
    return {"degraded_score": degraded, "float_score": float_model}
