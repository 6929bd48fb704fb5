"""Every candidate of a model, measured on its exported file against the float reference."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core.errors import DataError, ModelError
from pipeline.core.names import Scheme, is_mixed
from pipeline.core.recipe import Metric, Recipe
from pipeline.core.records import CandidateRecord, Candidates, RefusedCandidate
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import Split, batches, open_split
from pipeline.engines.base import Session
from pipeline.score.comparison import decision_of, fidelity_of
from pipeline.score.cost import measure_size, measure_timings
from pipeline.score.diagnosis import Diagnosis, changes_of
from pipeline.score.judgeable import require_judgeable, required_labels
from pipeline.score.origins import Origins, TensorComparer
from pipeline.score.predict import Loaded, judged_outputs, load_candidate, predict
from pipeline.score.scorecard import Scorecard, Scored, TaskScore
from pipeline.score.sharpening import could_sharpen
from pipeline.score.slices import read_slices, slice_scores, worst_slice
from pipeline.score.soft import soft_losses
from pipeline.score.task import Answers, Measured, Question, ask, doubt, measure, task_score, units_needed

__all__ = ["Judged", "judge", "judge_session", "score_all", "score_one", "session_score", "units_needed"]

VALIDATION = "validation"

Watch = Callable[[Sequence[CandidateRecord]], Iterable[CandidateRecord]]


@dataclass(frozen=True)
class Further:
    """Rows that nobody trained on, taken without their labels, and the float reference's answers to them.

    They are the calibration rows. To a file whose ranges they gave, or that a search chose by its answers to them, they
    are no news: it does better on them than on others, and its interval would promise too much.
    """

    split: Split
    answers: Answers


@dataclass(frozen=True)
class Judged:
    """A split, what answers to it are judged by, and how the float reference did."""

    name: str
    split: Split
    question: Question
    reference_measured: Measured
    further: Further | None

    @property
    def alone(self) -> "Judged":
        """Return the same without further rows: for files that those rows had a hand in."""
        return replace(self, further=None)


def judge(recipe: Recipe, candidates: Candidates, folder: Path, split_name: str, path: Path) -> Judged:
    """Open the float reference and the split at ``path``, and let the one answer the other.

    Raises ModelError when there is no reference or its answers are unusable, DataError for an unusable split.
    """
    reference = load_candidate(folder, reference_record(recipe, candidates), recipe.serving.threads)
    return judge_session(recipe, reference.session, split_name, path)


def judge_session(recipe: Recipe, reference: Session, split_name: str, path: Path) -> Judged:
    """Let a float reference answer the split at ``path`` and, unlabelled, the recipe's calibration rows.

    Raises RecipeError when the output to judge is not clear, ModelError for unusable answers, DataError for an
    unusable split.
    """
    outputs = judged_outputs(recipe, reference)
    split = _open(path, reference)
    answers = predict(reference, split, outputs, f"The float reference of {recipe.model}")
    try:
        labels = None if recipe.metric is Metric.FIDELITY else required_labels(recipe, split)
        question = ask(recipe, answers, labels, split.groups)
        measured = measure(question, answers)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Judged(split_name, split, question, measured, _further(recipe, reference, outputs, path, split.rows))


def _open(path: Path, session: Session) -> Split:
    split = open_split(path, [spec.name for spec in session.inputs])
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    return replace(split, inputs=cast_tensors(split.inputs, dtypes, str(path)))


def _further(
    recipe: Recipe, reference: Session, outputs: Sequence[str], judged: Path, judged_rows: int
) -> Further | None:
    path = Path(recipe.data.calibration)
    if recipe.metric.is_ranking or path == judged or not path.is_file():
        return None
    split = _open(path, reference)
    if not could_sharpen(judged_rows, split.rows):
        return None
    return Further(split, predict(reference, split, outputs, f"The float reference of {recipe.model}"))


def session_score(recipe: Recipe, judged: Judged, session: Session) -> TaskScore:
    """Return the task score of a file from its session; raises ModelError when it cannot answer the rows.

    Of one that calibration rows had a hand in, ask with ``judged.alone``.
    """
    answers = candidate_answers(judged, session, f"A candidate of {recipe.model}")
    return judged_score(judged, session, answers)


def judged_for(judged: Judged, scheme: str) -> Judged:
    """Return what a candidate is judged by: without the calibration rows where they gave its ranges or chose it."""
    is_fitted = is_mixed(scheme) or Scheme(scheme).needs_ranges
    return judged.alone if is_fitted else judged


def candidate_answers(judged: Judged, session: Session, place: str) -> Answers:
    """Return a candidate's answers to the judged split; raises ModelError when their shapes are not the reference's."""
    reference = judged.question.reference
    answers = predict(session, judged.split, tuple(reference), place)
    for name, array in answers.items():
        if array.shape != reference[name].shape:
            raise ModelError(
                f"{place} answers in the shape {array.shape}, its float reference in {reference[name].shape}."
            )
    return answers


def judged_score(judged: Judged, session: Session, answers: Answers) -> TaskScore:
    """Return the task score of a candidate's answers to the judged split; it also answers the further rows."""
    question, further = judged.question, judged.further
    extra = None
    if further is not None:
        there = predict(session, further.split, tuple(further.answers), "The candidate")
        extra = soft_losses(question, answers, there, further.answers)
    measured = measure(question, answers)
    return task_score(judged.name, question, measured, judged.reference_measured, doubt(question, answers), extra)


def reference_record(recipe: Recipe, candidates: Candidates) -> CandidateRecord:
    """Return the record of the float candidate that every loss is measured against; raises ModelError without one."""
    for record in candidates.candidates:
        if record.name == recipe.reference:
            return record
    why = next((item.reason for item in candidates.refused if item.candidate == str(recipe.reference)), "it is missing")
    raise ModelError(f"Every loss of {recipe.model} is measured against {recipe.reference}, which is not there: {why}")


@dataclass(frozen=True)
class Scores:
    """All that the score stage finds out, in the candidates' order."""

    scored: Scored
    cards: tuple[Scorecard, ...]
    diagnoses: tuple[Diagnosis, ...]


@dataclass(frozen=True)
class Examination:
    """What every candidate of one model is examined with."""

    recipe: Recipe
    judged: Judged
    reference: Loaded
    made_by: Mapping[str, str]
    tensors: TensorComparer
    slices: Mapping[str, Array]


def score_all(recipe: Recipe, candidates: Candidates, folder: Path, origins: Origins, watch: Watch = iter) -> Scores:
    """Measure every candidate on the recipe's validation split, in the record's order.

    A candidate that cannot be loaded, or answers in the wrong shape or with NaN, gets no scorecard and is listed with
    its reason: without a scorecard it can never be selected. The reference itself must answer: raises ModelError.
    Raises DataError for a split that cannot bound a loss (see :func:`require_judgeable`).
    """
    examination = _prepare(recipe, candidates, folder, origins)
    found: list[tuple[Scorecard, Diagnosis]] = []
    refused = list(candidates.refused)
    for record in watch(candidates.candidates):
        try:
            found.append(score_one(examination, load_candidate(folder, record, recipe.serving.threads)))
        except (ModelError, DataError) as error:
            if record == examination.reference.record:
                raise
            refused.append(RefusedCandidate(str(record.name), f"unusable: {error}"))
    cards = tuple(card for card, _ in found)
    scored = Scored(recipe.model, str(recipe.reference), tuple(card.candidate for card in cards), tuple(refused))
    return Scores(scored, cards, tuple(diagnosis for _, diagnosis in found))


def _prepare(recipe: Recipe, candidates: Candidates, folder: Path, origins: Origins) -> Examination:
    reference = load_candidate(folder, reference_record(recipe, candidates), recipe.serving.threads)
    path = Path(recipe.data.validation)
    split = _open(path, reference.session)
    require_judgeable(recipe, reference.session, split, str(path))
    slices = read_slices(recipe, path, split.rows)
    judged = judge_session(recipe, reference.session, VALIDATION, path)
    return Examination(recipe, judged, reference, origins.made_by, TensorComparer(origins, judged.split), slices)


def score_one(examination: Examination, loaded: Loaded) -> tuple[Scorecard, Diagnosis]:
    """Measure one candidate; raises ModelError or DataError when it cannot be run on the split's rows."""
    recipe, judged, reference = examination.recipe, examination.judged, examination.reference
    record = loaded.record
    answers = candidate_answers(judged, loaded.session, str(loaded.path))
    rows = next(iter(batches(judged.split, recipe.serving.latency_rows)))
    card = Scorecard(
        model=recipe.model,
        candidate=str(record.name),
        variant=record.variant,
        scheme=record.scheme,
        format=record.format,
        file=record.file,
        sha256=record.sha256,
        made_by=record.made_by,
        size=measure_size(record, loaded.model, reference.record, len(reference.model)),
        task=judged_score(judged_for(judged, record.scheme), loaded.session, answers),
        decision=decision_of(judged.question, answers),
        fidelity=fidelity_of(judged.question, answers),
        timings=measure_timings(
            loaded.path,
            record.format,
            min(recipe.serving.latency_rows, judged.split.rows),
            recipe.serving.threads,
            lambda: loaded.session.run(rows),
            lambda: reference.session.run(rows),
        ),
        variant_made_by=examination.made_by.get(record.variant),
    )
    return card, _diagnose(examination, loaded, answers)


def _diagnose(examination: Examination, loaded: Loaded, answers: Answers) -> Diagnosis:
    question = examination.judged.question
    slices = slice_scores(question, answers, examination.slices)
    return Diagnosis(
        model=examination.recipe.model,
        candidate=str(loaded.record.name),
        tensors=examination.tensors.compare(loaded),
        changes=changes_of(question, answers),
        slices=slices,
        worst_slice=worst_slice(slices),
    )
