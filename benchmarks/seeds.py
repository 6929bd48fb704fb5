"""The search under other seeds: validation and locked rows dealt anew, the budget's promise checked on the locked ones.

The exports, the calibration rows and the uniform files stay. A seed deals the rows of both splits into new ones of the
same sizes (rows of one list stay together), gives the search another seed, and lets it choose by the new validation
rows.
Each result is a JSON file, used again by a later run only while code, settings and exports are the same.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from cases import Case, Say
from measuring import Bench, zstd_bytes
from searching import File, run_search

from pipeline.core.canonical import canonical_json, readable_json, sha256_file, sha256_hex
from pipeline.core.errors import DataError, InternalError
from pipeline.core.files import read_json, write_atomic
from pipeline.core.names import Format
from pipeline.core.recipe import Minimize, Recipe, Search
from pipeline.core.schema import SchemaProblems, plain, read
from pipeline.core.tensors import Array, Tensors, encode_npz, map_npz
from pipeline.engines.base import Session
from pipeline.engines.open import open_session
from pipeline.score.scoring import Judged, judge_session, session_score

_CODE = ("benchmarks", "pipeline/compress", "pipeline/score")
_GROUP = "group"


@dataclass(frozen=True)
class Picked:
    """A chosen file under one seed: losses on the new validation rows, and on the new locked ones."""

    candidate: str
    bytes: int
    bytes_zstd: int
    loss: float
    loss_high: float
    loss_locked: float


@dataclass(frozen=True)
class SeedResult:
    """One seed of one model.

    ``latency_ratio``: the searched file against the fastest uniform one within the budget, called in turn;
    ``latency_ratio_smallest``: against the smallest. ``made_of`` is the digest of what it follows from.
    """

    made_of: str
    model: str
    seed: int
    seconds_search: float
    seconds: float
    complete: bool
    why: tuple[str, ...]
    searched: Picked | None = None
    uniform: Picked | None = None
    uniform_any_variant: Picked | None = None
    latency_ratio: float | None = None
    latency_ratio_smallest: float | None = None


@dataclass(frozen=True)
class Contender:
    """A uniform file, loaded, and its latency against the float model's."""

    file: File
    session: Session
    latency_ratio: float


@dataclass(frozen=True)
class Pool:
    """What does not change between seeds: the rows of both splits together, and the uniform files."""

    tensors: Tensors
    validation_units: int
    contenders: tuple[Contender, ...]


def open_pool(bench: Bench, files: Iterable[File]) -> Pool:
    """Put the rows of both splits together, load every uniform file and measure its latency."""
    data, threads = bench.recipe.data, bench.recipe.serving.threads
    parts = [map_npz(Path(path), DataError) for path in (data.validation, data.test)]
    contenders = []
    for file in files:
        session = open_session(file.record.format, file.model, threads)
        contenders.append(Contender(file, session, bench.latency_ratio(session, bench.reference)))
    return Pool(joined(parts), len(np.unique(units(parts[0]))), tuple(contenders))


def joined(parts: Sequence[Tensors]) -> dict[str, Array]:
    """Put splits behind each other; lists are numbered anew, because both splits count theirs from the same number."""
    both = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    if _GROUP in both:
        starts = np.cumsum([0, *(int(part[_GROUP].max()) + 1 for part in parts)])
        shifted = [part[_GROUP] + start for part, start in zip(parts, starts, strict=False)]
        both[_GROUP] = np.concatenate(shifted).astype(np.int32)
    return both


def units(tensors: Tensors) -> Array:
    """Return what each row (n,) is dealt with: its list, or itself."""
    return np.asarray(tensors[_GROUP]) if _GROUP in tensors else np.arange(len(next(iter(tensors.values()))))


def deal(tensors: Tensors, validation_units: int, seed: int) -> tuple[Array, Array]:
    """Return the row numbers of a new validation and a new locked split, in rising order."""
    owner = units(tensors)
    drawn = np.random.default_rng(seed).permutation(np.unique(owner))
    is_validation = np.isin(owner, drawn[:validation_units])
    return np.flatnonzero(is_validation), np.flatnonzero(~is_validation)


@dataclass(frozen=True)
class Dealt:
    """One seed's recipe (its own split files) and both splits judged."""

    recipe: Recipe
    validation: Judged
    locked: Judged

    def picked(self, file: File, session: Session) -> Picked:
        """Measure a file on both splits."""
        validation = session_score(self.recipe, self.validation, session)
        locked = session_score(self.recipe, self.locked, session)
        size = (len(file.model), zstd_bytes(file.model))
        return Picked(file.name, *size, validation.loss_abs, validation.loss_high, locked.loss_abs)


def run_seed(case: Case, bench: Bench, pool: Pool, search: Search, seed: int, made_of: str) -> SeedResult:
    """Deal, search, choose the best uniform files by the same rule on the same rows, and measure all on locked rows."""
    started = time.perf_counter()
    scratch = case.root / "seeds" / f"scratch-{case.name}-{search.minimize}-{seed}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    (scratch / "variants").symlink_to((case.root / "variants").resolve())
    try:
        dealt = _dealt(bench, pool, scratch, seed)
        found = run_search(dealt.recipe, search, scratch)
        smallest = _best(dealt, pool, lambda item: (len(item.file.model), item.file.name), only_dense=True)
        fastest = _best(dealt, pool, lambda item: (item.latency_ratio, item.file.name), only_dense=True)
        any_variant = _best(dealt, pool, lambda item: (len(item.file.model), item.file.name), only_dense=False)
        session = _session(case.recipe, found.chosen)
        return SeedResult(
            made_of=made_of,
            model=case.name,
            seed=seed,
            searched=dealt.picked(found.chosen, session) if found.chosen and session else None,
            uniform=smallest and smallest[1],
            uniform_any_variant=any_variant and any_variant[1],
            latency_ratio=bench.latency_ratio(session, fastest[0].session) if session and fastest else None,
            latency_ratio_smallest=bench.latency_ratio(session, smallest[0].session) if session and smallest else None,
            seconds_search=round(found.seconds, 2),
            seconds=round(time.perf_counter() - started, 2),
            complete=found.complete,
            why=found.why,
        )
    finally:
        shutil.rmtree(scratch)


def _session(recipe: Recipe, file: File | None) -> Session | None:
    return None if file is None else open_session(file.record.format, file.model, recipe.serving.threads)


def _dealt(bench: Bench, pool: Pool, folder: Path, seed: int) -> Dealt:
    """Write a seed's splits and let the float reference answer them."""
    paths = {}
    for name, part in zip(("validation", "test"), deal(pool.tensors, pool.validation_units, seed), strict=True):
        paths[name] = folder / f"{name}.npz"
        write_atomic(paths[name], encode_npz({key: values[part] for key, values in pool.tensors.items()}))
    data = replace(bench.recipe.data, **{name: str(path) for name, path in paths.items()})
    recipe = replace(bench.recipe, data=data, seed=seed)
    return Dealt(recipe, *(judge_session(recipe, bench.reference, name, path) for name, path in paths.items()))


def _best(
    dealt: Dealt, pool: Pool, order: Callable[[Contender], tuple[float, str]], only_dense: bool
) -> tuple[Contender, Picked] | None:
    """Return the first uniform file, in ``order``, whose upper end of the loss meets the budget on validation rows."""
    for item in sorted(pool.contenders, key=order):
        if only_dense and item.file.record.variant != "dense":
            continue
        if session_score(dealt.recipe, dealt.validation, item.session).loss_high <= dealt.recipe.budgets.loss_max_abs:
            return item, dealt.picked(item.file, item.session)
    return None


def run_seeds(
    case: Case, bench: Bench, files: Iterable[File], search: Search, seeds: int, say: Say
) -> list[SeedResult]:
    """Return a result for every seed, from its file where it was done before."""
    made_of, results, pool = _made_of(case, search), [], None
    for seed in range(seeds):
        path = case.root / "seeds" / f"{case.name}-{search.minimize}-{seed:02}.json"
        result = read_result(path, made_of)
        if result is None:
            pool = pool or open_pool(bench, files)
            result = run_seed(case, bench, pool, search, seed, made_of)
            write_atomic(path, readable_json(plain(result)))
            say(f"{case.name} seed {seed}: {result.seconds} s, of which the search {result.seconds_search} s")
        results.append(result)
    return results


def read_result(path: Path, made_of: str) -> SeedResult | None:
    """Read a seed's result; None when there is none, or it is of other code, settings or exports."""
    if not path.exists():
        return None
    try:
        result = read(SeedResult, read_json(path, InternalError))
    except (SchemaProblems, InternalError):
        return None  # of another version of this benchmark
    return result if result.made_of == made_of else None


def _made_of(case: Case, search: Search) -> str:
    """Return the digest of all that a seed's result follows from: code, settings, exports and rows."""
    code = {str(path): sha256_file(path) for folder in _CODE for path in sorted(Path(folder).rglob("*.py"))}
    exports = [sha256_file(case.export(kind, variant)) for variant in case.recipe.variants for kind in Format]
    data = case.recipe.data
    rows = [sha256_file(Path(path)) for path in (data.calibration, data.validation, data.test)]
    return sha256_hex(canonical_json([code, exports, rows, plain(case.recipe), plain(search)]))


@dataclass(frozen=True)
class Summary:
    """Twenty seeds in one line; ``worst_overshoot`` is the largest locked loss beyond the budget, 0 for none."""

    model: str
    minimize: Minimize
    seeds: int
    none_found: int
    over_budget: int
    worst_overshoot: float
    uniform_over_budget: int
    bytes_saved_median: float | None
    bytes_saved_least: float | None
    bytes_saved_any_variant_median: float | None
    latency_ratio_median: float | None
    latency_ratio_smallest_median: float | None
    seconds_median: float


def summary(results: Sequence[SeedResult], minimize: Minimize, budget: float) -> Summary:
    """Count; bytes saved are shares of the best uniform file's bytes under the same seed."""
    over = [r.searched.loss_locked - budget for r in results if r.searched]
    saved = [1 - r.searched.bytes / r.uniform.bytes for r in results if r.searched and r.uniform]
    saved_any = [
        1 - r.searched.bytes / r.uniform_any_variant.bytes for r in results if r.searched and r.uniform_any_variant
    ]
    return Summary(
        model=results[0].model,
        minimize=minimize,
        seeds=len(results),
        none_found=sum(r.searched is None for r in results),
        over_budget=sum(each > 0 for each in over),
        worst_overshoot=round(max([0.0, *over]), 6),
        uniform_over_budget=sum(r.uniform.loss_locked > budget for r in results if r.uniform),
        bytes_saved_median=_median(saved),
        bytes_saved_least=round(min(saved), 4) if saved else None,
        bytes_saved_any_variant_median=_median(saved_any),
        latency_ratio_median=_median([r.latency_ratio for r in results if r.latency_ratio is not None]),
        latency_ratio_smallest_median=_median(
            [r.latency_ratio_smallest for r in results if r.latency_ratio_smallest is not None]
        ),
        seconds_median=_median([r.seconds for r in results]) or 0.0,
    )


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 4) if values else None
