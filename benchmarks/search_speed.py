"""How fast a search makes and measures real files, and what hotspare adds to the tools that it drives.

`python benchmarks/search_speed.py [MODEL]` takes a model of about 100 kB (default: diagnosis, whose dense float export
is made when it is missing) and prints, with two processes throughout:

1. a whole search from opening to the certificate: real files a minute, cache hits and predictions not counted;
2. one list of files through the search's own trial (make, slim, load, check, answer the guide rows, compare), and
   the same list through the raw tools alone: `Quantizer.quantize` of ai-edge-quantizer with the same rules and ranges,
   then LiteRT's `Interpreter`, loaded once and run once on the same rows. Overhead is what the first takes more.

The first line is of everything, planning, timing and certifying too; the overhead is of making and measuring files.
Not counted: starting the processes, and calibration, which both would need alike. Runs alternate; the best counts.
"""

import argparse
import functools
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer.quantizer import Quantizer

from pipeline.compress.candidates import load_parent, make_candidates
from pipeline.compress.schemes.tflite_file import parse_once
from pipeline.compress.schemes.tflite_schemes import raw_recipe
from pipeline.compress.search import proposing
from pipeline.compress.search.families import open_family
from pipeline.compress.search.fanout import LocalBackend
from pipeline.compress.search.kit import Kit, decode_kit
from pipeline.compress.search.pool import Effort
from pipeline.compress.search.trial import Build, Parcel, Trial, measure
from pipeline.compress.variants import make_variant
from pipeline.core.files import read_bytes
from pipeline.core.layout import variant_dir
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Recipe, Search, load_recipe

WORKERS = 2
ROUNDS = 3
MIXES = 160
ROOT = Path("artifacts/benchmarks/search_speed")


def main(arguments: Sequence[str]) -> int:
    """Print the figures of one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="diagnosis")
    recipe = _recipe(parser.parse_args(arguments).model)
    _print_search(recipe)
    parent = load_parent(recipe, "dense", Format.TFLITE, ROOT)
    with tempfile.TemporaryDirectory() as scratch, ProcessPoolExecutor(WORKERS) as pool:
        family = open_family(recipe, parent.export, LocalBackend(WORKERS), Path(scratch))
        builds = _builds(family.groups)
        ours = _seconds(pool, _trial, family.parcel, builds)
        raw = _seconds(pool, _raw, family.parcel, builds)
        for _ in range(ROUNDS - 1):
            ours = min(ours, _seconds(pool, _trial, family.parcel, builds))
            raw = min(raw, _seconds(pool, _raw, family.parcel, builds))
    print(f"{len(builds)} files: hotspare {ours:.2f} s ({60 * len(builds) / ours:.0f} a minute), raw tools {raw:.2f} s")
    print(f"overhead over the raw tools' own time: {ours / raw - 1:+.1%}")
    return 0


def _recipe(model: str) -> Recipe:
    recipe = load_recipe(model)
    floats = {Format.TFLITE: (Scheme.F32,)}
    recipe = replace(
        recipe, variants={"dense": recipe.variants["dense"]}, schemes=floats, search=Search(seconds_max=600)
    )
    if not variant_dir(model, "dense", ROOT).is_dir():
        make_variant(recipe, "dense", lambda _: None, ROOT)
    size = len(read_bytes(variant_dir(model, "dense", ROOT) / "model.tflite"))
    print(f"{model}, dense float export for LiteRT: {size:,} bytes; {WORKERS} processes")
    return recipe


def _print_search(recipe: Recipe) -> None:
    last = Effort("")

    def watch(effort: Effort) -> None:
        nonlocal last
        last = effort

    make_candidates(recipe, root=ROOT, backend=LocalBackend(WORKERS), watcher=watch)
    print(f"whole search: {last.made} real files in {last.seconds:.1f} s, {last.files_a_minute:.0f} a minute")


def _builds(groups: proposing.Groups) -> list[Build]:
    """Return whole files, single groups, and seeded mixes; none in 16-bit activations, which few of their rows run."""
    chance = np.random.default_rng(0)
    mixes = [
        proposing.mixed({group.name: group.choices[chance.integers(len(group.choices))] for group in groups})
        for _ in range(MIXES)
    ]
    wanted = dict.fromkeys([*proposing.wholes(groups), *proposing.cells(groups), *mixes])
    return [build for build in wanted if build.schemes and Scheme.W8A16 not in build.schemes]


def _seconds(
    pool: ProcessPoolExecutor, work: Callable[[Parcel, Build], None], parcel: Parcel, builds: Sequence[Build]
) -> float:
    list(pool.map(work, [parcel] * 8, builds[:8]))  # imports, and the kit in every process
    started = time.perf_counter()
    list(pool.map(work, [parcel] * len(builds), builds, chunksize=4))
    return time.perf_counter() - started


def _trial(parcel: Parcel, build: Build) -> None:
    measure(parcel, Trial(build))


@functools.lru_cache(maxsize=1)
def _kit(parcel: Parcel) -> Kit:
    return decode_kit(read_bytes(Path(str(parcel.path))))


def _raw(parcel: Parcel, build: Build) -> None:
    """Do with the raw tools what it takes to know a file's answers."""
    logging.disable(logging.WARNING)
    kit = _kit(parcel)
    wanted = build.uniform if build.uniform is not None else dict(build.assignment)
    rules = raw_recipe(parse_once(kit.prepared), wanted)  # ours, and cheap: it counts for the raw tools
    quantizer = Quantizer(kit.prepared, rules)
    ranges = next(iter(kit.ranges.values())) if quantizer.need_calibration else None
    made = quantizer.quantize(_statistics(ranges), enable_progress_bar=False, enable_progress_report=False)
    interpreter = Interpreter(model_content=bytes(made.quantized_model), num_threads=1)
    runner = interpreter.get_signature_runner()
    runner(**kit.rows)


def _statistics(ranges: Any) -> Any:
    if ranges is None:
        return None
    return {name: {"min": [found.low], "max": [found.high]} for name, found in ranges.items()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
