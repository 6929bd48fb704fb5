"""The models of the compression benchmark: three examples and Fashion-MNIST, with every variant's float export."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import fashion_mnist

from pipeline.compress.variants import make_variant
from pipeline.core.canonical import canonical_json, sha256_file, sha256_hex
from pipeline.core.errors import HotspareError, ModelError
from pipeline.core.files import write_atomic
from pipeline.core.layout import variant_dir
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.core.schema import plain

EXAMPLES = ("recommendation", "credit", "diagnosis")
MODELS = (*EXAMPLES, fashion_mnist.MODEL)
# Every scheme on both formats: what a format does not have is refused by the stage, and told.
UNIFORM: dict[Format, tuple[Scheme, ...]] = {
    Format.TFLITE: tuple(Scheme),
    Format.ONNX: tuple(Scheme),
}
Say = Callable[[str], None]


@dataclass(frozen=True)
class Case:
    """One model: ``recipe`` names only the variants that could be made; ``root`` holds them as a project's would."""

    recipe: Recipe
    root: Path

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.recipe.model

    def export(self, model_format: Format, variant: str = "dense") -> Path:
        """Return a variant's float export."""
        return variant_dir(self.name, variant, self.root) / f"model.{model_format}"


def load_case(name: str, root: Path, epochs: int, say: Say) -> Case:
    """Load a model's recipe and make every variant of it that is not there yet.

    Raises ModelError when the float model itself cannot be exported; another variant that fails is told and left out.
    """
    recipe = fashion_mnist.prepare(root, epochs) if name == fashion_mnist.MODEL else load_recipe(name)
    recipe = replace(recipe, schemes=UNIFORM, search=None)
    made = {variant: tuning for variant, tuning in recipe.variants.items() if _made(recipe, variant, root, say)}
    if "dense" not in made:
        raise ModelError(f"The float model of {name} could not be exported; see above.")
    return Case(replace(recipe, variants=made), root)


def _made(recipe: Recipe, variant: str, root: Path, say: Say) -> bool:
    folder = variant_dir(recipe.model, variant, root)
    stamp, digest = folder.with_name(f"{folder.name}.made-of"), _made_of(recipe, variant)
    if folder.is_dir() and stamp.exists() and stamp.read_text() == digest:
        return True
    say(f"{recipe.model} {variant}: making the variant")
    try:
        make_variant(recipe, variant, lambda _: None, root)
    except HotspareError as error:
        shutil.rmtree(folder, ignore_errors=True)
        say(f"{recipe.model} {variant}: left out, {error}")
        return False
    write_atomic(stamp, digest.encode())
    return True


def _made_of(recipe: Recipe, variant: str) -> str:
    """Return the digest of what a variant is made of: the model, the rows that tune it, and its settings."""
    files = [sha256_file(Path(path)) for path in (recipe.source.path, recipe.data.train)]
    return sha256_hex(canonical_json([files, plain(recipe.variants[variant]), recipe.seed]))
