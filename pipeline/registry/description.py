"""What people read in MLflow's pages: short Markdown made of measured figures."""

from collections.abc import Iterable

from pipeline.core.names import Role
from pipeline.core.recipe import Metric, Recipe
from pipeline.score.scorecard import Scorecard, TaskScore
from pipeline.score.selection import Selected, Verdict

_METRIC_WORDS = {
    Metric.ACCURACY: "accuracy",
    Metric.AUC: "AUC",
    Metric.HIT_RATE_AT_10: "HR@10",
    Metric.NDCG_AT_10: "NDCG@10",
    Metric.RMSE: "RMSE",
}
_HEADER = (
    "| role | candidate | {metric} | loss ({level:.0%} interval) | bytes | of float | p50 ms | × float |",
    "|---|---|--:|--:|--:|--:|--:|--:|",
)


def describe_model(recipe: Recipe, cards: Iterable[Scorecard], selected: Selected) -> str:
    """Return the registered model's description: what it is for, the current build's pair, how to load it."""
    parts = [
        f"**{recipe.about.title}**",
        recipe.about.intended_use.strip(),
        "The latest build's pair (the aliases `primary` and `backup` name the promoted one):",
        _table([card for card in cards if card.candidate in (selected.primary, selected.backup)], selected),
        _locked(selected),
        "Load it anywhere, without TensorFlow:",
        f'```python\nimport mlflow\n\nbackup = mlflow.pyfunc.load_model("models:/{recipe.model}@backup")\n'
        "answers = backup.predict({...})  # arrays by input name, see the schema of the version\n```",
        "On a node without MLflow: "
        f"`hotspare verify artifacts/bundles/{recipe.model}-backup --trust artifacts/trust.yaml`.",
        f"**Limits.** {recipe.about.limits.strip()}",
        f"**Data.** {recipe.about.data_source.strip()} · **Licence.** {recipe.about.licence}",
    ]
    return "\n\n".join(part for part in parts if part)


def describe_build(recipe: Recipe, cards: Iterable[Scorecard], selected: Selected) -> str:
    """Return a build run's description: every candidate, and what the chosen two did on the locked rows."""
    parts = [
        f"{recipe.about.title}: every candidate of this build on the validation split. "
        "Why each won or lost is in `selection.json`; the whole page is `report/index.html`.",
        _table(cards, selected),
        _locked(selected),
        *(f"**Warning.** {text}" for text in selected.warnings),
    ]
    return "\n\n".join(part for part in parts if part)


def describe_candidate(card: Scorecard, verdict: Verdict | None) -> str:
    """Return a candidate run's description: what became of it and why."""
    if verdict is None:
        return f"`{card.candidate}` was measured and not judged."
    fate = f"chosen as {verdict.role}" if verdict.role else "not chosen" if verdict.eligible else "not eligible"
    return "\n".join([f"`{card.candidate}`: {fate}.", "", *(f"- {reason}" for reason in verdict.reasons)]).strip()


def describe_version(card: Scorecard, bundle_id: str, size_bytes: int) -> str:
    """Return a version's description: the bundle and its figures."""
    word = _METRIC_WORDS[card.task.metric]
    return (
        f"`{card.candidate}` in a signed bundle of {size_bytes:,} bytes, id `{bundle_id}`.\n\n"
        f"{word} {card.task.value:.4f} on {card.task.rows:,} validation rows "
        f"(float model {card.task.reference_value:.4f}, loss {_loss(card.task)}), "
        f"{card.size.volume_ratio:.0%} of the float model's bytes, "
        f"deployment efficiency {card.size.deployment_efficiency:.3g} (smaller is better), "
        f"median latency {card.timings.latency_p50_ms:.3g} ms, "
        f"{card.timings.latency_ratio_p50:.2f} × the float model's."
    )


def _table(cards: Iterable[Scorecard], selected: Selected) -> str:
    ordered = sorted(cards, key=lambda card: (_place(card, selected), card.size.bytes))
    if not ordered:
        return ""
    task = ordered[0].task
    header = [line.format(metric=_METRIC_WORDS[task.metric], level=task.confidence) for line in _HEADER]
    return "\n".join([*header, *(_row(card, selected) for card in ordered)])


def _row(card: Scorecard, selected: Selected) -> str:
    role = _role(card, selected)
    cells = (
        f"**{role}**" if role else "",
        f"`{card.candidate}`",
        f"{card.task.value:.4f}",
        _loss(card.task),
        f"{card.size.bytes:,}",
        f"{card.size.volume_ratio:.0%}",
        f"{card.timings.latency_p50_ms:.3g}",
        f"{card.timings.latency_ratio_p50:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def _loss(task: TaskScore) -> str:
    return f"{task.loss_abs:+.4f} ({task.loss_low:+.4f} to {task.loss_high:+.4f})"


def _role(card: Scorecard, selected: Selected) -> str:
    return {selected.primary: str(Role.PRIMARY), selected.backup: str(Role.BACKUP)}.get(card.candidate, "")


def _place(card: Scorecard, selected: Selected) -> int:
    return {str(Role.PRIMARY): 0, str(Role.BACKUP): 1}.get(_role(card, selected), 2)


def _locked(selected: Selected) -> str:
    scores = [
        f"{role} {_METRIC_WORDS[score.metric]} {score.value:.4f}, loss {_loss(score)}"
        for role in Role
        if (score := selected.locked_test.get(role)) is not None
    ]
    return f"Locked test rows, opened once after the choice: {'; '.join(scores)}." if scores else ""
