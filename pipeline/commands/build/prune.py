"""``hotspare prune``: one variant of a model, fine-tuned where it needs it, exported as float tflite and onnx."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from pipeline.commands.build.console import show_json, show_table
from pipeline.compress.job import Step
from pipeline.compress.variants import make_variant
from pipeline.core.layout import variant_dir
from pipeline.core.recipe import load_recipe
from pipeline.core.records import VariantRecord

EXAMPLE = "hotspare prune credit p50"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model with a recipe in recipes/models/")
    parser.add_argument("variant", metavar="VARIANT", help="a variant of its recipe: dense, p50, p24, qat …")
    parser.add_argument("--json", action="store_true", help="print the variant's record as JSON")


def run(args: argparse.Namespace) -> int:
    """Make the variant and write ``artifacts/variants/MODEL/VARIANT/``."""
    recipe = load_recipe(args.model)
    with watch_steps(f"{args.model} {args.variant}") as on_step:
        record = make_variant(recipe, args.variant, on_step)
    if args.json:
        show_json(record)
    else:
        _show(record)
    return 0


@contextmanager
def watch_steps(title: str) -> Iterator[Callable[[Step], None]]:
    """Show steps as a bar on standard error when it is a terminal, else not at all."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task(f"{title}: starting TensorFlow", total=None)

        def on_step(step: Step) -> None:
            bar.update(task, description=f"{title}: {_told(step)}", completed=step.done, total=step.total)

        yield on_step


def _told(step: Step) -> str:
    """Return what a person wants to know of a step: what is done, the loss, and how long the rest takes."""
    loss = "" if step.loss is None else f", loss {step.loss:.4g}"
    left = "" if step.seconds_left is None else f", {timedelta(seconds=round(step.seconds_left))} left"
    return f"{step.doing}{loss}{left}"


def _show(record: VariantRecord) -> None:
    rows = [
        (
            f"{variant_dir(record.model, record.variant) / export.file}",
            f"{export.max_abs_diff:.1e}",
            str(export.rows_checked),
        )
        for export in record.exports.values()
    ]
    title = f"{record.model} {record.variant}: {record.sparsity_ratio:.1%} zeros, by {record.made_by}"
    show_table(title, ("export", "largest difference", "rows checked"), rows)
