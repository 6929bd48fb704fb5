"""The pair machine, live, on a crew that does nothing: what its disk may and may not hold up."""

import asyncio
import threading
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

from pipeline.core.names import Role
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
        conductor = Conductor(Settings(), crew, Terms(disk), journal, nothing, nothing)
        conductor.start()
        disk.goes_on.clear()
        for seat in (P, B):
            conductor.tell(Ready(seat, 1))
        conductor.tell(Failed(P, 1, Fault.CRASH))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        for _ in range(10):
            await asyncio.sleep(0.001)
        assert loop.time() - began_s < PATIENCE_S / 2
        assert (conductor.state.serving, disk.remembered.serving) == (Role.BACKUP, None)
        disk.goes_on.set()
        while disk.remembered.serving is not Role.BACKUP:
            await asyncio.sleep(0.001)
        assert disk.remembered.term == conductor.state.term

    asyncio.run(play())
