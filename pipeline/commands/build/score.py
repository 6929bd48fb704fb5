"""``hotspare score MODEL``: measure every candidate."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.commands.build.console import progress, show_json, show_table
from pipeline.core.layout import ARTIFACTS, candidates_dir, scorecards_dir
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.core.records import CANDIDATES_FILE, CandidateRecord, Candidates, read_record
from pipeline.score.diagnosis import Diagnosis
from pipeline.score.origins import read_origins
from pipeline.score.scorecard import Scorecard, TaskScore
from pipeline.score.scoring import Scores, score_all
from pipeline.score.store import write_scored

EXAMPLE = "hotspare score credit"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="a model of recipes/models/")
    parser.add_argument("--json", action="store_true", help="print the scorecards and diagnoses as JSON")


def run(args: argparse.Namespace) -> int:
    """Measure every candidate on the validation rows and write the scorecards and diagnoses."""
    scores = examine(load_recipe(args.model))
    if args.json:
        show_json({"scored": scores.scored, "scorecards": scores.cards, "diagnoses": scores.diagnoses})
    else:
        _show(scores)
    return 0


def examine(recipe: Recipe, root: Path = ARTIFACTS) -> Scores:
    """Measure every candidate below ``root`` and write what was found there.

    Raises MissingStageError before ``quantize``, DataError for an unusable split, ModelError for an unusable reference.
    """
    folder = candidates_dir(recipe.model, root)
    candidates = read_record(Candidates, folder / CANDIDATES_FILE, f"quantize {recipe.model}")
    scores = score_all(recipe, candidates, folder, read_origins(candidates, root), _watch)
    write_scored(scorecards_dir(recipe.model, root), scores.scored, scores.cards, scores.diagnoses)
    return scores


def _watch(records: Sequence[CandidateRecord]) -> Iterable[CandidateRecord]:
    return progress(records, "measuring candidates")


def _show(scores: Scores) -> None:
    cards, task = scores.cards, scores.cards[0].task
    headers = ["candidate", task.metric.value, "loss", _interval_header(task)]
    headers += ["flips"] if any(item.changes for item in scores.diagnoses) else []
    headers += ["bytes", "zstd", "bits", "efficiency", "p50 ms", "x float", "load ms", "RSS MB"]
    title = (
        f"{scores.scored.model}: {len(cards)} candidates against {scores.scored.reference}, {task.rows} validation rows"
    )
    rows = [_figures(card) | {"flips": _flips(item)} for card, item in zip(cards, scores.diagnoses, strict=True)]
    show_table(title, headers, [[row[header] for header in headers] for row in rows])
    for diagnosis in scores.diagnoses:
        if diagnosis.worst_slice is not None:
            worst = diagnosis.worst_slice
            where = f"{worst.slice} is {worst.group} ({worst.rows} rows)"
            print(f"{diagnosis.candidate} loses most where {where}: {worst.loss_abs:+.4f}")
    for item in scores.scored.refused:
        print(f"no scorecard for {item.candidate}: {item.reason}")


def _flips(diagnosis: Diagnosis) -> str:
    """Return the decisions that were right and are wrong, and the other way round; without labels how many changed."""
    changes = diagnosis.changes
    if changes is None:
        return ""
    return (
        f"{changes.flipped}"
        if changes.right_to_wrong is None
        else f"-{changes.right_to_wrong} +{changes.wrong_to_right}"
    )


def _interval_header(task: TaskScore) -> str:
    return f"{100 * task.confidence:g} % interval"


def _figures(card: Scorecard) -> dict[str, str]:
    task, size, timings = card.task, card.size, card.timings
    return {
        "candidate": card.candidate,
        task.metric.value: f"{task.value:.4f}",
        "loss": f"{task.loss_abs:+.4f}",
        _interval_header(task): f"{task.loss_low:+.4f} {task.loss_high:+.4f}",
        "bytes": f"{size.bytes:,}",
        "zstd": f"{size.bytes_zstd:,}",
        "bits": f"{size.weight_bits_mean:.1f}",
        "efficiency": f"{size.deployment_efficiency:.3f}",
        "p50 ms": f"{timings.latency_p50_ms:.3f}",
        "x float": f"{timings.latency_ratio_p50:.2f}",
        "load ms": f"{timings.load_ms:.1f}",
        "RSS MB": f"{timings.rss_mb:.0f}",
    }
