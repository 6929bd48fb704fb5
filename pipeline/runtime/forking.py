"""Forking, done carefully: one thread, known descriptors, default signals, and a line that ties a child's life to us.

A child costs a fork instead of half a second of imports. Threads do not survive a fork but the locks they hold do, so
the process that forks must have none of its own; ``preload`` sees to that.
"""

import contextlib
import fcntl
import gc
import importlib
import importlib.util
import os
import resource
import select
import signal
import sys
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from pipeline.core.errors import HotspareError

# Before numpy and onnxruntime are imported: both start threads otherwise. Workers get their threads from the engine.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
_ENGINES = {
    "onnxruntime": "pipeline.engines.onnx",
    "ai_edge_litert": "pipeline.engines.litert",
    "tflite_runtime": "pipeline.engines.tflite_runtime",
}
# What is imported on first use otherwise, by every child again: the event loop, cryptography's OpenSSL, zip names.
_LATE = ("uvloop", "cryptography.hazmat.backends.openssl.backend", "encodings.cp437", "importlib.readers")
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HANDLED = (*_FORWARDED, signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2)
_WORKER_OOM_SCORE = 300  # when memory runs out, a worker can be spared before the server
_CRASHED = 70
_DESCRIPTORS = 8192


def one_thread() -> None:
    """Keep libraries from starting threads of their own; to be called before they are imported."""
    for name, value in _ONE_THREAD.items():
        os.environ.setdefault(name, value)


def preload() -> None:
    """Import the engines that are installed and what children need, and put what exists out of the collector's reach.

    Collected objects would be written to, and pages that are written to are not shared with children any more.
    """
    one_thread()
    for package, module in _ENGINES.items():
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(module)
    for module in _LATE:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)
    gc.collect()
    gc.freeze()


def thread_count() -> int:
    """Return how many threads this process has, those of libraries among them."""
    return len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a count of names


def fork_child(run: Callable[[], int], keep: Collection[int]) -> int:
    """Fork a child that runs ``run`` and exits with its result; returns the child's process id.

    The child has its own process group, default signals, and of the open descriptors 1, 2 and ``keep``; 0 is empty. An
    error of ours is told in its sentence and gives its exit code, any other a traceback and 70. Raises OSError when
    the machine has no process or memory left.
    """
    _flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    try:
        pid = os.fork()
        if pid == 0:
            _be_child(run, keep)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
    return pid


def _be_child(run: Callable[[], int], keep: Collection[int]) -> None:
    code = _CRASHED
    try:
        os.setpgid(0, 0)
        _default_signals()
        _close_others({1, 2, *keep})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HANDLED)
        code = run()
    except HotspareError as error:
        say(str(error))
        code = error.exit_code
    finally:
        _tell_crash(sys.exc_info()[1])
        os._exit(code)  # no cleanup of what belongs to the parent


def say(text: str) -> None:
    """Print a line to standard error; that nobody reads it any more must not end us."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _tell_crash(error: BaseException | None) -> None:
    with contextlib.suppress(OSError, ValueError):
        if error is not None:
            sys.excepthook(type(error), error, error.__traceback__)
    _flush()


def _default_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in _HANDLED:
        signal.signal(number, signal.SIG_DFL)
    # A stopped child is hung up on when its parent dies: it is to be woken, not ended. And a child is in the terminal's
    # background: it is not to be stopped when it writes there.
    for number in (signal.SIGHUP, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)


def _close_others(keep: Collection[int]) -> None:
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a list of numbers
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor of this very listing
                os.close(int(name))
    empty = os.open(os.devnull, os.O_RDONLY)
    if empty != 0:
        os.dup2(empty, 0)
        os.close(empty)


def tie_life_to(lifeline: int) -> None:
    """Have the kernel kill this process once nobody holds the writing end of the pipe ``lifeline``.

    It does so whatever state the process is in: stopped, or in an endless loop of an engine. A process can not see to
    that itself, and its parent may be dead.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was cut before we were tied to it
        os.kill(os.getpid(), signal.SIGKILL)


def more_descriptors() -> int:
    """Raise this process's limit of open files as far as it needs and may; returns what it is then.

    The usual 1024 are fewer than the connections of one client that opens all it can: no worker could be started.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return _DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return most


def limit_worker(memory_mb: int | None) -> None:
    """Limit what this process may take on top of what it has now, and offer it first when memory runs out."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_WORKER_OOM_SCORE))
    if memory_mb is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + (memory_mb << 20)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)
