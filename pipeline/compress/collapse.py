"""Tells whether fine-tuning destroyed a model: its answers against those of the model that it came from."""

from collections.abc import Mapping

import numpy as np

from pipeline.core.tensors import Array

SPREAD_MIN = 1e-6
CORRELATION_MIN = 0.5


def collapse_of(source: Mapping[str, Array], tuned: Mapping[str, Array]) -> str | None:
    """Say how a tuned model's answers have collapsed, or None; both map output names to answers for the same rows.

    Collapsed are: NaN or infinity, one answer for every row, and answers that hardly follow the source's (Pearson
    correlation below 0.5). Needs no labels, so it judges rankings and regressions alike; the metric is the scorecard's.
    """
    for name, answers in tuned.items():
        found, wanted = np.asarray(answers, np.float64), np.asarray(source[name], np.float64)
        if not np.isfinite(found).all():
            return f"answers NaN or infinity in {name!r} on validation rows"
        if len(found) < 2 or float(np.ptp(wanted)) < SPREAD_MIN:
            continue
        if float(np.ptp(found, axis=0).max()) < SPREAD_MIN:
            return f"gives one answer in {name!r} for every validation row"
        correlation = float(np.corrcoef(found.ravel(), wanted.ravel())[0, 1])
        if correlation < CORRELATION_MIN:
            return f"hardly follows its source in {name!r} on validation rows (correlation {correlation:.2f})"
    return None
