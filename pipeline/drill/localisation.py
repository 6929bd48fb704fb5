"""Diagnoses against the truth: the drill knows what it broke."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.drill.fault_facts import FACTS
from pipeline.drill.nouns import Moment, MomentKind, Strike
from pipeline.runtime.members import Component


@dataclass(frozen=True)
class Blamed:
    """What was said of one strike; ``unexplained`` are components that no strike so far makes true."""

    named: tuple[Component, ...] = ()
    unexplained: tuple[Component, ...] = ()

    def is_true_of(self, strike: Strike) -> bool:
        """Tell whether the diagnoses name what is at fault, and nothing else."""
        return not self.unexplained and (bool(self.named) or not FACTS[strike.fault].components)


@dataclass(frozen=True)
class Localised:
    """All diagnoses of one play. ``false_alarms`` came before anything was struck. ``firm``: without tentative ones."""

    by_strike: tuple[Blamed, ...]
    false_alarms: tuple[Moment, ...]
    firm: tuple[Moment, ...]


def localised(strikes: Sequence[tuple[float, Strike]], moments: Sequence[Moment]) -> Localised:
    """Charge every diagnosis to the strikes (when each was done, and what) that it may be about."""
    named: list[list[Component]] = [[] for _ in strikes]
    unexplained: list[list[Component]] = [[] for _ in strikes]
    alarms, firm = [], []
    for moment in moments:
        if moment.kind is not MomentKind.DETECTED or moment.component is None:
            continue
        about = [number for number, (at_ms, strike) in enumerate(strikes) if may_be_about(moment, at_ms, strike)]
        true = [number for number in about if moment.component in FACTS[strikes[number][1].fault].components]
        if not true and any(moment.component in FACTS[strikes[number][1].fault].may_say for number in about):
            continue
        firm.append(moment)
        for number in true:
            named[number].append(moment.component)
        if not true and not _charge(moment, about, strikes, unexplained):
            alarms.append(moment)
    blamed = (
        Blamed(tuple(dict.fromkeys(said)), tuple(dict.fromkeys(more)))
        for said, more in zip(named, unexplained, strict=True)
    )
    return Localised(tuple(blamed), tuple(alarms), tuple(firm))


def may_be_about(moment: Moment, at_ms: float, strike: Strike) -> bool:
    """Tell whether a moment comes after a strike and names no other role than the one it was done to."""
    return moment.at_ms >= at_ms and (strike.target is None or moment.role in (None, strike.target))


def _charge(
    moment: Moment,
    about: Sequence[int],
    strikes: Sequence[tuple[float, Strike]],
    unexplained: Sequence[list[Component]],
) -> bool:
    """Charge what no strike explains to the last one that it may be about, else to the last one at all."""
    earlier = about or [number for number, (at_ms, _) in enumerate(strikes) if at_ms <= moment.at_ms]
    if not earlier or moment.component is None:
        return False
    unexplained[earlier[-1]].append(moment.component)
    return True
