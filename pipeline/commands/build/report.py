"""``hotspare report MODEL``: write the one-page report of a model."""

import argparse

from pipeline.commands.build.console import show_json
from pipeline.core.files import replacing_dir, write_atomic
from pipeline.core.layout import report_dir, selection_dir
from pipeline.core.recipe import load_recipe
from pipeline.core.records import read_record
from pipeline.report.page import Facts, render
from pipeline.score.selection import SELECTION_FILE, Selected
from pipeline.score.store import read_scored

EXAMPLE = "hotspare report credit"
PAGE_FILE = "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/")
    parser.add_argument("--json", action="store_true", help="print where the report is as JSON")


def run(args: argparse.Namespace) -> int:
    """Read the scorecards and the selection, and write ``index.html``."""
    recipe = load_recipe(args.model)
    scored, cards = read_scored(args.model)
    selected = read_record(Selected, selection_dir(args.model) / SELECTION_FILE, f"select {args.model}")
    page = render(Facts(recipe, scored, cards, selected))
    folder = report_dir(args.model)
    with replacing_dir(folder) as aside:
        write_atomic(aside / PAGE_FILE, page.encode("utf-8"))
    if args.json:
        show_json({"report": str(folder / PAGE_FILE)})
    else:
        print(f"{folder / PAGE_FILE}")
    return 0
