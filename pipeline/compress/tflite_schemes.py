"""Number formats of ``.tflite`` files, by ai-edge-quantizer; inputs and outputs stay float32 and int32."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.quantizer import Quantizer

from pipeline.compress.calibration import Ranges
from pipeline.compress.embedding import look_up_embeddings
from pipeline.compress.tflite_file import TfliteModel, operators, parse_tflite, write_tflite
from pipeline.core.errors import SchemeRefused
from pipeline.core.names import Scheme

_Op = qtyping.TFLOperationName
_ANY = ".*"
# The version that says "one scale a channel"; tflite-runtime 2.14 stops at 10. Without it, it would load the file and
# take each scale for zero: wrong answers where a refusal belongs.
_DENSE_PER_CHANNEL_VERSION = 12


def quantizable(parent: bytes) -> bytes:
    """Return a float model with its embedding tables where the quantizer finds them; answers stay bit-identical.

    Raises ModelError for bytes that are not a ``.tflite`` model.
    """
    model = parse_tflite(parent)
    look_up_embeddings(model)
    return write_tflite(model)


def quantize_tflite(prepared: bytes, scheme: Scheme, ranges: Ranges | None = None) -> bytes:
    """Store a model that :func:`quantizable` prepared in another number format; ``w8a8`` needs ``ranges``.

    Equal inputs give equal bytes. Raises SchemeRefused when the quantizer cannot apply the scheme.
    """
    quantizer = Quantizer(prepared)
    _RECIPES[scheme](quantizer)
    try:
        found = _quantize(quantizer, ranges)
    except (ValueError, RuntimeError, KeyError, NotImplementedError) as error:
        brief = " ".join(str(error).split())
        raise SchemeRefused(f"{scheme} cannot be applied to this model: {brief[:200]}.") from error
    model = parse_tflite(bytes(found.quantized_model))
    _state_versions(model)
    return write_tflite(model)


def _quantize(quantizer: Any, ranges: Ranges | None) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it opens an interpreter that warns of its memory, and runs nothing in it
        return quantizer.quantize(_statistics(ranges), enable_progress_report=False, enable_progress_bar=False)


def _float16(quantizer: Any) -> None:
    half = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=half, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    quantizer.update_quantization_recipe(_ANY, _Op.ALL_SUPPORTED, config, AlgorithmName.FLOAT_CASTING)


def _weights_only(quantizer: Any) -> None:
    quantizer.add_weight_only_config(_ANY, _Op.ALL_SUPPORTED, num_bits=8)
    _int8_tables(quantizer)


def _dynamic(quantizer: Any) -> None:
    quantizer.add_dynamic_config(_ANY, _Op.ALL_SUPPORTED, num_bits=8)
    _int8_tables(quantizer)


def _static(quantizer: Any) -> None:
    quantizer.add_static_config(_ANY, _Op.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    _int8_tables(quantizer)
    for end in (_Op.INPUT, _Op.OUTPUT):
        quantizer.update_quantization_recipe(_ANY, end, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _int8_tables(quantizer: Any) -> None:
    # "Dynamic" for a lookup means: the looked-up rows alone are dequantized. Explicit dequantization would build the
    # whole float table in memory. One scale a table: one a row costs 12 bytes each (17 % of the recommendation model)
    # for no better ranking, and tflite-runtime 2.14 cannot read it.
    quantizer.add_dynamic_config(
        _ANY, _Op.EMBEDDING_LOOKUP, num_bits=8, granularity=qtyping.QuantGranularity.TENSORWISE
    )


_RECIPES: Mapping[Scheme, Callable[[Any], None]] = {
    Scheme.F16: _float16,
    Scheme.W8: _weights_only,
    Scheme.W8D: _dynamic,
    Scheme.W8A8: _static,
}


def _statistics(ranges: Ranges | None) -> Any:
    if ranges is None:
        return None
    return {name: {"min": np.array([found.low]), "max": np.array([found.high])} for name, found in ranges.items()}


def _state_versions(model: TfliteModel) -> None:
    dense = schema.BuiltinOperator.FULLY_CONNECTED
    if any(_is_hybrid_per_channel(graph, operator) for graph, operator in operators(model, dense)):
        for code in model.operatorCodes:
            if code.builtinCode == dense:
                code.version = max(code.version, _DENSE_PER_CHANNEL_VERSION)


def _is_hybrid_per_channel(graph: Any, operator: Any) -> bool:
    weights, result = graph.tensors[operator.inputs[1]], graph.tensors[operator.outputs[0]]
    scales = weights.quantization.scale if weights.quantization is not None else None
    is_int8 = weights.type == schema.TensorType.INT8 and result.type == schema.TensorType.FLOAT32
    return is_int8 and scales is not None and len(scales) > 1
