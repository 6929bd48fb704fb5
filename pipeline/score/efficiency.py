"""Deployment efficiency: how much smaller and how much coarser a candidate is than its reference.

The published definition is volume ratio (V2 / V1) times precision ratio (P2 / P1). Its worked example, 1 TB to 100 GB
and 16 to 8 bit, prints 0.25; the formula gives 0.1 × 0.5 = 0.05, and 0.05 is what is computed here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Efficiency:
    """The ratios of a candidate to its reference; smaller is better, all but ``saving`` are at least 0."""

    volume_ratio: float
    precision_ratio: float

    @property
    def deployment_efficiency(self) -> float:
        """Return volume ratio × precision ratio."""
        return self.volume_ratio * self.precision_ratio

    @property
    def saving(self) -> float:
        """Return 1 − deployment efficiency; below 0 where the candidate is the larger one."""
        return 1.0 - self.deployment_efficiency


def efficiency(volume: float, reference_volume: float, precision: float, reference_precision: float) -> Efficiency:
    """Compare volumes (any one unit, e.g. bytes) and precisions (mean bits per weight).

    Raises ValueError unless both reference values are above 0 and the others at least 0.
    """
    if min(reference_volume, reference_precision) <= 0 or min(volume, precision) < 0:
        raise ValueError("volumes and precisions must be at least 0, the reference's above 0")
    return Efficiency(volume / reference_volume, precision / reference_precision)
