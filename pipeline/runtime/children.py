"""What a keeper's children are: a server, given what outlives it, and workers; and how their ends are told."""

import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.errors import HotspareError
from pipeline.runtime.arena import Arena
from pipeline.runtime.control import Leaving, Line
from pipeline.runtime.forking import limit_worker, say, tie_life_to
from pipeline.runtime.loading import OpenSession
from pipeline.runtime.titles import set_title
from pipeline.runtime.worker import work
from pipeline.runtime.worker_spec import WorkerSpec

TAKE_OVER = "HOTSPARE_TAKE_OVER"  # environment: control, server's pidfd, listening sockets, as descriptor numbers


@dataclass(frozen=True)
class ServerContext:
    """What a server process is given; ``previous_status`` is the wait status of the server before it, if known."""

    listening: tuple[socket.socket, ...]
    line: Line
    take_over_argv: tuple[str, ...]
    restarts: int
    previous_status: int | None


Serve = Callable[[ServerContext], int]


def be_server(serve: Serve, context: ServerContext) -> int:
    """Be a server; that it leaves by intent is told to whoever is its keeper by then."""
    set_title("hotspare server")
    try:
        code = serve(context)
    except HotspareError as error:
        say(str(error))
        code = error.exit_code
    with contextlib.suppress(OSError):
        context.line.send(Leaving(code))
    return code


def be_worker(spec: WorkerSpec, connection: int, arena: int, lifeline: int, open_session: OpenSession) -> int:
    """Be a worker, given its descriptors."""
    tie_life_to(lifeline)
    shared = Arena.open(arena)  # before the limit, which it is no part of
    limit_worker(spec.memory_mb)
    return work(spec, socket.socket(fileno=connection), shared, open_session)


def exit_code_of(status: int | None) -> int:
    """Return the exit code that tells a wait status to a shell; 0 where it is not known."""
    if status is None:
        return 0
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def told(status: int | None) -> str:
    """Return a wait status in words."""
    if status is None:
        return "it was started by another keeper, so how is not known"
    code = os.waitstatus_to_exitcode(status)
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
