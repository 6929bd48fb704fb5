"""``hotspare quantize``: every candidate that a recipe asks for, and those that its search finds."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from pipeline.commands.build.console import progress, show_json, show_table
from pipeline.compress.candidates import make_candidates
from pipeline.compress.search.fanout import open_backend
from pipeline.compress.search.pool import Effort, Watcher
from pipeline.core.errors import ModelError, UsageError
from pipeline.core.files import read_json
from pipeline.core.findings import FINDINGS_FILE, Findings
from pipeline.core.layout import candidates_dir
from pipeline.core.recipe import load_recipe
from pipeline.core.records import Candidates
from pipeline.core.schema import read

EXAMPLE = "hotspare quantize credit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model whose variants `hotspare prune` has made")
    parser.add_argument("--json", action="store_true", help="print the record of all candidates as JSON")
    add_backend_arguments(parser)


def add_backend_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where a search runs."""
    parser.add_argument("--backend", choices=["local", "ray"], default="local", help="where a search runs")
    parser.add_argument("--address", help="of the Ray cluster, e.g. 10.0.0.1:6379 or auto (default: one started here)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes of a local search (default: one a core)")


def run(args: argparse.Namespace) -> int:
    """Make the candidates and write ``artifacts/candidates/MODEL/``."""
    if args.workers is not None and args.workers < 1:
        raise UsageError(f"--workers {args.workers} cannot search; ask for 1 or more.")
    recipe = load_recipe(args.model)
    with watch_search(args.model) as watcher:
        made = make_candidates(
            recipe,
            lambda names: progress(names, f"{args.model}: quantizing"),
            backend=open_backend(args.backend, args.address, args.workers) if recipe.search else None,
            watcher=watcher,
        )
    if args.json:
        show_json(made)
    else:
        _show(made)
        if recipe.search:
            _show_findings(made.model)
    return 0


@contextmanager
def watch_search(model: str) -> Iterator[Watcher]:
    """Yield what shows a search: a bar on a terminal, and one line of what it took at the end, both on stderr."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    bar = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
    last = Effort("")
    task = None

    def show(effort: Effort) -> None:
        nonlocal last, task
        last = effort
        if task is None:
            bar.start()
            task = bar.add_task("", rate="")
        words = f"{model}: {effort.stage}"
        rate = f"{effort.files_a_minute:.0f} files/min  {effort.best}"
        bar.update(task, description=words, completed=effort.done, total=effort.total or None, rate=rate)

    try:
        yield show
    finally:
        bar.stop()
    if last.stage:
        console.print(f"{model}: {effort_line(last)}", highlight=False, soft_wrap=True)


def effort_line(effort: Effort) -> str:
    """Say what a search took."""
    kept = f", {effort.known:,} more were known from before" if effort.known else ""
    rate = f"{effort.files_a_minute:.0f} a minute"
    return f"{effort.made:,} real files made and measured in {effort.seconds:.1f} s ({rate}){kept}"


def _show(made: Candidates) -> None:
    folder = candidates_dir(made.model)
    rows = [
        (
            str(item.name),
            f"{(folder / item.file).stat().st_size:,}",
            f"{item.weight_bits_mean:.1f}",
            f"{item.quantized_ratio:.0%}",
            f"{item.sparsity_ratio:.0%}",
        )
        for item in made.candidates
    ]
    show_table(
        f"{made.model}: candidates in {folder}", ("candidate", "bytes", "bits/weight", "quantized", "zeros"), rows
    )
    for refused in made.refused:
        print(f"refused {refused.candidate}: {refused.reason}")


def _show_findings(model: str) -> None:
    path = candidates_dir(model) / FINDINGS_FILE
    for sentence in read(Findings, read_json(path, ModelError)).why:
        print(f"- {sentence}")
