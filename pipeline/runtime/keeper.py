"""The keeper: the process a person starts. It forks the server and, when the server asks, the workers.

It holds what must outlive a server: the listening sockets (connections queue there while a new server starts) and the
imported libraries (a start costs a fork). It does nothing else, so that there is little that could end it; if it does
end, the server starts another one, which takes over (``keeper_client``).
"""

import contextlib
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence

from pipeline.core.errors import SurroundingsError
from pipeline.engines.open import open_session as open_engine_session
from pipeline.runtime.children import TAKE_OVER, Serve, ServerContext, be_server, be_worker, exit_code_of, told
from pipeline.runtime.control import ForkFailed, Leaving, Line, Message, Replaced, SpawnAsked, WorkerEnded, WorkerForked
from pipeline.runtime.forking import close_all, fork_child, preload, say, thread_count
from pipeline.runtime.loading import OpenSession
from pipeline.runtime.restarts import restart_delay_ms
from pipeline.runtime.systemd import notify, take_watchdog
from pipeline.runtime.titles import set_title
from pipeline.runtime.worker import rehearse
from pipeline.runtime.worker_spec import WorkerSpec

__all__ = ["ServerContext", "keep"]

DEPOSED_AFTER_S = 2.0
_FORK_AGAIN_S = 1.0
Bind = Callable[[], Sequence[socket.socket]]
_STOPPING = (signal.SIGTERM, signal.SIGINT)
_PASSED_ON = (*_STOPPING, signal.SIGHUP)


def keep(
    bind: Bind,
    serve: Serve,
    take_over_argv: Sequence[str],
    open_session: OpenSession = open_engine_session,
    rehearsal: WorkerSpec | None = None,
) -> int:
    """Keep a server running until it leaves by intent; returns its exit code.

    ``serve`` runs in a forked process. ``take_over_argv`` is a command that comes here again with the same arguments:
    when this process dies, the server runs it, and it takes over what it finds named in the environment instead of
    calling ``bind``. SIGTERM, SIGINT and SIGHUP are passed on to the server. A server that ends in any other way than
    by returning (or raising an error of ours) is started again. With a ``rehearsal`` that worker's bundle is verified
    here once, which takes 30 ms off the start of every server and worker. Raises what ``bind`` raises, and
    SurroundingsError on systems without pidfds.
    """
    if not hasattr(os, "pidfd_open"):
        raise SurroundingsError("Serving a pair needs Linux 5.3 or newer; elsewhere use `hotspare run --pair`.")
    inherited = os.environ.pop(TAKE_OVER, None)
    take_watchdog(os.environ, os.getpid())
    listening = () if inherited else tuple(bind())  # first of all: connections can queue while libraries are imported
    if rehearsal is not None:
        rehearse(rehearsal)
    preload()
    if (threads := thread_count()) > 1:
        say(f"{threads - 1} threads of libraries run while processes are forked; starts may hang.")
    set_title("hotspare keeper")
    if not inherited:
        return _Keeper(listening, serve, tuple(take_over_argv), open_session).run()
    try:
        control, pidfd, *numbers = map(int, inherited.split(","))
        line, *taken = (socket.socket(fileno=number) for number in (control, *numbers))
    except (ValueError, OSError) as error:
        raise SurroundingsError(f"{TAKE_OVER} is for a server's next keeper alone ({error}); unset it.") from error
    keeper = _Keeper(tuple(taken), serve, tuple(take_over_argv), open_session)
    keeper.take_over(line, pidfd)
    notify(f"MAINPID={os.getpid()}")  # the one that systemd started is no more, or is not to be waited for
    return keeper.run()


class _Keeper:
    """The keeper's loop: one server, its workers, signals."""

    def __init__(
        self, listening: tuple[socket.socket, ...], serve: Serve, argv: tuple[str, ...], open_session: OpenSession
    ) -> None:
        self._listening = listening
        self._serve = serve
        self._argv = argv
        self._open_session = open_session
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._server: int | None = None  # pidfd
        self._server_pid: int | None = None  # where it is our child
        self._line: Line | None = None
        self._unsent: deque[Message] = deque()
        self._workers: set[int] = set()
        self._deaths_s: list[float] = []
        self._start_at_s: float | None = 0.0
        self._deposed_at_s: float | None = None
        self._left: int | None = None
        self._previous_status: int | None = None
        self._is_stopping = False
        self._result: int | None = None

    def take_over(self, control: socket.socket, pidfd: int) -> None:
        """Watch a server that is already there instead of starting one."""
        self._start_at_s = None
        self._watch(control, pidfd)

    def run(self) -> int:
        """Go on until the server has left."""
        self._listen_to_signals()
        while self._result is None:
            self._fork_server_when_due()
            for key, _ in self._selector.select(self._patience_s()):
                key.data()
            self._give_way_when_deposed()
        return self._result

    def _listen_to_signals(self) -> None:
        for end in (self._woken, self._wake):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        for number in (*_PASSED_ON, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)  # what counts is the byte in the socket
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_signals)

    def _patience_s(self) -> float | None:
        due = [at for at in (self._start_at_s, self._deposed_at_s) if at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    # The server.

    def _fork_server_when_due(self) -> None:
        if self._start_at_s is None or time.monotonic() < self._start_at_s:
            return
        self._start_at_s = None
        ours, theirs = Line.pair()
        context = ServerContext(self._listening, Line(theirs), self._argv, len(self._deaths_s), self._previous_status)
        kept = [theirs.fileno(), *(one.fileno() for one in self._listening)]
        try:
            self._server_pid = fork_child(lambda: be_server(self._serve, context), kept)
            self._watch(ours, os.pidfd_open(self._server_pid))
        except OSError as error:
            say(f"The server could not be started ({error.strerror}); the next try follows in a second.")
            self._start_at_s = time.monotonic() + _FORK_AGAIN_S
        finally:
            theirs.close()

    def _watch(self, control: socket.socket, pidfd: int) -> None:
        control.setblocking(False)
        self._line, self._server = Line(control), pidfd
        self._selector.register(control, selectors.EVENT_READ, self._on_message)
        self._selector.register(pidfd, selectors.EVENT_READ, self._on_server_ended)

    def _on_server_ended(self) -> None:
        """Start another server at once, unless this one left by intent, or ends again and again."""
        self._read_messages()
        if self._result is not None:
            return
        status = None if self._server_pid is None else os.waitpid(self._server_pid, 0)[1]
        self._forget_server()
        self._end_workers()
        if self._left is not None or self._is_stopping:
            self._result = self._left if self._left is not None else exit_code_of(status)
            return
        now_s = time.monotonic()
        self._deaths_s.append(now_s)
        self._previous_status = status
        self._start_at_s = now_s + restart_delay_ms(self._deaths_s, now_s) / 1000
        say(f"The server ended ({told(status)}); another one is started.")

    def _forget_server(self) -> None:
        self._drop_line()
        if self._server is not None:
            self._selector.unregister(self._server)
            os.close(self._server)
        self._server = self._server_pid = self._deposed_at_s = None

    def _drop_line(self) -> None:
        if self._line is not None:
            self._selector.unregister(self._line.socket)
            self._line.socket.close()
        self._line = None
        self._unsent.clear()

    def _give_way_when_deposed(self) -> None:
        """End when the server closed its line and yet lives on: it has another keeper, and the workers are its own."""
        if self._deposed_at_s is not None and time.monotonic() >= self._deposed_at_s:
            self._result = self._left or 0

    # Messages.

    def _on_message(self) -> None:
        if self._unsent:
            self._send_rest()
        if not self._read_messages():
            self._drop_line()
            self._deposed_at_s = time.monotonic() + DEPOSED_AFTER_S

    def _read_messages(self) -> bool:
        """Do what the server asked; False when it closed the line."""
        with contextlib.suppress(BlockingIOError):
            while self._line is not None:
                received = self._line.receive()
                if received is None:
                    return False
                self._obey(*received)
        return True

    def _obey(self, message: Message, descriptors: list[int]) -> None:
        if isinstance(message, Leaving):
            self._left = message.code
        elif isinstance(message, Replaced):
            self._result = 0
        elif isinstance(message, SpawnAsked) and len(descriptors) == 3:
            self._fork_worker(message, *descriptors)
        close_all(descriptors)

    def _fork_worker(self, asked: SpawnAsked, connection: int, arena: int, lifeline: int) -> None:
        def run() -> int:
            return be_worker(asked.spec, connection, arena, lifeline, self._open_session)

        try:
            pid = fork_child(run, (connection, arena, lifeline))
            self._workers.add(pid)
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._send(ForkFailed(asked.ask, f"A worker could not be started ({error.strerror}); free memory."))
            return
        self._send(WorkerForked(asked.ask, pid), (pidfd,))
        os.close(pidfd)

    def _send(self, message: Message, descriptors: tuple[int, ...] = ()) -> None:
        """Send, or keep for later what a busy server does not read; a keeper never waits for its server."""
        if self._line is None:
            return
        try:
            self._line.send(message, descriptors)
        except BlockingIOError:
            if not descriptors:
                self._unsent.append(message)
                self._selector.modify(self._line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, self._on_message)
        except OSError:
            pass  # it is gone: its end is reported by itself

    def _send_rest(self) -> None:
        messages, self._unsent = self._unsent, deque()
        if self._line is not None:
            self._selector.modify(self._line.socket, selectors.EVENT_READ, self._on_message)
        for message in messages:
            self._send(message)

    # Signals and workers.

    def _on_signals(self) -> None:
        numbers = set(self._woken.recv(256))
        if signal.SIGCHLD in numbers:
            self._reap()
        for number in _PASSED_ON:
            if number in numbers:
                self._pass_on(number)

    def _pass_on(self, number: signal.Signals) -> None:
        self._is_stopping = self._is_stopping or number in _STOPPING
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._server, number)
        elif self._is_stopping:
            self._result = 0

    def _reap(self) -> None:
        """Take note of workers that ended; the server's end is seen by its pidfd."""
        for pid in list(self._workers):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self._workers.discard(pid)
                self._send(WorkerEnded(pid, status))

    def _end_workers(self) -> None:
        for pid in self._workers:
            os.kill(pid, signal.SIGKILL)
        for pid in self._workers:
            os.waitpid(pid, 0)
        self._workers.clear()
