"""Where trials run: processes of this machine by default, a Ray cluster when asked. The figures are the same."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]  # it ships no types

from pipeline.compress.search.trial import Figures, Parcel, Trial, measure
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import MissingExtra
from pipeline.core.files import write_atomic

# A killed search leaves its workers behind; this long without work, and they end.
_IDLE_SECONDS_MAX = 30
_AHEAD = 2  # files that wait beside those under way, for each worker
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Workers run a stranger's model: without the signing key, and without importing from the folder one stands in. joblib
# adds to the environment and takes nothing away, so that the key is emptied.
_ENVIRONMENT = {**_ONE_THREAD, "HOTSPARE_SIGNING_KEY": "", "PYTHONSAFEPATH": "1"}

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

    def close(self) -> None:
        """Let go of what was started here."""
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
        """Yield figures as they come; a file that ends its process twice while it is tried alone is refused."""
        if self.workers == 1:
            yield from ((index, measure(parcel, trial)) for index, (parcel, trial) in enumerate(tasks))
            return
        waiting = deque(enumerate(tasks))
        under_way: dict[Future[Figures], tuple[int, Task]] = {}
        try:
            while waiting or under_way:
                while waiting and len(under_way) < _AHEAD * self.workers:
                    item = waiting.popleft()
                    under_way[_executor(self.workers).submit(measure, *item[1])] = item
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    if future not in under_way:
                        continue
                    if isinstance(future.exception(), BrokenProcessPool):
                        suspects = sorted(under_way.values(), key=lambda suspect: suspect[0])
                        under_way.clear()
                        yield from ((index, _alone(task)) for index, task in suspects)
                    else:
                        yield under_way.pop(future)[0], future.result()
        finally:
            for future in under_way:
                future.cancel()

    def close(self) -> None:
        """End the processes."""
        if self.workers > 1:
            _executor(self.workers).shutdown(wait=True)


def _executor(workers: int) -> Any:
    return get_reusable_executor(max_workers=workers, timeout=_IDLE_SECONDS_MAX, env=_ENVIRONMENT)


def _alone(task: Task) -> Figures:
    """Measure a file that was under way when a process died; alone, nothing else can be to blame. It has two tries."""
    for _ in range(2):
        executor = _executor(1)
        try:
            return cast(Figures, executor.submit(measure, *task).result())
        except BrokenProcessPool:
            continue
        finally:
            executor.shutdown(wait=True)
    return Figures(refused="It ended the process that ran it, twice; the engine cannot run such a file.")


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
