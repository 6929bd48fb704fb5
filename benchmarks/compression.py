"""hotspare's search beside other tools on the same models, rows and budget: ``python benchmarks/compression.py``.

Run it in the project's folder after ``make repro`` (it needs ``artifacts/trained``) and with Debian's package
``dataset-fashion-mnist``. Everything is written below ``--out``. Each printed number is measured in the run, but for
seeds that an earlier, killed run of the same code has finished; trained models and variants of earlier runs are used
again, too. ``--fresh`` keeps nothing. ``--seeds 20`` deals validation and locked rows anew twenty times and counts how
often the chosen file is over the budget on locked rows.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import seeds as other_seeds
from cases import EXTRA, MODELS, Case, load_case
from measuring import Bench, Row, open_bench
from rivals import Rival, all_rivals
from searching import File, make_uniform, run_search
from seeds import Summary, run_seeds

from pipeline.commands.build.console import show_json, show_table
from pipeline.core.canonical import readable_json
from pipeline.core.files import write_atomic
from pipeline.core.names import Format
from pipeline.core.recipe import Minimize, Search
from pipeline.core.schema import plain

OUT = Path("artifacts/benchmarks/compression")
OLIVE_PACKAGES = ("olive-ai", "onnxruntime", "requests")  # Olive imports requests without declaring it
TOOLS = ("tensorflow", "ai-edge-quantizer", "ai-edge-litert", "onnxruntime")
HEADERS = ("model · tool", "file", "bytes", "zstd", "× float", "loss", "at most", "locked", "latency ×", "in budget")
SEED_HEADERS = (
    "model", "seeds", "none found", "over budget", "worst over", "saved (median)", "saved (least)",
    "saved, any variant", "latency × fastest", "latency × smallest", "uniform over", "s a seed",
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All that one run measured."""

    machine: str
    tools: dict[str, str]
    search: Search
    loss_max_abs: dict[str, float]
    rows: tuple[Row, ...]
    seeds: tuple[Summary, ...]
    notes: tuple[str, ...]


def main() -> None:
    """Measure every model, then print and write the table."""
    args = arguments()
    search = Search(args.minimize, seconds_max=args.seconds)
    olive_python, notes = (None, []) if args.no_rivals else olive_environment(args)
    if args.fresh:
        for folder in ("seeds", "trained", "variants"):
            shutil.rmtree(args.out / folder, ignore_errors=True)
    report = Report(machine(), tools(), search, {}, (), (), tuple(notes))
    for name in args.models:
        case = load_case(name, args.out, args.epochs, args.extra, say)
        bench = open_bench(case)
        files, refused = make_uniform(case.recipe, case.root)
        others = () if args.no_rivals else all_rivals(case, olive_python)
        report = replace(
            report,
            loss_max_abs={**report.loss_max_abs, name: case.recipe.budgets.loss_max_abs},
            rows=(*report.rows, *table_of(case, bench, files, search, others)),
            notes=(*report.notes, *told(name, refused)),
        )
        write(report, args)
        if args.seeds:
            results = run_seeds(case, bench, files, replace(search, seconds_max=args.seed_seconds), args.seeds, say)
            summary = other_seeds.summary(results, search.minimize, report.loss_max_abs[name])
            report = replace(report, seeds=(*report.seeds, summary))
            write(report, args)
    show(report, args.json)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--extra", nargs="*", default=EXTRA, metavar="VARIANT", help="beside the recipe's own variants")
    parser.add_argument("--minimize", type=Minimize, choices=list(Minimize), default=Minimize.BYTES)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the search in the table, at most (120)")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="deal the rows anew N times")
    parser.add_argument("--seed-seconds", type=float, default=60.0, help="of the search under each seed, at most (60)")
    parser.add_argument("--fresh", action="store_true", help="keep nothing of earlier runs: models, variants, seeds")
    parser.add_argument(
        "--olive-python", type=Path, help="interpreter that has Olive; otherwise one is made below --out"
    )
    parser.add_argument("--no-olive", action="store_true", help="leave Olive out (its environment takes 5 GB)")
    parser.add_argument("--no-rivals", action="store_true", help="leave every other tool out")
    parser.add_argument("--epochs", type=int, default=6, help="of training the Fashion-MNIST network (6)")
    parser.add_argument("--out", type=Path, default=OUT, help=f"folder for all that is made ({OUT})")
    parser.add_argument("--markdown", type=Path, help="file for the table as Markdown (by default in --out)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser.parse_args()


def write(report: Report, args: argparse.Namespace) -> None:
    """Write what is measured so far, as Markdown and as JSON."""
    name = str(report.search.minimize)
    write_atomic(args.markdown or args.out / f"{name}.md", markdown(report).encode())
    write_atomic(args.out / f"{name}.json", readable_json(plain(report)))


def told(model: str, refused: Mapping[str, str]) -> Iterator[str]:
    """Yield, for each reason, which uniform candidates it kept from being made."""
    for reason in dict.fromkeys(refused.values()):
        names = ", ".join(name for name, why in refused.items() if why == reason)
        yield f"{model}: not made: {names}: {reason}"


def say(text: str) -> None:
    """Tell how far it is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def olive_environment(args: argparse.Namespace) -> tuple[Path | None, list[str]]:
    """Return an interpreter that has Olive, made on demand (it wants other versions of our packages), or why not."""
    if args.no_olive:
        return None, ["Olive was left out: --no-olive."]
    if args.olive_python:
        return args.olive_python, []
    folder = args.out / "olive-env"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        say(f"making an environment for Olive in {folder}: a download of 3 GB")
        uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
        make = [uv, "venv", "--clear", str(folder)] if uv else [sys.executable, "-m", "venv", "--clear", str(folder)]
        pip = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
        for command in (make, [*pip, *OLIVE_PACKAGES]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return None, [
                    f"Olive was skipped, it could not be installed: {(done.stderr.strip() or '?').splitlines()[-1]}"
                ]
        (folder / "ready").touch()
    return python, []


def table_of(
    case: Case, bench: Bench, files: Sequence[File], search: Search, others: Iterator[Rival] | Sequence[Rival]
) -> Iterator[Row]:
    """Yield a model's rows: the float exports, every rival, hotspare's best uniform files, the searched one."""
    for kind in Format:
        yield bench.row("float", f"dense.f32 {kind}", kind, case.export(kind).read_bytes())
    for rival in others:
        say(f"{case.name}: {rival.tool}")
        yield (
            Row(case.name, rival.tool, problem=rival.problem)
            if rival.model is None
            else bench.row(rival.tool, str(rival.format), rival.format, rival.model)
        )
    uniform = {file.name: bench.row("hotspare uniform", file.name, file.record.format, file.model) for file in files}
    dense = [uniform[file.name] for file in files if file.record.variant == "dense"]
    yield best(dense, "hotspare best uniform, float weights", case.name, search.minimize)
    yield best(list(uniform.values()), "hotspare best uniform, any variant", case.name, search.minimize)
    say(f"{case.name}: searching for at most {search.seconds_max:g} s")
    found = run_search(case.recipe, search, searching_root(case))
    tool = f"hotspare search, {found.seconds:.0f} s"
    if found.chosen is None:
        yield Row(case.name, tool, problem=" ".join(found.why))
    else:
        yield bench.row(tool, found.chosen.name, found.chosen.record.format, found.chosen.model)


def searching_root(case: Case) -> Path:
    """Return an emptied folder for one search, with the case's exports in it: nothing of an earlier search helps."""
    root = case.root / "search"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    (root / "variants").symlink_to((case.root / "variants").resolve())
    return root


def best(rows: Sequence[Row], tool: str, model: str, minimize: Minimize) -> Row:
    """Return the best row within the budget; the figure that the search minimizes decides (resident memory: bytes)."""
    within = [row for row in rows if row.within]
    if not within:
        return Row(model, tool, problem="no uniform scheme meets the budget")
    figure = {Minimize.LATENCY: "latency_ratio", Minimize.BYTES_ZSTD: "bytes_zstd"}.get(minimize, "bytes")
    return replace(min(within, key=lambda row: (getattr(row, figure), row.file)), tool=tool)


def machine() -> str:
    """Name the processor and how many there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {os.cpu_count()} logical processors"


def tools() -> dict[str, str]:
    """Return the versions of the tools compared."""
    return {name: version(name) for name in TOOLS}


def show(report: Report, as_json: bool) -> None:
    """Print the report."""
    if as_json:
        show_json(report)
        return
    budgets = ", ".join(f"{model} {loss:g}" for model, loss in report.loss_max_abs.items())
    show_table(f"Loss budgets: {budgets}. Minimized: {report.search.minimize}", HEADERS, map(cells, report.rows))
    if report.seeds:
        show_table("Rows dealt anew", SEED_HEADERS, map(seed_cells, report.seeds))
    for note in report.notes:
        print(note)


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
    shares = (summary.bytes_saved_median, summary.bytes_saved_least, summary.bytes_saved_any_variant_median)
    ratios = (summary.latency_ratio_median, summary.latency_ratio_smallest_median)
    return (
        summary.model,
        str(summary.seeds),
        str(summary.none_found),
        str(summary.over_budget),
        f"{summary.worst_overshoot:.4f}",
        *("–" if share is None else f"{share:.1%}" for share in shares),
        *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
        str(summary.uniform_over_budget),
        f"{summary.seconds_median:.0f}",
    )


def markdown(report: Report) -> str:
    """Return the report as Markdown for the docs."""
    versions = ", ".join(f"{name} {number}" for name, number in report.tools.items())
    budgets = ", ".join(f"{model} {loss:g}" for model, loss in report.loss_max_abs.items())
    parts = [
        f"Measured on {report.machine}; {versions}. Loss budgets: {budgets}. Minimized: {report.search.minimize}.",
        "",
    ]
    parts += [*_markdown_table(HEADERS, map(cells, report.rows)), ""]
    if report.seeds:
        parts += [*_markdown_table(SEED_HEADERS, map(seed_cells, report.seeds)), ""]
    return "\n".join([*parts, *(f"- {note}" for note in report.notes), ""])


def _markdown_table(headers: Sequence[str], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(headers)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(headers) - 1)])}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


if __name__ == "__main__":
    main()
