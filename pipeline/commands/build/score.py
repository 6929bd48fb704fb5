"""``hotspare score MODEL``: measure every candidate."""

import argparse
from collections.abc import Iterable, Sequence

from pipeline.commands.build.console import progress, show_json, show_table
from pipeline.core.layout import candidates_dir, scorecards_dir
from pipeline.core.recipe import load_recipe
from pipeline.core.records import CANDIDATES_FILE, CandidateRecord, Candidates, read_record
from pipeline.score.scorecard import Scorecard, Scored
from pipeline.score.scoring import score_all
from pipeline.score.store import write_scored

EXAMPLE = "hotspare score credit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/")
    parser.add_argument("--json", action="store_true", help="print the scorecards as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure every candidate on the validation rows and write the scorecards."""
    recipe = load_recipe(args.model)
    folder = candidates_dir(args.model)
    candidates = read_record(Candidates, folder / CANDIDATES_FILE, f"quantize {args.model}")
    scored, cards = score_all(recipe, candidates, folder, _watch)
    write_scored(scorecards_dir(args.model), scored, cards)
    if args.json:
        show_json({"scored": scored, "scorecards": cards})
    else:
        _show(scored, cards)
    return 0


def _watch(records: Sequence[CandidateRecord]) -> Iterable[CandidateRecord]:
    return progress(records, "measuring candidates")


def _show(scored: Scored, cards: Sequence[Scorecard]) -> None:
    metric = cards[0].task.metric.value
    headers = ["candidate", metric, "loss", f"{100 * cards[0].task.confidence:g} % interval", "bytes", "zstd", "bits"]
    headers += ["efficiency", "p50 ms", "x float", "load ms", "RSS MB"]
    title = f"{scored.model}: {len(cards)} candidates against {scored.reference}, {cards[0].task.rows} validation rows"
    show_table(title, headers, map(_cells, cards))
    for item in scored.refused:
        print(f"no scorecard for {item.candidate}: {item.reason}")


def _cells(card: Scorecard) -> list[str]:
    task, size, timings = card.task, card.size, card.timings
    return [
        card.candidate,
        f"{task.value:.4f}",
        f"{task.loss_abs:+.4f}",
        f"{task.loss_low:+.4f} {task.loss_high:+.4f}",
        f"{size.bytes:,}",
        f"{size.bytes_zstd:,}",
        f"{size.weight_bits_mean:.1f}",
        f"{size.deployment_efficiency:.3f}",
        f"{timings.latency_p50_ms:.3f}",
        f"{timings.latency_ratio_p50:.2f}",
        f"{timings.load_ms:.1f}",
        f"{timings.rss_mb:.0f}",
    ]
