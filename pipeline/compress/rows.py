"""Rows of a split, in batches and in the number types that a model takes."""

from collections.abc import Iterator
from pathlib import Path

from pipeline.core.tensors import Array, cast_tensors
from pipeline.data.splits import batches, open_split
from pipeline.engines.base import Session


def session_batches(session: Session, path: Path, rows: int) -> Iterator[dict[str, Array]]:
    """Yield the split at ``path`` as inputs of ``session``, at most ``rows`` rows at a time; raises DataError."""
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    for batch in batches(open_split(path, sorted(dtypes)), rows):
        yield cast_tensors(batch, dtypes, str(path))
