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


_Distance = Annotated[float, Rule(minimum=0)]


@dataclass(frozen=True)
class Quantiles:
    """How far answers were apart, in the output's own unit: at most so much for that share of the rows."""

    p50: _Distance
    p90: _Distance
    p99: _Distance
    p99_9: _Distance
    p100: _Distance


@dataclass(frozen=True)
class FromParent:
    """How far the candidate's answers are from those of the float model that all candidates are measured against.

    ``decisions_differ_ratio`` is the share of rows that the two decide differently (at ``threshold``, or by the
    largest value where a row has several), by output; outputs that decide nothing are left out.
    """

    sha256: Annotated[str, Rule("The float model's file.", pattern="[0-9a-f]{64}")]
    rows: Annotated[int, Rule("Calibration rows that both answered.", minimum=1)]
    absolute: dict[str, Quantiles]
    threshold: float
    decisions_differ_ratio: dict[str, Annotated[float, Rule(minimum=0, maximum=1)]]


@dataclass(frozen=True)
class Tolerances:
    """By how much each output may differ from its golden answer, in the output's own unit (``tolerances.json``)."""

    schema_version: Literal[1]
    absolute: dict[str, _Distance]
    method: Annotated[str, Rule("How the tolerances were measured, in words.")]
    from_parent: FromParent | None = None


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
    parent = golden.tolerances.from_parent
    if parent is not None and golden.outputs.keys() != parent.absolute.keys():
        raise Malformed(f"{TOLERANCES_FILE}: from_parent names other outputs than the model's; pack the bundle again.")
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
