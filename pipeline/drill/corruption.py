"""A model whose weights were flipped in memory: finite, well-formed answers that are wrong, and proof that they are."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.open import open_session

CHANGED_RATIO_MIN = 0.05  # fewer wrong answers than this do not count as a corruption

_WEIGHTS_BYTES_MIN = 64  # below, the same bytes may stand elsewhere in the file
_FIRST_SHARE = 1 / 1024


@dataclass(frozen=True)
class Weights:
    """Where the constant of one operator stands in a model file."""

    name: str
    offset: int
    items: int
    item_bytes: int


@dataclass(frozen=True)
class Corruption:
    """A model with flipped weights; ``changed_ratio`` of the answers to the rows it was tried on left the tolerance."""

    model: bytes
    weights: str
    flipped: int
    changed_ratio: float


def corrupted(
    model_format: Format, model: bytes, rows: Tensors, tolerances: Mapping[str, float], seed: int
) -> Corruption:
    """Flip the signs of as few weights of one constant as change at least 5 % of the answers to ``rows``.

    A changed answer differs by more than ``tolerances`` (absolute, by output) and is finite. Constants are tried in an
    order drawn by ``seed``. Raises ModelError where no constant of the model can be found or none changes that much.
    """
    expected = open_session(model_format, model).run(rows)
    draw = random.Random(seed)  # noqa: S311  # a drill's dice
    found = sorted(find_weights(model_format, model), key=lambda one: one.offset)
    draw.shuffle(found)
    for weights in found:
        for content, flipped in _flips(model, weights, draw):
            answers = open_session(model_format, content).run(rows)
            ratio = changed_ratio(expected, answers, tolerances)
            if ratio >= CHANGED_RATIO_MIN:
                return Corruption(content, weights.name, flipped, ratio)
    raise ModelError(f"No flipped weights change {CHANGED_RATIO_MIN:.0%} of the answers; give more and real rows.")


def changed_ratio(expected: Tensors, answers: Tensors, tolerances: Mapping[str, float]) -> float:
    """Return the share of rows with a finite answer beyond tolerance; 0 where any answer is not finite."""
    if not all(np.isfinite(array).all() for array in answers.values()):
        return 0.0  # an output guard would see it: not this fault
    beyond = [_beyond(array, answers[name], tolerances[name]) for name, array in expected.items()]
    return float(np.mean(np.any(beyond, axis=0)))


def _beyond(expected: Array, answers: Array, tolerance: float) -> Array:
    gaps = np.abs(expected.astype(np.float64) - answers.astype(np.float64))
    return np.asarray(gaps.reshape(gaps.shape[0], -1).max(axis=1) > tolerance)


def _flips(model: bytes, weights: Weights, draw: random.Random) -> Iterator[tuple[bytes, int]]:
    order = list(range(weights.items))
    draw.shuffle(order)
    share = _FIRST_SHARE
    while share <= 1:
        count = max(1, round(share * weights.items))
        content = bytearray(model)
        for item in order[:count]:
            # The last byte of a little-endian number holds its sign, whatever its type.
            content[weights.offset + (item + 1) * weights.item_bytes - 1] ^= 0x80
        yield bytes(content), count
        share *= 2


def find_weights(model_format: Format, model: bytes) -> Iterator[Weights]:
    """Yield the constants of a model that stand in its bytes once."""
    for name, array in _CONSTANTS[model_format](model):
        stored = array.tobytes()
        offset = model.find(stored)
        if len(stored) >= _WEIGHTS_BYTES_MIN and np.any(array) and offset >= 0 and model.count(stored) == 1:
            yield Weights(name, offset, array.size, array.dtype.itemsize)


def _tflite_constants(model: bytes) -> Iterator[tuple[str, Array]]:
    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES  # with XNNPACK, weights cannot be read back
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    for detail in interpreter.get_tensor_details():
        try:
            yield detail["name"], interpreter.get_tensor(detail["index"])
        except ValueError:
            continue  # an intermediate result: it holds nothing yet


def _onnx_constants(model: bytes) -> Iterator[tuple[str, Array]]:
    for initializer in onnx.load_model_from_string(model).graph.initializer:
        yield initializer.name, onnx.numpy_helper.to_array(initializer)


_CONSTANTS: dict[Format, Callable[[bytes], Iterator[tuple[str, Array]]]] = {
    Format.TFLITE: _tflite_constants,
    Format.ONNX: _onnx_constants,
}
