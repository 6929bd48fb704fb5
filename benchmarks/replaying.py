"""A finished search read again from its journal: no file is measured twice, whatever rows it is then asked about.

What a search measures (sensitivities, fronts, their order) comes from the float exports and from calibration rows
alone; validation rows are read after that, to certify. So one search serves every deal of validation and locked rows.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from answering import Part, Pool

from pipeline.compress.candidates import load_parent
from pipeline.compress.search.certifying import Candidacy, Certificate, certify, chain_of
from pipeline.compress.search.choosing import keep
from pipeline.compress.search.exploring import Survey, cost_of, explore
from pipeline.compress.search.families import Family, FloatExport, open_family
from pipeline.compress.search.fanout import LocalBackend, Task
from pipeline.compress.search.journal import Journal
from pipeline.compress.search.pool import Effort, Point, Watcher, Workshop, front_of
from pipeline.compress.search.proposing import FLOAT
from pipeline.compress.search.run import JOURNAL_FILE
from pipeline.compress.search.trial import Figures, Parcel, build_file, first_rows, latency_ratio
from pipeline.core.canonical import sha256_hex
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Minimize, Recipe, Search
from pipeline.score.scorecard import TaskScore

# Replaying is quick, and nothing new may be measured in it: the clock of the search itself has done its cutting.
_SECONDS_MAX = 1e9
# Beside a search only the float files are asked for; a search knows every scheme of every group by itself.
FLOAT_ONLY = {Format.TFLITE: (Scheme.F32,), Format.ONNX: (Scheme.F32,)}


def keeping(work: Path, aside: Path) -> Watcher:
    """Return a watcher that copies the search's folder ``work`` to ``aside`` at its end, before it is removed."""

    def watch(effort: Effort) -> None:
        if effort.stage == "done":
            shutil.rmtree(aside, ignore_errors=True)
            shutil.copytree(work, aside)

    return watch


@dataclass(frozen=True)
class Recorded:
    """A backend that measures nothing: what is not in the journal was not measured in time."""

    local: LocalBackend

    def parcel(self, data: bytes, folder: Path) -> Parcel:
        """Write a kit, as the search did."""
        return self.local.parcel(data, folder)

    def close(self) -> None:
        """End nothing."""

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        """Yield nothing."""
        del tasks
        yield from ()


@dataclass(frozen=True)
class Choice:
    """A chosen file of a search, and the level at which it was certified."""

    words: str
    model: bytes
    format: Format
    sha256: str
    confidence: float


@dataclass(frozen=True)
class Explored:
    """The sequences of one search: what it would ask validation rows about, family by family."""

    recipe: Recipe
    minimize: Minimize
    candidacies: tuple[Candidacy, ...]

    def choose(self, pool: Pool, part: Part) -> Choice | None:
        """Certify along the sequences by the rows of ``part`` and return the best file; no clock stops it."""
        cost, budgets = cost_of(self.minimize), self.recipe.budgets

        def judge(family: Family, point: Point, confidence: float) -> TaskScore | str:
            made = lambda: build_file(family.kit, point.build)  # noqa: E731 - asked for only when it is new
            known = pool.known(point.figures.sha256, family.export.format, made)
            return known if isinstance(known, str) else part.score(known, confidence)

        certificates = certify(self.candidacies, judge, budgets.loss_max_abs, budgets.confidence, cost, lambda: True)
        kept = keep(certificates, 1, cost, {}, self._fits)
        if not kept:
            return None
        best = kept[0]
        model = build_file(best.family.kit, best.point.build)
        level = _level(certificates, best.point)
        return Choice(str(best.name), model, best.family.export.format, best.point.figures.sha256, level)

    def _fits(self, point: Point) -> bool:
        most = self.recipe.budgets.bytes_max
        return most is None or point.figures.bytes <= most


def _level(certificates: Sequence[Certificate], point: Point) -> float:
    verdicts = (item for one in certificates for item in one.verdicts if item.certified)
    return next(item.task.confidence for item in verdicts if item.task is not None and item.point == point)


def replay(recipe: Recipe, search: Search, root: Path, folder: Path) -> Explored | None:
    """Return what the search in ``folder`` explored; ``root`` holds the exports. None when its figures are missing.

    The steps are those of :func:`pipeline.compress.search.run.search` up to its first validation row.
    """
    recipe = replace(recipe, schemes=FLOAT_ONLY, search=replace(search, seconds_max=_SECONDS_MAX))
    exports = [
        load_parent(recipe, variant, kind, root).export for variant in sorted(recipe.variants) for kind in Format
    ]
    exports.sort(key=lambda one: (one.variant, one.format))
    backend, journal = Recorded(LocalBackend()), Journal(folder / JOURNAL_FILE)
    try:
        workshop = Workshop(backend, journal, _SECONDS_MAX, _unwatched)
        families = [open_family(recipe, export, backend, folder) for export in exports]
        surveys = explore(workshop, families, search.minimize)
        if any(FLOAT not in one.tried for one in surveys):
            return None
        cost = cost_of(search.minimize)
        name = recipe.reference
        reference = next(one for one in exports if (one.variant, one.format) == (name.variant, name.format))
        is_timed = search.minimize is Minimize.LATENCY
        ratios = [_float_latency(workshop, one.family, reference) if is_timed else 1.0 for one in surveys]
        candidacies = [
            Candidacy(
                one.family,
                _against(ratio, chain_of(one.front(cost), Point(FLOAT, one.tried[FLOAT]), cost)),
                _against(ratio, front_of(_uniform(one), cost)),
            )
            for one, ratio in zip(surveys, ratios, strict=True)
        ]
        return Explored(recipe, search.minimize, tuple(candidacies))
    finally:
        journal.close()


def _unwatched(effort: Effort) -> None:
    del effort


def _uniform(survey: Survey) -> list[Point]:
    return [Point(build, figures) for build, figures in survey.tried.items() if build.uniform is not None]


def _float_latency(workshop: Workshop, family: Family, reference: FloatExport) -> float:
    """Return the latency of a family's float export against the reference's, as the journal has it."""
    if family.export is reference:
        return 1.0
    question = ["float latency", family.parcel.digest, sha256_hex(reference.model)]
    rows, sessions = first_rows(family.kit.rows, family.kit.latency_rows), (family.export.session, reference.session)
    return float(workshop.remembered(question, lambda: latency_ratio(*sessions, rows)))


def _against(float_latency: float, chain: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(
        point
        if (ratio := point.figures.latency_ratio) is None
        else Point(point.build, replace(point.figures, latency_ratio=round(ratio * float_latency, 4)))
        for point in chain
    )
