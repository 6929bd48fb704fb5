"""Families, points and judges for tests that need no file."""

from typing import Any

from pipeline.compress.search.families import Family, FloatExport
from pipeline.compress.search.pool import Point
from pipeline.compress.search.trial import Build, Figures, Parcel
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Metric
from pipeline.score.scorecard import TaskScore


def family(variant: str = "dense", model_format: Format = Format.TFLITE) -> Family:
    nothing: Any = None  # no test of the decisions opens a file
    export = FloatExport(variant, model_format, b"x" * 1000, b"", nothing, None)
    return Family(export, (), nothing, Parcel(""))


def point(size: int, risk: float, **figures: Any) -> Point:
    """Return a point; its name in assertions is its size."""
    build = Build() if risk == 0 else Build(None, ((f"g{size}", Scheme.W8),))
    return Point(build, Figures(size, sha256=f"sha{size}", divergence=risk, **figures))


def chain(*sizes: int) -> tuple[Point, ...]:
    return tuple(point(size, float(place)) for place, size in enumerate(sizes))


def task(loss: float, width: float, confidence: float = 0.9) -> TaskScore:
    ends = {"loss_low": loss - width, "loss_high": loss + width}
    return TaskScore(Metric.ACCURACY, "validation", 1000, 0.9, 0.9, loss_abs=loss, confidence=confidence, **ends)
