"""A sharper interval from rows without labels: the soft loss, known better from more rows, as a control variate. Pure.

A row's *soft loss* needs no label: what it is expected to lose if the float model's probabilities were true. Over the
labelled rows it goes up and down with the real loss; over more rows its mean is known better, and the difference of
both means corrects the estimate (prediction-powered inference, PPI++: Angelopoulos, Duchi & Zrnic, 2023). The weight is
the least-squares one, found on the resamples themselves, so a soft loss that tells nothing does no harm; wrong
probabilities cost sharpness, never honesty.
"""

from dataclasses import dataclass

import numpy as np

from pipeline.score.intervals import RESAMPLES, Draws, weighted_mean
from pipeline.score.metrics import Floats

FURTHER_MIN = 50  # the mean of fewer rows is not near enough to normal
_WORTH_IT = 0.98  # an interval that would shrink by less stays the plain one


@dataclass(frozen=True)
class Extra:
    """The soft loss of each labelled row (n,) and of each further row (m,)."""

    labelled: Floats
    further: Floats

    @property
    def rows(self) -> int:
        """Return how many further rows there are."""
        return len(self.further)


def could_sharpen(labelled_rows: int, further_rows: int) -> bool:
    """Tell whether soft losses that foretold the real ones wholly would make the interval enough narrower."""
    best = np.sqrt(labelled_rows / (labelled_rows + further_rows))
    return further_rows >= FURTHER_MIN and bool(best <= _WORTH_IT)


def sharpened(losses: Floats, extra: Extra | None, draws: Draws) -> tuple[Floats, float | None]:
    """Return the resampled losses (r,) corrected by the soft losses, and their spread against the plain ones.

    The losses come back as they were, with None, when there is nothing to correct by or it would not help.
    """
    valid = np.isfinite(losses)
    if (
        extra is None
        or not could_sharpen(len(extra.labelled), extra.rows)
        or not np.ptp(extra.labelled)
        or not np.ptp(losses[valid])
    ):
        return losses, None
    gap = further_draws(extra, draws) - draws.apply(weighted_mean(extra.labelled))
    spread = np.var(gap[valid])
    weight = -np.cov(losses[valid], gap[valid], bias=True)[0, 1] / spread
    corrected = losses + weight * gap
    ratio = float(np.std(corrected[valid]) / np.std(losses[valid]))
    return (corrected, ratio) if ratio <= _WORTH_IT else (losses, None)


def further_draws(extra: Extra, draws: Draws) -> Floats:
    """Return the further rows' mean soft loss as other such rows might give it (r,): normal, around what they gave.

    Their spread is taken from whichever rows spread more: where a change is rare the further rows may show none, and
    would seem to know its mean exactly.
    """
    spread = max(extra.further.std(), extra.labelled.std())
    noise = np.random.default_rng([draws.seed, 2]).standard_normal(RESAMPLES)
    return np.asarray(extra.further.mean() + spread / np.sqrt(extra.rows) * noise)
