"""A pair's log records as moments of a drill, and who served since when: the same reading for both worlds."""

import json
import re
from collections.abc import Mapping
from typing import Any

from pipeline.core.names import Role
from pipeline.drill.nouns import Moment, MomentKind
from pipeline.runtime.members import Component
from pipeline.runtime.pair_nouns import NoteKind

Served = tuple[float, Role | None, int]

_TERM = re.compile(r"the (primary|backup) .*\(term (\d+)\)")
_MOMENTS = {
    NoteKind.FAILOVER: MomentKind.FAILOVER,
    NoteKind.FAILBACK: MomentKind.FAILBACK,
    NoteKind.OUTAGE: MomentKind.OUTAGE,
    NoteKind.RESTORED: MomentKind.RESTORED,
    NoteKind.RESTART: MomentKind.RESTART,
    NoteKind.QUARANTINE: MomentKind.QUARANTINE,
    NoteKind.REDUNDANCY_LOST: MomentKind.REDUNDANCY_LOST,
    NoteKind.REDUNDANCY_BACK: MomentKind.REDUNDANCY_BACK,
}


def record_in(line: str) -> dict[str, Any] | None:
    """Return the record that a line of a service's log holds, or None.

    Engines speak up on the same stream, piece by piece: their words may stand before a record on its line.
    """
    start = line.find('{"at":')
    try:
        record = json.loads(line[start:]) if start >= 0 else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def told_moment(at_ms: float, record: Mapping[str, object]) -> Moment:
    """Return what a log record of a pair says: a diagnosis where it names a component, else an event of its kind."""
    text = str(record.get("event", ""))
    if "component" not in record:
        kind = record.get("kind")
        return Moment(at_ms, _MOMENTS.get(NoteKind(str(kind)), MomentKind.OTHER) if kind else MomentKind.OTHER, text)
    seat, confidence = record.get("seat"), record.get("confidence")
    role = None if seat is None else Role(str(seat).rpartition("-")[0])
    return Moment(
        at_ms,
        MomentKind.DETECTED,
        text,
        role,
        Component(str(record["component"])),
        float(confidence) if isinstance(confidence, int | float) else None,
    )


def told_served(at_ms: float, record: Mapping[str, object], term: int) -> Served | None:
    """Return who serves since a record was made; None where it does not say. ``term`` is the last one that was told."""
    kind = record.get("kind")
    if kind == NoteKind.OUTAGE:
        return at_ms, None, term
    found = _TERM.fullmatch(str(record.get("event", ""))) if kind else None
    return None if found is None else (at_ms, Role(found[1]), int(found[2]))
