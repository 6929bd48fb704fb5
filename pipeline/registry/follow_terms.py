"""How ``hotspare follow`` goes about moved aliases: the part ``follow`` of ``mlflow/promotion.yaml``."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pipeline.core.schema import Rule


class OnRefusal(StrEnum):
    """What becomes of an alias whose pair is refused."""

    REPORT = "report"  # it stays where the person put it, and is told as drift
    RESTORE = "restore"  # it is put back to what the channel names


@dataclass(frozen=True)
class FollowTerms:
    """How ``hotspare follow`` goes about it."""

    on_refusal: Annotated[OnRefusal, Rule("What becomes of an alias whose pair is refused.")] = OnRefusal.REPORT
    rebuild: Annotated[bool, Rule("Rebuild the backup of a primary that has none of its own build.")] = True
    lag_alarm_s: Annotated[
        float,
        Rule("Seconds from an alias's move until the alarm, where channel or nodes have not followed.", minimum=0),
    ] = 900.0


DEFAULT_FOLLOW_TERMS = FollowTerms()
