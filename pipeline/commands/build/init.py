"""``hotspare init``: a project around your own trained model."""

import argparse
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Annotated

from pipeline.core.errors import DataError, ModelError, UsageError
from pipeline.core.files import disk_errors, write_atomic
from pipeline.core.names import MODEL_NAME
from pipeline.core.recipe import Metric, SourceFormat, parse_recipe
from pipeline.core.schema import Rule, SchemaProblems, read
from pipeline.data.partition import write_partition

EXAMPLE = "hotspare init fraud-project --model fraud --source fraud.keras --data rows.npz --metric auc"

_SCAFFOLD = Path(__file__).parent / "scaffold"
_VARIANTS = {
    SourceFormat.KERAS: "  dense: {}\n  p50: {epochs: 2, learning_rate: 0.0005, batch_size: 256}",
    SourceFormat.SAVEDMODEL: "  dense: {}",
    SourceFormat.TFLITE: "  dense: {}",
    SourceFormat.ONNX: "  dense: {}",
}
_SCHEMES = {
    SourceFormat.ONNX: "  onnx: [f32, w8a8]",
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
    """Write the project; raises before anything is written when the input is wrong."""
    source_format = _checked_format(args)
    values = _values(args, source_format)
    recipe = Template((_SCAFFOLD / "recipe.yaml").read_text()).substitute(values)
    parse_recipe(recipe, f"recipes/models/{args.model}.yaml")
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
    if not args.source.exists():
        raise ModelError(f"{args.source} does not exist; give the path of your trained model.")
    if not args.data.is_file():
        raise DataError(f"{args.data} does not exist; give an npz file with y and the model's inputs.")
    by_suffix = {
        ".keras": SourceFormat.KERAS,
        ".h5": SourceFormat.KERAS,
        ".tflite": SourceFormat.TFLITE,
        ".onnx": SourceFormat.ONNX,
    }
    if args.source.is_dir():
        return SourceFormat.SAVEDMODEL
    if args.source.suffix not in by_suffix:
        raise ModelError(f"{args.source}: expected .keras, .h5, .tflite, .onnx or a SavedModel folder.")
    return by_suffix[args.source.suffix]


def _values(args: argparse.Namespace, source_format: SourceFormat) -> dict[str, str]:
    name = "saved_model" if args.source.is_dir() else f"model{args.source.suffix}"
    return {
        "model": args.model,
        "file": name,
        "format": source_format.value,
        "metric": args.metric,
        "max_loss": f"{args.max_loss:g}",
        "seed": str(args.seed),
        "variants": _VARIANTS[source_format],
        "schemes": _SCHEMES.get(source_format, _TFLITE_SCHEMES),
    }


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
        subprocess.run(["git", "init", "--quiet", str(folder)], check=True)
    top = subprocess.run(["git", "-C", str(folder), "rev-parse", "--show-prefix"], capture_output=True, check=True)
    subdirectory = ["--subdir"] if top.stdout.strip() else []
    subprocess.run(["dvc", "init", "--quiet", *subdirectory], cwd=folder, check=True)
