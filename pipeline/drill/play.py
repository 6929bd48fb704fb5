"""The one door to both worlds: the same script, played on virtual time or on real processes."""

import tempfile
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline.core.errors import UsageError
from pipeline.drill.live.launching import PairFiles
from pipeline.drill.live.scoring import Scoring
from pipeline.drill.live.world import live
from pipeline.drill.nouns import Observed, Script
from pipeline.drill.simulated.world import simulate


class World(StrEnum):
    """Where a script is played."""

    SIMULATED = "simulated"  # the production pair on virtual time: milliseconds, the same for the same seed
    LIVE = "live"  # real processes under real load


@dataclass(frozen=True)
class Subject:
    """What is drilled live: a pair, the npz with its task's rows, and what scores them."""

    pair: PairFiles
    rows: Path | None = None
    scoring: Scoring | None = None


def play(
    script: Script, world: World, seed: int = 0, subject: Subject | None = None, folder: Path | None = None
) -> Observed:
    """Play a script once; ``seed`` is the play's dice, beside the load's own.

    A live play needs a ``subject``; it takes place in ``folder``, or in a temporary one. Raises UsageError without a
    subject, and what :func:`pipeline.drill.live.world.live` raises.
    """
    if world is World.SIMULATED:
        return simulate(script, seed)
    if subject is None:
        raise UsageError("A live drill needs a pair of bundles; name a model that has them.")
    if folder is not None:
        return live(script, subject.pair, folder, subject.rows, subject.scoring, seed)
    with tempfile.TemporaryDirectory(prefix="hotspare-drill-", ignore_cleanup_errors=True) as aside:
        return live(script, subject.pair, Path(aside), subject.rows, subject.scoring, seed)
