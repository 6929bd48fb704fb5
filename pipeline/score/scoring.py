"""Every candidate of a model, measured on its exported file against the float reference."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core.errors import DataError, ModelError
from pipeline.core.recipe import Recipe
from pipeline.core.records import CandidateRecord, Candidates, RefusedCandidate
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import Split, batches, open_split
from pipeline.score.cost import measure_size, measure_timings
from pipeline.score.decisions import compare_decisions
from pipeline.score.fidelity import compare_outputs
from pipeline.score.predict import Loaded, load_candidate, predict
from pipeline.score.scorecard import Scorecard, Scored, TaskScore
from pipeline.score.task import Measured, measure, task_score

VALIDATION = "validation"
UNITS_MIN = 50  # resampling fewer rows says nothing: one row gives an interval of no width, within any budget

Watch = Callable[[Sequence[CandidateRecord]], Iterable[CandidateRecord]]


@dataclass(frozen=True)
class Judged:
    """A split with its labels, and the float reference's answers to it."""

    name: str
    split: Split
    labels: Array
    reference: Loaded
    reference_scores: Array
    reference_measured: Measured


def judge(recipe: Recipe, candidates: Candidates, folder: Path, split_name: str, path: Path) -> Judged:
    """Open the float reference and the split at ``path``, and let the one answer the other.

    Raises ModelError when there is no reference or its answers are unusable, DataError for an unusable split.
    """
    record = reference_record(recipe, candidates)
    reference = load_candidate(folder, record, recipe.serving.threads)
    split = open_split(path, [spec.name for spec in reference.session.inputs])
    labels = split.labels
    if labels is None:
        raise DataError(f"{path} has no labels, and scoring needs them; add the key 'y'.")
    dtypes = {spec.name: spec.dtype for spec in reference.session.inputs}
    split = replace(split, inputs=cast_tensors(split.inputs, dtypes, str(path)))
    scores = predict(reference, split)
    try:
        measured = measure(recipe, scores, labels, split.groups)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Judged(split_name, split, labels, reference, scores, measured)


def reference_record(recipe: Recipe, candidates: Candidates) -> CandidateRecord:
    """Return the record of the float candidate that every loss is measured against; raises ModelError without one."""
    for record in candidates.candidates:
        if record.name == recipe.reference:
            return record
    why = next((item.reason for item in candidates.refused if item.candidate == str(recipe.reference)), "it is missing")
    raise ModelError(f"Every loss of {recipe.model} is measured against {recipe.reference}, which is not there: {why}")


def score_all(
    recipe: Recipe, candidates: Candidates, folder: Path, watch: Watch = iter
) -> tuple[Scored, tuple[Scorecard, ...]]:
    """Measure every candidate on the recipe's validation split, in the record's order.

    A candidate that cannot be loaded, or answers in the wrong shape or with NaN, gets no scorecard and is listed with
    its reason: without a scorecard it can never be selected. The reference itself must answer: raises ModelError.
    Raises DataError for a split with fewer than ``UNITS_MIN`` rows (or lists): its intervals would promise too much.
    """
    judged = judge(recipe, candidates, folder, VALIDATION, Path(recipe.data.validation))
    if judged.reference_measured.units < UNITS_MIN:
        kind = "lists" if recipe.metric.is_ranking else "rows"
        raise DataError(
            f"{recipe.data.validation} has {judged.reference_measured.units} {kind}, too few to bound a loss: "
            f"at least {UNITS_MIN} are needed, and thousands make the bound sharp."
        )
    cards: list[Scorecard] = []
    refused = list(candidates.refused)
    for record in watch(candidates.candidates):
        try:
            cards.append(score_one(recipe, judged, load_candidate(folder, record, recipe.serving.threads)))
        except (ModelError, DataError) as error:
            if record == judged.reference.record:
                raise
            refused.append(RefusedCandidate(str(record.name), f"unusable: {error}"))
    names = tuple(card.candidate for card in cards)
    return Scored(recipe.model, str(recipe.reference), names, tuple(refused)), tuple(cards)


def score_one(recipe: Recipe, judged: Judged, loaded: Loaded) -> Scorecard:
    """Measure one candidate; raises ModelError or DataError when it cannot be run on the split's rows."""
    record, split, reference = loaded.record, judged.split, judged.reference
    scores = predict(loaded, split)
    _check_same_shape(loaded.path, scores, judged.reference_scores)
    outputs = (recipe.metric, scores, judged.reference_scores)
    rows = next(iter(batches(split, recipe.serving.latency_rows)))
    return Scorecard(
        model=recipe.model,
        candidate=str(record.name),
        variant=record.variant,
        scheme=record.scheme,
        format=record.format,
        file=record.file,
        sha256=record.sha256,
        made_by=record.made_by,
        size=measure_size(record, loaded.model, reference.record, len(reference.model)),
        task=judged_score(recipe, judged, scores),
        decision=compare_decisions(*outputs, judged.labels, split.groups, recipe.threshold),
        fidelity=compare_outputs(*outputs, split.groups, recipe.threshold),
        timings=measure_timings(
            loaded.path,
            record.format,
            min(recipe.serving.latency_rows, split.rows),
            recipe.serving.threads,
            lambda: loaded.session.run(rows),
            lambda: reference.session.run(rows),
        ),
    )


def judged_score(recipe: Recipe, judged: Judged, scores: Array) -> TaskScore:
    """Return the task score of a candidate's outputs (n, k) to the judged split."""
    measured = measure(recipe, scores, judged.labels, judged.split.groups)
    return task_score(recipe.metric, judged.name, measured, judged.reference_measured)


def _check_same_shape(path: Path, scores: Array, reference: Array) -> None:
    if scores.shape != reference.shape:
        raise ModelError(f"{path} answers in the shape {scores.shape}, its float reference in {reference.shape}.")
