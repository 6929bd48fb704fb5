"""Terms: numbers that only grow, over restarts too, without a disk write at a failover.

Terms are reserved in blocks (hi-lo): the file says up to which term everything may have been used, and a new process
starts above that. A failover within the block needs no disk, so a full one cannot stop it.
"""

import fcntl
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pipeline.core.canonical import readable_json
from pipeline.core.errors import FileAccess, HotspareError
from pipeline.core.files import disk_errors, read_json, write_atomic
from pipeline.core.names import Role
from pipeline.core.schema import Rule, SchemaProblems, plain, read

BLOCK = 1000


@dataclass(frozen=True)
class Remembered:
    """What outlives the process: the last reserved term, and who served as of when it was written."""

    schema_version: Literal[1]
    reserved_through: Annotated[int, Rule("No later process uses a term up to this one.", minimum=0)]
    term: Annotated[int, Rule("The term when this was written.", minimum=0)] = 0
    serving: Role | None = None


def terms_path(state_dir: Path, model: str) -> Path:
    """Return where a pair's terms are kept."""
    return state_dir / f"{model}.pair.json"


def read_terms(path: Path) -> Remembered:
    """Return what was remembered, or that nothing was.

    Raises FileAccess when the file is there and cannot be understood: starting anew could use a term twice.
    """
    advice = "it keeps terms from being used twice: restore it, or delete it when no other process serves this model"
    with disk_errors(path):
        if not path.exists():
            return Remembered(1, 0)
    try:
        return read(Remembered, read_json(path, FileAccess, advice))
    except SchemaProblems as error:
        raise FileAccess(f"{path} is damaged ({'; '.join(error.problems)}); {advice}.") from error


class TermsStore(Protocol):
    """Where terms outlive the process, as a port."""

    def read(self) -> Remembered:
        """Return what was remembered; raises FileAccess when it cannot be understood."""

    def write(self, remembered: Remembered) -> None:
        """Remember; raises FileAccess or OutOfSpace."""

    def alone(self) -> AbstractContextManager[None]:
        """Keep other threads, and the other pair of a swap, out meanwhile; raises FileAccess or OutOfSpace."""


@dataclass(frozen=True)
class TermsFile:
    """A file of terms."""

    path: Path

    def read(self) -> Remembered:
        """Read the file, see :func:`read_terms`."""
        return read_terms(self.path)

    def write(self, remembered: Remembered) -> None:
        """Replace the file."""
        write_atomic(self.path, readable_json(plain(remembered)))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold a lock beside the file."""
        lock = self.path.with_suffix(".lock")
        with disk_errors(lock):
            lock.parent.mkdir(parents=True, exist_ok=True)
            with lock.open("w") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)
                yield


def reserve_terms(store: TermsStore, last_used: int) -> Remembered:
    """Reserve the next block above what was reserved or used; raises FileAccess or OutOfSpace."""
    with store.alone():
        kept = store.read()
        reserved = Remembered(1, max(kept.reserved_through, last_used) + BLOCK, last_used, kept.serving)
        store.write(reserved)
    return reserved


class Terms:
    """The terms of one pair while it runs: written down at the start, and again far ahead of the block's end."""

    def __init__(self, store: TermsStore) -> None:
        """Reserve the first block; raises FileAccess or OutOfSpace."""
        self._store = store
        self.last = store.read().reserved_through
        self._reserved = reserve_terms(store, self.last).reserved_through

    def use(self, term: int) -> str | None:
        """Count a term as used; returns a sentence when the next block is needed soon and cannot be reserved."""
        self.last = term
        if self._reserved - term > BLOCK // 2:
            return None
        try:
            self._reserved = reserve_terms(self._store, term).reserved_through
        except HotspareError as error:
            return f"The next terms could not be reserved, {self._reserved - term} are left: {error}"
        return None

    def tell(self, term: int, serving: Role | None) -> str | None:
        """Write who serves, for people and for monitoring; returns a sentence when that fails, which harms nothing.

        May be called in another thread, one at a time.
        """
        try:
            with self._store.alone():
                # In a swap two pairs of one model live side by side: neither takes back what the other has reserved.
                reserved = max(self._reserved, self._store.read().reserved_through)
                self._store.write(Remembered(1, reserved, term, serving))
        except HotspareError as error:
            return f"Who serves could not be written down: {error}"
        return None
