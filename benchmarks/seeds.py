"""The search under other deals of the rows: validation and locked rows dealt anew, the promise checked on the latter.

The exports, the calibration rows and the uniform files stay, and so does what a search measures before it reads the
first validation row; it is measured for a few seeds of the search (:mod:`replaying`) and read again for each deal. A
deal puts the rows of both splits into new ones of the same sizes (rows of one list stay together) and lets the search,
and the best uniform scheme, be chosen by the new validation rows. Each result is a JSON file, used again by a later
run only while code, settings, exports and rows are the same.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from answering import Known, Part, Pool, deal
from cases import Case, Say
from measuring import Bench, zstd_bytes
from replaying import Choice, Explored
from searching import File

from pipeline.core.canonical import readable_json
from pipeline.core.errors import InternalError
from pipeline.core.files import read_json, write_atomic
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Minimize
from pipeline.core.schema import SchemaProblems, plain, read
from pipeline.engines.base import Session
from pipeline.engines.open import open_session

_REPETITIONS = 3


@dataclass(frozen=True)
class Picked:
    """A chosen file under one deal.

    ``confidence`` is the level at which ``loss_high`` was held against the budget; ``loss_locked`` is on locked rows.
    """

    candidate: str
    bytes: int
    bytes_zstd: int
    confidence: float
    loss: float
    loss_high: float
    loss_locked: float


@dataclass(frozen=True)
class SeedResult:
    """One deal of one model. Latencies are the searched file's against those of the uniform ones, called in turn.

    ``made_of`` is the digest of what it follows from; ``search_seed`` the seed of the search that was read again.
    """

    made_of: str
    model: str
    seed: int
    search_seed: int
    seconds: float
    searched: Picked | None = None
    uniform: Picked | None = None
    uniform_any_variant: Picked | None = None
    latency_ratio: float | None = None
    latency_ratio_any_variant: float | None = None


@dataclass(frozen=True)
class Chosen:
    """A uniform file, and its score where it was chosen."""

    file: File
    picked: Picked


class Arena:
    """One model's bench, rows and uniform files, ready for any number of deals."""

    def __init__(self, case: Case, bench: Bench, minimize: Minimize, files: Iterable[File]) -> None:
        """Put the uniform files into the order in which they are tried: best first."""
        self.case, self.bench = case, bench
        self.pool = Pool(bench)
        self._ratios: dict[tuple[str, str], float] = {}
        stored = (file for file in files if file.record.scheme != Scheme.F32)
        self._files = sorted(stored, key=lambda file: (self._figure(file, minimize), file.name))

    def _figure(self, file: File, minimize: Minimize) -> float:
        if minimize is Minimize.LATENCY:
            session = open_session(file.record.format, file.model, self.case.recipe.serving.threads)
            return self.bench.latency_ratio(session, self.bench.reference)
        return zstd_bytes(file.model) if minimize is Minimize.BYTES_ZSTD else len(file.model)

    def uniform(self, validation: Part, locked: Part, confidence: float, only_dense: bool) -> Chosen | None:
        """Return the best uniform file whose loss is within the budget at a level, the search's own."""
        for file in self._files:
            if only_dense and file.record.variant != "dense":
                continue
            known = self.pool.known(file.record.sha256, file.record.format, lambda file=file: file.model)
            if isinstance(known, str):
                continue
            picked = pick(file.name, file.model, known, validation, locked, confidence)
            if picked.loss_high <= self.case.recipe.budgets.loss_max_abs:
                return Chosen(file, picked)
        return None

    def searched(self, choice: Choice, validation: Part, locked: Part) -> Picked:
        """Score the file that a search chose."""
        known = self.pool.known(choice.sha256, choice.format, lambda: choice.model)
        if isinstance(known, str):
            raise InternalError(f"{choice.words} was certified and cannot answer: {known}")
        return pick(choice.words, choice.model, known, validation, locked, choice.confidence)

    def latency_ratio(self, choice: Choice, other: Chosen) -> float:
        """Return the median of a few comparisons in which both files were called in turn; a pair is timed once."""
        key = choice.sha256, other.file.record.sha256
        if key not in self._ratios:
            ours = self._open(choice.format, choice.model)
            theirs = self._open(other.file.record.format, other.file.model)
            found = [self.bench.latency_ratio(ours, theirs) for _ in range(_REPETITIONS)]
            self._ratios[key] = 1.0 if key[0] == key[1] else statistics.median(found)
        return self._ratios[key]

    def _open(self, model_format: Format, model: bytes) -> Session:
        return open_session(model_format, model, self.case.recipe.serving.threads)


def pick(name: str, model: bytes, known: Known, validation: Part, locked: Part, confidence: float) -> Picked:
    """Score a file on both splits of a deal."""
    task = validation.score(known, confidence)
    loss_locked = locked.score(known, confidence).loss_abs
    return Picked(name, len(model), zstd_bytes(model), round(confidence, 6), task.loss_abs, task.loss_high, loss_locked)


def run_seed(arena: Arena, explored: Explored, seed: int, made_of: str) -> SeedResult:
    """Deal, choose by the search and among the uniform files, by one rule, and measure all on locked rows."""
    started = time.perf_counter()
    pool = arena.pool
    rows = zip(("validation", "test"), deal(pool.split, pool.validation_units, seed), strict=True)
    validation, locked = (pool.judged(name, part, seed) for name, part in rows)
    choice = explored.choose(pool, validation)
    level = choice.confidence if choice else arena.case.recipe.budgets.confidence
    dense, any_variant = (arena.uniform(validation, locked, level, only) for only in (True, False))
    return SeedResult(
        made_of=made_of,
        model=arena.case.name,
        seed=seed,
        search_seed=explored.recipe.seed,
        searched=choice and arena.searched(choice, validation, locked),
        uniform=dense and dense.picked,
        uniform_any_variant=any_variant and any_variant.picked,
        latency_ratio=arena.latency_ratio(choice, dense) if choice and dense else None,
        latency_ratio_any_variant=arena.latency_ratio(choice, any_variant) if choice and any_variant else None,
        seconds=round(time.perf_counter() - started, 2),
    )


Opened = tuple[Arena, Sequence[Explored]]


def run_seeds(
    open_all: Callable[[], Opened], folder: Path, name: str, count: int, made_of: str, say: Say
) -> Iterator[SeedResult]:
    """Yield a result for every seed, from its file in ``folder`` where it was done before; searches take turns."""
    opened: Opened | None = None
    for seed in range(count):
        path = folder / f"{name}-{seed:02}.json"
        result = read_result(path, made_of)
        if result is None:
            arena, explored = opened = opened or open_all()
            result = run_seed(arena, explored[seed % len(explored)], seed, made_of)
            write_atomic(path, readable_json(plain(result)))
        say(f"{name} seed {seed + 1}/{count}: {in_words(result)}")
        yield result


def in_words(result: SeedResult) -> str:
    """Tell a deal's result in a line."""
    told = (
        f"{what} {one.candidate} {one.bytes:,} bytes, locked {one.loss_locked:+.4f}" if one else f"{what} none"
        for what, one in (("searched", result.searched), ("uniform", result.uniform))
    )
    return f"{result.seconds:.1f} s; {'; '.join(told)}"


def read_result(path: Path, made_of: str) -> SeedResult | None:
    """Read a seed's result; None when there is none, or it is of other code, settings or exports."""
    if not path.exists():
        return None
    try:
        result = read(SeedResult, read_json(path, InternalError))
    except (SchemaProblems, InternalError):
        return None  # of another version of this benchmark
    return result if result.made_of == made_of else None


@dataclass(frozen=True)
class Summary:
    """All deals of one model in one line.

    ``saved_*`` are shares of the minimized figure of the best uniform file under the same deal; for latency, of its
    time. ``worst_overshoot`` is the largest locked loss beyond the budget, 0 for none. Ratios compare latencies.
    """

    model: str
    minimize: Minimize
    deals: int
    search_seeds: int
    none_found: int
    no_uniform: int
    saved_median: float | None
    saved_least: float | None
    saved_any_variant_median: float | None
    saved_any_variant_least: float | None
    over_budget: int
    worst_overshoot: float
    uniform_over_budget: int
    uniform_worst_overshoot: float
    latency_ratio_median: float | None
    latency_ratio_most: float | None
    latency_ratio_any_variant_median: float | None
    seconds_median: float


def summary(results: Sequence[SeedResult], minimize: Minimize, budget: float) -> Summary:
    """Count."""
    over = [r.searched.loss_locked - budget for r in results if r.searched]
    uniform_over = [r.uniform.loss_locked - budget for r in results if r.uniform]
    saved = _saved(results, minimize, lambda r: (r.uniform, r.latency_ratio))
    saved_any = _saved(results, minimize, lambda r: (r.uniform_any_variant, r.latency_ratio_any_variant))
    ratios = [r.latency_ratio for r in results if r.latency_ratio is not None]
    ratios_any = [r.latency_ratio_any_variant for r in results if r.latency_ratio_any_variant is not None]
    return Summary(
        model=results[0].model,
        minimize=minimize,
        deals=len(results),
        search_seeds=len({r.search_seed for r in results}),
        none_found=sum(r.searched is None for r in results),
        no_uniform=sum(r.uniform is None for r in results),
        saved_median=_median(saved),
        saved_least=round(min(saved), 4) if saved else None,
        saved_any_variant_median=_median(saved_any),
        saved_any_variant_least=round(min(saved_any), 4) if saved_any else None,
        over_budget=sum(each > 0 for each in over),
        worst_overshoot=round(max([0.0, *over]), 6),
        uniform_over_budget=sum(each > 0 for each in uniform_over),
        uniform_worst_overshoot=round(max([0.0, *uniform_over]), 6),
        latency_ratio_median=_median(ratios),
        latency_ratio_most=max(ratios) if ratios else None,
        latency_ratio_any_variant_median=_median(ratios_any),
        seconds_median=_median([r.seconds for r in results]) or 0.0,
    )


Against = Callable[[SeedResult], tuple[Picked | None, float | None]]


def _saved(results: Sequence[SeedResult], minimize: Minimize, against: Against) -> list[float]:
    """Return the share saved under each deal; one in which either side found no file has none."""
    shares = []
    for result in results:
        other, ratio = against(result)
        if result.searched is None or other is None:
            continue
        if minimize is not Minimize.LATENCY:
            ratio = figure(result.searched, minimize) / figure(other, minimize)
        if ratio is not None:
            shares.append(1 - ratio)
    return shares


def figure(picked: Picked, minimize: Minimize) -> int:
    """Return the bytes that count: compressed ones where those are minimized."""
    return picked.bytes_zstd if minimize is Minimize.BYTES_ZSTD else picked.bytes


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 4) if values else None
