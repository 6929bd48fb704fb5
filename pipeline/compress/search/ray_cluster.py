"""Trials on a Ray cluster. A node that goes away takes its trials with it; Ray runs them again on another."""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import ray

from pipeline.compress.search.fanout import Task
from pipeline.compress.search.trial import Figures, Parcel, Trial, measure
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import SurroundingsError, Unreachable

_KEY_VARIABLE = "HOTSPARE_SIGNING_KEY"
_KNOCK_SECONDS_MAX = 5.0
_TRIES = 10
_TASKS_UNDER_WAY = 64


@contextmanager
def _without_signing_key() -> Iterator[None]:
    """Hide the key from a node that is started here: its workers inherit what its process had."""
    key = os.environ.pop(_KEY_VARIABLE, None)
    try:
        yield
    finally:
        if key is not None:
            os.environ[_KEY_VARIABLE] = key


class RayBackend:
    """Remote tasks on the cluster at ``address`` (``None``: the one of this machine, started when there is none)."""

    def __init__(self, address: str | None) -> None:
        self._kits: dict[str, Any] = {}
        if ray.is_initialized():
            return
        _require_answer(address)
        try:
            with _without_signing_key():
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise Unreachable(f"No Ray cluster answers at {address}: {error}; start one with `ray start`.") from error

    def parcel(self, data: bytes, folder: Path) -> Parcel:
        """Put the kit into the object store of this machine's node, which owns it while nodes come and go."""
        del folder
        digest = sha256_hex(data)
        if digest not in self._kits:
            self._kits[digest] = ray.put(data)
        return Parcel(digest)

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        """Yield figures as they come; raises SurroundingsError when a trial is lost for good."""
        remote = ray.remote(num_cpus=1, max_retries=_TRIES)(_measure)
        waiting = list(enumerate(tasks))
        under_way: dict[Any, int] = {}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < _TASKS_UNDER_WAY:
                    index, (parcel, trial) = waiting.pop(0)
                    under_way[remote.remote(parcel, self._kits[parcel.digest], trial)] = index
                done, _ = ray.wait(list(under_way), num_returns=1)
                for reference in done:
                    yield under_way.pop(reference), _figures(reference)
        except ray.exceptions.RayError as error:
            raise SurroundingsError(f"The Ray cluster lost a trial: {error}; run the command again.") from error
        finally:
            for reference in under_way:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster as it is: others may use it."""


def _figures(reference: Any) -> Figures:
    try:
        return cast(Figures, ray.get(reference))
    except ray.exceptions.WorkerCrashedError:
        return Figures(refused="It ended every process that ran it; the engine cannot run such a file.")


def _require_answer(address: str | None) -> None:
    """Knock at ``host:port`` first: Ray itself keeps trying for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), _KNOCK_SECONDS_MAX).close()
    except OSError as error:
        raise Unreachable(f"No Ray cluster answers at {address} ({error}); start one with `ray start`.") from error


def _measure(parcel: Parcel, data: bytes, trial: Trial) -> Figures:
    return measure(replace(parcel, data=data), trial)
