"""The contract with a training process: a job file in, events on its standard output, exports and a result file out."""

from dataclasses import dataclass
from typing import Annotated

from pipeline.core.names import Format
from pipeline.core.recipe import FineTuning, Metric, SourceFormat
from pipeline.core.records import Export
from pipeline.core.schema import Rule

RESULT_FILE = "result.json"
ROWS_CHECKED_MAX = 256
DIFFERENCE_MAX = 1e-3


@dataclass(frozen=True)
class Job:
    """What one training process is to make of a model."""

    variant: str
    source: Annotated[str, Rule("Trained Keras file or SavedModel folder.")]
    source_format: SourceFormat
    train: Annotated[str, Rule("Npz file of the rows to fine-tune on.")]
    validation: Annotated[str, Rule("Npz file of the rows that exports are checked on.")]
    metric: Metric
    fine_tuning: FineTuning
    formats: tuple[Format, ...]
    seed: int
    out: Annotated[str, Rule("An empty folder for the exports and the result.")]
    state: Annotated[str, Rule("Folder of the checkpoints; what is left there by an equal job is taken up.")]


@dataclass(frozen=True)
class Step:
    """One event: how far the fine-tuning is, in steps of all its phases; the loss is that of the last batch."""

    doing: str
    done: int
    total: int
    loss: float | None = None
    seconds_left: float | None = None


@dataclass(frozen=True)
class Failure:
    """One event, the last: what a person should read, and the exit code of its kind of error."""

    exit_code: int
    message: str


@dataclass(frozen=True)
class Result:
    """What a training process made (``result.json`` beside the exports)."""

    made_by: str
    exports: dict[Format, Export]


def export_file(model_format: Format) -> str:
    """Return the name of a variant's export, e.g. ``model.tflite``."""
    return f"model.{model_format}"
