"""What a search found out and decided (``search.json`` beside the candidates); reports show it, nothing acts on it."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Minimize
from pipeline.core.schema import Rule

FINDINGS_FILE = "search.json"

Measure = Literal["kl", "noise_to_signal", "cosine_distance"]


@dataclass(frozen=True)
class SchemeCost:
    """What one weight group costs in one scheme while the rest of the file stays float: from a real file."""

    scheme: Scheme
    bytes: Annotated[int, Rule("Size of that file.", minimum=0)]
    divergence: Annotated[float, Rule("How far its answers are from the float export's; 0 is equal.", minimum=0)]
    latency_ratio: Annotated[float | None, Rule("Its latency against the float export's, where it was measured.")] = (
        None
    )


@dataclass(frozen=True)
class GroupFinding:
    """The sensitivity of one weight group."""

    name: str
    kind: Annotated[str, Rule("Operator, e.g. CONV_2D or Gemm.")]
    weight_count: int
    weight_bytes: int
    costs: tuple[SchemeCost, ...]


@dataclass(frozen=True)
class FrontPoint:
    """One assignment of schemes that no other of its family beats in both size and divergence."""

    assignment: dict[str, Scheme]
    bytes: int
    bytes_zstd: int
    predicted_divergence: Annotated[float, Rule("Sum of the groups' divergences.", minimum=0)]
    divergence: Annotated[float, Rule("Divergence of the real file.", minimum=0)]
    certified: Annotated[
        bool | None, Rule("Whether the upper end of its loss meets the budget; absent when it was not tried.")
    ] = None
    loss_abs: Annotated[float | None, Rule("Loss against the float reference on validation rows.")] = None
    loss_high: Annotated[float | None, Rule("Upper end of its interval.")] = None
    latency_ratio: Annotated[float | None, Rule("Latency against the float reference's, where it was measured.")] = None
    candidate: Annotated[str | None, Rule("Its name, where it was kept as a candidate.")] = None
    words: Annotated[str, Rule("Why it was kept, passed over or not tried.")] = ""


@dataclass(frozen=True)
class FamilyFinding:
    """What was found in one float export: a variant in one file format."""

    variant: str
    format: Format
    float_bytes: int
    measure: Annotated[Measure, Rule("What `divergence` is, averaged over rows of the calibration split.")]
    groups: tuple[GroupFinding, ...]
    front: tuple[FrontPoint, ...]
    ranges: Annotated[dict[str, tuple[float, ...]], Rule("Calibrated [low, high] of each activation.")] = field(
        default_factory=dict
    )


@dataclass(frozen=True)
class Findings:
    """The whole search."""

    model: str
    minimize: Minimize
    loss_max_abs: float
    confidence: float
    seed: int
    families: tuple[FamilyFinding, ...]
    why: Annotated[tuple[str, ...], Rule("The choice in words; what more rows could decide, and how many.")]
    complete: Annotated[bool, Rule("False when the time ran out first.")]
    chosen: Annotated[
        str | None, Rule("The best candidate whose loss is certified to be within the budget; absent without one.")
    ] = None
