"""What candidates were made from: their variants' records and their float exports, to compare tensors with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.canonical import sha256_file
from pipeline.core.errors import ModelError
from pipeline.core.layout import ARTIFACTS, candidates_dir, variant_dir
from pipeline.core.names import Format
from pipeline.core.records import VARIANT_FILE, Candidates, VariantRecord, read_record
from pipeline.data.splits import Split
from pipeline.score.diagnosis import Tensors
from pipeline.score.noise import ROWS_MAX, Inside, compare_tensors, inside, no_tensors
from pipeline.score.predict import Loaded


@dataclass(frozen=True)
class Origins:
    """Who made each variant, by its name, and where each float export is, by its digest."""

    made_by: Mapping[str, str]
    exports: Mapping[str, Path]


def read_origins(candidates: Candidates, root: Path = ARTIFACTS) -> Origins:
    """Read the variants' records that are there: a project may keep the candidates alone.

    Raises MissingStageError for a record that does not fit this version.
    """
    folder = candidates_dir(candidates.model, root)
    exports = {item.sha256: folder / item.file for item in candidates.candidates}
    made_by = {}
    for variant in sorted({item.variant for item in candidates.candidates}):
        place = variant_dir(candidates.model, variant, root)
        if (place / VARIANT_FILE).is_file():
            record = read_record(VariantRecord, place / VARIANT_FILE, f"prune {candidates.model} {variant}")
            made_by[variant] = record.made_by
            exports |= {export.sha256: place / export.file for export in record.exports.values()}
    return Origins(made_by, exports)


class TensorComparer:
    """Compares candidates' tensors with those of the float exports that they were made from, on the first rows.

    Keeps the tensors of one export: candidates come sorted by what they were made from.
    """

    def __init__(self, origins: Origins, split: Split) -> None:
        self._exports = origins.exports
        self._rows = {name: np.asarray(array[:ROWS_MAX]) for name, array in split.inputs.items()}
        self._kept: tuple[str, dict[str, Inside]] = ("", {})

    def compare(self, loaded: Loaded) -> Tensors:
        """Return the worst tensors, or why none can be compared."""
        record = loaded.record
        if record.sha256 == record.parent_sha256:
            return no_tensors("it is the float export itself")
        try:
            theirs = self._of_export(record.parent_sha256, record.format)
            return compare_tensors(inside(record.format, loaded.model, self._rows), theirs)
        except ModelError as error:
            return no_tensors(error)

    def _of_export(self, sha256: str, model_format: Format) -> dict[str, Inside]:
        if self._kept[0] != sha256:
            path = self._exports.get(sha256)
            if path is None or not path.is_file() or sha256_file(path) != sha256:
                raise ModelError("the float export that it was made from is not here")
            self._kept = (sha256, inside(model_format, path.read_bytes(), self._rows))
        return self._kept[1]
