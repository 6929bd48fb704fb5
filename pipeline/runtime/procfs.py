"""What the kernel says of a process: state, processor time, time it waited for a processor, resident memory."""

import os
from dataclasses import dataclass

_TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STATE, _UTIME, _STIME, _RSS = 0, 11, 12, 21  # fields of /proc/<pid>/stat after the name in brackets


@dataclass(frozen=True, slots=True)
class ProcessSample:
    """One look at a process.

    ``state`` is the kernel's letter (R running, S or D asleep, T stopped, t traced, Z ended). ``cpu_ms`` and
    ``runqueue_wait_ms``, how long one was ready to run and got no processor, are of all its threads, since its start:
    an engine's main thread sleeps while others compute for it.
    """

    state: str
    cpu_ms: float
    runqueue_wait_ms: float
    rss_bytes: int

    @property
    def is_stopped(self) -> bool:
        """Tell whether a signal or a debugger holds it."""
        return self.state in ("T", "t")


def sample(pid: int) -> ProcessSample | None:
    """Look at a process; None when there is no such process (any more)."""
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        waited_ns = sum(map(_waited_ns, _tasks(pid)))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return ProcessSample(
        state=fields[_STATE].decode(),
        cpu_ms=(int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_MS,
        runqueue_wait_ms=waited_ns / 1e6,
        rss_bytes=int(fields[_RSS]) * _PAGE_BYTES,
    )


def _tasks(pid: int) -> list[str]:
    with os.scandir(f"/proc/{pid}/task") as threads:
        return [f"{thread.path}/schedstat" for thread in threads]


def _waited_ns(path: str) -> int:
    try:
        fields = _read(path).split()
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended since, or the kernel does not count
        return 0
    return int(fields[1]) if len(fields) > 1 else 0


def waited_ms(before: ProcessSample, now: ProcessSample, between_ms: float) -> float:
    """Return how long a process waited for a processor between two looks, so many milliseconds apart.

    The kernel counts a wait when it ends. So of one that is ready to run right now, all the time in which it did not
    run counts as waiting: a busy loop runs, a starved worker does not.
    """
    counted = now.runqueue_wait_ms - before.runqueue_wait_ms
    if now.state != "R":
        return counted
    return max(counted, between_ms - (now.cpu_ms - before.cpu_ms))


def oom_kills() -> int:
    """Return how many processes the kernel has killed for want of memory, here and in every group, since its start."""
    try:
        lines = _read("/proc/vmstat", 1 << 16).splitlines()
    except FileNotFoundError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith(b"oom_kill ")), 0)


def _read(path: str, most: int = 4096) -> bytes:
    fd = os.open(path, os.O_RDONLY)  # without the buffering of open(): a quarter of the time, and this runs often
    try:
        return os.read(fd, most)
    finally:
        os.close(fd)
