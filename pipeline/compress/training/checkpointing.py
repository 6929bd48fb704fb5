"""Where fine-tuning stands after each epoch, on disk: kill -9 costs at most the epoch that was running.

``state.json`` is the commit point: it names the files that hold the arrays, each written before it and swept when
nothing names it any more.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.core.canonical import readable_json
from pipeline.core.errors import InternalError
from pipeline.core.files import fsync_dir, locked, read_bytes, read_json, write_atomic
from pipeline.core.schema import SchemaProblems, plain, read
from pipeline.core.tensors import Array, decode_npz, encode_npz

_STATE = "state.json"
_LOCK = "lock"


@dataclass(frozen=True)
class Progress:
    """What is done: ``phase`` is running, ``epoch`` epochs of it are finished; ``files`` hold its arrays.

    ``start`` are the plain weights that the phase began with, ``now`` the state after the last epoch, ``best`` the
    state with the least loss on the rows held out.
    """

    digest: str
    phase: int = 0
    paths: tuple[str, ...] = ()  # what made the phases before this one
    epoch: int = 0
    ended: bool = False  # early
    best_loss: float | None = None
    waited: int = 0
    start: str | None = None
    now: str | None = None
    best: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Return the names of the files that hold its arrays."""
        return tuple(name for name in (self.start, self.now, self.best) if name is not None)


@contextmanager
def open_checkpoints(folder: Path, digest: str, writes: bool) -> Iterator["Checkpoints"]:
    """Open a variant's folder; whoever writes waits until no other process does.

    The other may be one that was just killed, or a second command for the same variant.
    """
    if not writes:
        yield Checkpoints(folder, digest, writes)
        return
    with locked(folder / _LOCK):
        yield Checkpoints(folder, digest, writes)


class Checkpoints:
    """The checkpoint folder of one variant; one process writes it at a time, others may read."""

    def __init__(self, folder: Path, digest: str, writes: bool) -> None:
        self._folder, self._writes = folder, writes
        self.progress = Progress(digest)
        self._load()

    def arrays(self, name: str | None) -> list[Array]:
        """Return the arrays of one file; raises InternalError when it is damaged."""
        assert name is not None  # noqa: S101 - the caller looked
        path = self._folder / name
        found = decode_npz(read_bytes(path, InternalError), str(path), InternalError)
        return [found[key] for key in sorted(found)]

    def begin(self, phase: int, start: Sequence[Array], paths: Sequence[str]) -> None:
        """Note that a phase begins from these plain weights; ``paths`` made the phases before it."""
        name = self._write(f"start-{phase}.npz", start)
        self._commit(Progress(self.progress.digest, phase, tuple(paths), start=name))

    def note(self, progress: Progress, now: Sequence[Array], is_best: bool) -> None:
        """Note a finished epoch; ``is_best`` makes its state the one to return to."""
        name = self._write(f"now-{progress.phase}-{progress.epoch}.npz", now)
        self._commit(replace(progress, now=name, best=name if is_best else self.progress.best))

    def _load(self) -> None:
        """Take up what an equal job left; anything else starts anew."""
        if not (self._folder / _STATE).is_file():
            return
        try:
            found = read(Progress, read_json(self._folder / _STATE, InternalError))
        except (SchemaProblems, InternalError):
            return  # of another version
        if found.digest == self.progress.digest and all((self._folder / name).is_file() for name in found.files):
            self.progress = found

    def _write(self, name: str, values: Sequence[Array]) -> str:
        if self._writes:
            tensors = {f"{index:05d}": np.asarray(value) for index, value in enumerate(values)}
            write_atomic(self._folder / name, encode_npz(tensors))
        return name

    def _commit(self, progress: Progress) -> None:
        self.progress = progress
        if not self._writes:
            return
        write_atomic(self._folder / _STATE, readable_json(plain(progress)))
        for path in self._folder.glob("*.npz"):
            if path.name not in progress.files:
                path.unlink()
        fsync_dir(self._folder)
