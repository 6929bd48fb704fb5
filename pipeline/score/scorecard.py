"""The scorecard of a candidate: every figure that selection, bundles, the registry and reports read."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pipeline.core.names import SCHEME, CandidateName, Format
from pipeline.core.recipe import Metric
from pipeline.core.records import RefusedCandidate
from pipeline.core.schema import Rule, plain

SCORED_FILE = "scored.json"
METRICS_FILE = "metrics.json"
TABLE_FILE = "scorecards.csv"

# Figures are rounded to six places: enough for any of them, and what differs below is the processor's last bits.
PLACES = 6


@dataclass(frozen=True)
class Size:
    """What the candidate weighs; ratios are against the float reference, smaller is better."""

    bytes: Annotated[int, Rule("Size of the model file.", minimum=0)]
    bytes_zstd: Annotated[
        int, Rule("Size after zstandard at level 19: what an archive or a download takes.", minimum=0)
    ]
    weight_bits_mean: Annotated[float, Rule("Mean stored bits per weight.", minimum=0)]
    quantized_ratio: Annotated[float, Rule("Share of float weight bytes stored quantized.", minimum=0, maximum=1)]
    sparsity_ratio: Annotated[float, Rule("Share of zero weights.", minimum=0, maximum=1)]
    volume_ratio: Annotated[float, Rule("Bytes against the reference's bytes.", minimum=0)]
    precision_ratio: Annotated[float, Rule("Mean weight bits against the reference's.", minimum=0)]
    deployment_efficiency: Annotated[float, Rule("volume_ratio × precision_ratio; smaller is better.", minimum=0)]
    saving_ratio: Annotated[float, Rule("1 − deployment_efficiency.", maximum=1)]


@dataclass(frozen=True)
class TaskScore:
    """The task metric on one split; a loss above 0 means worse than the float reference."""

    metric: Metric
    split: Annotated[str, Rule("The split it was measured on: validation, or test for the locked rows.")]
    rows: Annotated[int, Rule("Rows measured.", minimum=1)]
    value: float
    reference_value: float
    loss_abs: Annotated[float, Rule("How much worse than the reference, in the metric's unit.")]
    loss_low: Annotated[float, Rule("Lower end of the loss's interval.")]
    loss_high: Annotated[float, Rule("Upper end of the loss's interval.")]
    confidence: Annotated[float, Rule("Two-sided level of the interval.", minimum=0, maximum=1)]
    loss_relative: Annotated[float | None, Rule("loss_abs over the reference's value; absent where that is 0.")] = None
    units: Annotated[int | None, Rule("Lists measured, of a ranking; absent where single rows count.")] = None
    extra_rows: Annotated[int | None, Rule("Unlabelled rows that sharpened the interval; absent: none did.")] = None
    width_ratio: Annotated[float | None, Rule("Its width against the plain paired bootstrap's.", minimum=0)] = None


@dataclass(frozen=True)
class Decision:
    """How the decisions change; what does not apply to the task is None."""

    flips_ratio: Annotated[float | None, Rule("Share of rows decided otherwise than the reference.")] = None
    calibration_error: Annotated[float | None, Rule("Expected calibration error, 15 bins.")] = None
    calibration_error_reference: Annotated[float | None, Rule("The same of the reference.")] = None
    top10_overlap: Annotated[float | None, Rule("Mean share of a list's ten best that the reference also has.")] = None


@dataclass(frozen=True)
class Fidelity:
    """How close the outputs are to the reference's, whatever the labels say."""

    kind: Literal["top1_agreement", "snr_db"]
    value: float


@dataclass(frozen=True)
class Timings:
    """What depends on the machine; measured on ``rows`` rows a call with ``threads`` threads."""

    load_ms: Annotated[float, Rule("From the file to a session, in a fresh process, engine already imported.")]
    latency_p50_ms: float
    latency_p95_ms: float
    latency_ratio_p50: Annotated[float, Rule("Median latency against the reference's, interleaved in one run.")]
    rss_mb: Annotated[float, Rule("Peak resident memory of a fresh process that loads and runs it, in 10^6 bytes.")]
    rows: int
    threads: int


@dataclass(frozen=True)
class Scorecard:
    """The measured figures of one candidate."""

    model: str
    candidate: str
    variant: str
    scheme: Annotated[str, Rule("f32, f16, w8 …, or mixed-<n> of a search.", pattern=SCHEME)]
    format: Format
    file: str
    sha256: str
    made_by: str
    size: Size
    task: TaskScore
    decision: Decision
    fidelity: Fidelity
    timings: Timings
    variant_made_by: Annotated[str | None, Rule("What trained or converted the variant, as its record says.")] = None

    @property
    def name(self) -> CandidateName:
        """Return the candidate's name."""
        return CandidateName(self.variant, self.scheme, self.format)


@dataclass(frozen=True)
class Scored:
    """What ``score`` measured (``scored.json``): which scorecards are there, and who has none and why."""

    model: str
    reference: Annotated[str, Rule("The float candidate that every loss is measured against.")]
    candidates: tuple[str, ...]
    refused: Annotated[tuple[RefusedCandidate, ...], Rule("Not made by quantize, or unusable when run.")]


def card_file(candidate: str) -> str:
    """Return the name of a candidate's scorecard file."""
    return f"{candidate}.json"


def without_timings(card: Scorecard) -> dict[str, Any]:
    """Return the card as plain data without what depends on the machine: the form that bundles seal."""
    return {key: value for key, value in plain(card).items() if key != "timings"}
