"""Biases of ``.onnx`` layers: which constants they are, and what their layers give on average."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from pipeline.compress.schemes.bias import fold_errors, some_rows
from pipeline.compress.schemes.calibration import steps
from pipeline.compress.schemes.onnx_calibration import ActivationSession
from pipeline.compress.schemes.onnx_graph import initializers
from pipeline.core.errors import DataError
from pipeline.core.tensors import Array, Tensors

_LAST, _SECOND = -1, 1
_CHANNEL_AXES: Mapping[str, int] = {"Conv": _SECOND, "ConvTranspose": _SECOND, "Gemm": _LAST, "Add": _LAST}
_ROWS_A_CALL = 128
_ANSWER = "answer:"  # an answer may be a layer's output too, and is looked at otherwise


@dataclass(frozen=True)
class Bias:
    """A constant of so many channels that is added to a tensor along ``axis``."""

    constant: str
    axis: int
    channels: int


@dataclass(frozen=True)
class OnnxBiased:
    """A model whose layers are called by the tensors that they make, which storing does not rename."""

    model: onnx.ModelProto
    biases: Mapping[str, Bias]
    answers: tuple[str, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Return the layers whose float bias is their own."""
        return tuple(self.biases)

    def outputs(self, batches: Sequence[Tensors], layers: Sequence[str]) -> dict[str, Array]:
        """Return the layers' outputs, (rows, channels), averaged over all other axes; answers, (rows, values)."""
        tensors = {layer: layer.removeprefix(_ANSWER) for layer in layers}
        session = ActivationSession(self.model.SerializeToString(), set(tensors.values()))
        rows = min(session.fixed_rows, default=_ROWS_A_CALL)
        parts: dict[str, list[Array]] = {layer: [] for layer in layers}
        for batch in steps(batches, max(1, rows)):
            found = session.run(batch)
            for layer in layers:
                parts[layer].append(self._averaged(layer, found[tensors[layer]]))
        return {layer: np.concatenate(kept) for layer, kept in parts.items()}

    def _averaged(self, layer: str, values: Array) -> Array:
        if layer in self.answers:
            return values.reshape(len(values), -1)
        bias = self.biases[layer]
        if values.ndim < 2 or values.shape[bias.axis] != bias.channels:  # one number for all channels, say
            return np.zeros((1, bias.channels))
        moved = np.moveaxis(values, bias.axis, -1)
        return np.asarray(moved.reshape(len(values), -1, moved.shape[-1]).mean(1, dtype=np.float64))

    def shifted(self, layer: str, shift: Array) -> "OnnxBiased":
        """Return the model with ``shift`` added to a layer's bias."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        bias = initializers(model)[self.biases[layer].constant]
        values = numpy_helper.to_array(bias) + shift.astype(np.float32)
        if bias.raw_data:
            bias.raw_data = values.astype("<f4").tobytes()
        else:
            bias.float_data[:] = values.tolist()
        return OnnxBiased(model, self.biases, self.answers)


def correct_onnx(prepared: bytes, stored: bytes, batches: Iterable[Tensors]) -> bytes:
    """Return ``stored`` with its float biases corrected; the same bytes where none can be."""
    model, rows = biased(stored), some_rows(batches)
    if not model.biases or not rows:
        return stored
    reference = OnnxBiased(onnx.load_from_string(prepared), model.biases, model.answers)
    made = {name for node in reference.model.graph.node for name in node.output}
    common = [layer for layer in model.layers if layer in made]
    try:
        wanted = reference.outputs(rows, [*common, *model.answers])
        corrected = fold_errors(wanted, model, rows)
    except DataError:  # an engine that does not answer with a tensor in the middle
        return stored
    return stored if corrected is model else bytes(corrected.model.SerializeToString())


def biased(data: bytes) -> OnnxBiased:
    """Find the layers of a model that add a constant of their own."""
    model = onnx.load_from_string(data)
    outputs = [item.name for item in model.graph.output if item.type.tensor_type.elem_type == onnx.TensorProto.FLOAT]
    return OnnxBiased(model, dict(_biases(model)), tuple(f"{_ANSWER}{name}" for name in outputs))


def _biases(model: onnx.ModelProto) -> Iterator[tuple[str, Bias]]:
    constants = initializers(model)
    readers = Counter(name for node in model.graph.node for name in node.input)
    for node in model.graph.node:
        for name in _added(node):
            constant = constants.get(name) if readers[name] == 1 else None
            if constant is None or len(constant.dims) != 1:
                continue
            if constant.data_type == onnx.TensorProto.FLOAT:
                yield node.output[0], Bias(name, _CHANNEL_AXES[node.op_type], int(constant.dims[0]))


def _added(node: onnx.NodeProto) -> Sequence[str]:
    """Return the inputs that a node adds as they are."""
    if node.op_type == "Add":
        return tuple(node.input)
    is_scaled = any(item.name == "beta" and item.f != 1 for item in node.attribute)
    return tuple(node.input[2:3]) if node.op_type in _CHANNEL_AXES and not is_scaled else ()
