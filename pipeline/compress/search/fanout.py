"""Where trials run: processes of this machine by default, a Ray cluster when asked. The figures are the same."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import joblib  # type: ignore[import-untyped]  # it ships no types

from pipeline.compress.search.trial import Figures, Parcel, Trial, measure
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import MissingExtra, SurroundingsError
from pipeline.core.files import write_atomic

# A killed search leaves its workers behind; this long without work, and they end.
_IDLE_SECONDS_MAX = 30

Task = tuple[Parcel, Trial]
OnFigures = Callable[[int, Figures], None]


class SearchBackend(Protocol):
    """Runs trials, in any order and any place."""

    def parcel(self, data: bytes, folder: Path) -> Parcel:
        """Make an encoded kit reachable for every process; ``folder`` is the search's own."""
        ...

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        """Yield (place in ``tasks``, figures) as they come; closing the iterator gives up the rest."""
        ...


@dataclass(frozen=True)
class LocalBackend:
    """Processes of this machine through joblib, which pickles among them alone; 1 worker means this process."""

    workers: int = os.cpu_count() or 1

    def parcel(self, data: bytes, folder: Path) -> Parcel:
        """Write the kit for the workers to read."""
        digest = sha256_hex(data)
        path = (folder / f"{digest}.npz").absolute()
        if not path.exists():
            write_atomic(path, data)
        return Parcel(digest, path=str(path))

    def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Figures]]:
        """Yield figures as they come; raises SurroundingsError when a worker dies, for want of memory for example."""
        if self.workers == 1 or len(tasks) == 1:
            for index, (parcel, trial) in enumerate(tasks):
                yield index, measure(parcel, trial)
            return
        try:
            with joblib.parallel_config(
                backend="loky",
                n_jobs=self.workers,
                inner_max_num_threads=1,
                idle_worker_timeout=_IDLE_SECONDS_MAX,
            ):
                yield from joblib.Parallel(return_as="generator_unordered")(
                    joblib.delayed(_indexed)(index, *task) for index, task in enumerate(tasks)
                )
        except joblib.externals.loky.process_executor.TerminatedWorkerError as error:
            raise SurroundingsError(
                "A process of the search was ended, perhaps for want of memory; what it found is kept: "
                "run the command again, with fewer --workers if it ends so again."
            ) from error


def open_backend(name: str, address: str | None, workers: int | None) -> SearchBackend:
    """Return the backend of a name, ``local`` or ``ray``; raises MissingExtra where Ray is not installed."""
    if name == "local":
        return LocalBackend(workers) if workers is not None else LocalBackend()
    try:
        from pipeline.compress.search.ray_cluster import RayBackend
    except ImportError as error:
        raise MissingExtra(
            "Searching on a Ray cluster needs the package ray: pip install 'hotspare[cluster]'."
        ) from error
    return RayBackend(address)


def _indexed(index: int, parcel: Parcel, trial: Trial) -> tuple[int, Figures]:
    return index, measure(parcel, trial)
