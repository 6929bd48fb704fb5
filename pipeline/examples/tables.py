"""From a CSV table to standardized float32 features: what is learned is learned from the training rows alone."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array

Floats = npt.NDArray[np.float64]
Table = dict[str, list[str]]


@dataclass(frozen=True)
class Preparation:
    """How raw columns become model features: missing values filled, then ``(value - mean) / scale``.

    One entry a feature in each tuple; ``scale`` is never zero.
    """

    columns: tuple[str, ...]
    fill: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]

    def apply(self, raw: Floats) -> Array:
        """Return float32 features (n, k) of raw values (n, k), where NaN means missing."""
        filled = np.where(np.isnan(raw), np.array(self.fill), raw)
        return np.asarray((filled - np.array(self.mean)) / np.array(self.scale), np.float32)


@dataclass(frozen=True)
class Shares:
    """How many rows go to calibration, validation and the locked test; the others train."""

    calibration: int
    validation: int
    test: int


def learn_preparation(columns: Sequence[str], train: Floats) -> Preparation:
    """Learn medians, means and standard deviations (population) from training rows (n, k), NaN meaning missing."""
    fill = np.nanmedian(train, axis=0)
    filled = np.where(np.isnan(train), fill, train)
    deviation = filled.std(axis=0)
    # Rounding gives a constant column of large values a deviation above zero; dividing by that would amplify noise.
    varies = deviation > 1e-9 * np.abs(filled).max(axis=0)
    scale = np.where(varies, deviation, 1.0)
    values = (tuple(item.tolist()) for item in (fill, filled.mean(axis=0), scale))
    return Preparation(tuple(columns), *values)


def split_table(
    columns: Sequence[str], raw: Floats, labels: Array, shares: Shares, seed: int
) -> tuple[dict[str, dict[str, Array]], Preparation]:
    """Deal rows out at random and standardize them: ``features`` (n, k) and ``y`` (n,) a split, both float32."""
    order = np.random.default_rng(seed).permutation(len(labels))
    ends = np.cumsum([shares.calibration, shares.validation, shares.test])
    calibration, validation, test, train = np.split(order, ends)
    preparation = learn_preparation(columns, raw[train])
    rows = {"train": train, "calibration": calibration, "validation": validation, "test": test}
    splits = {
        name: {"features": preparation.apply(raw[picked]), "y": labels[picked].astype(np.float32)}
        for name, picked in rows.items()
    }
    return splits, preparation


def read_table(data: bytes, what: str) -> Table:
    """Read UTF-8 CSV with a header into columns of text; raises DataError when a row has another width."""
    header, *rows = csv.reader(io.StringIO(data.decode("utf-8")), skipinitialspace=True)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{what}, line {number}: {len(row)} fields instead of {len(header)}; fetch it again.")
    return dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))


def numbers(column: Sequence[str]) -> Floats:
    """Turn text into numbers (n,); empty text becomes NaN."""
    return np.array([float(text) if text else np.nan for text in column])


def signed_log(values: Floats) -> Floats:
    """Return sign(x) · ln(1 + |x|): tames amounts of money and laboratory values, keeps their sign."""
    return np.asarray(np.sign(values) * np.log1p(np.abs(values)))


def one_hot(column: Sequence[str], levels: Sequence[str]) -> Floats:
    """Return (n, levels) zeros and ones; text outside ``levels`` (missing, say) is a row of zeros."""
    return np.array([[float(text == level) for level in levels] for text in column])
