"""What a person asked ``hotspare compress`` for, and the recipe that says the same: from here on it is a build."""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.errors import DataError, UsageError
from pipeline.core.names import MODEL_NAME, Format, Scheme
from pipeline.core.recipe import (
    About,
    BackupRule,
    Budgets,
    Data,
    Diversity,
    FineTuning,
    Metric,
    Minimize,
    Preference,
    Recipe,
    Search,
    Selection,
    Serving,
    Source,
    SourceFormat,
)
from pipeline.core.schema import SchemaProblems, plain, read
from pipeline.core.tensors import Tensors, map_npz
from pipeline.data.sources import write_splits
from pipeline.data.splits import LABELS

_SPLITS = ("train", "calibration", "validation", "test")
_UNIFORM = {
    Format.TFLITE: (Scheme.F32, Scheme.F16, Scheme.W8, Scheme.W8D, Scheme.W8A8, Scheme.W4, Scheme.W4D),
    Format.ONNX: (Scheme.F32, Scheme.F16, Scheme.W8, Scheme.W8A8, Scheme.W4),
}
_DISTILL_RATIO = 0.5


@dataclass(frozen=True)
class Wish:
    """What a person asked for on the command line; an empty tuple or None leaves the choice to us."""

    model: Path
    data: str
    out: Path
    metric: Metric | None
    loss_max_abs: float
    confidence: float
    minimize: Minimize
    seconds_max: float
    variants: tuple[str, ...]
    epochs: int
    formats: tuple[str, ...]
    diverse: tuple[Diversity, ...]
    columns: dict[str, tuple[str, ...]] | None
    output: str | None
    slices: tuple[str, ...]
    threshold: float
    name: str | None
    seed: int
    key: Path | None
    backend: str
    address: str | None
    workers: int | None


def recipe_of(wish: Wish, source_format: SourceFormat, work: Path) -> tuple[Recipe, tuple[str, ...]]:
    """Split the data and write down, as a recipe, what is to be done; raises UsageError for a wish that makes none."""
    folder = work / "data"
    if not folder.exists():
        write_splits(wish.data, wish.columns, folder, wish.seed)
    arrays = map_npz(folder / "validation.npz", DataError)
    _require_slices(wish, arrays)
    metric, notes = _metric(wish, LABELS in arrays)
    name = wish.name or _name(wish.model)
    value = {
        "model": name,
        "about": plain(About(name, "Not stated.", "Not stated.", "Not stated.", "Not stated.")),
        "source": plain(Source(str(wish.model), source_format)),
        "data": plain(Data(*(str(folder / f"{split}.npz") for split in _SPLITS))),
        "metric": metric.value,
        "budgets": plain(Budgets(wish.loss_max_abs, confidence=wish.confidence)),
        "variants": {variant: plain(_fine_tuning(wish, variant)) for variant in _variants(wish, source_format)},
        "schemes": {str(item): plain(_UNIFORM[Format(item)]) for item in _formats(wish, source_format)},
        "search": plain(Search(wish.minimize, wish.seconds_max)),
        "select": plain(Selection(backup=BackupRule(Preference(wish.minimize.value), wish.diverse))),
        "serving": plain(Serving()),
        "threshold": wish.threshold,
        "slices": list(wish.slices),
        "seed": wish.seed,
    }
    try:
        return read(Recipe, value | ({"output": wish.output} if wish.output else {})), notes
    except SchemaProblems as error:
        raise UsageError(f"These arguments make no recipe: {'; '.join(error.problems)}.") from error


def _require_slices(wish: Wish, arrays: Tensors) -> None:
    missing = [name for name in wish.slices if name not in arrays]
    if missing:
        raise DataError(f"--slices: {wish.data} holds no {missing[0]!r}; it holds {', '.join(sorted(arrays))}.")


def _name(path: Path) -> str:
    name = re.sub(r"[^a-z0-9_-]+", "-", path.name.partition(".")[0].lower()).strip("-_")
    return name if re.fullmatch(MODEL_NAME, name) else "model"


def _metric(wish: Wish, has_labels: bool) -> tuple[Metric, tuple[str, ...]]:
    if has_labels and wish.metric is None:
        return Metric.FIDELITY, ("No --metric: losses are of fidelity to the float model, labels are not looked at.",)
    if has_labels or wish.metric in (None, Metric.FIDELITY):
        return wish.metric or Metric.FIDELITY, ()
    note = f"{wish.data} holds no labels (key 'y'): fidelity to the float model is measured instead of {wish.metric}."
    return Metric.FIDELITY, (note,)


def _variants(wish: Wish, source_format: SourceFormat) -> tuple[str, ...]:
    if wish.variants:
        return tuple(dict.fromkeys(("dense", *wish.variants)))
    return ("dense", "p50s") if source_format is SourceFormat.KERAS else ("dense",)


def _fine_tuning(wish: Wish, variant: str) -> FineTuning:
    return FineTuning() if variant == "dense" else FineTuning(epochs=wish.epochs, distill_ratio=_DISTILL_RATIO)


def _formats(wish: Wish, source_format: SourceFormat) -> tuple[str, ...]:
    able = (source_format.ready_made,) if source_format.ready_made else tuple(Format)
    asked = wish.formats or tuple(able)
    unable = sorted(set(asked) - set(able))
    if unable:
        raise UsageError(f"--formats: {', '.join(unable)} cannot be made of {wish.model}; it gives {', '.join(able)}.")
    return asked
