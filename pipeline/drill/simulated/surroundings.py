"""What everything in the simulated world shares: time, dice, the disk, and strikes that hit no single process."""

import asyncio
import random

from pipeline.drill.nouns import Strike
from pipeline.drill.simulated.clock import VirtualLoop
from pipeline.drill.simulated.disk import SimulatedDisk
from pipeline.drill.simulated.models import Formula


class Surroundings:
    """The ground that processes, service and strikes stand on."""

    def __init__(self, loop: VirtualLoop, draw: random.Random) -> None:
        self.loop = loop
        self.draw = draw
        self.disk = SimulatedDisk(loop.time)
        self.formula = Formula()
        self.exiting: dict[str, Strike] = {}  # role: every worker of it exits at each request
        self.failing_starts: dict[str, int] = {}  # role: so many starts fail yet
        self.starvation = 0.0  # how many times longer everything takes
        self.oom_kills = 0
        self.is_short_of_descriptors = False
        self._pids = 1000

    def next_pid(self) -> int:
        """Return a process id that was never used."""
        self._pids += 1
        return self._pids

    def pause(self, ms: float) -> "asyncio.Future[None]":
        """Return what is done a while later."""
        future = self.loop.create_future()
        self.loop.call_later(ms / 1000, _wake, future)
        return future


def _wake(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)
