"""Run the front with uvicorn on sockets that somebody else has opened, and end it gracefully."""

import asyncio
import contextlib
import functools
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from pipeline.runtime.http.connection import Connection
from pipeline.runtime.http.handshake import Handshake
from pipeline.runtime.http.settings import FrontSettings

_ENDING = (signal.SIGTERM, signal.SIGINT)


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the end begins with ours."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_app(
    app: ASGIApp, sockets: Sequence[socket.socket], front: FrontSettings, on_shutdown: Callable[[], Awaitable[None]]
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; then end in order.

    ``on_shutdown`` is awaited first, while new requests still get their answer (503, not ready): what it sets makes the
    service draining. Then the sockets close, requests in flight get ``drain_s_max``, and the call returns. The
    event loop is the caller's choice (uvloop is the quickest).
    """
    server = _Server(_config(app, front))
    stopped = asyncio.Event()
    with _signals_set(stopped):
        running = asyncio.create_task(server.serve(list(sockets)))
        stopping = asyncio.create_task(stopped.wait())
        try:
            await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await on_shutdown()
            server.should_exit = True
            await running


def _config(app: ASGIApp, front: FrontSettings) -> uvicorn.Config:
    client: Callable[..., asyncio.Protocol] = functools.partial(Connection, front.limits)
    if front.tls is not None:
        client = functools.partial(Handshake, front.tls, front.limits)
    config = uvicorn.Config(
        app,
        http=client,  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # a client that talks nonsense is no event here
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=int(front.limits.idle_s_max),
        timeout_graceful_shutdown=max(1, round(front.drain_s_max)),
    )
    config.load()
    return config


@contextlib.contextmanager
def _signals_set(event: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in _ENDING:
        loop.add_signal_handler(number, event.set)
    try:
        yield
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)
