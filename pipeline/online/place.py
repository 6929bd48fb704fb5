"""Where a member lives, what lies in its folder, and the epoch that it keeps there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.bundle.strict_json import fit, parse_canonical
from pipeline.core.canonical import canonical_json
from pipeline.core.files import read_bytes, write_atomic
from pipeline.core.schema import Rule

SOCKET = "member.sock"
LOG = "updates.log"
EPOCH = "epoch.json"
CHECKPOINT = "checkpoint"
START = "start"


@dataclass(frozen=True)
class Place:
    """Where a member lives and whom it talks to: its folder, the other one's, and which seat it has."""

    seat: int
    folder: Path
    other: Path


@dataclass(frozen=True)
class Keeping:
    """After how many updates a checkpoint is due, and how many the log reaches back at least."""

    every: int = 500
    window: int = 10_000


@dataclass(frozen=True)
class _Epoch:
    epoch: Annotated[int, Rule(minimum=0)]


def read_epoch(folder: Path) -> int:
    """Return the highest epoch that a member heard of or led in; 0 before the first. Raises Malformed, FileAccess."""
    path = folder / EPOCH
    return fit(_Epoch, parse_canonical(read_bytes(path), str(path)), str(path)).epoch if path.exists() else 0


def keep_epoch(folder: Path, epoch: int) -> None:
    """Put an epoch on disk; raises OutOfSpace or FileAccess."""
    write_atomic(folder / EPOCH, canonical_json({"epoch": epoch}))
