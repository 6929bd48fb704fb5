"""``hotspare quantize``: every candidate that a recipe asks for."""

import argparse

from pipeline.commands.build.console import progress, show_json, show_table
from pipeline.compress.candidates import make_candidates
from pipeline.core.layout import candidates_dir
from pipeline.core.recipe import load_recipe
from pipeline.core.records import Candidates

EXAMPLE = "hotspare quantize credit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a model whose variants `hotspare prune` has made")
    parser.add_argument("--json", action="store_true", help="print the record of all candidates as JSON")


def run(args: argparse.Namespace) -> int:
    """Make the candidates and write ``artifacts/candidates/MODEL/``."""
    made = make_candidates(load_recipe(args.model), lambda names: progress(names, f"{args.model}: quantizing"))
    if args.json:
        show_json(made)
    else:
        _show(made)
    return 0


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
