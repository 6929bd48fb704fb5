"""The simulated world: one script played on the production pair, deterministic by its seed.

Real: server, pair, conductor, flights, watch, taster, reception, terms, the channel's rules, the keeper's waits.
Made up: time, processes, engines, bytes on disk and their verification, the HTTP front, the network, clients.
"""

import asyncio
import random
from pathlib import Path

from pipeline.core.names import Role
from pipeline.drill.live.plan import read_due_times
from pipeline.drill.nouns import Arrivals, Observed, Script
from pipeline.drill.pair_settings import pair_settings
from pipeline.drill.simulated.clients import Clients
from pipeline.drill.simulated.clock import VirtualLoop
from pipeline.drill.simulated.models import bundle_of
from pipeline.drill.simulated.service import SimulatedService
from pipeline.drill.simulated.strikes import Striker, poison_times
from pipeline.drill.simulated.surroundings import Surroundings
from pipeline.drill.simulated.trouble import FOR_GOOD, notice_ms
from pipeline.runtime.members import MemberState, Tier
from pipeline.runtime.service import PairStatus
from pipeline.runtime.settings import Failback, Settings

SETTLE_S = 12.0  # after load and faults, at most so long until all is as before
_LOOK_MS = 50.0
_READY_S = 5.0
_SETTLE_WITHOUT_S = 0.6  # where a fault for good stands in the way of that, so long


def simulate(script: Script, seed: int) -> Observed:
    """Play a script; the same script and seed give the same, to the last bit."""
    draw = random.Random(seed)  # noqa: S311 - a drill's dice
    loop = VirtualLoop(draw)
    try:
        return loop.run_until_complete(_Play(script, loop, draw).run())
    finally:
        _end_tasks(loop)
        loop.close()


def _end_tasks(loop: VirtualLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))


class _Play:
    """One play of a script."""

    def __init__(self, script: Script, loop: VirtualLoop, draw: random.Random) -> None:
        self._script = script
        self._loop = loop
        self._began_s = 0.0
        self._settings: Settings = pair_settings(script.settings)
        self._world = Surroundings(loop, draw)
        self._service = SimulatedService(self._world, self._settings, self._now_ms)
        due_s = read_due_times(Path(script.load.log)) if script.load.arrivals is Arrivals.REPLAY else ()
        poison = poison_times(script.strikes)
        self._clients = Clients(script.load, poison, loop, draw, self._service, self._now_ms, due_s)

    def _now_ms(self) -> float:
        return 1000 * (self._loop.time() - self._began_s)

    async def run(self) -> Observed:
        """Start, wait until the pair is whole, play, wait until it is whole again or cannot be."""
        await self._until_whole(_READY_S)
        self._service.moments.clear()
        self._began_s = self._loop.time() + self._world.draw.uniform(0.02, 0.12)  # canaries come at any phase
        self._service.serving[:] = [(0.0, *self._service.serving[-1][1:])]
        self._clients.start(self._began_s)
        Striker(self._world, self._service, self._clients, self._now_ms).plan(self._script.strikes, self._began_s)
        await self._world.pause(max(self._ends_ms() - self._now_ms(), 0.0))
        while self._clients.open:
            await self._world.pause(_LOOK_MS)
        await self._until_whole(_SETTLE_WITHOUT_S if self._is_for_good() else SETTLE_S)
        status = self._service.status()
        self._service.close()
        return self._observed(status)

    def _ends_ms(self) -> float:
        """Return until when something may happen of itself: load, strikes, and what a strike must be noticed by."""
        settings = self._settings
        ends = [1000 * self._script.load.seconds + 1]
        for one in self._script.strikes:
            notice = notice_ms(one, settings)
            ends += [one.at_ms + (one.lasts_ms or 0) + 1.0, one.at_ms + (notice if notice < float("inf") else 0.0)]
        return max(ends)

    def _is_for_good(self) -> bool:
        return any(one.fault in FOR_GOOD for one in self._script.strikes)

    async def _until_whole(self, within_s: float) -> None:
        until_s = self._loop.time() + within_s
        while not self._is_whole() and self._loop.time() < until_s:
            await self._world.pause(_LOOK_MS)

    def _is_whole(self) -> bool:
        """Tell whether everybody who is needed is ready, and who serves is who should in the end."""
        pair = self._service.status()
        if pair is None or pair.serving is None:
            return False
        if pair.serving is Role.BACKUP and self._settings.failback is Failback.AFTER_PROBES:
            return False
        needed = [one for one in pair.members if one.seat.role is Role.PRIMARY or self._settings.standby is Tier.HOT]
        is_out = any(one.state is MemberState.QUARANTINED for one in pair.members)
        is_ready = all(one.state in (MemberState.READY, MemberState.QUARANTINED) for one in needed)
        return is_ready and (is_out or self._service.is_redundant)

    def _observed(self, pair: PairStatus | None) -> Observed:
        serving = pair.serving if pair is not None else None
        behind = [
            self._world.disk.versions_behind(one.bundle_id)
            for one in (pair.members if pair is not None else ())
            if one.seat.role is serving
        ]
        problems = {"problem": "; ".join(self._loop.problems)} if self._loop.problems else {}
        return Observed(
            world="simulated",
            requests=self._clients.requests(),
            moments=tuple(self._service.moments),
            serving=tuple(self._service.serving),
            hedged=self._service.hedged,
            resent=self._service.resent,
            versions_behind=max(behind, default=0),
            facts={**{f"{role} bundle": bundle_of(role).bundle_id for role in Role}, **problems},
        )
