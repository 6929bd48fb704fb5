"""One float export of a recipe, ready to be searched: its groups, guide rows, float answers and calibrated ranges."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.compress.schemes.calibration import Clipping, Ranges
from pipeline.compress.schemes.groups import WeightGroup
from pipeline.compress.schemes.storing import calibrate, weight_groups
from pipeline.compress.search.divergence import yardstick
from pipeline.compress.search.fanout import SearchBackend
from pipeline.compress.search.kit import Kit, encode_kit
from pipeline.compress.search.trial import Parcel
from pipeline.core.names import Format
from pipeline.core.recipe import Recipe
from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import open_split
from pipeline.engines.base import Session

# Enough to tell schemes apart, few enough to run a file in milliseconds. A row of a picture or a signal takes longer.
GUIDE_ROWS = 1024
GUIDE_ROWS_OF_PICTURES = 512


@dataclass(frozen=True, eq=False)
class FloatExport:
    """What the candidates of one variant in one file format are made from."""

    variant: str
    format: Format
    model: bytes
    prepared: bytes
    session: Session
    ranges: Ranges | None  # None where no scheme needs them


@dataclass(frozen=True, eq=False)
class Family:
    """All files that a search can make from one float export."""

    export: FloatExport
    groups: tuple[WeightGroup, ...]
    kit: Kit
    parcel: Parcel

    @property
    def words(self) -> str:
        """Return what people read, e.g. ``dense (tflite)``."""
        return f"{self.export.variant} ({self.export.format})"


def open_family(recipe: Recipe, export: FloatExport, backend: SearchBackend, folder: Path) -> Family:
    """Answer the guide rows with the float export and pack what the trials need.

    Guide rows are drawn by the recipe's seed from the calibration split: never from validation or test. Raises
    DataError for rows that do not fit.
    """
    rows = guide_rows(Path(recipe.data.calibration), export.session, recipe.seed)
    answers = export.session.run(rows)
    kit = Kit(
        format=export.format,
        prepared=export.prepared,
        rows=rows,
        answers=answers,
        yardstick=yardstick(recipe.metric, answers, rows),
        ranges=_ranges(export, rows),
        latency_rows=recipe.serving.latency_rows,
    )
    return Family(export, weight_groups(export.format, export.prepared), kit, backend.parcel(encode_kit(kit), folder))


def guide_rows(path: Path, session: Session, seed: int) -> dict[str, Array]:
    """Draw rows of a split, in their order there, in the types that the model takes."""
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    split = open_split(path, sorted(dtypes))
    are_pictures = any(array.ndim > 2 for array in split.inputs.values())
    most = GUIDE_ROWS_OF_PICTURES if are_pictures else GUIDE_ROWS
    chosen = np.random.default_rng(seed).permutation(split.rows)[:most]
    chosen.sort()
    drawn = {name: np.ascontiguousarray(array[chosen]) for name, array in split.inputs.items()}
    return cast_tensors(drawn, dtypes, str(path))


def _ranges(export: FloatExport, rows: dict[str, Array]) -> Mapping[Clipping, Ranges]:
    """Whole ranges come from every calibration row; where rare values are cut off, the guide rows tell what is rare."""
    if export.ranges is None:
        return {}
    clipped = (clip for clip in Clipping if clip is not Clipping.NONE)
    return {Clipping.NONE: export.ranges} | {
        clip: calibrate(export.format, export.prepared, [rows], clip) for clip in clipped
    }
