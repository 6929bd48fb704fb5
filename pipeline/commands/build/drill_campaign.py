"""``hotspare drill [MODEL] --campaign NAME``: the matrix, its comparison with the last one, the weakest moments."""

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from pipeline import __version__
from pipeline.bundle.verify import VerifiedBundle
from pipeline.commands.build.console import progress, show_json, show_table
from pipeline.core import layout
from pipeline.core.clock import to_text, utc_now
from pipeline.core.errors import DrillFailed, FileAccess, UsageError
from pipeline.core.files import disk_errors, read_bytes, write_atomic
from pipeline.core.names import Role
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.core.schema import SchemaProblems, read
from pipeline.drill.campaign import Ground, Runs, Todo, code_sha256, play_all
from pipeline.drill.campaign_recipe import Campaign, Cell, cells, load_campaign, varied
from pipeline.drill.campaign_results import (
    PREVIOUS_FILE,
    RESULT_FILE,
    CampaignResult,
    CellResult,
    cell_result,
    compare,
)
from pipeline.drill.machine import machine_facts
from pipeline.drill.nouns import Script
from pipeline.drill.play import World
from pipeline.drill.results import Play
from pipeline.drill.simulated.world import simulate
from pipeline.drill.strategies import HEADERS, Strategy, cells_of, compared, markdown
from pipeline.drill.weakest import WeakMoment, weakest
from pipeline.report.campaign_page import render_campaign
from pipeline.report.drill_words import milliseconds

PAGE_FILE = "index.html"
STRATEGIES_FILE = "strategies.md"
WEAKEST = "weakest"
LOCK_FILE = ".lock"

PlayerOf = Callable[[Recipe, World], Play]
BundlesOf = Callable[[str], Mapping[Role, VerifiedBundle]]


def hold_campaign(
    args: argparse.Namespace, scripts: Sequence[Script], player_of: PlayerOf, bundles_of: BundlesOf
) -> int:
    """Hold a campaign for one model, or for all that it names; what was missed is told last, with an exit code."""
    if args.script or args.repeats != 1 or args.out is not None:
        raise UsageError("A campaign names its own scripts, repeats and folder; leave out --script, --repeats, --out.")
    campaign, world = load_campaign(args.campaign, scripts), World(args.world)
    models = [load_recipe(model) for model in ((args.model,) if args.model else campaign.models)]
    pairs = {one.model: bundles_of(one.model) for one in models}  # all of them before the first minute is spent
    chosen = cells(campaign, scripts)
    found: tuple[WeakMoment, ...] | None = None  # searched once, after the first plays: no call repeats it in vain
    results = []
    for recipe in models:
        folder = layout.campaign_dir(args.campaign, recipe.model, is_live=world is World.LIVE)
        with _alone(folder):
            ground = _ground(recipe, world, pairs[recipe.model])
            runs = _held(folder, ground, chosen, player_of(recipe, world), args.fresh)
            found = _weakest(campaign, scripts) if found is None else found
            results.append(_finished(args.campaign, campaign, recipe, ground, runs, chosen, found, folder))
        if not args.json:
            _show(results[-1], folder)
    if args.json:
        show_json(results)
    return _verdict(args.campaign, results)


def _verdict(name: str, results: Sequence[CampaignResult]) -> int:
    missed = [f"{one.model}: {miss}" for one in results for miss in one.misses]
    if missed:
        raise DrillFailed(f"The campaign {name} missed an objective, or something became worse.", missed)
    return 0


def _ground(recipe: Recipe, world: World, bundles: Mapping[Role, VerifiedBundle]) -> Ground:
    ids = {role.value: bundle.bundle_id for role, bundle in bundles.items()}
    machine = machine_facts() if world is World.LIVE else {}
    return Ground(world.value, ids, recipe.objectives, recipe.drills, code_sha256(), machine)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold a campaign's folder; raises UsageError while another call holds it."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("ab")
    with lock:
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"Another call holds this campaign in {folder}; wait until it ends.") from error
        yield


def _held(folder: Path, ground: Ground, chosen: Sequence[Cell], play: Play, is_fresh: bool) -> Runs:
    """Play what is left of an interrupted campaign; after a finished one, a new one begins."""
    runs = Runs(folder, ground, chosen)
    last = _last(folder)
    if is_fresh or (last is not None and last.runs_sha256 == runs.digest()):
        runs.forget()
    else:
        runs.recall()
    play_all(runs, play, _watch)
    return runs


def _watch(todo: Sequence[Todo]) -> Iterable[Todo]:
    return progress(todo, "drilling")


def _last(folder: Path) -> CampaignResult | None:
    """Return the last finished campaign; None where there is none, or of another version of this file."""
    path = folder / RESULT_FILE
    if not path.exists():
        return None
    try:
        return read(CampaignResult, json.loads(read_bytes(path, FileAccess)))
    except (ValueError, SchemaProblems):
        return None


def _finished(
    name: str,
    campaign: Campaign,
    recipe: Recipe,
    ground: Ground,
    runs: Runs,
    chosen: Sequence[Cell],
    found: tuple[WeakMoment, ...],
    folder: Path,
) -> CampaignResult:
    """Sum up, compare, write; the result's own file comes last, and makes the campaign a finished one."""
    last = _last(folder)
    ended_at = to_text(utc_now())
    result = CampaignResult(
        schema_version=1,
        campaign=name,
        about=campaign.about,
        model=recipe.model,
        world="live" if ground.world == World.LIVE else "simulated",
        ended_at=ended_at,
        made_by=f"hotspare {__version__}",
        bundles={Role(role): bundle_id for role, bundle_id in ground.bundles.items()},
        runs_sha256=runs.digest(),
        cells=tuple(cell_result(cell, runs.of(cell)) for cell in chosen),
        strategies=_strategies(campaign, chosen, runs),
        weakest=found,
        machine=machine_facts(),
    )
    if last is not None:
        result = result.against(compare(last, result))
        write_atomic(folder / PREVIOUS_FILE, last.to_bytes())
    write_atomic(folder / PAGE_FILE, render_campaign(result).encode())
    write_atomic(folder / STRATEGIES_FILE, _markdown(result).encode())
    for one in found:
        write_atomic(folder / WEAKEST / f"{one.name}.drill", one.script.encode())
    write_atomic(folder / RESULT_FILE, result.to_bytes())
    return result


def _strategies(campaign: Campaign, chosen: Sequence[Cell], runs: Runs) -> dict[str, tuple[Strategy, ...]]:
    """Return a table for each matrix that has several strategies."""
    tables = {}
    for name, matrix in campaign.matrices.items():
        plays = {
            strategy: [
                repeat.measures
                for cell in chosen
                if name in cell.matrices and cell.strategy == strategy
                for repeat in runs.of(cell)
            ]
            for strategy in matrix.strategies
        }
        if len(plays) > 1:
            tables[name] = compared(plays, campaign.strategies)
    return tables


def _weakest(campaign: Campaign, scripts: Sequence[Script]) -> tuple[WeakMoment, ...]:
    search = campaign.weakest
    if search is None:
        return ()
    by_name = {one.name: one for one in scripts}
    asked = [(drill, strategy) for drill in search.drills for strategy in search.strategies]
    return tuple(
        weakest(varied(by_name[drill], campaign.overrides(strategy)), strategy, simulate, search.plays_max, search.seed)
        for drill, strategy in progress(asked, "searching the weakest moments")
    )


def _markdown(result: CampaignResult) -> str:
    titled = (f"{result.model}, {name}:\n\n{markdown(rows)}" for name, rows in result.strategies.items())
    return "\n".join(titled)


def _show(result: CampaignResult, folder: Path) -> None:
    title = f"{result.campaign} of {result.model}: {result.plays} plays in the {result.world} world"
    headers = ["cell", "verdict", "plays", "restored", "redundant", "worst", "lost", "wrong"]
    show_table(title, headers, map(_row, result.cells))
    for name, rows in result.strategies.items():
        show_table(f"{name}: ▸ is beaten by no other in everything", HEADERS, map(cells_of, rows))
    for one in result.weakest:
        print(f"weakest moment of {one.name}: {one.when}; {_found(one)}")
    if result.weakest:
        print(f"\n{max(result.weakest, key=lambda one: one.badness).script}")
    if result.comparison is not None:
        told = result.comparison
        print(
            f"Against the campaign of {told.last_ended_at}: {told.cells} cells alike, {len(told.regressed)} worse, "
            f"{len(told.improved)} better{'' if told.is_like_machine else '; times aside, on another machine'}."
        )
    print(folder / PAGE_FILE)


def _found(one: WeakMoment) -> str:
    """Return what was found, each figure with that of the drill as it is written."""
    restored = "never restored" if one.rto_ms is None else f"restored after {milliseconds(one.rto_ms)}"
    before = "never" if one.rto_ms_written is None else milliseconds(one.rto_ms_written)
    worst = f"{milliseconds(one.worst_ms)} ({milliseconds(one.worst_ms_written)})"
    lost = f"lost {one.lost} ({one.lost_written}), wrong {one.wrong} ({one.wrong_written})"
    return f"{restored} (as written {before}), worst answer {worst}, {lost}"


def _row(cell: CellResult) -> tuple[str, ...]:
    times = cell.over_repeats.times
    worst = [milliseconds(times[name].worst_ms) if name in times else "–" for name in ("redundancy_ms", "worst_ms")]
    restored = milliseconds(times["rto_ms"].worst_ms) if "rto_ms" in times else "–"
    verdict = ("passed" if cell.passed else "FAILED") if cell.is_judged or not cell.passed else "compared"
    return (
        cell.name, verdict, str(cell.plays), "never" if cell.unrestored else restored, *worst, str(cell.lost),
        str(cell.wrong),
    )  # fmt: skip
