"""The course of one play: load, strikes at their moments and their end, and the wait until all is as before."""

import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from pipeline.core.errors import InternalError
from pipeline.core.names import Role
from pipeline.drill.live.generating import RECORD_FILE, generating
from pipeline.drill.live.judging import poison_body
from pipeline.drill.live.plan import Extra, Plan, Record, read_due_times, read_record
from pipeline.drill.live.releases import next_whole_second, wait_until
from pipeline.drill.live.scene import Scene
from pipeline.drill.live.strikes import ON_DISK, poison_times, struck
from pipeline.drill.live.watching import Sampler
from pipeline.drill.nouns import Arrivals, FaultKind, Moment, MomentKind, Script
from pipeline.runtime.members import MemberState, Tier
from pipeline.runtime.settings import Failback, Settings

SETTLE_S = 12.0  # after load and faults, at most so long until all is as before
SETTLE_WITHOUT_S = 1.5  # where what is wrong on disk stands in the way of that, so long
_LOOK_S = 0.05
_EXPIRED_FOR = timedelta(milliseconds=20)


@dataclass
class Play:
    """One play while it goes on."""

    script: Script
    scene: Scene
    settings: Settings
    began_s: float = 0.0
    struck: list[Moment] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=lambda: {"hedges": 0, "resent": 0})
    sampler: Sampler | None = None

    def run(self) -> Record:
        """Load the server, strike, take back, wait until all is as before or cannot be."""
        folder = self.scene.folder
        plan = _plan(self.script, self.scene)
        ends = self._channel_end()
        with Sampler(self.scene.system.family) as self.sampler, ExitStack() as strikes:
            self._wait_for_channel(ends)
            with generating(plan, folder) as self.began_s:
                self._strike_all(strikes)
            self.settle()
            self._count()
        return read_record(folder / RECORD_FILE)

    def now_ms(self) -> float:
        """Return ms after the load's start."""
        return 1000 * (time.monotonic() - self.began_s)

    # A channel that ends while it is played.

    def _channel_end(self) -> datetime | None:
        """Renew the channel so that it ends at the strike; returns when that is."""
        if not any(one.fault is FaultKind.EXPIRED for one in self.script.strikes) or self.scene.served.channels is None:
            return None
        ends = next_whole_second()
        self.scene.served.channels.write_ending(ends)
        return ends

    def _wait_for_channel(self, ends: datetime | None) -> None:
        if ends is not None:
            at_ms = min(one.at_ms for one in self.script.strikes if one.fault is FaultKind.EXPIRED)
            wait_until(ends + _EXPIRED_FOR - timedelta(milliseconds=at_ms))

    # Strikes.

    def _strike_all(self, strikes: ExitStack) -> None:
        """Begin and end every strike at its moment; what lasts is taken back by the stack, at the end of the play."""
        todo = [(one.at_ms, 0, number) for number, one in enumerate(self.script.strikes)]
        todo += [
            (one.at_ms + one.lasts_ms, 1, n) for n, one in enumerate(self.script.strikes) if one.lasts_ms is not None
        ]
        begun: dict[int, ExitStack] = {}
        for at_ms, is_end, number in sorted(todo, key=lambda one: one[0]):
            time.sleep(max(0.0, (at_ms - self.now_ms()) / 1000))
            if not is_end:
                begun[number] = strikes.enter_context(ExitStack())
                self._begin(number, begun[number])
            else:
                begun[number].close()
                self._note(MomentKind.ENDED, number)

    def _begin(self, number: int, stack: ExitStack) -> None:
        strike = self.script.strikes[number]
        if strike.fault is FaultKind.SERVER_DEATH:
            self._count()  # the next server counts from nothing
        due_ms = float(strike.at_ms) if strike.fault is FaultKind.POISON else self.now_ms()  # the load sends poison
        try:
            stack.enter_context(struck(self.scene, strike))
        except (InternalError, ProcessLookupError) as error:
            self.struck.append(Moment(due_ms, MomentKind.UNDONE, f"{strike.fault} could not be done: {error}"))
        self._note(MomentKind.STRUCK, number, due_ms)

    def _note(self, kind: MomentKind, number: int, at_ms: float | None = None) -> None:
        strike = self.script.strikes[number]
        text = str(strike.fault) if strike.target is None else f"{strike.fault} {strike.target}"
        at_ms = self.now_ms() if at_ms is None else at_ms
        self.struck.append(Moment(at_ms, kind, text, strike.target, strike=number))

    # The end.

    def _count(self) -> None:
        found = self.scene.system.status().get("counters", {})
        for name in self.counted:
            self.counted[name] += int(found.get(name, 0))

    def settle(self) -> None:
        """Wait until all is as before, or cannot be."""
        is_for_good = any(one.fault in ON_DISK for one in self.script.strikes)
        end_s = time.monotonic() + (SETTLE_WITHOUT_S if is_for_good else SETTLE_S)
        while not self._is_whole() and time.monotonic() < end_s:
            time.sleep(_LOOK_S)

    def _is_whole(self) -> bool:
        """Tell whether everybody who is needed is ready, and who serves is who should in the end."""
        status = self.scene.system.status()
        serving = status.get("serving")
        if serving is None or (serving == Role.BACKUP and self.settings.failback is Failback.AFTER_PROBES):
            return False
        hot = self.settings.standby is Tier.HOT
        needed = [one for one in status["members"] if hot or one["seat"]["role"] == Role.PRIMARY]
        still = (MemberState.READY, MemberState.HELD, MemberState.QUARANTINED)
        return all(one["state"] in still for one in needed)


def _plan(script: Script, scene: Scene) -> Plan:
    load = script.load
    extras = tuple(Extra(at_ms / 1000, poison_body(scene.questions)) for at_ms in poison_times(script))
    return Plan(
        port=scene.system.port if scene.proxy is None else scene.proxy.port,
        path=f"/v2/models/{scene.questions.model}/infer",
        bodies=scene.questions.bodies,
        rate=load.rate_per_s,
        seconds=load.seconds,
        seed=load.seed,
        arrivals=load.arrivals,
        deadline_ms=load.deadline_ms,
        extras=extras,
        due_s=read_due_times(Path(load.log)) if load.arrivals is Arrivals.REPLAY else (),
    )
