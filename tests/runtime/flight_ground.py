"""A ground of a few lines that flights go over: workers that keep what they are given."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime.flights import Blame, Flight
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.request import Available
from pipeline.runtime.service import Answer

PRIMARY, BACKUP = Seat(Role.PRIMARY), Seat(Role.BACKUP)


@dataclass
class Held:
    """A worker that keeps what it is given."""

    seat: Seat
    incarnation: int = 1
    usable: bool = True
    requests: list[int] = field(default_factory=list)

    def infer(self, request_id: int, *_: object) -> None:
        self.requests.append(request_id)


class Ground:
    term = 5

    def __init__(self) -> None:
        self.workers = {PRIMARY: Held(PRIMARY), BACKUP: Held(BACKUP)}
        self.tasted: list[Flight] = []
        self.shadowed: list[Flight] = []
        self.doubts: list[Flight] = []
        self.blamed: list[tuple[Fault, bool | None]] = []
        self.excused: set[Seat] = set()
        self.sendings: list[tuple[bool, bool]] = []
        self.agrees = True

    def now_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1000

    def available(self) -> Available:
        choices = [(seat, one.incarnation, len(one.requests)) for seat, one in self.workers.items() if one.usable]
        return Available(tuple(choices[:1]), tuple(choices[1:]), not self.tasted)

    def worker(self, seat: Seat, incarnation: int) -> Any:
        one = self.workers.get(seat)
        return one if one is not None and one.incarnation == incarnation else None

    def agree(self, *_: object) -> bool:
        return self.agrees

    def taste(self, flight: Flight, _role: Role | None) -> None:
        self.tasted.append(flight)

    def shadow(self, flight: Flight, _answer: Answer) -> None:
        self.shadowed.append(flight)

    def doubted(self, flight: Flight) -> None:
        self.doubts.append(flight)

    def blame(self, blame: Blame, other_ok: bool | None) -> None:
        self.blamed.append((blame.fault, other_ok))

    def excuse(self, seats: set[Seat]) -> None:
        self.excused |= seats

    def counted(self, hedge: bool, again: bool) -> None:
        self.sendings.append((hedge, again))

    def named(self, seat: Seat, outputs: Mapping[str, Array], term: int, hedged: bool) -> Answer:
        return Answer(outputs, "id", "candidate", seat.role, term, hedged)
