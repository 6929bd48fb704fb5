"""The floor: the newest channel that this node ever accepted; nothing older is loaded again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pipeline.core.canonical import readable_json
from pipeline.core.errors import FileAccess, RolledBack
from pipeline.core.files import disk_errors, locked, read_json, write_atomic
from pipeline.core.schema import Rule, SchemaProblems, plain, read


@dataclass(frozen=True)
class Floor:
    """A channel's place in the order, and its digest."""

    epoch: Annotated[int, Rule(minimum=0)]
    seq: Annotated[int, Rule(minimum=1)]
    digest: Annotated[str, Rule(pattern="[0-9a-f]{64}")]


def floor_path(state_dir: Path, model: str) -> Path:
    """Return where a model's floor is kept."""
    return state_dir / f"{model}.floor.json"


def read_floor(path: Path) -> Floor | None:
    """Return the floor, or None on a node that accepted no channel yet.

    Raises FileAccess when the file is there and cannot be read or understood: forgetting it would allow a rollback.
    """
    advice = "it guards against rollback: restore it, or delete it only if you mean to trust the channel afresh"
    with disk_errors(path):
        if not path.exists():
            return None
    try:
        return read(Floor, read_json(path, FileAccess, advice))
    except SchemaProblems as error:
        raise FileAccess(f"{path} is damaged ({'; '.join(error.problems)}); {advice}.") from error


def check_order(offered: Floor, kept: Floor, what: str) -> None:
    """Raise RolledBack when ``offered`` is below the floor, or another channel of the floor's own number."""
    place = f"{what} is at epoch {offered.epoch}, seq {offered.seq}"
    if (offered.epoch, offered.seq) < (kept.epoch, kept.seq):
        raise RolledBack(f"{place}, this node has already accepted epoch {kept.epoch}, seq {kept.seq}.")
    if (offered.epoch, offered.seq) == (kept.epoch, kept.seq) and offered.digest != kept.digest:
        raise RolledBack(f"{place}, but differs from the one that this node accepted with that number; ask its signer.")


def raise_floor(path: Path, floor: Floor) -> None:
    """Persist ``floor`` if it is higher than what is kept; never lowers it.

    Raises RolledBack when another process meanwhile accepted a newer channel, or another one of the same number;
    FileAccess or OutOfSpace.
    """
    with locked(path.with_suffix(".lock")):
        kept = read_floor(path)
        if kept is not None:
            check_order(floor, kept, "The channel")
        if kept != floor:
            write_atomic(path, readable_json(plain(floor)))
