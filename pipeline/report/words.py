"""What the report says: figures with their units and sentences that follow from them. Pure."""

from collections.abc import Sequence

from pipeline.core.names import Format, Pruning, Role, Variant
from pipeline.core.recipe import Metric, Preference
from pipeline.score.scorecard import Scorecard, TaskScore

METRIC_NAMES = {
    Metric.ACCURACY: "accuracy",
    Metric.AUC: "AUC",
    Metric.HIT_RATE_AT_10: "hit rate at 10",
    Metric.NDCG_AT_10: "NDCG at 10",
    Metric.RMSE: "root mean squared error",
    Metric.FIDELITY: "fidelity",
}
PREFERENCE_WORDS = {
    Preference.ACCURACY: "the least loss at the upper end of its interval",
    Preference.BYTES: "the smallest file",
    Preference.BYTES_ZSTD: "the smallest compressed file",
    Preference.LATENCY: "the lowest latency",
    Preference.RSS: "the least memory",
}
ENGINES = {Format.TFLITE: "LiteRT", Format.ONNX: "ONNX Runtime"}


def kilobytes(count: int) -> str:
    """Return a file size in kB (1,000 bytes), e.g. ``371.3``."""
    return f"{count / 1000:,.1f}"


def percent(ratio: float) -> str:
    """Return a share as e.g. ``25.5 %``, kept on one line."""
    return f"{100 * ratio:.1f}\u00a0%"


def share(ratio: float | None) -> str:
    """Return a share as :func:`percent` does, and a dash where it does not apply."""
    return "–" if ratio is None else percent(ratio)


def signed(value: float) -> str:
    """Return a loss with its sign, e.g. ``+0.0012`` or ``−0.0003``, and ``0`` for none."""
    return "0" if value == 0 else f"{value:+.4f}".replace("-", "−")


def interval(task: TaskScore) -> str:
    """Return the interval of the loss, e.g. ``−0.0003 to +0.0021``."""
    return f"{signed(task.loss_low)} to {signed(task.loss_high)}"


def duration(milliseconds: float) -> str:
    """Return a time with three significant digits and its unit, e.g. ``6.20 µs`` or ``1.25 ms``."""
    if milliseconds < 1:
        return f"{milliseconds * 1000:.3g} µs"
    return f"{milliseconds:.3g} ms"


def role_sentence(role: Role, prefer: Preference, card: Scorecard, reference: Scorecard) -> str:
    """Say what was chosen for a role, by which preference, and what it costs against the float reference."""
    task = card.task
    asked = f"The {role} is {card.candidate}: {PREFERENCE_WORDS[prefer]} within the budgets."
    if card.candidate == reference.candidate:
        return f"{asked} It is the float reference itself, so it loses nothing."
    size = f"Its file takes {percent(card.size.bytes / reference.size.bytes)} of the float model's bytes"
    pace = f"one call takes {card.timings.latency_ratio_p50:.2f} × the float model's time"
    if task.loss_low == task.loss_high == 0:
        return f"{asked} {size}, {pace}, and it loses nothing that {task.rows:,} rows could show."
    verb = "gains" if task.loss_abs < 0 else "loses"
    loss = f"it {verb} {abs(task.loss_abs):.4f} {METRIC_NAMES[task.metric]} (the loss lies in {interval(task)})"
    return f"{asked} {size}, {pace}, and {loss}."


def hover(card: Scorecard) -> str:
    """Return a candidate's main figures in one line."""
    task, size, timings = card.task, card.size, card.timings
    return (
        f"loss {signed(task.loss_abs)} ({interval(task)}), {size.bytes:,} bytes ({size.bytes_zstd:,} compressed), "
        f"median call {duration(timings.latency_p50_ms)}"
    )


def variant_kind(variant: str) -> str:
    """Return in a word what was done to a variant."""
    parts = Variant.parse(variant)
    if parts.pruning is Pruning.STRUCTURED:
        return "fewer channels"
    words = [("pruned", parts.pruning is not None), ("clustered", parts.clusters), ("quantization-aware", True)]
    return "dense" if variant == "dense" else next(word for word, holds in words if holds)


def sharpening(cards: Sequence[Scorecard]) -> str:
    """Say what unlabelled rows did for the intervals; empty where there were none to use."""
    ratios = [card.task.width_ratio for card in cards if card.task.width_ratio is not None]
    rows = max((card.task.extra_rows or 0 for card in cards), default=0)
    if not ratios:
        return (
            "No interval uses the calibration rows: it would not have become narrower by 2 % or more, or the file has "
            "its ranges from them or was chosen by them."
        )
    return (
        f"{len(ratios)} of {len(cards)} intervals use the {rows:,} calibration rows as well, without their labels "
        f"(prediction-powered inference): they are {percent(1 - max(ratios))} to {percent(1 - min(ratios))} narrower."
    )


def change(value: float, before: float) -> str:
    """Return a change as e.g. ``−34.5 %`` or ``+0.2 %``."""
    return f"{100 * (value / before - 1):+.1f}\u00a0%".replace("-", "−")


def pruned_pairs(cards: Sequence[Scorecard], least_zeros: float = 0.2) -> list[tuple[Scorecard, Scorecard]]:
    """Return every candidate with many zeros beside the dense one of the same scheme and format."""
    dense = {(card.scheme, card.format): card for card in cards if card.variant == "dense"}
    return [
        (card, dense[card.scheme, card.format])
        for card in cards
        if card.size.sparsity_ratio >= least_zeros and card.variant != "dense" and (card.scheme, card.format) in dense
    ]
