"""Whether the few largest of some weights are worth clipping, so that the many others are rounded finer.

At 4 bits a scale has 15 levels. Spread over the whole range, they round Gaussian weights with about 20 dB; the best
clipping gives them little more (Max 1960, Quantizing for minimum distortion). Weights that fare worse have tails, and
gain by clipping (measured with OCTAV: 1 to 7 dB); weights that fare as well lose where it counts, because large
weights carry the signal: answers of the tabular examples got 1 to 1.7 dB worse.
"""

import numpy as np

from pipeline.core.tensors import Array

UNCLIPPED_DB = 20.3
_LEVELS_A_SIDE = 7


def has_tails(weights: Array) -> bool:
    """Tell whether 15 levels from the smallest to the largest round ``weights`` (scales, n) with less than 20.3 dB.

    Each row has its own scale. The error is predicted as step²/12.
    """
    if weights.size == 0:
        return False
    peaks = np.abs(weights).max(1).astype(np.float64)
    noise = weights.shape[1] * float(np.square(peaks / _LEVELS_A_SIDE).sum()) / 12
    power = float(np.square(weights, dtype=np.float64).sum())
    return bool(0 < power < noise * 10 ** (UNCLIPPED_DB / 10))
