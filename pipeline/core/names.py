"""The name grammar of variants, schemes, formats and candidates: ``<variant>.<scheme>[.onnx]``, e.g. ``p50.w8a8``."""

import enum
import re
from dataclasses import dataclass

MODEL_NAME = r"[a-z][a-z0-9_-]{0,62}"
DRILL_NAME = r"[a-z][a-z0-9-]{0,62}"
# [pruning][clustering][quantization-aware], at least one of them: p50, p24, p50s, p50b, c16, p50c16, qat, p50c16qat …
VARIANT = r"dense|(?=[pcq])(?:p24|p[1-9][05][sb]?)?(?:c(?:4|8|16|32|64|128))?(?:qat)?"
_MIXED = "mixed-"
MIXED = _MIXED + "[1-9][0-9]{0,2}"


class Scheme(enum.StrEnum):
    """A number format of weights and activations, the same for every layer of a file.

    ``w8`` stores int8 weights and computes in float, ``w8d`` quantizes activations as they come, ``w8a8`` and ``w8a16``
    by calibrated ranges; ``b32`` gives 32 weights one scale.
    """

    F32 = "f32"
    F16 = "f16"
    W8 = "w8"
    W8D = "w8d"
    W8A8 = "w8a8"
    W8A16 = "w8a16"
    W4 = "w4"
    W4D = "w4d"
    W4B32 = "w4b32"

    @property
    def needs_ranges(self) -> bool:
        """Tell whether the ranges of activations must be known beforehand."""
        return self in (Scheme.W8A8, Scheme.W8A16)


SCHEME = "|".join([*Scheme, MIXED])


def mixed(number: int) -> str:
    """Return the scheme of the n-th file (from 1) of a search, whose layers differ."""
    return f"{_MIXED}{number}"


def is_mixed(scheme: str) -> bool:
    """Tell whether a scheme is of a file that a search made."""
    return scheme.startswith(_MIXED)


class Format(enum.StrEnum):
    """A model file format."""

    TFLITE = "tflite"
    ONNX = "onnx"


class Role(enum.StrEnum):
    """What a channel makes of a bundle."""

    PRIMARY = "primary"
    BACKUP = "backup"

    __hash__ = str.__hash__  # Enum's own is a call of Python, and seats are looked up at every request


@dataclass(frozen=True, order=True)
class CandidateName:
    """One candidate; ``str()`` gives its name and :meth:`parse` reads it back.

    ``scheme`` is a :class:`Scheme`, or ``mixed-<n>`` for the n-th file of a search, whose layers differ.
    """

    variant: str
    scheme: str
    format: Format = Format.TFLITE

    def __str__(self) -> str:
        suffix = "" if self.format is Format.TFLITE else f".{self.format}"
        return f"{self.variant}.{self.scheme}{suffix}"

    @property
    def file_name(self) -> str:
        """Return the name of the candidate's model file, e.g. ``p50.w8a8.tflite``."""
        return f"{self.variant}.{self.scheme}.{self.format}"

    @classmethod
    def parse(cls, text: str) -> "CandidateName":
        """Read a candidate's name; raises ValueError for any other text."""
        variant, _, rest = text.partition(".")
        scheme, _, suffix = rest.partition(".")
        name_format = {"": Format.TFLITE, "onnx": Format.ONNX}.get(suffix)
        if not re.fullmatch(VARIANT, variant) or not re.fullmatch(SCHEME, scheme) or name_format is None:
            raise ValueError(f"{text!r} is not a candidate name such as p50.w8a8, dense.w8d.onnx or p50s.mixed-1")
        name = cls(variant, scheme, name_format)
        if str(name) != text:
            raise ValueError(f"{text!r} is not a candidate name; did you mean {name}?")
        return name


class Pruning(enum.StrEnum):
    """How weights are taken away: single ones, two of every four, whole blocks, or channels, so that shapes shrink."""

    MAGNITUDE = ""
    TWO_OF_FOUR = "24"
    BLOCK = "b"
    STRUCTURED = "s"


@dataclass(frozen=True)
class Variant:
    """What a variant's name asks for; ``dense`` asks for nothing."""

    pruning: Pruning | None = None
    sparsity: float | None = None  # share of weights (structured: of channels) to take away, 0..1
    clusters: int | None = None
    quantization_aware: bool = False

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """Read a variant's name; raises ValueError for any other text."""
        if not re.fullmatch(VARIANT, name):
            raise ValueError(f"{name!r} is not a variant such as dense, p50, p24, p50s, c16 or p50c16qat")
        pruned = re.match(r"p(24|\d\d)([sb]?)", name)
        clustered = re.search(r"c(\d+)", name)
        kind = None if pruned is None else Pruning("24" if pruned.group(1) == "24" else pruned.group(2))
        return cls(
            pruning=kind,
            sparsity=None if pruned is None else 0.5 if kind is Pruning.TWO_OF_FOUR else int(pruned.group(1)) / 100,
            clusters=int(clustered.group(1)) if clustered else None,
            quantization_aware=name.endswith("qat"),
        )
