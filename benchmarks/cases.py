"""The models of the compression benchmark: three examples and Fashion-MNIST, with every variant's float export."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import fashion_mnist

from pipeline.compress.variants import make_variant
from pipeline.core.canonical import canonical_json, sha256_file, sha256_hex
from pipeline.core.errors import HotspareError, ModelError
from pipeline.core.files import write_atomic
from pipeline.core.layout import variant_dir
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import FineTuning, Recipe, load_recipe
from pipeline.core.schema import plain

EXAMPLES = ("recommendation", "credit", "diagnosis")
MODELS = (*EXAMPLES, fashion_mnist.MODEL)
# Every scheme on both formats: what a format does not have is refused by the stage, and told.
UNIFORM: dict[Format, tuple[Scheme, ...]] = {
    Format.TFLITE: tuple(Scheme),
    Format.ONNX: tuple(Scheme),
}
# Beside the recipe's own, so that every model has variants of all kinds to choose from; what cannot be made is told.
EXTRA = ("p50s", "p70s")
_EXTRA_EPOCHS = 6
_DISTILL_RATIO = 0.5
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


def load_case(name: str, root: Path, epochs: int, extra: Sequence[str], say: Say) -> Case:
    """Load a model's recipe, add the ``extra`` variants, and make every variant that is not there yet.

    Raises ModelError when the float model itself cannot be exported; another variant that fails is told and left out.
    """
    recipe = fashion_mnist.prepare(root, epochs) if name == fashion_mnist.MODEL else load_recipe(name)
    recipe = replace(recipe, variants={**_extra(recipe, extra), **recipe.variants}, schemes=UNIFORM, search=None)
    made = {variant: tuning for variant, tuning in recipe.variants.items() if _made(recipe, variant, root, say)}
    if "dense" not in made:
        raise ModelError(f"The float model of {name} could not be exported; see above.")
    return Case(replace(recipe, variants=made), root)


def _extra(recipe: Recipe, names: Sequence[str]) -> dict[str, FineTuning]:
    """Return the added variants, tuned with the step size and batch of the recipe's own, and by the float model too."""
    own = next((tuning for name, tuning in recipe.variants.items() if name != "dense"), FineTuning())
    tuning = replace(own, sparsity=None, epochs=_EXTRA_EPOCHS, distill_ratio=_DISTILL_RATIO)
    return dict.fromkeys(names, tuning)


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
