"""What has been tried so far, and the way to try more: from the journal where it is known, else in a real file."""

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.compress.search.families import Family
from pipeline.compress.search.fanout import SearchBackend
from pipeline.compress.search.journal import Journal
from pipeline.compress.search.trial import Build, Figures, Trial
from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.names import Scheme
from pipeline.core.schema import plain, read

_PACKAGES = ("ai-edge-litert", "ai-edge-quantizer", "numpy", "onnx", "onnxruntime", "scipy", "zstandard")
_ROOMS = ("compress", "core", "engines", "score")


@dataclass(frozen=True)
class Effort:
    """How far a search is. ``made`` counts real files made and measured now, ``known`` those of a killed run."""

    stage: str
    done: int = 0
    total: int = 0
    made: int = 0
    known: int = 0
    seconds: float = 0.0
    best: str = ""

    @property
    def files_a_minute(self) -> float:
        """Return the rate of real files since the search began."""
        return 60 * self.made / self.seconds if self.seconds else 0.0


Watcher = Callable[[Effort], None]
Clock = Callable[[], float]


class Workshop:
    """Tries files through a backend, keeps what comes, tells a watcher, and watches the clock."""

    def __init__(
        self,
        backend: SearchBackend,
        journal: Journal,
        seconds_max: float,
        watcher: Watcher,
        clock: Clock = time.monotonic,
    ) -> None:
        self._backend, self._journal, self._watcher, self._clock = backend, journal, watcher, clock
        self._code = code_digest()
        self._started = clock()
        self._seconds_max = seconds_max
        self._effort = Effort("")
        self.complete = True

    @property
    def spent(self) -> float:
        """Return the share of the time that is over."""
        return (self._clock() - self._started) / self._seconds_max

    def has_time(self, share: float = 1.0) -> bool:
        """Tell whether less than a share of the time is spent; once it is not, the search is not complete."""
        has = self.spent < share
        self.complete = self.complete and has
        return has

    def _may_go_on(self, share: float, is_part: bool) -> bool:
        return self.has_time(share) if is_part else self.spent < share

    def tell(self, **changes: Any) -> None:
        """Show the watcher what changed of the effort."""
        self._effort = replace(self._effort, seconds=self._clock() - self._started, **changes)
        self._watcher(self._effort)

    def remembered(self, what: object, ask: Callable[[], Any]) -> Any:
        """Return plain data that is in the journal under ``what``, or ask for it and keep it."""
        key = self._key(what)
        found = self._journal.get(key)
        if found is None:
            found = plain(ask())
            self._journal.put(key, found)
        return found

    def measure(
        self, stage: str, tasks: Sequence[tuple[Family, Trial]], share: float, is_part: bool = True
    ) -> list[Figures]:
        """Return the figures of the first tasks: of all, unless a share of the time is over before.

        Results count in the order of the tasks, whatever order they come in. A search is complete without what is
        no part of it (``is_part=False``).
        """
        keys = [self._key([family.parcel.digest, plain(trial)]) for family, trial in tasks]
        found = {index: read(Figures, kept) for index, key in enumerate(keys) if (kept := self._journal.get(key))}
        missing = [index for index in range(len(tasks)) if index not in found]
        self.tell(stage=stage, done=len(found), total=len(tasks), known=self._effort.known + len(found))
        if missing and self._may_go_on(share, is_part):
            wanted = [(tasks[index][0].parcel, tasks[index][1]) for index in missing]
            with closing(self._backend.run(wanted)) as results:  # type: ignore[type-var]
                for place, figures in results:
                    index = missing[place]
                    self._journal.put(keys[index], plain(figures))
                    found[index] = figures
                    self.tell(done=len(found), made=self._effort.made + 1)
                    if len(found) < len(tasks) and not self._may_go_on(share, is_part):
                        break
        first_gap = next((index for index in range(len(tasks)) if index not in found), len(tasks))
        return [found[index] for index in range(first_gap)]

    def _key(self, what: object) -> str:
        return sha256_hex(canonical_json([self._code, plain(what)]))


def code_digest() -> str:
    """Return a digest of the code and the libraries that figures depend on."""
    here = Path(__file__).parents[2]
    sources = sorted(path for room in _ROOMS for path in (here / room).rglob("*.py") if "training" not in path.parts)
    code = [[str(path.relative_to(here)), sha256_hex(path.read_bytes())] for path in sources]
    return sha256_hex(canonical_json([code, [[package, version(package)] for package in _PACKAGES]]))


@dataclass(frozen=True)
class Point:
    """A real file of a family with its figures."""

    build: Build
    figures: Figures


def front_of(points: Sequence[Point], cost: Callable[[Figures], float]) -> tuple[Point, ...]:
    """Return the points that no other beats in cost and divergence, from safest to cheapest; equal files count once."""
    ranked = sorted(
        (point for point in points if point.figures.refused is None),
        key=lambda point: (point.figures.divergence, cost(point.figures), *_simplest(point.build)),
    )
    kept: list[Point] = []
    for point in ranked:
        if not kept or cost(point.figures) < cost(kept[-1].figures):
            kept.append(point)
    return tuple(kept)


def _simplest(build: Build) -> tuple[bool, bool, str, tuple[tuple[str, Scheme], ...]]:
    return build.uniform is None, build.corrected, build.clipping, build.assignment
