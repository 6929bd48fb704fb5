"""Starts the training process of a job, or its workers; follows their events; starts workers again when one dies."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.compress.job import RESULT_FILE, Failure, Job, Result, Step
from pipeline.core.canonical import readable_json
from pipeline.core.environment import for_children
from pipeline.core.errors import (
    DataError,
    FileAccess,
    HotspareError,
    InternalError,
    MissingExtra,
    ModelError,
    OutOfSpace,
    SurroundingsError,
    VariantRefused,
)
from pipeline.core.files import disk_errors, read_json, write_atomic
from pipeline.core.recipe import Distribution
from pipeline.core.schema import SchemaProblems, plain, read

RESTARTS_MAX = 3
STALL_SECONDS_MAX = 1800.0  # a phase tells of itself about fifty times
_ERRORS = (DataError, FileAccess, MissingExtra, ModelError, OutOfSpace, VariantRefused)

OnStep = Callable[[Step], None]


@dataclass(frozen=True)
class _Ending:
    """How one attempt ended: ``exit_code`` of the process that ended it, and what it said."""

    exit_code: int
    failure: Failure | None
    log_file: Path
    has_hung: bool

    @property
    def is_well(self) -> bool:
        return self.exit_code == 0 and self.failure is None


def train(job: Job, on_step: OnStep) -> Result:
    """Run a job in a process of its own, or in several; returns what its folder holds afterwards.

    TensorFlow takes 10 s to import, and pruning switches Keras for the process. When one of several workers dies, or
    nothing is told for ``STALL_SECONDS_MAX``, all are started again and go on from the last checkpoint, at most
    ``RESTARTS_MAX`` times. Raises the error that the process told, SurroundingsError when it was killed or hung,
    InternalError when it crashed.
    """
    job_file = Path(job.out, "job.json")
    write_atomic(job_file, readable_json(plain(job)))
    count = worker_count(job)
    ending = _attempt(job_file, count, on_step)
    for _ in range(RESTARTS_MAX if count > 1 else 0):
        if ending.is_well or ending.failure is not None:
            break
        ending = _attempt(job_file, count, on_step)
    if not ending.is_well:
        raise _error(job, ending, count)
    return read(Result, read_json(Path(job.out, RESULT_FILE), InternalError, "report this"))


def worker_count(job: Job) -> int:
    """Return how many processes a job takes."""
    is_spread = job.fine_tuning.distribute is Distribution.MULTI_WORKER and job.variant != "dense"
    return job.fine_tuning.workers if is_spread else 1


def _attempt(job_file: Path, count: int, on_step: OnStep) -> _Ending:
    """Start all processes and follow the first; the first that ends badly ends the others."""
    configs = _cluster(count)
    endings: list[tuple[int, int]] = []
    failure: Failure | None = None
    with ExitStack() as stack:
        processes = [stack.enter_context(_process(job_file, index, config)) for index, config in enumerate(configs)]
        watchers = [
            threading.Thread(target=_watch, args=(index, processes, endings), daemon=True) for index in range(count)
        ]
        for watcher in watchers:
            watcher.start()
        told, has_hung = stack.enter_context(_impatience(processes if count > 1 else ()))
        for event in _events(processes[0]):
            told.set()
            if isinstance(event, Step):
                on_step(event)
            else:
                failure = event
        watchers[0].join()
        index, exit_code = endings[0]
    return _Ending(exit_code, failure, _log_file(job_file, index), has_hung.is_set())


@contextmanager
def _impatience(processes: Sequence["subprocess.Popen[str]"]) -> Iterator[tuple[threading.Event, threading.Event]]:
    """End all processes when too long nothing is told: a worker that hangs lets the others wait for ever.

    Yields what is set at every sign of progress, and what is set once they were ended for the want of one.
    """
    told, over, has_hung = threading.Event(), threading.Event(), threading.Event()

    def watch() -> None:
        while told.wait(STALL_SECONDS_MAX):
            if over.is_set():
                return
            told.clear()
        if processes:
            has_hung.set()
        for process in processes:
            process.kill()

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield told, has_hung
    finally:
        over.set()
        told.set()


def _watch(index: int, processes: Sequence["subprocess.Popen[str]"], endings: list[tuple[int, int]]) -> None:
    """Note how a process ended, and end the others: after the first alone there is nothing left to do."""
    endings.append((index, processes[index].wait()))
    for process in processes:
        process.kill()


@contextmanager
def _process(job_file: Path, index: int, config: str | None) -> Iterator["subprocess.Popen[str]"]:
    """Start one process; its standard input tells it whether we live, so it is piped and never written to."""
    command = [sys.executable, "-m", "pipeline.compress.training", str(job_file)]
    environment = _environment(os.environ, config)
    log_file = _log_file(job_file, index)
    pipe = subprocess.PIPE
    with (
        disk_errors(log_file),
        log_file.open("wb") as log,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, env=environment, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _log_file(job_file: Path, index: int) -> Path:
    return job_file.with_name(f"training-{index}.log")


def _environment(ours: "os._Environ[str] | dict[str, str]", config: str | None) -> dict[str, str]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore"}
    same_everywhere = {"TF_USE_LEGACY_KERAS": "1", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": "-1"}
    inherited = {key: value for key, value in for_children(ours).items() if key != "TF_CONFIG"}
    cluster = {} if config is None else {"TF_CONFIG": config}
    return {**inherited, **quiet, **same_everywhere, **cluster, "PYTHONUNBUFFERED": "1", "KERAS_BACKEND": "tensorflow"}


def _cluster(count: int) -> list[str | None]:
    """Return TF_CONFIG for each of ``count`` workers on free ports of this machine, or None for one alone."""
    if count == 1:
        return [None]
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    return [
        json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        for index in range(count)
    ]


def _events(process: "subprocess.Popen[str]") -> Iterator[Step | Failure]:
    assert process.stdout is not None  # noqa: S101 - piped above; tells the type checker
    for line in process.stdout:
        event = _event(line)
        if event is not None:
            yield event


def _event(line: str) -> Step | Failure | None:
    try:
        value = json.loads(line)
        is_failure = isinstance(value, dict) and "exit_code" in value
        return read(Failure, value) if is_failure else read(Step, value)
    except (ValueError, SchemaProblems):
        return None  # a library's own words


def _error(job: Job, ending: _Ending, count: int) -> HotspareError:
    if ending.failure is not None:
        kinds = {kind.exit_code: kind for kind in _ERRORS}
        return kinds.get(ending.failure.exit_code, InternalError)(ending.failure.message)
    again = f" {RESTARTS_MAX + 1} times" if count > 1 else ""
    if ending.has_hung:
        return SurroundingsError(
            f"The workers that made {job.variant} told of no progress for {STALL_SECONDS_MAX / 60:.0f} minutes{again}; "
            "see what holds them up, then run the command again: it goes on from the last epoch."
        )
    if ending.exit_code < 0:
        return SurroundingsError(
            f"The process that made {job.variant} was ended by signal {-ending.exit_code}{again}, perhaps for want of "
            "memory; run the command again: it goes on from the last epoch."
        )
    lines = ending.log_file.read_text("utf-8", "replace").strip().splitlines() or ["it said nothing"]
    return InternalError(f"The process that made {job.variant} failed{again} with code {ending.exit_code}: {lines[-1]}")
