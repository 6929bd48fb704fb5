"""Number formats of ``.onnx`` files, by onnxruntime's quantizer; inputs and outputs keep their names and types."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from pipeline.core.errors import SchemeRefused
from pipeline.core.names import Format, Scheme
from pipeline.core.tensors import Tensors
from pipeline.engines.open import open_session


def quantize_onnx(parent: bytes, scheme: Scheme, batches: Iterable[Tensors] = ()) -> bytes:
    """Store a float model in another number format; ``w8a8`` reads calibration ``batches``, one at a time.

    Equal inputs give equal bytes. Raises SchemeRefused for a scheme that onnx does not have or that fails,
    ModelError for bytes that are not an onnx model.
    """
    if scheme is Scheme.W8:
        raise SchemeRefused("w8 (int8 weights only) is made for tflite alone; ask for w8d in schemes.onnx.")
    open_session(Format.ONNX, parent)
    with TemporaryDirectory() as folder:
        path, result = Path(folder, "float.onnx"), Path(folder, "quantized.onnx")
        path.write_bytes(parent)
        try:
            _apply(scheme, path, result, batches)
        except (ValueError, RuntimeError, KeyError, NotImplementedError, TypeError) as error:
            brief = " ".join(str(error).split())
            raise SchemeRefused(f"{scheme} cannot be applied to this onnx model: {brief[:200]}.") from error
        return result.read_bytes()


def _apply(scheme: Scheme, path: Path, result: Path, batches: Iterable[Tensors]) -> None:
    if scheme is Scheme.F16:
        half = convert_float_to_float16(onnx.load(path), keep_io_types=True)
        result.write_bytes(half.SerializeToString())
        return
    ready = path.with_name("ready.onnx")
    # Fuses what belongs together (MatMul + Add to Gemm), so that fewer activations are rounded.
    quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
    if scheme is Scheme.W8D:
        # Unsigned weights: the signed-by-unsigned kernels of processors without VNNI saturate and answer differently.
        # Symmetric: zeros of a pruned model stay one value, so they still compress.
        quantize_dynamic(
            ready, result, per_channel=True, weight_type=QuantType.QUInt8, extra_options={"WeightSymmetric": True}
        )
    else:
        quantize_static(
            ready,
            result,
            _Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
        )


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime ships no types
    """Hands onnxruntime one batch at a time; its calibrator keeps a minimum and a maximum of each."""

    def __init__(self, batches: Iterable[Tensors]) -> None:
        self._batches: Iterator[Tensors] = iter(batches)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next batch by input name, or None at the end."""
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)
