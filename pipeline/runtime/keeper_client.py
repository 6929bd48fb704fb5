"""The keeper as the server sees it: starts workers, tells how they ended; when it dies, another one is started."""

import asyncio
import contextlib
import itertools
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.core.environment import for_children
from pipeline.core.errors import HotspareError, SurroundingsError
from pipeline.runtime.arena import Arena
from pipeline.runtime.children import TAKE_OVER, ServerContext
from pipeline.runtime.control import ForkFailed, Line, Message, Replaced, SpawnAsked, WorkerEnded, WorkerForked
from pipeline.runtime.forking import close_all
from pipeline.runtime.restarts import restart_delay_ms
from pipeline.runtime.worker_spec import WorkerSpec

SPAWN_MAX_S = 10.0
_SPAWN_TRIES = 3
_LINE_AGAIN_S = 1.0

OnExit = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Spawned:
    """A worker that was started: its process, our end of its socket, its arena, and its lifeline.

    Closing ``lifeline`` ends the worker. The descriptors belong to whoever holds this: ``WorkerLink`` closes them.
    """

    pid: int
    pidfd: int
    sock: socket.socket
    arena: Arena
    lifeline: int


class KeeperClient:
    """Asks the keeper for workers.

    ``on_exit(pid, status)``, which may be set later, is called once for every worker that ended, with its wait status;
    None where the keeper that forked it died before, as only a parent learns how its child ended.
    """

    def __init__(self, context: ServerContext, on_exit: OnExit | None = None, spawn_max_s: float = SPAWN_MAX_S) -> None:
        self._context = context
        self._spawn_max_s = spawn_max_s
        self._line = context.line
        self.on_exit: OnExit = on_exit or (lambda _pid, _status: None)
        self._asks = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[tuple[int, int] | None]] = {}
        self._alive: dict[int, int] = {}  # pidfds of our own, by pid
        self._losses_s: list[float] = []
        self._successor: subprocess.Popen[bytes] | None = None
        self._is_closed = False
        self._is_listening = False

    def start(self) -> None:
        """Begin to listen to the keeper, in the running loop."""
        self._is_listening = True
        asyncio.get_running_loop().add_reader(self._line.socket.fileno(), self._on_message)

    async def spawn(self, spec: WorkerSpec) -> Spawned:
        """Start a worker; raises SurroundingsError when the machine cannot, or no keeper answers."""
        for _ in range(_SPAWN_TRIES):
            spawned = await self._try_spawn(spec)
            if spawned is not None:
                return spawned
        raise SurroundingsError("No keeper process answers, so no worker can be started; restart the service.")

    async def _try_spawn(self, spec: WorkerSpec) -> Spawned | None:
        """Ask once; None when the keeper was lost meanwhile: it may have forked, so its worker's ends are cut."""
        ours, theirs, arena, tied, lifeline = _open_parts()
        ask = next(self._asks)
        answer: asyncio.Future[tuple[int, int] | None] = asyncio.get_running_loop().create_future()
        self._waiting[ask] = answer
        asked = self._line.socket
        try:
            with contextlib.suppress(OSError):  # a lost keeper is reported by itself
                self._line.send(SpawnAsked(ask, spec), (theirs.fileno(), arena.fd, tied))
            forked = await asyncio.wait_for(answer, self._spawn_max_s)
        except TimeoutError:
            self._replace(asked)
            forked = None
        except BaseException:
            _close_parts(ours, arena, lifeline)
            raise
        finally:
            self._waiting.pop(ask, None)
            theirs.close()
            os.close(tied)
        if forked is None:
            _close_parts(ours, arena, lifeline)
            return None
        pid, pidfd = forked
        return Spawned(pid, pidfd, ours, arena, lifeline)

    def _replace(self, silent: socket.socket) -> None:
        """Start another keeper in place of one that does not answer; who asked it beside us may have done so."""
        if self._line.socket is silent:
            with contextlib.suppress(OSError):  # it may be stopped, and is to know when it wakes up
                self._line.send(Replaced())
            self._on_lost()

    def _on_message(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while not self._is_closed:
                received = self._line.receive()
                if received is None:
                    self._on_lost()
                    return
                self._take(*received)

    def _take(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, WorkerEnded):
            self._ended(message.pid, message.status)
        elif isinstance(message, WorkerForked):
            self._forked(message, descriptors.pop() if descriptors else None)
        elif isinstance(message, ForkFailed):
            self._answer(message.ask, SurroundingsError(message.sentence))
        close_all(descriptors)

    def _forked(self, message: WorkerForked, pidfd: int | None) -> None:
        if pidfd is None:  # the kernel dropped it: we have no room for it
            self._answer(
                message.ask, SurroundingsError("A worker could not be started; raise the limit of open files.")
            )
            return
        try:
            self._alive[message.pid] = os.dup(pidfd)
        except OSError:
            os.close(pidfd)
            self._forked(message, None)
            return
        if not self._answer(message.ask, (message.pid, pidfd)):
            os.close(pidfd)  # nobody waits any more; its ends are cut already

    def _answer(self, ask: int, value: "tuple[int, int] | HotspareError | None") -> bool:
        waiting = self._waiting.pop(ask, None)
        if waiting is None or waiting.done():
            return False
        if isinstance(value, HotspareError):
            waiting.set_exception(value)
        else:
            waiting.set_result(value)
        return True

    def _ended(self, pid: int, status: int | None) -> None:
        pidfd = self._alive.pop(pid, None)
        if pidfd is not None:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)
            self.on_exit(pid, status)

    # The keeper's death.

    def _on_lost(self) -> None:
        """Start another keeper, at once or, when keepers die again and again, a little later."""
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()
        self._stop_listening()
        for pid, pidfd in self._alive.items():  # from now on only their end can be seen, not how
            loop.add_reader(pidfd, self._ended, pid, None)
        now_s = time.monotonic()
        self._losses_s.append(now_s)
        try:
            theirs = self._new_line()
        except OSError:  # no descriptors left
            loop.call_later(_LINE_AGAIN_S, self._on_lost)
        else:
            loop.call_later(restart_delay_ms(self._losses_s, now_s) / 1000, self._start_successor, theirs)
        for ask in list(self._waiting):
            self._answer(ask, None)

    def _new_line(self) -> socket.socket:
        """Make the connection to the next keeper: what is sent from now on waits there until it is up."""
        ours, theirs = Line.pair()
        self._line.socket.close()
        self._line.socket = ours
        self.start()
        return theirs

    def _stop_listening(self) -> None:
        if self._is_listening:
            self._is_listening = False
            asyncio.get_running_loop().remove_reader(self._line.socket.fileno())

    def _start_successor(self, theirs: socket.socket) -> None:
        if self._successor is not None:
            self._successor.poll()
        if self._is_closed:
            theirs.close()
            return
        ourselves = os.pidfd_open(os.getpid())
        passed = [theirs.fileno(), ourselves, *(one.fileno() for one in self._context.listening)]
        try:
            self._successor = subprocess.Popen(
                self._context.take_over_argv,
                stdin=subprocess.DEVNULL,
                env={**for_children(), TAKE_OVER: ",".join(map(str, passed))},
                pass_fds=passed,
                process_group=0,
            )
        except OSError:
            pass  # closing its end of the line brings us back here, after a while
        finally:
            theirs.close()
            os.close(ourselves)

    def close(self) -> None:
        """Stop listening to the keeper; it learns from the process's end that the server left."""
        if not self._is_closed:
            self._is_closed = True
            self._stop_listening()
            loop = asyncio.get_running_loop()
            for pidfd in self._alive.values():
                loop.remove_reader(pidfd)
                os.close(pidfd)


def _open_parts() -> tuple[socket.socket, socket.socket, Arena, int, int]:
    """Open both ends of a socket, an arena, and both ends of a lifeline; raises SurroundingsError."""
    with contextlib.ExitStack() as stack:
        try:
            ours, theirs = socket.socketpair()
            stack.callback(ours.close)
            stack.callback(theirs.close)
            tied, lifeline = os.pipe()
            stack.callback(close_all, (tied, lifeline))
            arena = Arena.create()
        except OSError as error:
            raise SurroundingsError(
                f"A worker could not be started ({error.strerror}); raise the limit of open files, or free memory."
            ) from error
        stack.pop_all()
    return ours, theirs, arena, tied, lifeline


def _close_parts(ours: socket.socket, arena: Arena, lifeline: int) -> None:
    ours.close()
    arena.close()
    os.close(lifeline)
