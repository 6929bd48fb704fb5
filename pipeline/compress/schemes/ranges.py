"""Ranges of activations from a stream of their values, in bounded memory.

The smallest and largest value are exact. To clip, a histogram of 2,048 bins is kept besides: bin edges are multiples of
a power of two, which doubles when the values outgrow it, so the histogram of a stream does not depend on how the
stream was cut. Of a call's large tensor a seeded sample of values goes into it.
"""

import enum
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array

Floats = npt.NDArray[np.float64]

BINS = 2048
SAMPLED_VALUES = 65_536
KEPT_RATIO = 0.9999  # of the values, by Clipping.PERCENTILE
_LEVELS = 255  # steps of an int8 activation
_SHRINKS = np.linspace(1.0, 0.05, 96)


class Clipping(enum.StrEnum):
    """How much of an activation's range is kept: all, all but rare extremes, or what rounds with the least error."""

    NONE = "none"
    PERCENTILE = "percentile"
    MSE = "mse"


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value that an activation took, or is clipped to."""

    low: float
    high: float

    def widened(self, other: "Range") -> "Range":
        """Return the range that covers both."""
        return Range(min(self.low, other.low), max(self.high, other.high))


Ranges = dict[str, Range]


class RangeRecorder:
    """Collects the values of many activations, and gives their ranges."""

    def __init__(self, clipping: Clipping, seed: int = 0) -> None:
        self._clipping = clipping
        self._seed = seed
        self._calls: dict[str, int] = {}
        self._seen: dict[str, Range] = {}
        self._histograms: dict[str, Histogram] = {}

    def add(self, name: str, values: Array) -> None:
        """Take the values of one call; raises DataError when one is NaN or infinite."""
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError(f"Calibration rows drive {name!r} to NaN or infinity; remove them from data.calibration.")
        self._seen[name] = Range(low, high).widened(self._seen.get(name, Range(low, high)))
        if self._clipping is not Clipping.NONE:
            self._histograms.setdefault(name, Histogram()).add(self._sample(name, values), self._seen[name])

    def ranges(self) -> Ranges:
        """Return the range of every activation, clipped as asked; raises DataError when there were no values."""
        if not self._seen:
            raise DataError(
                "Calibration needs at least one row, and there is none; check data.calibration of the recipe."
            )
        if self._clipping is Clipping.NONE:
            return dict(self._seen)
        clip = percentile_range if self._clipping is Clipping.PERCENTILE else least_error_range
        return {name: clip(self._histograms[name], seen) for name, seen in self._seen.items()}

    def _sample(self, name: str, values: Array) -> Array:
        flat = values.reshape(-1)
        call = self._calls[name] = self._calls.get(name, 0) + 1
        if flat.size <= SAMPLED_VALUES:
            return flat
        rng = np.random.default_rng([self._seed, call, flat.size])
        return flat[rng.integers(0, flat.size, SAMPLED_VALUES)]


class Histogram:
    """Counts of values in bins whose edges are multiples of ``width``; exact zeros are counted apart."""

    def __init__(self) -> None:
        self.width = 0.0
        self.first = 0
        self.counts = np.zeros(BINS, np.int64)
        self.zeros = 0

    @property
    def centres(self) -> Floats:
        """Return the middle of each bin."""
        return np.asarray((self.first + np.arange(BINS) + 0.5) * self.width, np.float64)

    def add(self, values: Array, seen: Range) -> None:
        """Count values, all of them within ``seen``, the range of the stream so far."""
        nonzero = values[values != 0].astype(np.float64)
        self.zeros += values.size - nonzero.size
        self._fit(seen)
        if nonzero.size:
            places = np.floor(nonzero / self.width).astype(np.int64) - self.first
            self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def _fit(self, seen: Range) -> None:
        """Widen the bins until they cover ``seen``; neighbours are added up, so no count is lost."""
        width = max(self.width, _width(seen))
        while np.floor(seen.high / width) - np.floor(seen.low / width) >= BINS:
            width *= 2
        first = int(np.floor(seen.low / width))
        if (width, first) == (self.width, self.first):
            return
        merged = np.zeros(BINS, np.int64)
        taken = np.flatnonzero(self.counts)
        if taken.size:
            # The ratio is a power of two: the product is exact, where an integer of that size need not exist.
            places = np.floor((taken + self.first) * (self.width / width)).astype(np.int64) - first
            np.add.at(merged, places, self.counts[taken])
        self.width, self.first, self.counts = width, first, merged


def percentile_range(histogram: Histogram, seen: Range) -> Range:
    """Return the range that keeps the middle 99.99 % of the values."""
    cut = (1 - KEPT_RATIO) / 2 * (histogram.counts.sum() + histogram.zeros)
    below = np.cumsum(histogram.counts)
    above = np.cumsum(histogram.counts[::-1])[::-1]
    kept = np.flatnonzero((below > cut) & (above > cut))
    if not kept.size:
        return seen
    low, high = ((histogram.first + kept[0]) * histogram.width, (histogram.first + kept[-1] + 1) * histogram.width)
    return _clipped(seen, low, high)


def least_error_range(histogram: Histogram, seen: Range) -> Range:
    """Return the range whose 255 steps give the values the least squared error, rounding and clipping together.

    Values inside are off by step²/12 on average, values outside by their distance to the range; exact zeros by nothing
    (Banner et al. 2019, Post training 4-bit quantization of convolutional networks).
    """
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    lows = low * (_SHRINKS if low < 0 else np.ones(1))
    highs = high * (_SHRINKS if high > 0 else np.ones(1))
    centres, counts = histogram.centres, histogram.counts.astype(np.float64)
    outside = _clip_error(-centres, counts, -lows)[:, None] + _clip_error(centres, counts, highs)
    step = (highs[None, :] - lows[:, None]) / _LEVELS
    error = outside + histogram.counts.sum() * step**2 / 12
    best = np.unravel_index(int(np.argmin(error)), error.shape)
    return _clipped(seen, float(lows[best[0]]), float(highs[best[1]]))


def _clip_error(centres: Floats, counts: Floats, limits: Floats) -> Floats:
    """Return, for each limit, the squared error of clipping at it from above."""
    beyond = np.maximum(centres[None, :] - limits[:, None], 0)
    return np.asarray((beyond**2 * counts[None, :]).sum(1), np.float64)


def _clipped(seen: Range, low: float, high: float) -> Range:
    return Range(max(seen.low, float(low)), min(seen.high, float(high)))


def _width(seen: Range) -> float:
    """Return a power of two that is surely too small, so that widening it ends at the same width for any stream."""
    size = max(abs(seen.low), abs(seen.high), float(np.finfo(np.float32).tiny))
    return float(2.0 ** np.floor(np.log2(max(seen.high - seen.low, size * 2**-20) / BINS) - 1))
