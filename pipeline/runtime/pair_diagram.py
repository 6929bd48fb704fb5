"""The diagrams of the pair machine, found by trying every event on every state that can be reached.

Two states count as one here when they differ in times and counts alone; that is why a short search sees every edge.
"""

import sys
from collections import deque
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from pipeline.core.files import write_atomic
from pipeline.core.names import Role
from pipeline.runtime.members import Fault, MemberState, Tier
from pipeline.runtime.pair import (
    Event,
    Excused,
    Failed,
    HoldAsked,
    Member,
    Note,
    NoteKind,
    PairState,
    ProbePassed,
    Ready,
    ReleaseAsked,
    Staged,
    SwitchAsked,
    Tick,
    first_state,
    step,
)
from pipeline.runtime.pair_seats import LIVE
from pipeline.runtime.settings import Settings

BEGIN, END = "<!-- pair diagrams: begin (generated) -->", "<!-- pair diagrams: end -->"
Edges = dict[tuple[str, str], set[str]]

_WAITS_MS = (60, 5_000)
_EVENT_WORDS = {
    Staged: "bytes verified",
    Ready: "golden answers right",
    Excused: "a request was to blame",
    HoldAsked: "hold asked",
    ReleaseAsked: "release asked",
}
_MOVES = {
    NoteKind.STARTED, NoteKind.FAILOVER, NoteKind.FAILBACK, NoteKind.SWITCHOVER, NoteKind.OUTAGE, NoteKind.RESTORED,
}  # fmt: skip


def _settings() -> Iterator[Settings]:
    for tier, restarts in product(Tier, (0, 5)):
        yield Settings(standby=tier, restarts_max=restarts, failback_probes=1, start_max_ms=4_000)


def _events(state: PairState) -> Iterator[Event]:
    yield from (Tick(state.now_ms + wait) for wait in _WAITS_MS)
    yield from (SwitchAsked(role) for role in Role)
    for member in state.members:
        seat, incarnation = member.seat, member.incarnation
        yield from (Staged(seat, incarnation), Ready(seat, incarnation), ProbePassed(seat, incarnation))
        yield from (Failed(seat, incarnation, fault) for fault in (Fault.CRASH, Fault.SLOW))
        yield from (Excused(seat), HoldAsked(seat), ReleaseAsked(seat))


def _signature(state: PairState) -> tuple[object, ...]:
    """Return what tells a state from others, without what only counts or tells the time."""
    members = tuple(
        (m.state, m.start_at_ms is None, bool(m.failures_ms), m.loads, m.leaving is None) for m in state.members
    )
    pair = (state.serving, state.has_served, state.pinned, state.switching_to, state.primary_is_on_its_way())
    return (*pair, members)


def transitions() -> Iterator[tuple[PairState, Event, PairState, tuple[Note, ...]]]:
    """Yield every kind of step: state before, event, state after, notes."""
    for settings in _settings():
        first, _ = first_state(settings, 0, 0)
        known, todo = {_signature(first)}, deque([first])
        while todo:
            before = todo.popleft()
            for event in _events(before):
                after, actions = step(before, event)
                yield before, event, after, tuple(action for action in actions if isinstance(action, Note))
                if (signature := _signature(after)) not in known:
                    known.add(signature)
                    todo.append(after)


def edges() -> tuple[Edges, Edges]:
    """Return how members go from state to state, and who serves after whom, each with what makes it so."""
    members: Edges = {}
    serving: Edges = {}
    for before, event, after, notes in transitions():
        for old, new in zip(before.members, after.members, strict=True):
            if old.state is not new.state:
                words = _because(event, old, new.state)
                members.setdefault((old.state, new.state), set()).add(words)
        if before.serving is not after.serving:
            kinds = {note.kind.value for note in notes if note.kind in _MOVES}
            serving.setdefault((before.serving or "nobody", after.serving or "nobody"), set()).update(kinds)
    return members, serving


def _because(event: Event, before: Member, new: MemberState) -> str:
    """Return in words what made a member enter a state."""
    old = before.state
    if new is MemberState.QUARANTINED:
        return "failed too often"
    if old is MemberState.DOWN and new is MemberState.STARTING:
        return "needed" if before.start_at_ms is None else "backoff over"
    if old is MemberState.STAGED and new is MemberState.STARTING:
        return "needed"
    if isinstance(event, Failed) or before.leaving is not None:
        return "fault" if new is MemberState.DOWN else _EVENT_WORDS[type(event)]
    if isinstance(event, Tick) and old is MemberState.STARTING:
        return "start took too long"
    is_put_to_sleep = old in LIVE and new in (MemberState.DOWN, MemberState.STARTING)
    return "no longer needed" if is_put_to_sleep else _EVENT_WORDS[type(event)]


def diagrams() -> str:
    """Return both diagrams in Mermaid, as ``docs/runtime.md`` has them between its markers."""
    members, serving = edges()
    parts = ["What a member does:", _mermaid(members, MemberState.DOWN), "Who serves:", _mermaid(serving, "nobody")]
    return "\n\n".join([BEGIN, *parts, END])


def _mermaid(found: Edges, first: str) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    lines += [f"    {old} --> {new}: {' / '.join(sorted(why))}" for (old, new), why in sorted(found.items())]
    return "\n".join([*lines, "```"])


def main(page: Path) -> None:
    """Write the diagrams into a page, between their markers."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    write_atomic(page, (before + diagrams() + rest.partition(END)[2]).encode())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
