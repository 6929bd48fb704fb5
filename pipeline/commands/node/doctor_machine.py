"""What of a machine matters to a pair: kernel, processors, memory, descriptors, priorities, clock, disk."""

import ctypes
import os
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.checks import Finding, Word

_MB = 1_000_000
_MEMORY_MB_MIN = 512  # server and two workers of a small model take 200 MB, the first start and a swap more
_DESCRIPTORS_MIN = 1_100  # a thousand connections, and what the server itself has open
_FREE_MB_MIN = 1_000
_FSYNC_MS_MAX = 50.0
_FSYNC_ROUNDS = 7
_TIME_ERROR = 5  # of adjtimex(2): nobody keeps the clock right
_TIMEX_BYTES = 256  # at least sizeof(struct timex) on every platform


@dataclass(frozen=True)
class Machine:
    """What was read of a machine; None is what could not be read."""

    has_pidfds: bool
    processors: int
    memory_available_mb: float | None
    descriptors_max: int
    groups_by_session: bool | None
    clock_is_kept: bool | None
    free_mb: float
    fsync_ms: float | None


def read_machine(folder: Path) -> Machine:
    """Read the machine, and how the disk below a folder is."""
    autogroup = _text(Path("/proc/sys/kernel/sched_autogroup_enabled"))
    return Machine(
        has_pidfds=_has_pidfds(),
        processors=len(os.sched_getaffinity(0)),
        memory_available_mb=_memory_available_mb(),
        descriptors_max=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        groups_by_session=None if autogroup is None else autogroup == "1",
        clock_is_kept=_clock_is_kept(),
        free_mb=shutil.disk_usage(folder).free / _MB,
        fsync_ms=_fsync_ms(folder),
    )


def machine_findings(machine: Machine) -> Iterator[Finding]:
    """Judge a machine, pure."""
    yield _judge(
        "kernel", machine.has_pidfds, "has pidfds and memory files", Word.FAIL,
        "lacks pidfds or memory files: `hotspare serve` needs Linux 5.3 or newer; `hotspare run --pair` does not",
    )  # fmt: skip
    yield _judge(
        "processors", machine.processors > 1, f"{machine.processors}", Word.NOTE,
        "one: primary and standby take turns, so canaries and hedged requests wait",
    )  # fmt: skip
    yield _memory(machine.memory_available_mb)
    yield _judge(
        "descriptors", machine.descriptors_max >= _DESCRIPTORS_MIN, f"up to {machine.descriptors_max}", Word.NOTE,
        f"up to {machine.descriptors_max}: a server takes 1,000 connections; raise `ulimit -Hn` or LimitNOFILE=",
    )  # fmt: skip
    if machine.groups_by_session is not None:
        yield _judge(
            "priorities", not machine.groups_by_session, "nice values count between sessions", Word.NOTE,
            "kernel.sched_autogroup_enabled is 1: nice values do not count between sessions; give the service's unit "
            "a CPUWeight= where other work runs beside",
        )  # fmt: skip
    if machine.clock_is_kept is not None:
        yield _judge(
            "clock", machine.clock_is_kept, "a time service keeps it right", Word.NOTE,
            "the kernel knows of no time service that keeps it right; channels end by it",
        )  # fmt: skip
    yield from _disk(machine)


def _judge(what: str, is_fine: bool, fine: str, word: Word, otherwise: str) -> Finding:
    return Finding(what, Word.PASS, fine) if is_fine else Finding(what, word, otherwise)


def _memory(available_mb: float | None) -> Finding:
    if available_mb is None:
        return Finding("memory", Word.NOTE, "what is available could not be read")
    told = f"{available_mb:,.0f} MB available"
    return _judge(
        "memory", available_mb >= _MEMORY_MB_MIN, told, Word.NOTE,
        f"{told}: a server and its workers take 200 MB with a small model, and a swap holds two pairs for a moment",
    )  # fmt: skip


def _disk(machine: Machine) -> Iterator[Finding]:
    told = f"{machine.free_mb:,.0f} MB free"
    yield _judge(
        "disk", machine.free_mb >= _FREE_MB_MIN, told, Word.NOTE,
        f"{told}: a failover needs none, but builds, releases and staging write",
    )  # fmt: skip
    if machine.fsync_ms is None:
        yield Finding("writing", Word.FAIL, "nothing can be written to this folder; change into one of your own")
        return
    told = f"{machine.fsync_ms:.1f} ms until a write is on the disk"
    yield _judge(
        "writing", machine.fsync_ms <= _FSYNC_MS_MAX, told, Word.NOTE,
        f"{told}: staging, promotion and updates that are acknowledged wait for it",
    )  # fmt: skip


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None


def _has_pidfds() -> bool:
    try:
        for descriptor in (os.pidfd_open(os.getpid()), os.memfd_create("hotspare", os.MFD_ALLOW_SEALING)):
            os.close(descriptor)
    except (AttributeError, OSError):
        return False
    return True


def _memory_available_mb() -> float | None:
    """Return what the machine has left, or what this control group has left where that is less."""
    lines = (_text(Path("/proc/meminfo")) or "").splitlines()
    found = [int(line.split()[1]) * 1024 / _MB for line in lines if line.startswith("MemAvailable:")]
    groups = (_text(Path("/proc/self/cgroup")) or "").splitlines()
    for group in (line.removeprefix("0::/") for line in groups if line.startswith("0::/")):
        place = Path("/sys/fs/cgroup") / group
        most, now = _text(place / "memory.max"), _text(place / "memory.current")
        if most and now and most.isdigit():
            found.append((int(most) - int(now)) / _MB)
    return min(found, default=None)


def _clock_is_kept() -> bool | None:
    """Ask adjtimex(2) for the clock's state; it changes nothing with modes = 0."""
    try:
        adjtimex = ctypes.CDLL(None).adjtimex
    except (AttributeError, OSError):
        return None
    state = int(adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    return None if state < 0 else state != _TIME_ERROR


def _fsync_ms(folder: Path) -> float | None:
    took = []
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            for _ in range(_FSYNC_ROUNDS):
                began = time.perf_counter()
                file.write(b"\0" * 4096)
                file.flush()
                os.fsync(file.fileno())
                took.append(1000 * (time.perf_counter() - began))
    except OSError:
        return None
    return statistics.median(took)
