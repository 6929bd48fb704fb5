"""``hotspare select MODEL``: pick the primary and the backup."""

import argparse
from pathlib import Path

from pipeline.commands.build.console import show_json, show_table
from pipeline.core.canonical import readable_json
from pipeline.core.errors import SelectionRefused
from pipeline.core.files import replacing_dir, write_atomic
from pipeline.core.layout import ARTIFACTS, candidates_dir, selection_dir
from pipeline.core.names import Role
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.core.records import CANDIDATES_FILE, Candidates, read_record, write_record
from pipeline.score.locked import locked_warnings, open_locked_test
from pipeline.score.scorecard import METRICS_FILE, TaskScore
from pipeline.score.selection import (
    SELECTION_FILE,
    Choice,
    NoChoice,
    Selected,
    Verdict,
    pair_warnings,
    preferences,
    select,
)
from pipeline.score.store import main_figures, read_scored

EXAMPLE = "hotspare select credit --explain"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/")
    parser.add_argument("--explain", action="store_true", help="print why each candidate won or lost")
    parser.add_argument("--json", action="store_true", help="print the selection as JSON")


def run(args: argparse.Namespace) -> int:
    """Decide on the scorecards, then open the locked test rows for the chosen two, and write both down."""
    recipe = load_recipe(args.model)
    choice, selected = _decide(recipe, ARTIFACTS)
    if args.json:
        show_json(selected)
    else:
        _show(recipe, choice, selected, explain=args.explain)
    return 0


def select_pair(recipe: Recipe, root: Path = ARTIFACTS) -> Selected:
    """Decide on the scorecards below ``root``, look at the locked rows, and write both down.

    Raises SelectionRefused with every reason when no pair meets the recipe, MissingStageError before ``score``.
    """
    return _decide(recipe, root)[1]


def _decide(recipe: Recipe, root: Path) -> tuple[Choice, Selected]:
    scored, cards = read_scored(recipe.model, root)
    choice = select(cards, scored.refused, recipe)
    if isinstance(choice, NoChoice):
        raise SelectionRefused(choice.summary, choice.reasons)
    selected = _look_at_locked_rows(recipe, choice, candidates_dir(recipe.model, root))
    _write(selection_dir(recipe.model, root), choice, selected)
    return choice, selected


def _look_at_locked_rows(recipe: Recipe, choice: Choice, folder: Path) -> Selected:
    candidates = read_record(Candidates, folder / CANDIDATES_FILE, f"quantize {recipe.model}")
    locked = open_locked_test(recipe, candidates, folder, choice)
    return Selected(
        model=recipe.model,
        primary=choice.primary.candidate,
        backup=choice.backup.candidate,
        verdicts=choice.verdicts,
        locked_test=locked,
        warnings=pair_warnings(choice) + locked_warnings(recipe, choice, locked),
    )


def _write(folder: Path, choice: Choice, selected: Selected) -> None:
    chosen = {Role.PRIMARY: choice.primary, Role.BACKUP: choice.backup}
    figures = {
        role.value: main_figures(card) | _locked_figures(selected.locked_test[role]) for role, card in chosen.items()
    }
    with replacing_dir(folder) as aside:
        write_record(aside / SELECTION_FILE, selected)
        write_atomic(aside / METRICS_FILE, readable_json(figures))


def _locked_figures(task: TaskScore) -> dict[str, float]:
    return {"test_" + task.metric.value: task.value, "test_loss_abs": task.loss_abs, "test_loss_high": task.loss_high}


def _show(recipe: Recipe, choice: Choice, selected: Selected, explain: bool) -> None:
    headers = ["role", "candidate", "preferred", recipe.metric.value, "loss up to", "bytes", "zstd", "p50 ms"]
    headers += ["locked test", "locked loss up to"]
    show_table(f"{recipe.model}: the pair", headers, [_cells(recipe, choice, selected, role) for role in Role])
    if explain:
        for verdict in sorted(selected.verdicts, key=_by_role):
            print(f"{verdict.candidate}: {verdict.role or ('not chosen' if verdict.eligible else 'out')}")
            print("".join(f"  - {reason}\n" for reason in verdict.reasons), end="")
    for warning in selected.warnings:
        print(f"warning: {warning}")


def _cells(recipe: Recipe, choice: Choice, selected: Selected, role: Role) -> list[str]:
    card = choice.primary if role is Role.PRIMARY else choice.backup
    locked = selected.locked_test[role]
    return [
        role.value,
        card.candidate,
        preferences(recipe)[role].value,
        f"{card.task.value:.4f}",
        f"{card.task.loss_high:+.4f}",
        f"{card.size.bytes:,}",
        f"{card.size.bytes_zstd:,}",
        f"{card.timings.latency_p50_ms:.3f}",
        f"{locked.value:.4f}",
        f"{locked.loss_high:+.4f}",
    ]


def _by_role(verdict: Verdict) -> tuple[int, str]:
    order = [Role.PRIMARY, Role.BACKUP, None]
    return order.index(verdict.role) + (not verdict.eligible), verdict.candidate
