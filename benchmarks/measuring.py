"""One way to measure every file, whoever made it: same rows, same float reference, latency interleaved with it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zstandard
from cases import Case

from pipeline.core.errors import DataError, ModelError
from pipeline.core.names import Format
from pipeline.core.recipe import Recipe
from pipeline.data.splits import batches
from pipeline.engines.base import Session
from pipeline.engines.open import open_session
from pipeline.score.cost import ZSTD_LEVEL, interleave
from pipeline.score.scoring import Judged, judge_session, session_score


@dataclass(frozen=True)
class Row:
    """The measured figures of one file; ``problem`` says why there are none.

    Losses are of the recipe's metric against the float model; ``within`` tells whether the upper end of the loss's
    interval on validation rows meets the budget. Ratios are against the float tflite export, smaller is better.
    """

    model: str
    tool: str
    file: str = ""
    bytes: int | None = None
    bytes_zstd: int | None = None
    bytes_ratio: float | None = None
    loss: float | None = None
    loss_high: float | None = None
    loss_locked: float | None = None
    latency_ratio: float | None = None
    within: bool | None = None
    problem: str = ""


@dataclass(frozen=True)
class Bench:
    """A model's float reference, and both splits with its answers to them."""

    recipe: Recipe
    reference: Session
    reference_bytes: int
    validation: Judged
    locked: Judged

    def row(self, tool: str, file: str, model_format: Format, model: bytes) -> Row:
        """Measure a file; one that cannot take the place of the float model gets a row that says so."""
        name = self.recipe.model
        try:
            session = self._opened(model_format, model)
            validation = session_score(self.recipe, self.validation, session)
            locked = session_score(self.recipe, self.locked, session)
        except (ModelError, DataError) as error:
            return Row(name, tool, file, len(model), problem=str(error))
        return Row(
            model=name,
            tool=tool,
            file=file,
            bytes=len(model),
            bytes_zstd=zstd_bytes(model),
            bytes_ratio=round(len(model) / self.reference_bytes, 3),
            loss=validation.loss_abs,
            loss_high=validation.loss_high,
            loss_locked=locked.loss_abs,
            latency_ratio=self.latency_ratio(session, self.reference),
            within=validation.loss_high <= self.recipe.budgets.loss_max_abs,
        )

    def latency_ratio(self, ours: Session, theirs: Session) -> float:
        """Return the ratio of two median latencies, called in turn on the same rows of a request."""
        rows = next(iter(batches(self.validation.split, self.recipe.serving.latency_rows)))
        mine, other = interleave(lambda: ours.run(rows), lambda: theirs.run(rows))
        return round(float(np.median(mine) / np.median(other)), 3)

    def _opened(self, model_format: Format, model: bytes) -> Session:
        session = open_session(model_format, model, self.recipe.serving.threads)
        for ours, theirs in ((session.inputs, self.reference.inputs), (session.outputs, self.reference.outputs)):
            forms = [(spec.name, spec.dtype) for spec in ours]
            if forms != [(spec.name, spec.dtype) for spec in theirs]:
                raise ModelError(f"It takes or gives {forms}, the float model {[(s.name, s.dtype) for s in theirs]}.")
        return session


def open_bench(case: Case) -> Bench:
    """Open a case's float tflite export and let it answer both splits."""
    model = case.export(Format.TFLITE).read_bytes()
    reference, data = open_session(Format.TFLITE, model, case.recipe.serving.threads), case.recipe.data
    validation = judge_session(case.recipe, reference, "validation", Path(data.validation)).alone
    locked = judge_session(case.recipe, reference, "test", Path(data.test)).alone
    return Bench(case.recipe, reference, len(model), validation, locked)


def zstd_bytes(model: bytes) -> int:
    """Return the size after zstandard, at the level of hotspare's archives."""
    return len(zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(model))
