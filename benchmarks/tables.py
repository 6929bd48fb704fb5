"""What was measured of each model, kept in a file a model, and the one table of them all."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from measuring import Row
from seeds import Summary

from pipeline.commands.build.console import show_json, show_table
from pipeline.core.canonical import readable_json
from pipeline.core.errors import InternalError
from pipeline.core.files import read_json, write_atomic
from pipeline.core.recipe import Minimize, Search
from pipeline.core.schema import SchemaProblems, plain, read

HEADERS = ("model · tool", "file", "bytes", "zstd", "× float", "loss", "at most", "locked", "latency ×", "in budget")
SEED_HEADERS = (
    "model", "deals / searches", "none found", "saved (median)", "saved (least)", "saved, any variant (median)",
    "saved, any variant (least)", "over budget", "worst over", "uniform over", "uniform worst over",
    "latency × (median)", "latency × (most)", "latency ×, any variant", "s a deal",
)  # fmt: skip
READ = (
    "*loss*, *at most* (upper end of its 90 % interval, or the recipe's level) and *in budget* are on validation rows, "
    "*locked* is the loss on rows that nothing was chosen by. *latency ×* is against the float tflite export.",
    "Best uniform: the best file in one scheme (f16 w8 w8d w8a8 w8a16 w4 w4d w4b32, tflite or onnx) that is certified "
    "at the level at which the search had to certify its own choice.",
)
READ_SEEDS = (
    "Each deal puts the rows of validation and test into new splits. What a search measures comes from exports and "
    "calibration rows, so each search was run once (its seed: *searches*) and certified anew, without a clock, under "
    "each deal; deals share these rows and are not independent data sets.",
    "*saved* is against the best uniform scheme of the dense model (or of any variant) under the same deal; *over "
    "budget* counts the deals whose chosen file lost more than the budget on locked rows.",
)


@dataclass(frozen=True)
class Measurements:
    """All that was measured of one model; ``made_of`` is the digest of what it follows from."""

    model: str
    made_of: str
    machine: str
    tools: dict[str, str]
    search: Search
    loss_max_abs: float
    confidence: float
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    seeds: Summary | None = None


def path_of(out: Path, minimize: Minimize, model: str) -> Path:
    """Return the file that a model's measurements are kept in."""
    return out / "measured" / f"{minimize}-{model}.json"


def keep(out: Path, one: Measurements) -> None:
    """Write a model's measurements."""
    write_atomic(path_of(out, one.search.minimize, one.model), readable_json(plain(one)))


def recall(out: Path, minimize: Minimize, model: str) -> Measurements | None:
    """Read a model's measurements; None when there are none that this version can read."""
    path = path_of(out, minimize, model)
    if not path.exists():
        return None
    try:
        return read(Measurements, read_json(path, InternalError))
    except (SchemaProblems, InternalError):
        return None


def combined(out: Path, minimize: Minimize, models: Sequence[str]) -> tuple[Measurements, ...]:
    """Return what is known of all models, whichever run measured it."""
    return tuple(one for model in models if (one := recall(out, minimize, model)) is not None)


def show(found: Sequence[Measurements], code: str, as_json: bool) -> None:
    """Print the tables, or JSON."""
    if as_json:
        show_json([plain(one) for one in found])
        return
    show_table(title(found), HEADERS, (cells(row) for one in found for row in one.rows))
    if any(one.seeds for one in found):
        show_table("Rows dealt anew", SEED_HEADERS, (seed_cells(one.seeds) for one in found if one.seeds))
    for note in notes(found, code):
        print(note)


def title(found: Iterable[Measurements]) -> str:
    """Return the budgets and what was minimized."""
    found = tuple(found)
    budgets = ", ".join(f"{one.model} {one.loss_max_abs:g}" for one in found)
    return f"Loss budgets: {budgets}. Minimized: {', '.join(sorted({str(one.search.minimize) for one in found}))}."


def notes(found: Sequence[Measurements], code: str) -> Iterator[str]:
    """Yield how to read the tables, and what was left out; ``code`` is the digest of the code that runs now."""
    yield from READ
    if any(one.seeds for one in found):
        yield from READ_SEEDS
    for one in found:
        if not one.made_of.startswith(code):
            yield f"{one.model}: measured by an earlier version of the code."
    yield from dict.fromkeys(note for one in found for note in one.notes)


def cells(row: Row) -> tuple[str, ...]:
    """Return a row in words, in the order of ``HEADERS``."""
    head = (f"{row.model} · {row.tool}", row.file)
    if row.problem:
        return (*head, *([""] * (len(HEADERS) - 3)), row.problem)
    sizes = (f"{row.bytes:,}", f"{row.bytes_zstd:,}", f"{row.bytes_ratio:.3f}")
    losses = (f"{row.loss:+.4f}", f"{row.loss_high:+.4f}", f"{row.loss_locked:+.4f}")
    return (*head, *sizes, *losses, f"{row.latency_ratio:.2f}", "yes" if row.within else "no")


def seed_cells(summary: Summary) -> tuple[str, ...]:
    """Return a summary in words, in the order of ``SEED_HEADERS``."""
    shares = (
        summary.saved_median,
        summary.saved_least,
        summary.saved_any_variant_median,
        summary.saved_any_variant_least,
    )
    ratios = (summary.latency_ratio_median, summary.latency_ratio_most, summary.latency_ratio_any_variant_median)
    return (
        summary.model,
        f"{summary.deals} / {summary.search_seeds}",
        str(summary.none_found),
        *("–" if share is None else f"{share:.1%}" for share in shares),
        str(summary.over_budget),
        f"{summary.worst_overshoot:.4f}",
        f"{summary.uniform_over_budget} of {summary.deals - summary.no_uniform}",
        f"{summary.uniform_worst_overshoot:.4f}",
        *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        f"{summary.seconds_median:.1f}",
    )


def markdown(found: Sequence[Measurements], code: str) -> str:
    """Return the tables as Markdown for the docs."""
    machines = ", ".join(dict.fromkeys(one.machine for one in found))
    versions = ", ".join(dict.fromkeys(f"{name} {number}" for one in found for name, number in one.tools.items()))
    parts = [f"Measured on {machines}; {versions}. {title(found)}", ""]
    parts += [*_markdown_table(HEADERS, (cells(row) for one in found for row in one.rows)), ""]
    if any(one.seeds for one in found):
        parts += [*_markdown_table(SEED_HEADERS, (seed_cells(one.seeds) for one in found if one.seeds)), ""]
    return "\n".join([*parts, *(f"- {note}" for note in notes(found, code)), ""])


def _markdown_table(headers: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(headers) - 1)])}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
