"""Terms: numbers that only grow, over restarts too, without a disk write at a failover.

Terms are reserved in blocks (hi-lo): the file says up to which term everything may have been used, and a new process
starts above that. A failover within the block needs no disk, so a full one cannot stop it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pipeline.core.canonical import readable_json
from pipeline.core.errors import FileAccess
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


def reserve_terms(path: Path, last_used: int) -> Remembered:
    """Reserve the next block above what was reserved or used; raises FileAccess or OutOfSpace."""
    kept = read_terms(path)
    reserved = Remembered(1, max(kept.reserved_through, last_used) + BLOCK, last_used, kept.serving)
    write_atomic(path, readable_json(plain(reserved)))
    return reserved
