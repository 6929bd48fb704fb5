"""Bundles that may learn: what of their model updates may change, and checkpoints, which hold what updates made of it.

``learning.json`` stands in a base bundle, signed by a bundle key: it names the bytes of the model file that may change,
and how an update changes them. A checkpoint is the base bundle with exactly these bytes changed, sealed by a key whose
only use is this model's updates; ``checkpoint.json`` says of which base and up to which record of the update log.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pipeline.bundle.manifest import GOLDEN_FILE, MANIFEST_FILE, TOLERANCES_FILE, Manifest, Parent
from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import Malformed, NotAccepted
from pipeline.core.schema import Rule

LEARNING_FILE = "learning.json"
CHECKPOINT_FILE = "checkpoint.json"
ITEM_BYTES = 4
_SHA256 = Rule(pattern="[0-9a-f]{64}")
_MEASURED_AGAIN = {GOLDEN_FILE, TOLERANCES_FILE}


@dataclass(frozen=True)
class Span:
    """Little-endian float32 numbers in the model file: where the first one starts, and how many there are."""

    start: Annotated[int, Rule("Byte of the file.", minimum=0)]
    count: Annotated[int, Rule("Numbers.", minimum=1, maximum=1 << 20)]

    @property
    def end(self) -> int:
        """Return the byte after the last number."""
        return self.start + ITEM_BYTES * self.count


@dataclass(frozen=True)
class Learning:
    """What updates may change of a model that ends in one dense unit and a sigmoid, and by how much at a time."""

    schema_version: Literal[1]
    weights: Span
    bias: Span
    rate: Annotated[float, Rule("Step of one update along its gradient.", minimum=0, maximum=1)]
    decay: Annotated[float, Rule("Share of the weights that each step adds to the gradient.", minimum=0, maximum=1)]
    weight_max: Annotated[float, Rule("Weights are kept within plus and minus this.", minimum=0, maximum=1e6)]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.bias.count != 1:
            yield "bias: not one number"
        if self.weights.start < self.bias.end and self.bias.start < self.weights.end:
            yield "bias: overlaps weights"

    @property
    def spans(self) -> tuple[Span, ...]:
        """Return what may change, in file order."""
        return tuple(sorted((self.weights, self.bias), key=lambda span: span.start))


@dataclass(frozen=True)
class Checkpoint:
    """Which base a checkpoint belongs to, and the last record of the update log that it holds."""

    schema_version: Literal[1]
    base: Annotated[str, Rule("The base's bundle id.", pattern="[0-9a-f]{64}")]
    epoch: Annotated[int, Rule(minimum=0)]
    seq: Annotated[int, Rule(minimum=0)]
    record: Annotated[str, Rule("Digest of that record.", pattern="[0-9a-f]{64}")]


def read_learning(files: Mapping[str, bytes]) -> Learning:
    """Return what a verified bundle may learn; raises NotAccepted when it may not, Malformed."""
    if LEARNING_FILE not in files:
        raise NotAccepted(f"The bundle has no {LEARNING_FILE}: nothing of it may learn; seal one that says what may.")
    return fit(Learning, parse_strict(files[LEARNING_FILE], LEARNING_FILE), LEARNING_FILE)


def read_checkpoint(files: Mapping[str, bytes]) -> Checkpoint:
    """Return what a verified checkpoint says of itself; raises Malformed."""
    if CHECKPOINT_FILE not in files:
        raise Malformed(f"The checkpoint lacks {CHECKPOINT_FILE}; make it again.")
    return fit(Checkpoint, parse_strict(files[CHECKPOINT_FILE], CHECKPOINT_FILE), CHECKPOINT_FILE)


def checkpoint_manifest(base: Manifest, model: bytes) -> Manifest:
    """Return the manifest that a checkpoint has: its base's, with the base's model file as the parent."""
    return replace(base, parent=Parent(base.candidate, sha256_hex(model)))


def check_checkpoint(base_id: str, base: Mapping[str, bytes], manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Check that ``files`` are a checkpoint of a base: nothing but the bytes that may learn differs.

    The answers to the golden rows and their tolerances are measured again; every other file is the base's, byte for
    byte. Raises NotAccepted or Malformed.
    """
    if read_checkpoint(files).base != base_id:
        raise NotAccepted("The checkpoint is of another base bundle than the one that was given.")
    if fit(Manifest, parse_strict(files[MANIFEST_FILE], MANIFEST_FILE), MANIFEST_FILE) != manifest:
        raise NotAccepted(f"The checkpoint's {MANIFEST_FILE} says other things than its base's; an update key may not.")
    entry = manifest.entrypoint.path
    free = {entry, MANIFEST_FILE, CHECKPOINT_FILE, *_MEASURED_AGAIN}
    odd = {name for name in (files.keys() | base.keys()) - free if files.get(name) != base.get(name)}
    if odd:
        raise NotAccepted(f"The checkpoint changes {', '.join(sorted(odd))}, which an update key may not.")
    if _frozen(files[entry], read_learning(base)) != _frozen(base[entry], read_learning(base)):
        raise NotAccepted(f"The checkpoint changes more of {entry} than {LEARNING_FILE} of its base lets learn.")


def _frozen(model: bytes, learning: Learning) -> list[bytes]:
    """Return the stretches of a model file that no update may change."""
    if learning.spans[-1].end > len(model):
        raise Malformed(f"{LEARNING_FILE} names bytes beyond the model file's {len(model)}; seal the base again.")
    bounds = [0, *(place for span in learning.spans for place in (span.start, span.end)), len(model)]
    return [model[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
