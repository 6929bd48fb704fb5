"""``hotspare report MODEL``: write the one-page report of a model."""

import argparse
from pathlib import Path

from pipeline.commands.build.console import show_json
from pipeline.core.files import replacing_dir, write_atomic
from pipeline.core.findings import FINDINGS_FILE, Findings
from pipeline.core.layout import ARTIFACTS, candidates_dir, report_dir, selection_dir
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.core.records import CANDIDATES_FILE, Candidates, read_record
from pipeline.report.page import Facts, draw, render
from pipeline.score.selection import SELECTION_FILE, Selected
from pipeline.score.store import read_diagnoses, read_scored

EXAMPLE = "hotspare report credit"
PAGE_FILE = "index.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/")
    parser.add_argument("--json", action="store_true", help="print where the report is as JSON")


def run(args: argparse.Namespace) -> int:
    """Read the scorecards and the selection, and write ``index.html`` and its plots as pictures of their own."""
    path = write_report(load_recipe(args.model))
    if args.json:
        show_json({"report": str(path)})
    else:
        print(path)
    return 0


def write_report(recipe: Recipe, root: Path = ARTIFACTS) -> Path:
    """Write the report from what the stages wrote below ``root``, and return its path.

    Raises MissingStageError before ``score`` and ``select``.
    """
    facts = read_facts(recipe, root)
    plots = draw(facts)
    files = {PAGE_FILE: render(facts, plots), **plots}
    folder = report_dir(recipe.model, root)
    with replacing_dir(folder) as aside:
        for name, text in files.items():
            write_atomic(aside / name, text.encode("utf-8"))
    return folder / PAGE_FILE


def read_facts(recipe: Recipe, root: Path = ARTIFACTS) -> Facts:
    """Read all that a report tells; a search's findings and the diagnoses are told where they are."""
    model = recipe.model
    scored, cards = read_scored(model, root)
    selected = read_record(Selected, selection_dir(model, root) / SELECTION_FILE, f"select {model}")
    candidates = candidates_dir(model, root)
    made = read_record(Candidates, candidates / CANDIDATES_FILE, f"quantize {model}")
    findings = candidates / FINDINGS_FILE
    return Facts(
        recipe=recipe,
        scored=scored,
        cards=cards,
        selected=selected,
        diagnoses=read_diagnoses(model, scored, root),
        findings=read_record(Findings, findings, f"quantize {model}") if findings.is_file() else None,
        operators={str(item.name): item.operators for item in made.candidates},
    )
