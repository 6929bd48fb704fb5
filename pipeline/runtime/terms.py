"""Terms: numbers that only grow, over restarts too, without a disk write at a failover.

Terms are reserved in blocks (hi-lo): the file says up to which term everything may have been used, and a new process
starts above that. A failover within the block needs no disk, so a full one cannot stop it; beyond its block a pair
serves nobody anew, since another may count there.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pipeline.core.canonical import readable_json
from pipeline.core.errors import FileAccess, HotspareError
from pipeline.core.files import disk_errors, locked, read_json, write_atomic
from pipeline.core.names import Role
from pipeline.core.schema import Rule, SchemaProblems, plain, read
from pipeline.runtime.pair_nouns import Granted

BLOCK = 1000
_FEW, _VERY_FEW = BLOCK // 2, BLOCK // 10  # left of a block


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

    def alone(self) -> AbstractContextManager[None]:
        """Hold a lock beside the file."""
        return locked(self.path.with_suffix(".lock"))


class Terms:
    """The terms of one pair while it runs: a block of its own, and more of them long before it ends."""

    def __init__(self, store: TermsStore) -> None:
        """Reserve the first block; raises FileAccess or OutOfSpace."""
        self._store = store
        with store.alone():
            kept = store.read()
            self.granted = _block_after(kept.reserved_through)
            store.write(Remembered(1, self.granted.through, kept.reserved_through, kept.serving))

    @property
    def last(self) -> int:
        """Return the highest term that somebody else may have used."""
        return self.granted.first - 1

    def tell(self, term: int, serving: Role | None) -> str | None:
        """Write who serves, for people and for monitoring, and reserve terms; returns a sentence when that fails.

        Without a disk the terms that are left go on. May be called in another thread, one at a time.
        """
        left = self.granted.through - max(term, self.last)
        try:
            with self._store.alone():
                # In a swap two pairs of one model live side by side: neither takes what the other has reserved.
                kept = self._store.read().reserved_through
                granted = self._renewed(kept, left)
                self._store.write(Remembered(1, max(kept, granted.through), term, serving))
        except HotspareError as error:
            if left <= _FEW:
                return f"The next terms could not be reserved, {left} are left: {error}"
            return f"Who serves could not be written down: {error}"
        self.granted = granted
        return None

    def _renewed(self, kept: int, left: int) -> Granted:
        if kept <= self.granted.through:
            return self.granted if left > _FEW else Granted(self.granted.first, self.granted.through + BLOCK)
        # Those between are another pair's. Late: one that takes over in a swap is to begin above what this one used.
        return self.granted if left > _VERY_FEW else _block_after(kept)


def _block_after(term: int) -> Granted:
    return Granted(term + 1, term + BLOCK)
