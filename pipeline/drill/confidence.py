"""What a few plays of a drill can claim: intervals for shares and times, and how far the worst one reaches.

Requests of one play share a fate, so plays are what is counted. Nothing here assumes how times are distributed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import betaincinv  # type: ignore[import-untyped]  # it ships no types

from pipeline.core.errors import UsageError
from pipeline.drill.measures import Measures
from pipeline.drill.verdict import Verdict, never_came

CONFIDENCE = 0.95
_TIMES = ("mttd_ms", "switch_ms", "rto_ms", "redundancy_ms", "worst_ms", "p99_ms")
_EVENTS = ("lost", "wrong", "abstained", "late", "unrestored", "unredundant")


@dataclass(frozen=True)
class Share:
    """``hits`` of ``of`` plays, and between which shares the true one is, at ``confidence``.

    Two-sided and exact (Clopper and Pearson 1934). Where nothing, or everything, was hit, the interval is one-sided:
    the exact form of the rule of three (none of n: at most about 3/n).
    """

    hits: int
    of: int
    low: float
    high: float
    confidence: float = CONFIDENCE

    def in_words(self) -> str:
        """Return one line for people."""
        return f"{self.hits} of {self.of} plays, {self.low:.1%} to {self.high:.1%} at {self.confidence:.0%}"


@dataclass(frozen=True)
class Times:
    """Times of ``of`` plays in ms. ``low`` and ``high`` hold the median; None: too few plays for ``confidence``.

    A further play is worse than ``worst_ms`` in at most a share of ``worse_max`` of all plays, at ``confidence``.
    """

    of: int
    median_ms: float
    low_ms: float | None
    high_ms: float | None
    worst_ms: float
    worse_max: float
    confidence: float = CONFIDENCE

    def in_words(self) -> str:
        """Return one line for people."""
        held = "" if self.low_ms is None else f" ({self.low_ms:.0f} to {self.high_ms:.0f} at {self.confidence:.0%})"
        more = f"at most {self.worse_max:.0%} of plays are worse, at {self.confidence:.0%}"
        return f"median {self.median_ms:.0f} ms{held}, worst of {self.of}: {self.worst_ms:.0f} ms ({more})"


@dataclass(frozen=True)
class Repeats:
    """Several plays of one script. ``events``: plays with at least one request lost, wrong …; times: see measures."""

    passed: Share
    events: Mapping[str, Share]
    times: Mapping[str, Times]


def share(hits: int, of: int, confidence: float = CONFIDENCE) -> Share:
    """Return an interval for a share; nothing is known after no play. Raises UsageError for a count beyond ``of``."""
    if not 0 <= hits <= of:
        raise UsageError(f"{hits} of {of} is no share.")
    if of == 0:
        return Share(0, 0, 0.0, 1.0, confidence)
    tail = 1 - confidence if hits in (0, of) else (1 - confidence) / 2
    low = float(betaincinv(hits, of - hits + 1, tail)) if hits else 0.0
    high = float(betaincinv(hits + 1, of - hits, 1 - tail)) if hits < of else 1.0
    return Share(hits, of, low, high, confidence)


def times(values_ms: Sequence[float], confidence: float = CONFIDENCE) -> Times | None:
    """Return what order statistics say of times; None where there are none."""
    if not values_ms:
        return None
    ordered, count = sorted(values_ms), len(values_ms)
    below = _ranks_below_median(count, confidence)
    middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
    return Times(
        of=count,
        median_ms=middle,
        low_ms=None if below is None else ordered[below],
        high_ms=None if below is None else ordered[count - 1 - below],
        worst_ms=ordered[-1],
        worse_max=1 - (1 - confidence) ** (1 / count),
        confidence=confidence,
    )


def _ranks_below_median(count: int, confidence: float) -> int | None:
    """Return how many of the least values may be left out, so that the rest still holds the median; None: too few.

    The number of values below the median is binomial(count, 1/2), whatever the distribution.
    """
    tail, left_out = 0.0, None
    for rank in range(count // 2):
        tail += math.comb(count, rank) / 2**count
        if tail > (1 - confidence) / 2:
            break
        left_out = rank
    return left_out


def over_repeats(plays: Sequence[tuple[Measures, Verdict]], confidence: float = CONFIDENCE) -> Repeats:
    """Return what several plays of one script claim together; those that could not be played are left out.

    Of a time that a play never came to nothing is claimed: it is longer than all that were seen.
    """
    played = [(one, verdict) for one, verdict in plays if not one.left_out]
    measures, count = [one for one, _ in played], len(played)
    whole = [name for name in _TIMES if not any(never_came(f"{name}_max", one) for one in measures)]
    known = {name: [value for one in measures if (value := getattr(one, name)) is not None] for name in whole}
    found = {name: times(values, confidence) for name, values in known.items()}
    return Repeats(
        passed=share(sum(verdict.passed for _, verdict in played), count, confidence),
        events={name: share(sum(getattr(one, name) > 0 for one in measures), count, confidence) for name in _EVENTS},
        times={name: one for name, one in found.items() if one is not None},
    )
