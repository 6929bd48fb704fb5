"""The note of a release: what it holds and what was measured of it, as Markdown. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.bundle.attestation import DrillStatement
from pipeline.bundle.channel import Channel
from pipeline.bundle.provenance import GIT, LOCK, ProvenanceStatement
from pipeline.core.names import Role
from pipeline.report.words import METRIC_NAMES, duration, interval, kilobytes, signed
from pipeline.score.scorecard import Scorecard, TaskScore


@dataclass(frozen=True)
class Shipped:
    """One bundle of a release and its measured figures."""

    role: Role
    bundle_id: str
    archive: str
    archive_bytes: int
    card: Scorecard
    locked_test: TaskScore
    origin: ProvenanceStatement


@dataclass(frozen=True)
class ModelNote:
    """One model of a release: its pair, the drill of exactly this pair, the channel that names it."""

    model: str
    title: str
    loss_max_abs: float
    pair: tuple[Shipped, ...]
    drill: DrillStatement | None
    channel: Channel | None


def release_note(models: Sequence[ModelNote], rehearsal: str | None) -> str:
    """Return the note; ``rehearsal`` says why this is no release, if it is none."""
    first = models[0].pair[0].origin
    materials = first.materials
    commit = f"commit `{materials[GIT]}`" if GIT in materials else "no commit"
    lines = [
        "# Release",
        "",
        *([f"**This is a rehearsal, not a release:** {rehearsal}.", ""] if rehearsal else []),
        f"Made from {commit} and the measurements that `{LOCK}` pins (sha256 `{materials[LOCK]}`), by {first.builder}.",
    ]
    for note in models:
        lines += ["", *_model(note)]
    return "\n".join([*lines, "", *_HOW_TO_CHECK, ""])


def _model(note: ModelNote) -> Iterator[str]:
    metric = METRIC_NAMES[note.pair[0].card.task.metric]
    yield f"## {note.model}: {note.title}"
    yield ""
    yield f"| | candidate | archive, kB | model, kB | {metric} | loss (interval) | on locked rows | latency × float |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|"
    yield from (_row(one) for one in note.pair)
    yield ""
    yield f"The recipe allows a loss of {note.loss_max_abs:g}. {_drilled(note.drill)} {_channel(note.channel)}"
    yield ""
    yield from (f"- {one.role}: bundle `{one.bundle_id}`, `{one.archive}`" for one in note.pair)


def _row(one: Shipped) -> str:
    task = one.card.task
    cells = [
        str(one.role),
        f"`{one.card.candidate}`",
        kilobytes(one.archive_bytes),
        kilobytes(one.card.size.bytes),
        f"{task.value:.4f}",
        f"{signed(task.loss_abs)} ({interval(task)})",
        f"{one.locked_test.value:.4f}",
        f"{one.card.timings.latency_ratio_p50:.2f}",
    ]
    return f"| {' | '.join(cells)} |"


def _drilled(drill: DrillStatement | None) -> str:
    if drill is None:
        return "No drill of this pair is attested."
    told = drill.predicate
    names = ", ".join(one.name if one.passed else f"{one.name} (missed)" for one in told.drills)
    verdict = "passed" if told.passed else "missed an objective of"
    lost, wrong, asked = (sum(getattr(one, what) for one in told.drills) for what in ("lost", "wrong", "requests"))
    restored = "" if told.rto_ms_p95 is None else f", restored within {duration(told.rto_ms_p95)} (95 %)"
    return (
        f"The pair {verdict} its {told.world} drill at {told.ended_at} ({names}): {lost} lost and {wrong} wrong "
        f"of {asked:,} requests{restored}."
    )


def _channel(channel: Channel | None) -> str:
    if channel is None:
        return "No channel names this pair yet."
    return f"Channel `{channel.channel}`, epoch {channel.epoch}, seq {channel.seq}, ends at {channel.not_after}."


_HOW_TO_CHECK = (
    "## Check it",
    "",
    "With a trust policy that pins the key (it comes from whoever you trust, not from here):",
    "",
    "```sh",
    "sha256sum --check SHA256SUMS",
    "tar --zstd -xf ARCHIVE.tar.zst",
    "hotspare verify ARCHIVE --trust trust.yaml --provenance ARCHIVE/attestations/provenance.json",
    "```",
)
