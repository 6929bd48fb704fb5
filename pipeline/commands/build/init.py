"""``hotspare init``: a project around your own trained model."""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

from pipeline.compress.source import KERAS_2, kind_of_source
from pipeline.core.errors import DataError, FileAccess, MissingExtra, ModelError, RecipeError, UsageError
from pipeline.core.files import disk_errors, read_bytes, write_atomic
from pipeline.core.names import MODEL_NAME, Format
from pipeline.core.recipe import Metric, SourceFormat, parse_recipe
from pipeline.core.schema import Rule, SchemaProblems, read
from pipeline.core.tensors import cast_tensors, map_npz
from pipeline.data.partition import write_partition
from pipeline.data.splits import BESIDE_INPUTS, Split, open_split
from pipeline.engines.base import count_rows
from pipeline.engines.open import open_session

EXAMPLE = "hotspare init fraud-project --model fraud --source fraud.keras --data rows.npz --metric auc"

_SCAFFOLD = Path(__file__).parent / "scaffold"
_DENSE = "  dense: {}"
_TUNED = "  dense: {}\n  p50: {sparsity: 0.5, epochs: 2, learning_rate: 0.0005, batch_size: 256}"
_SCHEMES = {
    SourceFormat.ONNX: "  onnx: [f32, w8a8]",
}
_BY_SUFFIX = {
    ".keras": SourceFormat.KERAS,
    ".h5": SourceFormat.KERAS,
    ".tflite": SourceFormat.TFLITE,
    ".onnx": SourceFormat.ONNX,
}
_TFLITE_SCHEMES = "  tflite: [f32, f16, w8, w8d, w8a8]"


@dataclass(frozen=True)
class _Name:
    model: Annotated[str, Rule(pattern=MODEL_NAME)]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a new or empty folder")
    parser.add_argument("--model", required=True, help="the model's name, e.g. fraud")
    parser.add_argument(
        "--source", required=True, type=Path, help="trained model: .keras .h5 .tflite .onnx or SavedModel"
    )
    parser.add_argument(
        "--data", required=True, type=Path, help="npz with y and the inputs (x, or by name); split in four"
    )
    parser.add_argument("--metric", default="accuracy", choices=[item.value for item in Metric])
    parser.add_argument(
        "--max-loss", type=float, default=0.01, help="loss of the metric that you accept (default 0.01)"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Write the project, all of it or nothing; what no stage could use is refused here."""
    source_format = _checked_format(args)
    values = _values(args, source_format)
    recipe = Template((_SCAFFOLD / "recipe.yaml").read_text()).substitute(values)
    _check_recipe(recipe)
    _check_data(args, source_format)
    with _all_or_nothing(args.folder):
        write_partition(args.data, args.folder / "data" / args.model, args.seed)
        target = args.folder / "models" / args.model / values["file"]
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if args.source.is_dir() else shutil.copyfile)(args.source, target)
        _write_scaffold(args.folder, args.model, recipe)
        _init_repositories(args.folder)
    print(
        f"{args.folder} is ready. Next:\n"
        f"  cd {args.folder}\n"
        "  hotspare keys new artifacts/keys --trust artifacts/trust.yaml\n"
        "  dvc repro\n"
        f"What to change first: recipes/models/{args.model}.yaml (budgets, variants, what the model card says)."
    )
    return 0


def _checked_format(args: argparse.Namespace) -> SourceFormat:
    try:
        read(_Name, {"model": args.model})
    except SchemaProblems as error:
        raise UsageError(f"--{error}; use a name such as fraud or churn-2.") from error
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise UsageError(f"{args.folder} is not empty; name a new folder, so that nothing of yours is overwritten.")
    if not args.data.is_file():
        raise DataError(f"{args.data} is not a file; give an npz file with y and the model's inputs.")
    if args.folder.resolve().is_relative_to(args.source.resolve()):
        raise UsageError(f"{args.folder} lies inside {args.source}, which would be copied into itself; name another.")
    if shutil.which("git") is None:
        raise MissingExtra("git is not installed, and dvc keeps its record in a git repository; install git.")
    return _source_format(args.source)


def _source_format(source: Path) -> SourceFormat:
    if not source.exists():
        raise ModelError(f"{source} does not exist; give the path of your trained model.")
    if source.is_dir():
        if not (source / "saved_model.pb").is_file():
            raise ModelError(f"{source} is no SavedModel: it holds no saved_model.pb; give the model's own folder.")
        return SourceFormat.SAVEDMODEL
    if source.suffix not in _BY_SUFFIX:
        raise ModelError(f"{source}: expected .keras, .h5, .tflite, .onnx or a SavedModel folder.")
    return _BY_SUFFIX[source.suffix]


def _check_recipe(recipe: str) -> None:
    try:
        parse_recipe(recipe, "The recipe that these arguments make")
    except RecipeError as error:
        raise UsageError(str(error)) from error


def _check_data(args: argparse.Namespace, source_format: SourceFormat) -> None:
    """Raise DataError, or ModelError, for rows that the stages would refuse: here the row numbers are the user's."""
    ready_made = source_format.ready_made
    split = _fitting(args, ready_made) if ready_made else open_split(args.data, _likely_inputs(args.data))
    if split.labels is None:
        raise DataError(f"{args.data} has no labels, and {args.metric} needs them; add the key 'y', one number a row.")
    if Metric(args.metric).is_ranking and split.groups is None:
        raise DataError(f"{args.data} has no lists, and {args.metric} needs them; add the key 'group', one id a row.")


def _fitting(args: argparse.Namespace, model_format: Format) -> Split:
    try:
        session = open_session(model_format, read_bytes(args.source, ModelError))
    except ModelError as error:
        raise ModelError(f"{args.source}: {error}") from error
    dtypes = {spec.name: spec.dtype for spec in session.inputs}
    split = open_split(args.data, sorted(dtypes))
    count_rows(session.inputs, cast_tensors(split.inputs, dtypes, str(args.data)))
    return split


def _likely_inputs(data: Path) -> list[str]:
    """Return every array that is not labels, lists or weights: only TensorFlow could say what a Keras model takes."""
    return sorted(map_npz(data, DataError).keys() - BESIDE_INPUTS)


@contextmanager
def _all_or_nothing(folder: Path) -> Iterator[None]:
    """Empty the folder again, or remove it where it is new, when the block does not end well."""
    is_new = not folder.exists()
    try:
        yield
    except BaseException:
        for entry in folder.iterdir() if folder.exists() else ():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        if is_new and folder.exists():
            folder.rmdir()
        raise


def _values(args: argparse.Namespace, source_format: SourceFormat) -> dict[str, str]:
    name = "saved_model" if args.source.is_dir() else f"model{args.source.suffix}"
    return {
        "model": args.model,
        "file": name,
        "format": source_format.value,
        "metric": args.metric,
        "max_loss": f"{args.max_loss:g}",
        "seed": str(args.seed),
        "variants": _TUNED if _is_tunable(args.source, source_format) else _DENSE,
        "schemes": _SCHEMES.get(source_format, _TFLITE_SCHEMES),
    }


def _is_tunable(source: Path, source_format: SourceFormat) -> bool:
    """Tell whether pruning can fine-tune the model; raises ModelError for a Keras file that cannot be read."""
    return source_format is SourceFormat.KERAS and kind_of_source(source, source_format) == KERAS_2


def _write_scaffold(folder: Path, model: str, recipe: str) -> None:
    write_atomic(folder / "recipes" / "models" / f"{model}.yaml", recipe.encode())
    variants = parse_recipe(recipe, model).variants
    pairs = "".join(f"  {model}-{variant}: {{model: {model}, variant: {variant}}}\n" for variant in variants)
    write_atomic(folder / "params.yaml", f"models: [{model}]\nvariants:\n{pairs}".encode())
    places = {
        "stages.yaml": "dvc.yaml",  # dvc reads every dvc.yaml below the project, so it has another name here
        "promotion.yaml": "mlflow/promotion.yaml",
        "gitignore": ".gitignore",
        "dvcignore": ".dvcignore",
    }
    for name, place in places.items():
        text = (_SCAFFOLD / name).read_text().replace("MODEL", model)
        write_atomic(folder / place, text.encode())


def _init_repositories(folder: Path) -> None:
    inside = subprocess.run(["git", "-C", str(folder), "rev-parse"], capture_output=True, check=False)
    if inside.returncode:
        _call(["git", "init", "--quiet", "."], folder)
    prefix = _call(["git", "rev-parse", "--show-prefix"], folder)
    # By module: the environment's own dvc, also where its folder of commands is not on the path.
    _call([sys.executable, "-m", "dvc", "init", "--quiet", *(["--subdir"] if prefix.strip() else [])], folder)


def _call(command: Sequence[str], folder: Path) -> str:
    """Run a command in the project; returns what it printed, raises FileAccess with its last words when it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        words = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise FileAccess(f"`{' '.join(command)}` failed in {folder} ({words}); mend that, then run this again.")
    return done.stdout
