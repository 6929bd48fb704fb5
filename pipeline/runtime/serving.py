"""From a command line to a running service: sockets, the keeper, the server process and its front."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import TypeVar

from pipeline.core.errors import HotspareError, KeyFileError, SurroundingsError
from pipeline.core.names import Role
from pipeline.engines.open import open_session as engines
from pipeline.runtime.disk import NodeDisk
from pipeline.runtime.http.app import build_app
from pipeline.runtime.http.logs import LogWriter
from pipeline.runtime.http.server import serve_app
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.journal import Journal
from pipeline.runtime.keeper import ServerContext, keep
from pipeline.runtime.keeper_client import KeeperClient
from pipeline.runtime.loading import OpenSession
from pipeline.runtime.machine import ThisMachine
from pipeline.runtime.members import Seat
from pipeline.runtime.release import Places
from pipeline.runtime.server import Server, Serving
from pipeline.runtime.systemd import listen_fds, notify, watchdog_s
from pipeline.runtime.worker_spec import WorkerSpec

__all__ = ["Door", "bind", "engines", "run_service"]

BACKLOG = 1024
OPEN_AGAIN_S = 0.5
T = TypeVar("T")


@dataclass(frozen=True)
class Door:
    """Where the service listens."""

    host: str
    port: int


def bind(door: Door) -> tuple[socket.socket, ...]:
    """Return listening sockets: those that systemd opened, else a new one.

    Raises SurroundingsError when the address cannot be had.
    """
    inherited = listen_fds(os.environ, os.getpid())
    try:
        if inherited:
            return tuple(socket.socket(fileno=fd) for fd in inherited)
        family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
        return (socket.create_server((door.host, door.port), family=family, backlog=BACKLOG),)
    except OSError as error:
        if inherited:
            raise SurroundingsError(f"LISTEN_FDS names no open sockets ({error}); let systemd open them.") from error
        raise SurroundingsError(
            f"{door.host}:{door.port} cannot be listened on ({error.strerror or error}); choose another --port."
        ) from error


def run_service(
    door: Door,
    serving: Serving,
    front_of: Callable[[LogWriter], FrontSettings],
    take_over_argv: Sequence[str],
    open_session: OpenSession,
) -> int:
    """Serve until told to end; returns the exit code. ``open_session`` is what workers load models with."""

    def serve(context: ServerContext) -> int:
        return _run(_serve(context, serving, front_of))

    return keep(lambda: bind(door), serve, take_over_argv, open_session, rehearsal=_rehearsal(serving.places[0]))


def _rehearsal(places: Places) -> WorkerSpec:
    """Return a worker that is never started: what verifying its bundle imports and warms, every child has."""
    return WorkerSpec(
        bundle=str(places.primary),
        trust=str(places.trust),
        channel=None if places.channel is None else str(places.channel),
        seat=Seat(Role.PRIMARY),
        incarnation=0,
        term=0,
        then_load=False,
        threads=None,
        memory_mb=None,
        model="rehearsal",
    )


def _run(work: Coroutine[None, None, int]) -> int:
    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(work)
    return uvloop.run(work)


async def _serve(context: ServerContext, serving: Serving, front_of: Callable[[LogWriter], FrontSettings]) -> int:
    log = LogWriter(open(sys.stderr.fileno(), "wb", buffering=0, closefd=False))  # noqa: SIM115 - closed by nobody
    keeper = KeeperClient(context)
    keeper.start()
    try:
        front = await _opened(lambda: front_of(log), KeyFileError, context, log)
        renew_tls = None if front.tls is None else front.tls.renew
        machine = ThisMachine(keeper)
        server = Server(serving, machine, NodeDisk(), lambda model: Journal(model, log.put), renew_tls)
        await _answer(server, front, context, log)
    finally:
        keeper.close()
        log.close()
    return 0


async def _answer(server: Server, front: FrontSettings, context: ServerContext, log: LogWriter) -> None:
    try:
        await _opened(lambda: server.open(strict=context.restarts == 0), SurroundingsError, context, log)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.swap_soon)
        ready = asyncio.create_task(_tell_ready(server, context, log))
        await serve_app(build_app(server, front), context.listening, front, server.end)
        ready.cancel()
    finally:
        server.close()


async def _opened(what: Callable[[], T], waits_for: type[HotspareError], context: ServerContext, log: LogWriter) -> T:
    """Open something; a restarted server waits (a full disk, half a certificate), where a first start gives up."""
    while True:
        try:
            return what()
        except waits_for as error:
            if context.restarts == 0:
                raise
            log.put({"event": f"Not opened yet: {error}"})
            await asyncio.sleep(OPEN_AGAIN_S)


async def _tell_ready(server: Server, context: ServerContext, log: LogWriter) -> None:
    """Say once that every model is served, then feed systemd's watchdog."""
    while not all(model.ready for model in server.models()):
        await asyncio.sleep(0.005)
    where = [f"{host}:{port}" for host, port, *_ in (sock.getsockname() for sock in context.listening)]
    log.put({"event": "ready", "listening": where, "models": [model.name for model in server.models()]})
    notify("READY=1")
    every = watchdog_s(os.environ)
    while every is not None:
        notify("WATCHDOG=1")
        await asyncio.sleep(every)
