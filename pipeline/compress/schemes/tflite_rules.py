"""Which rule of ai-edge-quantizer stores an operator in a scheme; it skips what it cannot do, so it is asked first."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from re import escape

import numpy as np
from ai_edge_quantizer import algorithm_manager, qtyping
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.utils.tfl_flatbuffer_utils import TFL_OP_CODE_TO_NAME, TFL_OP_TO_WEIGHT_QUANTIZED_DIM

from pipeline.compress.schemes.weight_tails import has_tails
from pipeline.core.names import Scheme
from pipeline.core.tensors import Array

_Op = qtyping.TFLOperationName
_Grain = qtyping.QuantGranularity
_SCOPE_LENGTH = 10_000  # ai-edge-quantizer cuts what it matches
BLOCK = 32


@dataclass(frozen=True)
class Rule:
    """An algorithm of the quantizer and its settings."""

    algorithm: AlgorithmName
    config: qtyping.OpQuantizationConfig

    @property
    def is_static(self) -> bool:
        """Tell whether activations are stored as integers, by calibrated ranges."""
        return self.config.activation_tensor_config is not None


@dataclass(frozen=True)
class Target:
    """An operator as the quantizer sees it, with its constant float weights where it has some."""

    code: int
    scope: str
    weights: Array | None = None

    @property
    def operation(self) -> qtyping.TFLOperationName | None:
        """Return the quantizer's name of the operator, or None for one that it does not know."""
        return TFL_OP_CODE_TO_NAME.get(self.code)


def rule_of(target: Target, scheme: Scheme, is_calibrated: bool = True) -> Rule | None:
    """Return the first of the scheme's rules that the quantizer has for this operator, or None when it has none.

    Where a scheme does not exist for an operator the nearest one is taken: 8 bits for 4, dynamic for static ranges.
    """
    operation = target.operation
    if operation is None or scheme is Scheme.F32:
        return None
    row = 0 if target.weights is None else target.weights.shape[-1]
    for rule in _preferences(scheme, operation, row):
        if (is_calibrated or not rule.is_static) and _is_possible(rule, operation):
            return _clipped(rule, operation, target.weights)
    return None


def recipe(chosen: Iterable[tuple[Target, Rule]]) -> qtyping.ModelQuantizationRecipe:
    """Write one rule a set of operators; each is named by its whole, escaped scope, so no other operator matches."""
    scopes: dict[tuple[str, Rule], list[str]] = defaultdict(list)
    for target, rule in chosen:
        scopes[(str(target.operation.value) if target.operation else "", rule)].append(target.scope[:_SCOPE_LENGTH])
    return [
        {
            "regex": rf"\A(?:{'|'.join(escape(name) for name in names)})\Z",
            "operation": operation,
            "algorithm_key": rule.algorithm,
            "op_config": rule.config.to_dict(),
        }
        for (operation, rule), names in scopes.items()
    ]


def _clipped(rule: Rule, operation: qtyping.TFLOperationName, weights: Array | None) -> Rule:
    """Return the rule with the quantizer's clipping (OCTAV, Sakr et al. 2022) where 4 bits would waste their levels."""
    config = rule.config.weight_tensor_config
    if config is None or config.num_bits != 4 or weights is None:
        return rule
    clipped = replace(rule, algorithm=AlgorithmName.OCTAV)
    one_scale_each = _scaled_alike(weights, operation, config.granularity)
    return clipped if _is_possible(clipped, operation) and has_tails(one_scale_each) else rule


def _scaled_alike(weights: Array, operation: qtyping.TFLOperationName, grain: qtyping.QuantGranularity) -> Array:
    if grain is _Grain.TENSORWISE:
        return weights.reshape(1, -1)
    if grain is _Grain.BLOCKWISE_32:
        return weights.reshape(-1, BLOCK)
    axis = TFL_OP_TO_WEIGHT_QUANTIZED_DIM.get(operation, 0)
    return np.moveaxis(weights, axis, 0).reshape(weights.shape[axis], -1)


def _is_possible(rule: Rule, operation: qtyping.TFLOperationName) -> bool:
    try:
        algorithm_manager.check_op_quantization_config(rule.algorithm, operation, rule.config)
    except ValueError:
        return False
    return True


def _preferences(scheme: Scheme, operation: qtyping.TFLOperationName, row: int) -> tuple[Rule, ...]:
    if scheme is Scheme.F16:
        return (_HALF,)
    order = _TABLES[scheme] if operation is _Op.EMBEDDING_LOOKUP else _ORDERS[scheme]
    return (_BLOCKS, *order) if scheme is Scheme.W4B32 and row and row % BLOCK == 0 else order


def _weights(bits: int, grain: qtyping.QuantGranularity) -> qtyping.TensorQuantizationConfig:
    return qtyping.TensorQuantizationConfig(num_bits=bits, symmetric=True, granularity=grain)


def _weights_only(bits: int) -> Rule:
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=_weights(bits, _Grain.CHANNELWISE),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    return Rule(AlgorithmName.MIN_MAX_UNIFORM_QUANT, config)


def _dynamic(bits: int, grain: qtyping.QuantGranularity = _Grain.CHANNELWISE) -> Rule:
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=_weights(bits, grain), compute_precision=qtyping.ComputePrecision.INTEGER
    )
    return Rule(AlgorithmName.MIN_MAX_UNIFORM_QUANT, config)


def _static(activation_bits: int) -> Rule:
    config = qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=activation_bits, symmetric=activation_bits == 16
        ),
        weight_tensor_config=_weights(8, _Grain.CHANNELWISE),
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )
    return Rule(AlgorithmName.MIN_MAX_UNIFORM_QUANT, config)


_HALF = Rule(
    AlgorithmName.FLOAT_CASTING,
    qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    ),
)
_BLOCKS = _dynamic(4, _Grain.BLOCKWISE_32)
_ORDERS: Mapping[Scheme, tuple[Rule, ...]] = {
    Scheme.W8: (_weights_only(8),),
    Scheme.W8D: (_dynamic(8),),
    Scheme.W8A8: (_static(8), _dynamic(8)),
    Scheme.W8A16: (_static(16), _dynamic(8)),
    Scheme.W4: (_weights_only(4), _weights_only(8)),
    Scheme.W4D: (_dynamic(4), _dynamic(8)),
    Scheme.W4B32: (_dynamic(4), _dynamic(8)),
}
# "Dynamic" for a lookup means: the looked-up rows alone are dequantized. Explicit dequantization would build the whole
# float table in memory. One scale a table: one a row costs 12 bytes each (17 % of the recommendation model) for no
# better ranking, and tflite-runtime 2.14 cannot read it. A scale a block costs 2 bytes; the engine reads it right.
_INT8_TABLE = (_dynamic(8, _Grain.TENSORWISE),)
_INT4_TABLE = (_dynamic(4, _Grain.TENSORWISE),)
_TABLES: Mapping[Scheme, tuple[Rule, ...]] = {
    **dict.fromkeys((Scheme.W8, Scheme.W8D, Scheme.W8A8, Scheme.W8A16), _INT8_TABLE),
    **dict.fromkeys((Scheme.W4, Scheme.W4D, Scheme.W4B32), _INT4_TABLE),
}
