"""The recipe of one model: ``recipes/models/<model>.yaml``, read strictly, every problem at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.errors import RecipeError
from pipeline.core.files import read_bytes
from pipeline.core.names import DRILL_NAME, MODEL_NAME, VARIANT, CandidateName, Format, Pruning, Scheme, Variant
from pipeline.core.schema import Rule, plain
from pipeline.core.strict_yaml import read_yaml

RECIPES = Path("recipes/models")


class SourceFormat(StrEnum):
    """What a trained model file is; ``keras`` is told apart as Keras 2 or 3 by what the file says."""

    KERAS = "keras"
    SAVEDMODEL = "savedmodel"
    TFLITE = "tflite"
    ONNX = "onnx"

    @property
    def ready_made(self) -> Format | None:
        """Return the format of a source that needs no TensorFlow to export, or None."""
        return {SourceFormat.TFLITE: Format.TFLITE, SourceFormat.ONNX: Format.ONNX}.get(self)


class Metric(StrEnum):
    """A task metric."""

    ACCURACY = "accuracy"
    AUC = "auc"
    HIT_RATE_AT_10 = "hit_rate_at_10"
    NDCG_AT_10 = "ndcg_at_10"
    RMSE = "rmse"
    FIDELITY = "fidelity"  # to the float model's own answers; needs no labels

    @property
    def higher_is_better(self) -> bool:
        """Tell the metric's direction."""
        return self is not Metric.RMSE

    @property
    def is_ranking(self) -> bool:
        """Tell whether rows are judged in groups (one user's list) rather than one by one."""
        return self in (Metric.HIT_RATE_AT_10, Metric.NDCG_AT_10)


class Preference(StrEnum):
    """What selection puts first among the candidates that meet the budgets.

    ``accuracy`` is the least loss beyond chance (the upper end of its interval): a candidate beats the float reference
    only when it does so beyond chance, or when its loss is equal and its file smaller.
    """

    ACCURACY = "accuracy"
    BYTES = "bytes"
    BYTES_ZSTD = "bytes_zstd"
    LATENCY = "latency"
    RSS = "rss"


class Diversity(StrEnum):
    """In what the backup must differ from the primary."""

    SCHEME = "scheme"
    ENGINE = "engine"


@dataclass(frozen=True)
class Source:
    """The trained model to protect."""

    path: Annotated[str, Rule("Trained model file or SavedModel folder, relative to the project.")]
    format: SourceFormat


@dataclass(frozen=True)
class Data:
    """Where the arrays are: a ``.npz`` a split with ``y``, the named inputs (or ``x``), and ``group`` for rankings."""

    train: Annotated[str, Rule("Rows that fine-tuning learns from.")]
    calibration: Annotated[str, Rule("Rows that fix the ranges of quantized activations.")]
    validation: Annotated[str, Rule("Rows that score candidates.")]
    test: Annotated[str, Rule("Locked rows, read after the choice, for the two chosen candidates.")]


@dataclass(frozen=True)
class Budgets:
    """What a candidate may cost at most; a budget that is left out does not bind."""

    loss_max_abs: Annotated[float, Rule("Metric loss against the float model: upper end of its interval.", minimum=0)]
    bytes_max: Annotated[int | None, Rule("Model file size.", minimum=1)] = None
    latency_p95_ms_max: Annotated[float | None, Rule("95th percentile of one-row latency.", minimum=0)] = None
    rss_mb_max: Annotated[float | None, Rule("Resident memory of a fresh process that serves it.", minimum=1)] = None
    confidence: Annotated[
        float,
        Rule("Two-sided level of the loss's interval; its upper end gates.", minimum=0.5, maximum=0.999),
    ] = 0.9


class Distribution(StrEnum):
    """Which tf.distribute strategy fine-tunes."""

    NONE = "none"
    MIRRORED = "mirrored"
    MULTI_WORKER = "multi_worker"


@dataclass(frozen=True)
class FineTuning:
    """How a training-aware variant is fine-tuned; ``dense`` needs none."""

    epochs: Annotated[int, Rule("Passes over the training rows; 0 only for pNNs.", minimum=0, maximum=1000)] = 1
    learning_rate: Annotated[float, Rule("Adam's step size.", minimum=1e-8, maximum=1)] = 0.001
    batch_size: Annotated[int, Rule("Rows a step.", minimum=1)] = 256
    sparsity: Annotated[
        float | None, Rule("Share of zero weights to reach; by default what the name says.", minimum=0, maximum=0.99)
    ] = None
    distill_ratio: Annotated[
        float,
        Rule("Share of the loss that follows the float model, not the labels.", minimum=0, maximum=1),
    ] = 0.0
    patience: Annotated[
        int | None,
        Rule("Epochs without a better loss on a tenth of the training rows, held out, before it stops.", minimum=1),
    ] = None
    distribute: Annotated[
        Distribution, Rule("none, mirrored (over local devices) or multi_worker (processes, `workers` of them).")
    ] = Distribution.NONE
    workers: Annotated[int, Rule("Processes of multi_worker, started here.", minimum=1, maximum=64)] = 2


class Minimize(StrEnum):
    """What a search makes as small as the loss budget allows."""

    BYTES = "bytes"
    BYTES_ZSTD = "bytes_zstd"
    LATENCY = "latency"
    RSS = "rss"


@dataclass(frozen=True)
class Search:
    """Look for a number format for every layer, over all variants and file formats of the recipe together."""

    minimize: Annotated[Minimize, Rule("What to make small.")] = Minimize.BYTES
    seconds_max: Annotated[float, Rule("Wall-clock time to spend.", minimum=1)] = 300.0
    keep: Annotated[int, Rule("How many found files become candidates, at most.", minimum=1, maximum=50)] = 4


@dataclass(frozen=True)
class PrimaryRule:
    """How the primary is picked."""

    prefer: Preference = Preference.ACCURACY


@dataclass(frozen=True)
class BackupRule:
    """How the backup is picked, and in what it must differ from the primary."""

    prefer: Preference = Preference.BYTES
    diverse: Annotated[tuple[Diversity, ...], Rule("In what it must differ from the primary.")] = ()


@dataclass(frozen=True)
class Selection:
    """The selection rules of both roles."""

    primary: PrimaryRule = PrimaryRule()
    backup: BackupRule = BackupRule()


@dataclass(frozen=True)
class About:
    """What the model card tells people."""

    title: str
    intended_use: str
    limits: str
    data_source: str
    licence: Annotated[str, Rule("SPDX identifier of the model's licence, or a short phrase.")]


@dataclass(frozen=True)
class Serving:
    """What a node needs to know to run the bundles."""

    threads: Annotated[int, Rule("Threads of one session.", minimum=1, maximum=256)] = 1
    latency_rows: Annotated[int, Rule("Rows of one request when latency is measured.", minimum=1)] = 1
    arch: Annotated[tuple[str, ...], Rule("Processor architectures as `uname -m` names them.", min_items=1)] = (
        "x86_64",
        "aarch64",
    )
    min_ram_mb: Annotated[int, Rule("Memory that a node must have.", minimum=1)] = 64


@dataclass(frozen=True)
class Objectives:
    """What every drill that the recipe lists must hold; where its script asks for more, that binds."""

    lost_max: Annotated[int | None, Rule("Requests without an answer in time.", minimum=0)] = None
    wrong_max: Annotated[int | None, Rule("Answers released beyond golden tolerance.", minimum=0)] = None
    rto_ms_max: Annotated[float | None, Rule("From a fault's strike until service is restored.", minimum=0)] = None
    redundancy_ms_max: Annotated[float | None, Rule("Until both members are ready again.", minimum=0)] = None
    rpo_versions_max: Annotated[int | None, Rule("Model versions that the serving one is behind.", minimum=0)] = None


@dataclass(frozen=True)
class Recipe:
    """All that hotspare needs to know of one model."""

    model: Annotated[str, Rule("The model's name; also the file's.", pattern=MODEL_NAME)]
    about: About
    source: Source
    data: Data
    metric: Metric
    budgets: Budgets
    variants: Annotated[
        dict[Annotated[str, Rule(pattern=VARIANT)], FineTuning], Rule("Training-aware forms, by name: dense, p50 …")
    ]
    schemes: Annotated[dict[Format, tuple[Scheme, ...]], Rule("Number formats to try, by file format.")]
    search: Annotated[Search | None, Rule("Search number formats layer by layer, beside `schemes`.")] = None
    select: Selection = Selection()
    serving: Serving = Serving()
    output: Annotated[str | None, Rule("Which output is judged; needed only where a model has several.")] = None
    slices: Annotated[
        tuple[str, ...], Rule("Arrays of the data (one value a row) that name groups of rows to look at one by one.")
    ] = ()
    drills: Annotated[
        tuple[Annotated[str, Rule(pattern=DRILL_NAME)], ...],
        Rule("Scripts of recipes/drills, by name, that the stage `drill` plays on the packed pair."),
    ] = ()
    objectives: Annotated[Objectives, Rule("What every drill of `drills` must hold, beside its script.")] = Objectives()
    threshold: Annotated[float, Rule("Operating threshold of a binary decision.", minimum=0, maximum=1)] = 0.5
    seed: Annotated[int, Rule("Seed of every random choice.", minimum=0, maximum=2**32 - 1)] = 0

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if "dense" not in self.variants:
            yield "variants.dense: missing; every loss is measured against dense.f32"
        if Scheme.F32 not in self.schemes.get(Format.TFLITE, ()) and Scheme.F32 not in self.schemes.get(
            Format.ONNX, ()
        ):
            yield "schemes: one format must hold f32; every loss is measured against dense.f32"
        for variant, tuning in self.variants.items():
            if tuning.epochs == 0 and not _is_shrunk_only(variant):
                yield f"variants.{variant}.epochs: 0 is only for pNNs (fewer channels); all others need training"
        if len(self.candidates()) < 2:
            yield "schemes: fewer than two candidates; a primary needs a backup that differs from it"

    def candidates(self) -> tuple[CandidateName, ...]:
        """Return every candidate that the recipe asks for, in a fixed order."""
        names = [
            CandidateName(variant, scheme, name_format)
            for variant in self.variants
            for name_format, schemes in self.schemes.items()
            for scheme in schemes
        ]
        return tuple(sorted(set(names)))

    @property
    def reference(self) -> CandidateName:
        """Return the float candidate that every loss is measured against."""
        has_tflite = Scheme.F32 in self.schemes.get(Format.TFLITE, ())
        return CandidateName("dense", Scheme.F32, Format.TFLITE if has_tflite else Format.ONNX)

    def build_sha256(self) -> str:
        """Return the digest of what shapes the candidates' bytes: not the budgets, the selection or the words."""
        keys = ("model", "source", "data", "variants", "schemes", "search", "seed")
        full = plain(self)
        return sha256_hex(canonical_json({key: full[key] for key in keys if key in full}))


def _is_shrunk_only(variant: str) -> bool:
    parsed = Variant.parse(variant)
    return parsed == Variant(Pruning.STRUCTURED, parsed.sparsity)


def parse_recipe(text: str | bytes, place: str) -> Recipe:
    """Read a recipe from YAML text; raises RecipeError with every problem found, each with its path in the file."""
    return read_yaml(Recipe, text, place, RecipeError)


def load_recipe(model: str, root: Path = RECIPES) -> Recipe:
    """Load ``<root>/<model>.yaml``.

    Raises RecipeError when it is missing, malformed, or names another model than its file does.
    """
    path = root / f"{model}.yaml"
    known = ", ".join(sorted(item.stem for item in root.glob("*.yaml")))
    advice = f"recipes here: {known}" if known else "change into a project's folder, or make one with `hotspare init`"
    recipe = parse_recipe(read_bytes(path, RecipeError, advice), str(path))
    if recipe.model != model:
        raise RecipeError(f"{path}: model: {recipe.model!r} does not match the file's name; make them equal.")
    return recipe
