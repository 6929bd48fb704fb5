"""The choice in words: why this one, what lost and why, what more rows could decide; pure."""

from collections.abc import Iterator, Sequence

from pipeline.compress.search.certifying import Certificate, Verdict
from pipeline.compress.search.choosing import Kept
from pipeline.compress.search.pool import Point
from pipeline.compress.search.proposing import FLOAT, Cost
from pipeline.core.recipe import Minimize, Recipe
from pipeline.score.scoring import units_needed


def why(
    recipe: Recipe, certificates: Sequence[Certificate], kept: Sequence[Kept], cost: Cost, complete: bool
) -> tuple[str, ...]:
    """Return the sentences of a whole search, the choice first."""
    return tuple(_sentences(recipe, certificates, kept, cost, complete))


def _sentences(
    recipe: Recipe, certificates: Sequence[Certificate], kept: Sequence[Kept], cost: Cost, complete: bool
) -> Iterator[str]:
    if kept:
        yield _choice(recipe, certificates, kept[0])
        yield from _next_smaller(recipe, certificates, kept[0])
    else:
        yield (
            f"No file better than the float models is certified to lose at most {recipe.budgets.loss_max_abs:g} "
            f"{recipe.metric}; the candidates are the schemes that the recipe names."
        )
        for one in certificates:
            yield from _first_failure(recipe, one)
    for other in certificates:
        if not kept or other.family != kept[0].family:
            yield from _other_family(recipe, other, kept, cost)
    if len(certificates) > 1:
        strictest = max(one.confidence for one in certificates)
        yield (
            f"{len(certificates)} families of files were in the race, the most promising ones tested first and others "
            f"at a higher level (up to {_percent(strictest)}): the chance that any certified file is over the budget "
            f"is at most {_percent(1 - recipe.budgets.confidence)}, as the recipe allows."
        )
    if not complete:
        yield "The time ran out first: more seconds (search.seconds_max) may find a better file."


def _choice(recipe: Recipe, certificates: Sequence[Certificate], best: Kept) -> str:
    figures = best.point.figures
    verdict = _verdict(certificates, best.point)
    high = verdict.task.loss_high if verdict is not None and verdict.task is not None else 0.0
    save = 1 - figures.bytes / len(best.family.export.model)
    return (
        f"{best.name} is the {_WORDS[recipe.search.minimize] if recipe.search else 'smallest'} file whose "
        f"{recipe.metric} loss is certified to be within the budget {recipe.budgets.loss_max_abs:g}: at most {high:g}. "
        f"It has {figures.bytes:,} bytes, {save:.0%} less than its float export"
        f"{_latency(recipe, figures.latency_ratio)}; {mends(best.point)}."
    )


def mends(point: Point) -> str:
    """Say how a file's layers are stored and what was mended at no bytes."""
    build = point.build
    if build.uniform is not None:
        layers = f"every layer in {build.uniform}"
    else:
        counts = {scheme: sum(1 for _, one in build.assignment if one == scheme) for _, scheme in build.assignment}
        layers = "layers in " + ", ".join(f"{scheme} ({counts[scheme]})" for scheme in sorted(counts))
    if build.clipping != "none":
        layers += f", rare activations cut off by {build.clipping}"
    return layers + (", biases corrected" if build.corrected else "")


def _next_smaller(recipe: Recipe, certificates: Sequence[Certificate], best: Kept) -> Iterator[str]:
    for one in certificates:
        if one.family == best.family:
            yield from _first_failure(recipe, one)
            if not any(not item.certified for item in one.verdicts) and len(one.verdicts) == len(one.chain):
                yield f"Nothing better was found for {one.family.words}: its whole front is within the budget."


def _first_failure(recipe: Recipe, one: Certificate) -> Iterator[str]:
    failed = next((item for item in one.verdicts if not item.certified and item.point.build != FLOAT), None)
    if failed is None:
        return
    size = f"The next file of {one.family.words}, {failed.point.figures.bytes:,} bytes,"
    if failed.task is None:
        yield f"{size} could not be judged: {failed.why}"
        return
    task, budget = failed.task, recipe.budgets.loss_max_abs
    needed = units_needed(task, budget)
    kind = "lists" if recipe.metric.is_ranking else "rows"
    if needed is None:
        yield f"{size} lost {task.loss_abs:g}, over the budget whatever the number of {kind}."
    else:
        yield (
            f"{size} lost {task.loss_abs:g} but may lose up to {task.loss_high:g}; "
            f"about {needed:,} validation {kind} in place of {task.units or task.rows:,} could settle it."
        )


def _other_family(recipe: Recipe, other: Certificate, kept: Sequence[Kept], cost: Cost) -> Iterator[str]:
    stored = [point for point in other.certified if point.build.schemes]
    if other.words:
        yield f"{other.family.words}: {other.words}."
    elif stored and kept:
        smallest = min(stored, key=lambda point: cost(point.figures))
        yield f"{other.family.words} lost to it: its best certified file has {_figure(recipe, smallest)}."
    elif kept:
        yield f"{other.family.words} has no file beside its float export that is certified."


def _figure(recipe: Recipe, point: Point) -> str:
    figures = point.figures
    minimize = recipe.search.minimize if recipe.search else Minimize.BYTES
    if minimize is Minimize.LATENCY and figures.latency_ratio is not None:
        return f"{figures.latency_ratio:.2f} × the float reference's latency"
    if minimize is Minimize.BYTES_ZSTD and figures.bytes_zstd is not None:
        return f"{figures.bytes_zstd:,} bytes compressed"
    return f"{figures.bytes:,} bytes"


def _verdict(certificates: Sequence[Certificate], point: Point) -> Verdict | None:
    return next((item for one in certificates for item in one.verdicts if item.point == point), None)


def _latency(recipe: Recipe, ratio: float | None) -> str:
    """Speak of time only where it decided: otherwise two runs of one search would use different words."""
    decided = recipe.search is not None and recipe.search.minimize is Minimize.LATENCY
    return f", and takes {ratio:.2f} × the float reference's time" if decided and ratio is not None else ""


def _percent(confidence: float) -> str:
    return f"{confidence:.1%}"


_WORDS = {
    Minimize.BYTES: "smallest",
    Minimize.BYTES_ZSTD: "smallest (compressed)",
    Minimize.LATENCY: "fastest",
    Minimize.RSS: "leanest in memory",
}
