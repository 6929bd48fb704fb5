"""Bugs planted into the production pair, and the drill that catches each: ``python tests/drill/mutations.py``.

With a page's name the table is written into it, between its markers: ``… docs/drills.md``.

A mutation replaces one piece of production code for one play. A sound pair keeps every promise in the same drill.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from pipeline.core.names import Role
from pipeline.drill.nouns import FaultKind, Load, Script, Strike
from pipeline.drill.reference import written
from pipeline.drill.simulated.history import violations
from pipeline.drill.simulated.world import simulate
from pipeline.runtime.debts import Debts
from pipeline.runtime.flights import Flight, Flights
from pipeline.runtime.pace import Paces
from pipeline.runtime.pair_nouns import Granted, PairState
from pipeline.runtime.supervisor import Pair
from pipeline.runtime.terms import BLOCK, Terms, TermsStore
from pipeline.runtime.watch import Watch

LOAD = Load(rate_per_s=200, seconds=0.8)
P = Role.PRIMARY


@dataclass(frozen=True)
class Mutation:
    """A planted bug: what it replaces, by what, and the drill that must show it."""

    name: str
    bug: str
    target: Any
    attribute: str
    planted: Callable[..., Any]
    script: Script


@contextmanager
def planted(mutation: Mutation) -> Iterator[None]:
    """Plant a bug for a while."""
    with patch.object(mutation.target, mutation.attribute, mutation.planted):
        yield


def caught(mutation: Mutation, seed: int = 1) -> tuple[str, ...]:
    """Play a mutation's drill with its bug; returns the promises that are broken."""
    with planted(mutation):
        observed = simulate(mutation.script, seed)
    return violations(mutation.script, observed)


def drill(name: str, *strikes: Strike) -> Script:
    return Script(name, "A planted bug is caught.", LOAD, strikes)


def _sleeps(state: PairState, role: Role) -> bool:
    return role is Role.PRIMARY or (state.serving is not Role.PRIMARY and not state.staying(Role.PRIMARY))


def _nobody_is_judged(*_: object) -> None:
    """Let everybody be as late as they like."""


def _no_canary_fails(watch: Watch, worker: Any, *_: object) -> None:
    watch._ground.probed(worker)


def _first_term(flight_term: Callable[..., None]) -> Callable[..., None]:
    def give(flights: Flights, flight: Flight, worker: Any, seat: Any, incarnation: int) -> None:
        flight_term(flights, flight, worker, seat, incarnation)
        for request_id, (sent_to, of, _) in list(flight.sent.items()):
            flight.sent[request_id] = (sent_to, of, 1)

    return give


def _anew(kept: Terms, store: TermsStore) -> None:
    kept._store, kept.granted = store, Granted(1, BLOCK)


MUTATIONS = (
    Mutation(
        "standby never warmed", "the backup is loaded when it is needed, not before", PairState, "needs", _sleeps,
        drill("kill", Strike(300, FaultKind.KILL, P)),
    ),
    Mutation(
        "detector off (late answers)", "nobody is evicted for an answer that does not come", Debts, "judge",
        _nobody_is_judged, drill("hang", Strike(300, FaultKind.HANG, P)),
    ),
    Mutation(
        "detector off (canaries)", "whatever a canary answers is taken for right", Watch, "_canary", _no_canary_fails,
        drill("corrupt", Strike(300, FaultKind.CORRUPT_WEIGHTS, P)),
    ),
    Mutation(
        "detector off (pace)", "however long an engine takes for real requests, nobody looks", Paces, "answered",
        _nobody_is_judged, drill("drags", Strike(100, FaultKind.SLOW, P, amounts=(("ms", 50.0),))),
    ),
    Mutation(
        "old term accepted", "answers go out under the first term, whoever serves by now", Flights, "give",
        _first_term(Flights.give), drill("stale-primary-resumes", Strike(300, FaultKind.STOP, P, 400)),
    ),
    Mutation(
        "terms not persisted", "a server that starts counts from one again", Terms, "__init__", _anew,
        drill("server-death", Strike(300, FaultKind.SERVER_DEATH)),
    ),
    Mutation(
        "floor not persisted", "which channel was accepted is forgotten when the server ends", Pair, "_accept",
        _nobody_is_judged,
        drill("rollback", Strike(200, FaultKind.ROLLED_BACK), Strike(300, FaultKind.SERVER_DEATH)),
    ),
)  # fmt: skip


def table() -> str:
    """Return the mutations as a Markdown table."""
    rows = ["| planted bug | what it does | drill | caught by |", "|---|---|---|---|"]
    for one in MUTATIONS:
        found = caught(one)
        rows.append(f"| {one.name} | {one.bug} | {one.script.name} | {found[0] if found else '**not caught**'} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(table())
    for page in map(Path, sys.argv[1:]):
        page.write_text(written(page.read_text(), {"mutations": table()}))
