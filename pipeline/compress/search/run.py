"""A whole search: explore by guide rows, fix an order, ask the validation rows, choose, write down."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.compress.search.certifying import Candidacy, Certificate, Judge, certify, chain_of
from pipeline.compress.search.choosing import Kept, keep
from pipeline.compress.search.exploring import Survey, cost_of, explore, weigh
from pipeline.compress.search.families import Family, FloatExport, open_family
from pipeline.compress.search.fanout import SearchBackend
from pipeline.compress.search.finding import family_finding
from pipeline.compress.search.journal import Journal
from pipeline.compress.search.pool import Clock, Point, Watcher, Workshop, front_of
from pipeline.compress.search.proposing import FLOAT, schemes_of
from pipeline.compress.search.trial import build_file, first_rows, latency_ratio
from pipeline.compress.search.wording import mends, why
from pipeline.core.canonical import sha256_file, sha256_hex
from pipeline.core.errors import DataError, InternalError, ModelError, SchemeRefused
from pipeline.core.findings import Findings
from pipeline.core.names import CandidateName, Scheme
from pipeline.core.recipe import Minimize, Recipe, Search
from pipeline.core.schema import read
from pipeline.engines.open import open_session
from pipeline.score.scorecard import TaskScore
from pipeline.score.scoring import VALIDATION, Judged, judge_session, session_score

JOURNAL_FILE = "journal.jsonl"


@dataclass(frozen=True)
class NewFile:
    """A found file that is not among the candidates yet."""

    name: CandidateName
    export: FloatExport
    model: bytes
    assignment: dict[str, Scheme]
    words: str


@dataclass(frozen=True)
class Found:
    """What a search hands over."""

    findings: Findings
    new: tuple[NewFile, ...]


def search(
    recipe: Recipe,
    exports: Sequence[FloatExport],
    existing: Mapping[str, CandidateName],
    folder: Path,
    backend: SearchBackend,
    watcher: Watcher,
    clock: Clock = time.monotonic,
) -> Found:
    """Search all exports together, the recipe's reference among them.

    ``existing`` maps digests of files to the candidates that are there anyway; ``folder`` keeps what is found while
    the search lasts.

    One seed gives one answer, whatever the workers do and however often it is killed on the way; latencies and
    memory are measurements and may differ. Raises DataError for unusable rows, SurroundingsError when workers die.
    """
    settings = recipe.search or Search()
    journal = Journal(folder / JOURNAL_FILE)
    try:
        workshop = Workshop(backend, journal, settings.seconds_max, watcher, clock)
        workshop.tell(stage="opening")
        families = [open_family(recipe, export, backend, folder) for export in exports]
        surveys = explore(workshop, families, settings.minimize)
        reference = _reference(recipe, exports)
        certificates = _certify(recipe, reference, workshop, surveys, settings.minimize)
        certificates = _weighed(workshop, reference, certificates, settings.minimize)
        return _conclude(recipe, settings, workshop, surveys, certificates, existing)
    finally:
        journal.close()
        backend.close()


def _certify(
    recipe: Recipe, reference: FloatExport, workshop: Workshop, surveys: Sequence[Survey], minimize: Minimize
) -> tuple[Certificate, ...]:
    cost = cost_of(minimize)
    ratios = [
        _float_latency(workshop, one.family, reference) if minimize is Minimize.LATENCY else 1.0 for one in surveys
    ]
    candidacies = [
        Candidacy(
            one.family,
            _against(ratio, chain_of(one.front(cost), _whole(one), cost)),
            _against(ratio, front_of(_uniform(one), cost)),
        )
        for one, ratio in zip(surveys, ratios, strict=True)
    ]
    # Files were chosen by their answers to calibration rows: those can be no evidence for them.
    judged = judge_session(recipe, reference.session, VALIDATION, Path(recipe.data.validation)).alone
    total = sum(len(item.chain) for item in candidacies)
    judge = _judge(recipe, judged, sha256_hex(reference.model), workshop, total)
    budgets = recipe.budgets
    return certify(candidacies, judge, budgets.loss_max_abs, budgets.confidence, cost, workshop.has_time)


def _uniform(survey: Survey) -> list[Point]:
    return [Point(build, figures) for build, figures in survey.tried.items() if build.uniform is not None]


def _weighed(
    workshop: Workshop, reference: FloatExport, certificates: Sequence[Certificate], minimize: Minimize
) -> tuple[Certificate, ...]:
    """Return the certificates with what reports show beside: compressed sizes and latencies, as time allows."""
    found = weigh(workshop, [(one.family, one.chain) for one in certificates])
    weighed: list[Certificate] = []
    for one, points in zip(certificates, found, strict=True):
        ratio = 1.0
        if minimize is not Minimize.LATENCY and any(point.figures.latency_ratio for point in points):
            ratio = _float_latency(workshop, one.family, reference)
        known = {point.build: point for point in _against(ratio, points)}
        verdicts = tuple(replace(item, point=known.get(item.point.build, item.point)) for item in one.verdicts)
        weighed.append(replace(one, chain=tuple(known[point.build] for point in one.chain), verdicts=verdicts))
    return tuple(weighed)


def _reference(recipe: Recipe, exports: Sequence[FloatExport]) -> FloatExport:
    name = recipe.reference
    return next(one for one in exports if (one.variant, one.format) == (name.variant, name.format))


def _float_latency(workshop: Workshop, family: Family, reference: FloatExport) -> float:
    """Return the latency of a family's float export against the reference's: engines and variants differ in it."""
    if family.export is reference:
        return 1.0
    rows = first_rows(family.kit.rows, family.kit.latency_rows)
    question = ["float latency", family.parcel.digest, sha256_hex(reference.model)]
    sessions = family.export.session, reference.session
    return float(workshop.remembered(question, lambda: latency_ratio(*sessions, rows)))


def _against(float_latency: float, chain: Sequence[Point]) -> tuple[Point, ...]:
    """Return the points with latencies against the reference, so that those of two families can be compared."""
    return tuple(
        point
        if (ratio := point.figures.latency_ratio) is None
        else Point(point.build, replace(point.figures, latency_ratio=round(ratio * float_latency, 4)))
        for point in chain
    )


def _whole(survey: Survey) -> Point:
    figures = survey.tried.get(FLOAT)
    if figures is None or figures.refused is not None:
        reason = figures.refused if figures is not None else "there was no time to; raise search.seconds_max"
        raise ModelError(f"The float export of {survey.family.words} could not be measured: {reason}")
    return Point(FLOAT, figures)


def _judge(recipe: Recipe, judged: Judged, reference: str, workshop: Workshop, total: int) -> Judge:
    against = [reference, sha256_file(Path(recipe.data.validation))]
    asked = 0

    def ask(family: Family, point: Point, confidence: float) -> TaskScore | str:
        nonlocal asked
        asked += 1
        workshop.tell(stage="certifying", done=asked, total=total)
        strict = _at(judged, confidence)
        question = [
            point.figures.sha256,
            against,
            recipe.metric,
            recipe.threshold,
            recipe.seed,
            recipe.output,
            confidence,
        ]
        said = workshop.remembered(question, lambda: _score(recipe, strict, family, point))
        return said if isinstance(said, str) else read(TaskScore, said)

    return ask


def _at(judged: Judged, confidence: float) -> Judged:
    recipe = judged.question.recipe
    budgets = replace(recipe.budgets, confidence=confidence)
    return replace(judged, question=replace(judged.question, recipe=replace(recipe, budgets=budgets)))


def _score(recipe: Recipe, judged: Judged, family: Family, point: Point) -> TaskScore | str:
    try:
        session = open_session(family.export.format, _file(family, point), recipe.serving.threads)
        return session_score(recipe, judged, session)
    except (ModelError, DataError, SchemeRefused) as error:
        return str(error)


def _file(family: Family, point: Point) -> bytes:
    """Make a file again; its bytes are those that were measured."""
    model = build_file(family.kit, point.build)
    if sha256_hex(model) != point.figures.sha256:
        raise InternalError(f"A file of {family.words} came out differently the second time; report this.")
    return model


def _conclude(
    recipe: Recipe,
    settings: Search,
    workshop: Workshop,
    surveys: Sequence[Survey],
    certificates: Sequence[Certificate],
    existing: Mapping[str, CandidateName],
) -> Found:
    cost = cost_of(settings.minimize)
    bytes_max = recipe.budgets.bytes_max
    kept = keep(
        certificates,
        settings.keep,
        cost,
        existing,
        lambda point: bytes_max is None or point.figures.bytes <= bytes_max,
    )
    by_family = {id(one.family): one for one in certificates}
    findings = Findings(
        model=recipe.model,
        minimize=settings.minimize,
        loss_max_abs=recipe.budgets.loss_max_abs,
        confidence=recipe.budgets.confidence,
        seed=recipe.seed,
        families=tuple(family_finding(one, by_family[id(one.family)], kept) for one in surveys),
        chosen=str(kept[0].name) if kept else None,
        why=why(recipe, certificates, kept, cost, workshop.complete),
        complete=workshop.complete,
    )
    workshop.tell(stage="done", best=findings.chosen or "")
    return Found(findings, tuple(_new_file(one) for one in kept if one.is_new))


def _new_file(kept: Kept) -> NewFile:
    assignment = schemes_of(kept.point.build, kept.family.groups)
    return NewFile(kept.name, kept.family.export, _file(kept.family, kept.point), assignment, mends(kept.point))
