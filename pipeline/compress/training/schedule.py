"""How sparsity grows during fine-tuning: one schedule for every library and every way to take weights away."""

import math
from dataclasses import dataclass

_RAMP = 0.6  # of all steps; the rest lets the weights that are left settle
_UPDATES = 20  # of the masks, spread over the ramp
_POWER = 3  # Zhu and Gupta, To prune, or not to prune (2017): fast while much is superfluous, slow at the end


@dataclass(frozen=True)
class Ramp:
    """A polynomial from ``initial`` to ``final`` sparsity (0..1) over the first part of ``steps`` training steps."""

    initial: float
    final: float
    steps: int

    @property
    def frequency(self) -> int:
        """Return after how many steps masks are renewed."""
        return max(1, self._length // _UPDATES)

    @property
    def end(self) -> int:
        """Return the first step (from 0) with the final sparsity: one at which masks are renewed."""
        return min(self._length // self.frequency * self.frequency, self.steps - 1)

    @property
    def _length(self) -> int:
        return max(1, int(self.steps * _RAMP))

    def sparsity_at(self, step: int) -> float:
        """Return the share of weights (0..1) that masks made at a step take away."""
        left = 1 - min(step / self.end, 1.0) if self.end else 0.0
        return self.final + (self.initial - self.final) * left**_POWER

    def renews_at(self, step: int) -> bool:
        """Tell whether masks are made anew before a step (from 0)."""
        return step <= self.end and step % self.frequency == 0


def ramp_to(final: float, steps: int) -> Ramp:
    """Return the ramp that starts at half of the final sparsity."""
    return Ramp(final / 2, final, steps)


def at_once(final: float, steps: int) -> Ramp:
    """Return the ramp of a pattern that fixes its sparsity: final from the first step on."""
    return Ramp(final, final, steps)


def steps_an_epoch(rows: int, batch_size: int, replicas: int = 1) -> int:
    """Return how many batches an epoch has.

    A last batch with fewer rows than replicas is left out; its rows come in other epochs, which shuffle anew.
    """
    whole, rest = divmod(rows, batch_size)
    return max(1, whole + (rest >= replicas)) if rest else max(1, whole)


def batch_bounds(rows: int, batch_size: int, step: int) -> tuple[int, int]:
    """Return the half-open range of a batch within the epoch's order of rows."""
    start = step * batch_size
    return start, min(start + batch_size, rows)


def shard_bounds(rows: int, shards: int, shard: int) -> tuple[int, int]:
    """Return one replica's half-open part of a batch; parts differ by one row at most, and each has one if it can."""
    return rows * shard // shards, rows * (shard + 1) // shards


def seconds_left(spent: float, done: int, total: int) -> float:
    """Return the time that the rest will take at the pace so far, in seconds; both counts are steps."""
    return math.inf if done < 1 else spent / done * (total - done)
