"""Choosing canary rows: every constant of the model is corrupted in turn, to see which answers show it.

A hash of the model's bytes does not guard what executes: engines run packed copies of the weights. Answers do guard
it, if each constant's corruption moves one of the rows that are asked again and again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.bundle.canaries import CANARY_ROWS_MAX, HARMFUL_RATIO, CanaryPlan, LookedUp, Watched, repeat_tolerance
from pipeline.bundle.golden import Golden
from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Tensors
from pipeline.engines.open import open_session
from pipeline.seal.constants import Constant, ModelFile
from pipeline.seal.corruption import Corruption, corruptions
from pipeline.seal.onnx_constants import OnnxConstants
from pipeline.seal.tflite_constants import TfliteConstants

Rows = npt.NDArray[np.bool_]

_PLACES = 4
_REPEATS_MAX = 4
# Packing stays quick: so many corruptions are tried, or one of each kind for every constant where that is more.
_TRIED = 96
_BYTES_LOADED = 1 << 30
_METHOD = (
    "Every constant was corrupted by flipped signs, by a zeroed run and by single high bits, each seeded; rows were "
    "taken greedily so that every corruption that moved any synthetic row's answer moves a canary row's, those first "
    "that moved one answer in twenty beyond golden tolerance."
)


@dataclass(frozen=True)
class Tried:
    """One corruption of one constant: which rows it moved beyond golden tolerance, and which at all."""

    constant: Constant
    beyond: Rows
    moved: Rows

    @property
    def is_harmful(self) -> bool:
        """Tell whether it changed enough answers to count."""
        return bool(self.beyond.mean() >= HARMFUL_RATIO)


def read_constants(model_format: Format, model: bytes) -> ModelFile:
    """Open a model that an engine has loaded as its constants."""
    return OnnxConstants(model) if model_format is Format.ONNX else TfliteConstants(model)


def try_corruptions(
    model_format: Format, model: bytes, file: ModelFile, pool: Tensors, tolerances: dict[str, float], seed: int
) -> list[Tried]:
    """Corrupt every constant in a few seeded ways and compare the answers to the rows of ``pool``.

    A corruption that the engine refuses to run is left out: it cannot answer wrongly.
    """
    clean = open_session(model_format, model).run(pool)
    exact = {name: repeat_tolerance(tolerances[name], float(np.abs(array).max())) for name, array in clean.items()}
    tried = []
    for constant in file.constants:
        for corruption in corruptions(_repeats(len(file.constants), len(model))):
            answers = _answers(model_format, file, constant, corruption, pool, seed)
            if answers is not None:
                beyond, moved = (moved_rows(clean, answers, limits) for limits in (tolerances, exact))
                tried.append(Tried(constant, beyond, moved))
    return tried


def _repeats(constants: int, model_bytes: int) -> int:
    kinds = max(1, constants * len(corruptions(1)))
    return max(1, min(_REPEATS_MAX, _TRIED // kinds, _BYTES_LOADED // (kinds * model_bytes)))


def _answers(
    model_format: Format, file: ModelFile, constant: Constant, corruption: Corruption, pool: Tensors, seed: int
) -> Tensors | None:
    rng = np.random.default_rng([seed, constant.place, corruption.number])
    try:
        return open_session(model_format, file.changed(constant, corruption.corrupt(constant, rng))).run(pool)
    except ModelError:
        return None


def moved_rows(clean: Tensors, answers: Tensors, limits: dict[str, float]) -> Rows:
    """Return which rows have an output that differs by more than its limit; NaN differs from everything."""
    rows = len(next(iter(clean.values())))
    moved = np.zeros(rows, np.bool_)
    for name, limit in limits.items():
        with np.errstate(invalid="ignore", over="ignore"):
            gaps = np.abs(answers[name].astype(np.float64) - clean[name].astype(np.float64)).reshape(rows, -1)
        moved |= ~(gaps <= limit).all(axis=1)
    return moved


def cover(tried: Sequence[Tried], rows: int, rows_max: int = CANARY_ROWS_MAX) -> list[int]:
    """Choose rows greedily until every corruption shows, then go round again until ``rows_max`` rows are chosen.

    Of rows that show equally many, the first is taken. Without any corruption that shows, the first rows are taken.
    """
    harmful = [item.beyond for item in tried if item.is_harmful]
    moved = [item.moved for item in tried if item.moved.any()]
    chosen: list[int] = []
    while len(chosen) < min(rows, rows_max):
        before = len(chosen)
        for shown in (harmful, moved):
            _cover_once(shown, chosen, before, rows_max)
        if len(chosen) == before:
            chosen += [row for row in range(rows) if row not in chosen][: rows_max - before]
    return sorted(chosen)


def _cover_once(shown: Sequence[Rows], chosen: list[int], fresh_from: int, rows_max: int) -> None:
    """Add rows until each corruption shows in one that was added since ``fresh_from``, as far as rows can."""
    left = [rows.copy() for rows in shown if not rows[chosen[fresh_from:]].any()]
    for rows in left:
        rows[chosen] = False
    while len(chosen) < rows_max and (left := [rows for rows in left if rows.any()]):
        best = int(np.sum(left, axis=0).argmax())
        chosen.append(best)
        left = [rows for rows in left if not rows[best]]


def canary_plan(
    file: ModelFile, tried: Sequence[Tried], chosen: Sequence[int], places: Sequence[int], golden: Golden
) -> CanaryPlan:
    """Describe the ``chosen`` rows of the pool, which stand at ``places`` among the golden rows."""
    watched = tuple(_watched(constant, tried, chosen, places) for constant in file.constants)
    return CanaryPlan(
        schema_version=1,
        rows=tuple(places),
        watched=watched,
        tables=tuple(_tables(file, golden.inputs)),
        uncovered=tuple(item.constant for item in watched if item.moved_seen == 0),
        method=_METHOD,
    )


def _watched(constant: Constant, tried: Sequence[Tried], chosen: Sequence[int], places: Sequence[int]) -> Watched:
    mine = [item for item in tried if item.constant.place == constant.place]
    harmful = [item for item in mine if item.is_harmful]
    moved = [item for item in mine if item.moved.any()]
    rows = list(chosen)
    return Watched(
        constant=constant.name,
        operator=constant.operator,
        bytes=len(constant.data),
        rows=tuple(place for row, place in zip(rows, places, strict=True) if any(item.moved[row] for item in moved)),
        tried=len(mine),
        harmful=len(harmful),
        harmful_seen=sum(bool(item.beyond[rows].any()) for item in harmful),
        moved=len(moved),
        moved_seen=sum(bool(item.moved[rows].any()) for item in moved),
    )


def _tables(file: ModelFile, inputs: Tensors) -> Iterator[LookedUp]:
    tables = {item.name: item.entries for item in file.constants if item.entries}
    if not tables:
        return
    try:
        looked = file.lookups(inputs)
    except ModelError:
        looked = {}  # its insides cannot be read, so nothing is known to be seen
    for name, entries in tables.items():
        seen = np.unique(looked[name] % entries).size if name in looked else 0
        yield LookedUp(name, entries, round(seen / entries, _PLACES))
