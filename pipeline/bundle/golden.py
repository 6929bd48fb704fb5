"""Warm-up rows and golden answers of a bundle: whether the loaded model answers as when it was packed.

Apart from the verifier because it needs numpy, which verifying does not load.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from pipeline.bundle.manifest import GOLDEN_FILE, TOLERANCES_FILE, WARMUP_FILE
from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.errors import GoldenMismatch, Malformed
from pipeline.core.schema import Rule
from pipeline.core.tensors import Array, Tensors, decode_npz

Predict = Callable[[Tensors], dict[str, Array]]


@dataclass(frozen=True)
class Tolerances:
    """By how much each output may differ from its golden answer, in the output's own unit (``tolerances.json``)."""

    schema_version: Literal[1]
    absolute: dict[str, Annotated[float, Rule(minimum=0)]]
    method: Annotated[str, Rule("How the tolerances were measured, in words.")]


@dataclass(frozen=True)
class Golden:
    """Synthetic inputs, the answers to them when the bundle was packed, and the tolerances."""

    inputs: dict[str, Array]
    outputs: dict[str, Array]
    tolerances: Tolerances


def read_golden(files: Mapping[str, bytes]) -> Golden:
    """Parse a verified bundle's warm-up and golden files; raises Malformed when they do not fit each other."""
    golden = Golden(
        inputs=decode_npz(files[WARMUP_FILE], WARMUP_FILE, Malformed),
        outputs=decode_npz(files[GOLDEN_FILE], GOLDEN_FILE, Malformed),
        tolerances=fit(Tolerances, parse_strict(files[TOLERANCES_FILE], TOLERANCES_FILE), TOLERANCES_FILE),
    )
    if golden.outputs.keys() != golden.tolerances.absolute.keys():
        raise Malformed(f"{TOLERANCES_FILE} and {GOLDEN_FILE} name different outputs; pack the bundle again.")
    return golden


def check_golden(golden: Golden, predict: Predict) -> dict[str, float]:
    """Run the warm-up rows and return the largest difference to the golden answers, by output.

    Raises GoldenMismatch when an output is missing, has another shape, is not finite, or differs beyond tolerance.
    """
    answers = predict(golden.inputs)
    differences = largest_differences(golden.outputs, answers)
    bad = [
        f"{name} differs by {difference:.3g} where {golden.tolerances.absolute[name]:.3g} is tolerated"
        for name, difference in differences.items()
        if not difference <= golden.tolerances.absolute[name]
    ]
    if bad:
        raise GoldenMismatch(f"The loaded model does not answer as when it was packed: {'; '.join(bad)}.")
    return differences


def largest_differences(expected: Tensors, answers: Tensors) -> dict[str, float]:
    """Return the largest absolute difference of each expected output; infinite where it cannot be compared."""
    return {name: _largest_difference(array, answers.get(name)) for name, array in sorted(expected.items())}


def _largest_difference(expected: Array, answer: Array | None) -> float:
    if answer is None or answer.shape != expected.shape:
        return float("inf")
    gaps = np.abs(answer.astype(np.float64) - expected.astype(np.float64))
    return float(gaps.max(initial=0.0)) if np.isfinite(gaps).all() else float("inf")
