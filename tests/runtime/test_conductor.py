"""The pair machine, live, on a crew that does nothing: what its disk may and may not hold up."""

import asyncio
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from pair_world import Shelf

from pipeline.core.names import Role
from pipeline.runtime import conductor, terms
from pipeline.runtime.conductor import Conductor
from pipeline.runtime.journal import Journal
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.pair_nouns import Failed, Ready
from pipeline.runtime.settings import Settings
from pipeline.runtime.terms import Remembered, Terms

P, B = Seat(Role.PRIMARY), Seat(Role.BACKUP)
PATIENCE_S = 10.0


class StuckDisk:
    """Holds up every write while it is stuck."""

    def __init__(self) -> None:
        self.remembered = Remembered(1, 0)
        self.goes_on = threading.Event()
        self.goes_on.set()

    def read(self) -> Remembered:
        return self.remembered

    def alone(self) -> AbstractContextManager[None]:
        return nullcontext()

    def write(self, remembered: Remembered) -> None:
        assert self.goes_on.wait(PATIENCE_S)
        self.remembered = remembered


def test_a_disk_that_is_stuck_at_a_failover_holds_nothing_up_and_learns_in_the_end_who_serves() -> None:
    async def play() -> None:
        disk = StuckDisk()
        nothing: Any = lambda *_: None  # noqa: E731 - one for all that a crew does
        crew: Any = SimpleNamespace(start=nothing, stop=nothing, load=nothing, tell_term=nothing, of=nothing)
        journal = Journal("tiny", lambda _record: None)
        pair = Conductor(Settings(), crew, Terms(disk), journal, nothing, nothing)
        pair.start()
        disk.goes_on.clear()
        for seat in (P, B):
            pair.tell(Ready(seat, 1))
        pair.tell(Failed(P, 1, Fault.CRASH))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert loop.time() - began_s < PATIENCE_S / 2
        assert (pair.state.serving, disk.remembered.serving) == (Role.BACKUP, None)
        disk.goes_on.set()
        while disk.remembered.serving is not Role.BACKUP:
            await asyncio.sleep(0.001)
        assert disk.remembered.term == pair.state.term

    asyncio.run(play())


def test_a_pair_whose_terms_end_on_a_full_disk_serves_again_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "BLOCK", 1)
    monkeypatch.setattr(conductor, "_WRITE_AGAIN_MS", 1)

    async def play() -> None:
        disk, told = Shelf(), list[Mapping[str, object]]()
        nothing: Any = lambda *_: None  # noqa: E731 - one for all that a crew does
        crew: Any = SimpleNamespace(start=nothing, stop=nothing, load=nothing, tell_term=nothing, of=nothing)
        pair = Conductor(Settings(), crew, Terms(disk), Journal("tiny", told.append), nothing, nothing)
        disk.is_full = True
        pair.start()
        for event in (Ready(P, 1), Ready(B, 1), Failed(P, 1, Fault.CRASH)):
            pair.tell(event)
        assert (pair.state.serving, pair.state.term) == (None, 1)
        while not any("0 are left" in str(line["event"]) for line in told):
            pair.tick()
            await asyncio.sleep(0.001)
        disk.is_full = False
        while pair.state.serving is None:
            pair.tick()
            await asyncio.sleep(0.001)
        assert (pair.state.serving, pair.state.term) == (Role.BACKUP, 2)
        assert sum("0 are left" in str(line["event"]) for line in told) <= 2  # under term 1, and when it was over

    asyncio.run(play())
