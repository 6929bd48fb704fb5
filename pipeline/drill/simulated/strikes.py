"""Strikes in the simulated world: how each fault is done, and how it is taken back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.core.errors import SignatureInvalid, Tampered, Untrusted
from pipeline.core.names import Role
from pipeline.drill.fault_facts import amount
from pipeline.drill.nouns import FaultKind, Moment, MomentKind, Strike
from pipeline.drill.simulated.clients import Clients
from pipeline.drill.simulated.processes import Process
from pipeline.drill.simulated.service import SimulatedService
from pipeline.drill.simulated.surroundings import Surroundings
from pipeline.runtime.members import Seat

TakeBack = Callable[[], None]
_BROKEN: Mapping[FaultKind, type[Untrusted]] = {
    FaultKind.BIT_FLIP: Tampered,
    FaultKind.TRUNCATED: Tampered,
    FaultKind.TAMPERED: SignatureInvalid,
}


def poison_times(strikes: tuple[Strike, ...]) -> tuple[float, ...]:
    """Return when poison requests are due, in ms."""
    return tuple(
        one.at_ms + number * amount(one, "every_ms")
        for one in strikes
        if one.fault is FaultKind.POISON
        for number in range(int(amount(one, "poison_requests")))
    )


def _nothing() -> None:
    """Take nothing back."""


@dataclass
class Striker:
    """Does what a script says, and notes when."""

    world: Surroundings
    service: SimulatedService
    clients: Clients
    now_ms: Callable[[], float]

    def plan(self, strikes: tuple[Strike, ...], began_s: float) -> None:
        """Set every strike on the clock."""
        for number, strike in enumerate(strikes):
            self.world.loop.call_at(began_s + strike.at_ms / 1000, self._strike, number, strike)

    def _strike(self, number: int, strike: Strike) -> None:
        self._note(MomentKind.STRUCK, number, strike)
        take_back = self._do(strike)
        if strike.lasts_ms is not None:
            self.world.loop.call_later(strike.lasts_ms / 1000, self._end, number, strike, take_back)

    def _end(self, number: int, strike: Strike, take_back: TakeBack) -> None:
        take_back()
        self._note(MomentKind.ENDED, number, strike)

    def _note(self, kind: MomentKind, number: int, strike: Strike) -> None:
        text = strike.fault if strike.target is None else f"{strike.fault} {strike.target}"
        self.service.moments.append(Moment(self.now_ms(), kind, str(text), strike.target, strike=number))

    def _do(self, strike: Strike) -> TakeBack:
        fault = strike.fault
        if fault in _TO_A_WORKER:
            process = self.service.machine.member(Seat(strike.target or Role.PRIMARY))
            return _nothing if process is None else _TO_A_WORKER[fault](process, strike)
        if fault in _BROKEN:
            self.world.disk.break_bundle(strike.target or Role.PRIMARY, _BROKEN[fault])
            self.service.read_again()
            return _nothing
        return _ELSEWHERE.get(fault, _leave_alone)(self, strike)

    # What is done to no single worker.

    def exit_loop(self, strike: Strike) -> TakeBack:
        """Let every worker of a role exit at each request."""
        role = strike.target or Role.PRIMARY
        self.world.exiting[role] = strike

        def take_back() -> None:
            if self.world.exiting.get(role) is strike:
                del self.world.exiting[role]

        return take_back

    def fail_starts(self, strike: Strike) -> TakeBack:
        """Let the next starts of a role fail."""
        role = strike.target or Role.PRIMARY
        self.world.failing_starts[role] = self.world.failing_starts.get(role, 0) + int(amount(strike, "times"))
        return _nothing

    def stale(self, strike: Strike) -> TakeBack:
        """Put a bundle in place that the channel no longer names."""
        self.world.disk.put_stale(strike.target or Role.PRIMARY)
        self.service.read_again()
        return _nothing

    def expire(self, _strike: Strike) -> TakeBack:
        """Let the channel end."""
        self.world.disk.expire()
        self.service.read_again()
        return _nothing

    def roll_back(self, _strike: Strike) -> TakeBack:
        """Put an older channel in place."""
        self.world.disk.roll_back()
        self.service.read_again()
        return _nothing

    def starve(self, strike: Strike) -> TakeBack:
        """Take the processors away: workers wait for one, the server wakes up late."""
        before, loop = self.world.starvation, self.world.loop
        self.world.starvation = amount(strike, "processes")
        loop.stall_ms = 2 * self.world.starvation

        def take_back() -> None:
            self.world.starvation = before
            loop.stall_ms = 2 * before

        return take_back

    def fill_disk(self, _strike: Strike) -> TakeBack:
        """Fill the disk."""
        self.world.disk.is_full = True
        return lambda: setattr(self.world.disk, "is_full", False)

    def use_up_descriptors(self, _strike: Strike) -> TakeBack:
        """Leave no descriptors: no worker can be started. Clients that are connected stay so."""
        self.world.is_short_of_descriptors = True
        return lambda: setattr(self.world, "is_short_of_descriptors", False)

    def drop(self, _strike: Strike) -> TakeBack:
        """Let bytes vanish."""
        network = self.clients.network
        network.drops += 1

        def take_back() -> None:
            network.drops -= 1

        return take_back

    def delay(self, strike: Strike) -> TakeBack:
        """Let bytes come later."""
        network, ms, jitter_ms = self.clients.network, amount(strike, "ms"), amount(strike, "jitter_ms")
        network.delay_ms += ms
        network.jitter_ms += jitter_ms

        def take_back() -> None:
            network.delay_ms -= ms
            network.jitter_ms -= jitter_ms

        return take_back

    def reset(self, _strike: Strike) -> TakeBack:
        """Reset connections: those that wait now, and every one while it lasts."""
        network = self.clients.network
        network.resets += 1
        self.clients.reset_all()

        def take_back() -> None:
            network.resets -= 1

        return take_back

    def set_clock_back(self, strike: Strike) -> TakeBack:
        """Set the wall clock back."""
        disk, ms = self.world.disk, amount(strike, "ms")
        disk.clock_back_ms += ms

        def take_back() -> None:
            disk.clock_back_ms -= ms

        return take_back

    def kill_server(self, _strike: Strike) -> TakeBack:
        """End the server."""
        self.service.die()
        return _nothing


def _leave_alone(_striker: Striker, _strike: Strike) -> TakeBack:
    """Do nothing: poison is sent by the clients; registry and store are not asked while serving."""
    return _nothing


_ELSEWHERE: Mapping[FaultKind, Callable[[Striker, Strike], TakeBack]] = {
    FaultKind.EXIT: Striker.exit_loop,
    FaultKind.STALE_MODEL: Striker.stale,
    FaultKind.EXPIRED: Striker.expire,
    FaultKind.ROLLED_BACK: Striker.roll_back,
    FaultKind.CPU_STARVATION: Striker.starve,
    FaultKind.DISK_FULL: Striker.fill_disk,
    FaultKind.DESCRIPTORS: Striker.use_up_descriptors,
    FaultKind.DROPPED: Striker.drop,
    FaultKind.DELAYED: Striker.delay,
    FaultKind.RESET: Striker.reset,
    FaultKind.CLOCK_BACK: Striker.set_clock_back,
    FaultKind.SERVER_DEATH: Striker.kill_server,
    FaultKind.START_FAILS: Striker.fail_starts,
}


def _kill(process: Process, _strike: Strike) -> TakeBack:
    process.kill()
    return _nothing


def _stop(process: Process, _strike: Strike) -> TakeBack:
    process.stop()
    return process.resume


def _spoil(process: Process, strike: Strike) -> TakeBack:
    process.strike = strike

    def take_back() -> None:
        if process.strike is strike:
            process.heal()

    return take_back


_IN_THE_ENGINE = (
    FaultKind.HANG, FaultKind.ERRORS, FaultKind.MALFORMED, FaultKind.WRONG_DTYPE, FaultKind.NAN, FaultKind.SLOW,
    FaultKind.WRONG_ANSWERS, FaultKind.CORRUPT_WEIGHTS, FaultKind.OUT_OF_MEMORY,
)  # fmt: skip
_TO_A_WORKER: Mapping[FaultKind, Callable[[Process, Strike], TakeBack]] = {
    FaultKind.KILL: _kill,
    FaultKind.STOP: _stop,
    **dict.fromkeys(_IN_THE_ENGINE, _spoil),
}
