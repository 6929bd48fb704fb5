"""A trained model that somebody registered, put where the recipe takes its source from."""

import tempfile
from pathlib import Path

from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import ModelError, Tampered
from pipeline.core.files import read_bytes, write_atomic
from pipeline.core.recipe import Recipe
from pipeline.registry.store import Registry, Version

DIGEST_TAG = "source_sha256"


def place_source(registry: Registry, recipe: Recipe, version: Version) -> bool:
    """Put a version's model file in the place of the recipe's source; tells whether that changed it.

    The file is the one of the recipe's own file name, wherever in the version. A tag ``source_sha256`` is held to.
    Raises ModelError where there is no such file or are several, Tampered for another digest than the tag's.
    """
    place = Path(recipe.source.path)
    data = _fetch(registry, recipe.model, version, place.name)
    told = version.tags.get(DIGEST_TAG)
    if told is not None and told != sha256_hex(data):
        raise Tampered(
            f"Version {version.number} of {recipe.model} says {DIGEST_TAG} {told[:12]}, and its {place.name} has "
            f"another digest; register it again."
        )
    if place.is_file() and read_bytes(place) == data:
        return False
    write_atomic(place, data)
    return True


def _fetch(registry: Registry, model: str, version: Version, name: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
        registry.fetch_version(model, version.number, Path(folder))
        found = [path for path in sorted(Path(folder).rglob("*")) if path.name == name and path.is_file()]
        if len(found) == 1 and not found[0].is_symlink():
            return read_bytes(found[0])
    raise ModelError(
        f"Version {version.number} of {model} holds {len(found)} files named {name}, the recipe's source; register the "
        "trained model under that name, once."
    )
