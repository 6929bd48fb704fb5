"""What each Keras layer does with channels, and how its weights and settings are cut to the channels that stay.

Layers are known by class name, so that neither Keras is imported, and only as the library's own classes: one drawn
from them may compute anything.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.compress.training.channel_groups import Ints, Role

Floats = npt.NDArray[np.floating[Any]]
Weights = list[Floats]

_LIBRARIES = ("keras", "tf_keras")
_PLAIN_VALUES = (int, float, str, type(None))
_BY_CHANNEL = frozenset(
    (
        "linear",
        "relu",
        "relu6",
        "sigmoid",
        "tanh",
        "elu",
        "selu",
        "celu",
        "gelu",
        "swish",
        "silu",
        "softplus",
        "softsign",
        "exponential",
        "mish",
        "leaky_relu",
        "hard_sigmoid",
        "hard_silu",
        "hard_swish",
        "hard_tanh",
        "log_sigmoid",
        "tanh_shrink",
        "squareplus",
    )
)
_ELEMENTWISE = frozenset({"add", "subtract", "multiply", "maximum", "minimum"}) | _BY_CHANNEL
_ELEMENTWISE_ROOMS = frozenset({"__operators__", "math", "nn"})  # of TensorFlow


@dataclass(frozen=True)
class Cut:
    """Positions of the channels that stay, of a layer's input and of its output."""

    inputs: Ints
    outputs: Ints


@dataclass(frozen=True)
class Behaviour:
    """``cut`` slices the weights, ``setting`` names the setting that holds the number of output channels."""

    role: Role
    cut: Callable[[Any, Weights, Cut], Weights] | None = None
    setting: str | None = None
    weights: Callable[[Any], int] = lambda _layer: 0  # how many the layer has, if it is as plain as it looks
    times: Callable[[Any], int] = lambda _layer: 1
    plain: Callable[[Any, int], bool] = lambda _layer, _rank: True
    input_axis: int | None = None  # of the first weights, where their input channels can be mixed anew
    overlaps: Callable[[Any], int] = lambda _layer: 1  # a transposed convolution's output meets one tap in so many
    strength: Callable[[Weights], Floats] | None = None  # of each input channel: sum of squared weights that read it
    linear: bool = False  # but for its activation: channels mixed before it or after it give the same


FIXED = Behaviour(Role.FIX)


def behaviour_of(layer: Any, rank: int, arguments: Sequence[Any]) -> Behaviour:
    """Tell what a call of ``layer`` does with channels; ``FIXED`` for unknown layers.

    ``rank`` counts the axes of its first input with that of the rows; ``arguments`` are all that it is called with.
    """
    library, _, path = type(layer).__module__.partition(".")
    if library not in _LIBRARIES:
        return FIXED
    if ".ops." in f".{path}" or type(layer).__name__ == "TFOpLambda":
        return _TIE if _is_elementwise(layer, arguments) else FIXED
    behaviour = _BEHAVIOURS.get(type(layer).__name__, FIXED)
    if getattr(layer, "data_format", "channels_last") == "channels_first" or getattr(layer, "quantization_mode", None):
        return FIXED
    if not behaviour.plain(layer, rank) or behaviour.weights(layer) != len(layer.weights):
        return FIXED
    if behaviour.role is Role.MAKE and not (_acts_by_channel(layer) and _answers_once(layer)):
        return replace(behaviour, role=Role.READ)
    return behaviour if _acts_by_channel(layer) else FIXED


def has_activation(layer: Any) -> bool:
    """Tell whether a layer bends what it computes, by one of Keras's activations."""
    return getattr(getattr(layer, "activation", None), "__name__", "linear") != "linear"


def _is_elementwise(layer: Any, arguments: Sequence[Any]) -> bool:
    room, _, name = (getattr(layer, "symbol", None) or f"nn.{type(layer).__name__.lower()}").rpartition(".")
    known = name in _ELEMENTWISE and room in _ELEMENTWISE_ROOMS
    return known and all(hasattr(item, "_keras_history") or isinstance(item, _PLAIN_VALUES) for item in arguments)


def _acts_by_channel(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    if activation is None:
        return True
    own = (getattr(activation, "__module__", None) or "").partition(".")[0] in _LIBRARIES
    return own and getattr(activation, "__name__", "") in _BY_CHANNEL


def _cut_dense(_layer: Any, weights: Weights, cut: Cut) -> Weights:
    kernel, *bias = weights
    return [kernel[cut.inputs][:, cut.outputs], *(values[cut.outputs] for values in bias)]


def _cut_convolution(_layer: Any, weights: Weights, cut: Cut) -> Weights:
    kernel, *bias = weights
    return [kernel[..., cut.inputs, :][..., cut.outputs], *(values[cut.outputs] for values in bias)]


def _cut_transposed(_layer: Any, weights: Weights, cut: Cut) -> Weights:
    kernel, *bias = weights
    return [kernel[..., cut.outputs, :][..., cut.inputs], *(values[cut.outputs] for values in bias)]


def _cut_depthwise(_layer: Any, weights: Weights, cut: Cut) -> Weights:
    kernel, *bias = weights
    return [kernel[..., cut.inputs, :], *(values[cut.outputs] for values in bias)]


def _cut_separable(layer: Any, weights: Weights, cut: Cut) -> Weights:
    depthwise, pointwise, *bias = weights
    times = layer.depth_multiplier
    middle = (cut.inputs[:, None] * times + np.arange(times)).reshape(-1)
    return [
        depthwise[..., cut.inputs, :],
        pointwise[..., middle, :][..., cut.outputs],
        *(values[cut.outputs] for values in bias),
    ]


def _cut_embedding(_layer: Any, weights: Weights, cut: Cut) -> Weights:
    return [weights[0][:, cut.outputs]]


def _cut_by_channel(_layer: Any, weights: Weights, cut: Cut) -> Weights:
    return [values[..., cut.outputs] if values.shape[-1] > 1 else values for values in weights]


def _cut_recurrent(layer: Any, weights: Weights, cut: Cut) -> Weights:
    """Cut a cell's weights, whose columns are one block of units a gate."""
    kernel, recurrent, *bias = weights
    gates = kernel.shape[-1] // layer.units
    columns = (np.arange(gates)[:, None] * layer.units + cut.outputs).reshape(-1)
    return [kernel[cut.inputs][:, columns], recurrent[cut.outputs][:, columns], *(b[..., columns] for b in bias)]


def _strength_along(axis: int) -> Callable[[Weights], Floats]:
    def strength(weights: Weights) -> Floats:
        kernel = np.moveaxis(weights[0], axis, 0)
        return np.square(kernel.reshape(len(kernel), -1)).sum(axis=1)

    return strength


def _strength_separable(weights: Weights) -> Floats:
    depthwise, pointwise = weights[:2]
    taps = np.square(depthwise.reshape(-1, *depthwise.shape[-2:])).sum(axis=0)
    return (taps * np.square(pointwise).sum(axis=-1).reshape(taps.shape)).sum(axis=1)


def _axis_is_last(layer: Any, rank: int) -> bool:
    """Tell whether a normalization works along the last axis alone, each channel for itself or over all of them."""
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return list(axes) in ([-1], [rank - 1]) and not getattr(layer, "renorm", False)


def _joins_last(layer: Any, rank: int) -> bool:
    return layer.axis in (-1, rank - 1)


def _answers_once(layer: Any) -> bool:
    """Tell whether a recurrent layer gives its answers alone, not its state (any other layer does)."""
    gate = getattr(layer, "recurrent_activation", None)
    return not getattr(layer, "return_state", False) and (gate is None or gate.__name__ in _BY_CHANNEL)


def _one_group(layer: Any, _rank: int) -> bool:
    return getattr(layer, "groups", 1) == 1


def _bias(layer: Any) -> int:
    return int(bool(layer.use_bias))


def _is_flat_dot(layer: Any, rank: int) -> bool:
    axes = layer.axes if isinstance(layer.axes, (list, tuple)) else [layer.axes] * 2
    return not layer.normalize and rank == 2 and all(axis in (-1, 1) for axis in axes)


_CARRY = Behaviour(Role.CARRY)
_EVEN = Behaviour(Role.CARRY, linear=True)
_TIE = Behaviour(Role.TIE)
_RESHAPE = Behaviour(Role.RESHAPE, linear=True)
_DENSE = Behaviour(
    Role.MAKE,
    _cut_dense,
    "units",
    lambda layer: 1 + _bias(layer),
    input_axis=-2,
    strength=_strength_along(-2),
    linear=True,
)
_CONVOLUTION = replace(_DENSE, cut=_cut_convolution, setting="filters", plain=_one_group)
_TRANSPOSED = replace(
    _CONVOLUTION,
    cut=_cut_transposed,
    input_axis=-1,
    overlaps=lambda layer: math.prod(layer.strides),
    strength=_strength_along(-1),
    linear=False,  # its output channels are not the last axis of its weights
)
_DEPTHWISE = Behaviour(
    Role.REPEAT, _cut_depthwise, None, lambda layer: 1 + _bias(layer), lambda layer: int(layer.depth_multiplier)
)
_SEPARABLE = Behaviour(
    Role.MAKE, _cut_separable, "filters", lambda layer: 2 + _bias(layer), strength=_strength_separable
)
_RECURRENT = Behaviour(
    Role.MAKE,
    _cut_recurrent,
    "units",
    lambda layer: 2 + _bias(layer),
    plain=lambda layer, _rank: not layer.stateful,
    input_axis=-2,
    strength=_strength_along(-2),
)
_NORMALIZED = Behaviour(
    Role.CARRY,
    _cut_by_channel,
    None,
    lambda layer: 2 + bool(layer.center) + bool(layer.scale),
    plain=_axis_is_last,
)
_LAYER_NORMALIZED = Behaviour(
    Role.CARRY, _cut_by_channel, None, lambda layer: bool(layer.center) + bool(layer.scale), plain=_axis_is_last
)

_SPATIAL = ("SpatialDropout", "AveragePooling", "GlobalAveragePooling", "ZeroPadding", "Cropping", "UpSampling")
_EVEN_CARRIERS = (
    *(f"{name}{axes}D" for name in _SPATIAL for axes in (1, 2, 3)),
    "Activation",
    "ActivityRegularization",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "RepeatVector",
)
_CARRIERS = (
    *(f"{name}MaxPooling{axes}D" for name in ("", "Global") for axes in (1, 2, 3)),
    "ELU",
    "LeakyReLU",
    "ReLU",
    "ThresholdedReLU",
)

_BEHAVIOURS: Mapping[str, Behaviour] = {
    "Dense": _DENSE,
    "Conv1D": _CONVOLUTION,
    "Conv2D": _CONVOLUTION,
    "Conv3D": _CONVOLUTION,
    "Conv1DTranspose": _TRANSPOSED,
    "Conv2DTranspose": _TRANSPOSED,
    "Conv3DTranspose": _TRANSPOSED,
    "SeparableConv1D": _SEPARABLE,
    "SeparableConv2D": _SEPARABLE,
    "DepthwiseConv1D": _DEPTHWISE,
    "DepthwiseConv2D": _DEPTHWISE,
    "SimpleRNN": _RECURRENT,
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "Embedding": Behaviour(Role.LOOK_UP, _cut_embedding, "output_dim", lambda _layer: 1, linear=True),
    "BatchNormalization": _NORMALIZED,
    "LayerNormalization": _LAYER_NORMALIZED,
    "PReLU": Behaviour(Role.CARRY, _cut_by_channel, None, lambda _layer: 1),
    "Flatten": _RESHAPE,
    "Reshape": replace(_RESHAPE, setting="target_shape"),
    "Concatenate": Behaviour(Role.JOIN, plain=_joins_last, linear=True),
    "Dot": Behaviour(Role.MEET, plain=_is_flat_dot),
    "Permute": replace(_EVEN, plain=lambda layer, _rank: layer.dims[-1] == len(layer.dims)),
    "Dropout": replace(_EVEN, plain=lambda layer, _rank: layer.noise_shape is None),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"), _TIE),
    **dict.fromkeys(_EVEN_CARRIERS, _EVEN),
    **dict.fromkeys(_CARRIERS, _CARRY),
}
