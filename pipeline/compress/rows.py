"""Rows of a split, in batches and in the number types that a model takes."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pipeline.core.errors import DataError
from pipeline.core.tensors import Array
from pipeline.data.splits import batches, open_split
from pipeline.engines.base import Session


def session_batches(session: Session, path: Path, rows: int) -> Iterator[dict[str, Array]]:
    """Yield the split at ``path`` as inputs of ``session``, at most ``rows`` rows at a time; raises DataError."""
    dtypes = {spec.name: np.dtype(spec.dtype) for spec in session.inputs}
    for batch in batches(open_split(path, sorted(dtypes)), rows):
        yield typed(batch, dtypes, path)


def typed(inputs: Mapping[str, Array], dtypes: Mapping[str, np.dtype[np.generic]], path: Path) -> dict[str, Array]:
    """Convert inputs to the model's types; raises DataError where that would cut off fractions."""
    for name, dtype in dtypes.items():
        if not np.can_cast(inputs[name].dtype, dtype, "same_kind"):
            raise DataError(
                f"{path}: {name!r} holds {inputs[name].dtype} where the model takes {dtype}; save it as that."
            )
    return {name: inputs[name].astype(dtype, copy=False) for name, dtype in dtypes.items()}
