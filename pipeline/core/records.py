"""What one stage writes down for the next: variants and candidates."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

from pipeline.core.canonical import readable_json
from pipeline.core.errors import MissingStageError
from pipeline.core.files import read_json, write_atomic
from pipeline.core.names import SCHEME, CandidateName, Format, Scheme
from pipeline.core.schema import Rule, SchemaProblems, plain, read

R = TypeVar("R")

VARIANT_FILE = "variant.json"
CANDIDATES_FILE = "candidates.json"


@dataclass(frozen=True)
class Export:
    """One float export of a variant, checked against the model it came from on real rows."""

    file: str
    sha256: str
    max_abs_diff: Annotated[float, Rule("Largest output difference to the source model on real rows.", minimum=0)]
    rows_checked: int


@dataclass(frozen=True)
class VariantRecord:
    """What ``prune`` made of a model (``variant.json``)."""

    model: str
    variant: str
    made_by: Annotated[str, Rule("What trained or converted it, e.g. 'tf_keras 2.21 + tfmot 0.8.1'.")]
    sparsity_ratio: Annotated[float, Rule("Measured share of zeros in the exported weights.", minimum=0, maximum=1)]
    exports: dict[Format, Export]


@dataclass(frozen=True)
class StoredOperator:
    """How a file stores one operator's constant weights."""

    kind: Annotated[str, Rule("Operator, e.g. CONV_2D or Gemm.")]
    name: Annotated[str, Rule("Its weight group in the float export, or the name in the file.")]
    stored_as: Annotated[str, Rule("Number format, e.g. int8 or 'int4 in blocks'.")]
    bytes: Annotated[int, Rule("Size of its weights.", minimum=0)]


@dataclass(frozen=True)
class CandidateRecord:
    """One candidate file and what was measured of its weights while it was made."""

    variant: str
    scheme: Annotated[str, Rule("f32, f16, w8 …, or mixed-<n> of a search.", pattern=SCHEME)]
    format: Format
    file: str
    sha256: str
    parent_sha256: Annotated[str, Rule("Digest of the float export it was made from.")]
    made_by: str
    weight_count: Annotated[int, Rule("Stored weights (constant tensors with more than one element).", minimum=0)]
    weight_bits_mean: Annotated[float, Rule("Mean stored bits per weight.", minimum=0)]
    quantized_ratio: Annotated[float, Rule("Share of float weight bytes now stored quantized.", minimum=0, maximum=1)]
    sparsity_ratio: Annotated[float, Rule("Measured share of zero weights.", minimum=0, maximum=1)]
    assignment: Annotated[dict[str, Scheme], Rule("Of a mixed file: the scheme of each weight group.")] = field(
        default_factory=dict
    )
    operators: Annotated[tuple[StoredOperator, ...], Rule("Those with weights, in the order of the file.")] = ()

    @property
    def name(self) -> CandidateName:
        """Return the candidate's name."""
        return CandidateName(self.variant, self.scheme, self.format)


@dataclass(frozen=True)
class RefusedCandidate:
    """A candidate that the recipe asked for and that could not be made."""

    candidate: str
    reason: str


@dataclass(frozen=True)
class Candidates:
    """What ``quantize`` made (``candidates.json``)."""

    model: str
    candidates: tuple[CandidateRecord, ...]
    refused: tuple[RefusedCandidate, ...]


def read_record(cls: type[R], path: Path, stage: str) -> R:
    """Read a stage's record; raises MissingStageError naming the stage when it is missing or does not fit."""
    try:
        return read(cls, read_json(path, MissingStageError, f"run `hotspare {stage}` first"))
    except SchemaProblems as error:
        problems = "; ".join(error.problems)
        raise MissingStageError(
            f"{path} does not fit this version ({problems}); run `hotspare {stage}` again."
        ) from error


def write_record(path: Path, record: object) -> None:
    """Write a stage's record as readable JSON, atomically."""
    write_atomic(path, readable_json(plain(record)))
