"""The name grammar of variants, schemes, formats and candidates: ``<variant>.<scheme>[.onnx]``, e.g. ``p50.w8a8``."""

import enum
import re
from dataclasses import dataclass

MODEL_NAME = r"[a-z][a-z0-9_-]{0,62}"
VARIANT = r"dense|qat|p24|p[1-9]0|p[1-9]5"


class Scheme(enum.StrEnum):
    """A number format of weights and activations."""

    F32 = "f32"
    F16 = "f16"
    W8 = "w8"
    W8D = "w8d"
    W8A8 = "w8a8"


class Format(enum.StrEnum):
    """A model file format."""

    TFLITE = "tflite"
    ONNX = "onnx"


class Role(enum.StrEnum):
    """What a channel makes of a bundle."""

    PRIMARY = "primary"
    BACKUP = "backup"


@dataclass(frozen=True, order=True)
class CandidateName:
    """One candidate; ``str()`` gives its name and :meth:`parse` reads it back."""

    variant: str
    scheme: Scheme
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
        if not re.fullmatch(VARIANT, variant) or scheme not in set(Scheme) or name_format is None:
            raise ValueError(f"{text!r} is not a candidate name such as p50.w8a8 or dense.w8d.onnx")
        name = cls(variant, Scheme(scheme), name_format)
        if str(name) != text:
            raise ValueError(f"{text!r} is not a candidate name; did you mean {name}?")
        return name


def sparsity_of(variant: str) -> float | None:
    """Return the share of zero weights that a variant's name promises (0..1), or None where it promises none."""
    if variant == "p24":
        return 0.5
    match = re.fullmatch(r"p(\d\d)", variant)
    return int(match.group(1)) / 100 if match else None
