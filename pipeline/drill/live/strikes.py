"""Every fault, for real: what a strike does to the processes, files, sockets and clock of one play.

A strike is begun by its context manager and taken back by leaving it, at its time or at the end of the play.
"""

import contextlib
import os
import select
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager

from pipeline.bundle.golden import read_golden
from pipeline.core.errors import InternalError
from pipeline.core.names import Role
from pipeline.drill.corruption import corrupted
from pipeline.drill.fault_facts import FACTS, amount
from pipeline.drill.faulty_clock import set_back
from pipeline.drill.live.judging import POISON
from pipeline.drill.live.releases import Channels, flip_bit, put_in_place, tamper, truncate
from pipeline.drill.live.resources import Dependency, busy_processes, fill_disk, idle_connections, limit_memory
from pipeline.drill.live.scene import Scene
from pipeline.drill.live.toxics import Proxy
from pipeline.drill.nouns import FaultKind, Script, Strike
from pipeline.drill.orders import EVERYBODY, Order, OrderKind, model_address, process_address, start_address

_DEATH_S = 0.5
DESCRIPTORS_MAX = 1024  # of the server's processes, where a script uses them up
NET = frozenset({FaultKind.DROPPED, FaultKind.DELAYED, FaultKind.RESET})
CHANNEL = frozenset({FaultKind.EXPIRED, FaultKind.ROLLED_BACK, FaultKind.STALE_MODEL})
ON_DISK = CHANNEL | {FaultKind.BIT_FLIP, FaultKind.TRUNCATED, FaultKind.TAMPERED}

_ORDERED = {
    FaultKind.HANG: OrderKind.HANG,
    FaultKind.ERRORS: OrderKind.ERRORS,
    FaultKind.MALFORMED: OrderKind.MALFORMED,
    FaultKind.WRONG_DTYPE: OrderKind.WRONG_DTYPE,
    FaultKind.NAN: OrderKind.NAN,
    FaultKind.SLOW: OrderKind.SLOW,
    FaultKind.WRONG_ANSWERS: OrderKind.WRONG_ANSWERS,
}


def prepare(scene: Scene, script: Script) -> None:
    """Do what takes long, or must be there before the load: weights proven wrong, orders to end by poison."""
    for role in {one.target or Role.PRIMARY for one in script.strikes if one.fault is FaultKind.CORRUPT_WEIGHTS}:
        bundle = scene.served.bundles[role]
        entry = bundle.manifest.entrypoint
        tolerances = read_golden(bundle.files).tolerances.absolute
        found = corrupted(entry.format, bundle.files[entry.path], scene.questions.rows, tolerances, scene.seed)
        scene.corrupt[role] = scene.folder / f"corrupt-{role}"
        scene.corrupt[role].write_bytes(found.model)
        scene.facts[f"{role} corrupted"] = f"{found.changed_ratio:.1%} of the answers, by {found.flipped} weights"
    if any(one.fault is FaultKind.POISON for one in script.strikes):
        scene.system.book.give(EVERYBODY, Order(OrderKind.CRASH, poison=POISON))


def poison_times(script: Script) -> tuple[float, ...]:
    """Return when poison requests are due, in ms."""
    return tuple(
        one.at_ms + number * amount(one, "every_ms")
        for one in script.strikes
        if one.fault is FaultKind.POISON
        for number in range(int(amount(one, "poison_requests")))
    )


def struck(scene: Scene, strike: Strike) -> AbstractContextManager[None]:
    """Return a strike to be begun and taken back; raises InternalError when there is nobody to do it to."""
    fault = strike.fault
    if fault in _ORDERED:
        return _ordered(scene, strike, _order_of(strike))
    return _STRIKES[fault](scene, strike)


def _target(strike: Strike) -> Role:
    return strike.target or Role.PRIMARY


def _order_of(strike: Strike) -> Order:
    said = {name: amount(strike, name) for name in FACTS[strike.fault].amounts}
    return Order(
        _ORDERED[strike.fault],
        ms=said.get("ms", 0.0),
        jitter_ms=said.get("jitter_ms", 0.0),
        ramp_ms=said.get("ramp_ms", 0.0),
        bias=said.get("bias", 0.0),
    )


@contextlib.contextmanager
def _given(scene: Scene, address: str, order: Order) -> Iterator[None]:
    """Give an order, and take it back unless another one to the same address came meanwhile."""
    scene.given[address] = order
    scene.system.book.give(address, order)
    try:
        yield
    finally:
        if scene.given[address] is order:
            scene.system.book.withdraw(address)


def _ordered(scene: Scene, strike: Strike, order: Order) -> AbstractContextManager[None]:
    """Give an order to the worker that is there now, not to its successor."""
    return _given(scene, process_address(scene.system.pid(_target(strike))), order)


@contextlib.contextmanager
def _kill(scene: Scene, strike: Strike) -> Iterator[None]:
    pid = os.pidfd_open(scene.system.pid(_target(strike)))
    signal.pidfd_send_signal(pid, signal.SIGKILL)
    select.select([pid], [], [], _DEATH_S)  # the next strike is to find nobody here
    os.close(pid)
    yield


@contextlib.contextmanager
def _stop(scene: Scene, strike: Strike) -> Iterator[None]:
    pid = os.pidfd_open(scene.system.pid(_target(strike)))  # it may be replaced: another process is not to be woken
    signal.pidfd_send_signal(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pid, signal.SIGCONT)
        os.close(pid)


def _exit_loop(scene: Scene, strike: Strike) -> AbstractContextManager[None]:
    return _given(scene, model_address(scene.served.model_bytes(_target(strike))), Order(OrderKind.EXIT))


def _corrupt_weights(scene: Scene, strike: Strike) -> AbstractContextManager[None]:
    model = str(scene.corrupt[_target(strike)])
    return _ordered(scene, strike, Order(OrderKind.CORRUPT_WEIGHTS, model=model))


def _start_fails(scene: Scene, strike: Strike) -> AbstractContextManager[None]:
    order = Order(OrderKind.FAIL_START, times=int(amount(strike, "times")))
    return _given(scene, start_address(scene.served.model_bytes(_target(strike))), order)


@contextlib.contextmanager
def _out_of_memory(scene: Scene, strike: Strike) -> Iterator[None]:
    """Let a worker grow in a group whose limit makes the kernel kill it."""
    if scene.memory_group is None:
        raise InternalError("No memory group was made for this play; this is a bug.")
    pid = scene.system.pid(_target(strike))
    limit_memory(scene.memory_group, pid, int(amount(strike, "spare_mb")))
    order = Order(OrderKind.GROW, grow_mb=int(amount(strike, "grow_mb")))
    scene.system.book.give(process_address(pid), order)
    yield


# On disk: the content is changed, then the server is told to read it again.


@contextlib.contextmanager
def _bundle_spoiled(scene: Scene, strike: Strike) -> Iterator[None]:
    _SPOIL[strike.fault](scene, _target(strike))
    scene.system.reload()
    yield


def _flip(scene: Scene, role: Role) -> None:
    flip_bit(scene.served.model_path(role), 0.5)


def _truncate(scene: Scene, role: Role) -> None:
    truncate(scene.served.model_path(role))


def _tamper(scene: Scene, role: Role) -> None:
    tamper(scene.served.files.bundle(role))


def _make_stale(scene: Scene, role: Role) -> None:
    put_in_place(_channels(scene).previous.bundle(role), scene.served.files.bundle(role))


_SPOIL: Mapping[FaultKind, Callable[[Scene, Role], None]] = {
    FaultKind.BIT_FLIP: _flip,
    FaultKind.TRUNCATED: _truncate,
    FaultKind.TAMPERED: _tamper,
    FaultKind.STALE_MODEL: _make_stale,
}


@contextlib.contextmanager
def _expired(scene: Scene, _strike: Strike) -> Iterator[None]:
    """Do nothing to the channel: it was renewed before the load so that it has ended by now."""
    scene.system.reload()
    yield


@contextlib.contextmanager
def _rolled_back(scene: Scene, _strike: Strike) -> Iterator[None]:
    """Put the channel of the version before in place, and its bundles."""
    channels = _channels(scene)
    for role in Role:
        put_in_place(channels.previous.bundle(role), scene.served.files.bundle(role))
    channels.write_before()
    scene.system.reload()
    yield


def _channels(scene: Scene) -> Channels:
    if scene.served.channels is None:
        raise InternalError("No channel was made for this play; this is a bug.")
    return scene.served.channels


# Around the server.


def _starve(_scene: Scene, strike: Strike) -> AbstractContextManager[None]:
    return busy_processes(int(strike.amount("processes", 2 * (os.cpu_count() or 1))))


@contextlib.contextmanager
def _fill_disk(scene: Scene, _strike: Strike) -> Iterator[None]:
    filler = fill_disk(scene.served.state)
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


@contextlib.contextmanager
def _use_up_descriptors(scene: Scene, strike: Strike) -> Iterator[None]:
    """Open idle connections until the server refuses more, at most as many as its limit of descriptors."""
    with idle_connections(scene.system.port, int(amount(strike, "connections"))) as opened:
        scene.facts["idle connections"] = str(opened)
        yield


def _proxy(scene: Scene) -> Proxy:
    if scene.proxy is None:
        raise InternalError("No proxy stands before the server of this play; this is a bug.")
    return scene.proxy


def _drop(scene: Scene, _strike: Strike) -> AbstractContextManager[None]:
    return _proxy(scene).dropping()


def _delay(scene: Scene, strike: Strike) -> AbstractContextManager[None]:
    return _proxy(scene).delaying(amount(strike, "ms"), amount(strike, "jitter_ms"))


def _reset(scene: Scene, _strike: Strike) -> AbstractContextManager[None]:
    return _proxy(scene).resetting()


def _dependency_down(which: str) -> Callable[[Scene, Strike], AbstractContextManager[None]]:
    @contextlib.contextmanager
    def down(scene: Scene, _strike: Strike) -> Iterator[None]:
        dependency: Dependency | None = getattr(scene, which)
        if dependency is None:
            raise InternalError(f"No {which} was set up for this play; this is a bug.")
        dependency.go_away()
        try:
            yield
        finally:
            dependency.come_back()

    return down


@contextlib.contextmanager
def _clock_back(scene: Scene, strike: Strike) -> Iterator[None]:
    set_back(scene.orders, amount(strike, "ms"))
    try:
        yield
    finally:
        set_back(scene.orders, 0.0)


@contextlib.contextmanager
def _nothing(_scene: Scene, _strike: Strike) -> Iterator[None]:
    """Leave all as it is: poison is sent by the load."""
    yield


@contextlib.contextmanager
def _kill_server(scene: Scene, _strike: Strike) -> Iterator[None]:
    os.kill(scene.system.answering_pid(), signal.SIGKILL)
    yield


_STRIKES: Mapping[FaultKind, Callable[[Scene, Strike], AbstractContextManager[None]]] = {
    FaultKind.KILL: _kill,
    FaultKind.STOP: _stop,
    FaultKind.EXIT: _exit_loop,
    FaultKind.CORRUPT_WEIGHTS: _corrupt_weights,
    **dict.fromkeys(_SPOIL, _bundle_spoiled),
    FaultKind.EXPIRED: _expired,
    FaultKind.ROLLED_BACK: _rolled_back,
    FaultKind.OUT_OF_MEMORY: _out_of_memory,
    FaultKind.CPU_STARVATION: _starve,
    FaultKind.DISK_FULL: _fill_disk,
    FaultKind.DESCRIPTORS: _use_up_descriptors,
    FaultKind.DROPPED: _drop,
    FaultKind.DELAYED: _delay,
    FaultKind.RESET: _reset,
    FaultKind.REGISTRY_DOWN: _dependency_down("registry"),
    FaultKind.STORE_DOWN: _dependency_down("store"),
    FaultKind.CLOCK_BACK: _clock_back,
    FaultKind.POISON: _nothing,
    FaultKind.SERVER_DEATH: _kill_server,
    FaultKind.START_FAILS: _start_fails,
}
