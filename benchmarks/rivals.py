"""Other tools on the same float models and calibration rows, each as its own guide uses it.

All of them are configured for float32 inputs and outputs, as hotspare's files have them, so that no host code converts
numbers outside the file: the TF converter does so by default, the stock static recipe of ai-edge-quantizer gets two
rules that leave the ends float (it adds a QUANTIZE and a DEQUANTIZE operator), the ONNX tools never touch the ends.
"""

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnxruntime.quantization as ort_quantization
from ai_edge_quantizer import qtyping
from ai_edge_quantizer import recipe as stock
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.quantizer import Quantizer
from cases import Case
from onnxruntime.quantization.shape_inference import quant_pre_process

from pipeline.compress.rows import session_batches
from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

SECONDS_MAX = 900
_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3", "OLIVE_DISABLE_TELEMETRY": "1"}
_STOCK = ("dynamic_wi8_afp32", "weight_only_wi8_afp32", "weight_only_wi4_afp32", "dynamic_wi4_afp32")
# Its calibration is a moving average over batches: row by row, as its guide does, it forgets the large values.
_STATIC_ROWS = (1, 64)
_CALIBRATION_BATCH = 64


@dataclass(frozen=True)
class Rival:
    """What a tool made of a model: its file, or why there is none."""

    tool: str
    format: Format
    model: bytes | None
    problem: str = ""


def all_rivals(case: Case, olive_python: Path | None) -> Iterator[Rival]:
    """Yield every rival's file for a model; a tool that fails is yielded with what it said."""
    yield from tf_converter(case)
    yield from (
        attempt(f"ai-edge-quantizer {name}", Format.TFLITE, lambda name=name: _ai_edge(case, name)) for name in _STOCK
    )
    for rows in _STATIC_ROWS:
        tool = f"ai-edge-quantizer static_wi8_ai8, {rows} rows a batch"
        yield attempt(tool, Format.TFLITE, lambda rows=rows: _ai_edge(case, "static_wi8_ai8", rows))
    yield attempt("onnxruntime static int8", Format.ONNX, lambda: _onnxruntime(case, is_static=True))
    yield attempt("onnxruntime dynamic int8", Format.ONNX, lambda: _onnxruntime(case, is_static=False))
    if olive_python is not None:
        yield from olive(case, olive_python)


def attempt(tool: str, model_format: Format, make: Callable[[], bytes]) -> Rival:
    """Run a tool; whatever it raises is its result."""
    try:
        return Rival(tool, model_format, make())
    except Exception as error:  # noqa: BLE001 - a rival's own failure, of any kind, belongs into the table
        return Rival(tool, model_format, None, " ".join(f"{type(error).__name__}: {error}".split())[:200])


def tf_converter(case: Case) -> Iterator[Rival]:
    """Yield the TF converter's files, from the Keras model; TensorFlow runs in a process of its own."""
    names = {"TF converter int8": "int8.tflite", "TF converter dynamic range": "dynamic.tflite"}
    with TemporaryDirectory() as folder:
        said = _run(sys.executable, "tf_converter.py", case.recipe.source.path, case.recipe.data.calibration, folder)
        for tool, file in names.items():
            path = Path(folder, file)
            yield (
                Rival(tool, Format.TFLITE, path.read_bytes())
                if path.exists()
                else Rival(tool, Format.TFLITE, None, said)
            )


def olive(case: Case, python: Path) -> Iterator[Rival]:
    """Yield Olive's files, from the ONNX export."""
    with TemporaryDirectory() as folder:
        model = str(case.export(Format.ONNX).resolve())
        said = _run(str(python), "olive_driver.py", model, str(Path(case.recipe.data.calibration).resolve()), folder)
        if not Path(folder, "told.json").exists():
            yield Rival("Olive", Format.ONNX, None, said)
            return
        told = json.loads(Path(folder, "told.json").read_text())
        for name, reason in told["failures"].items():
            yield Rival(f"Olive {told['version']} {name}", Format.ONNX, None, reason)
        for path in sorted(Path(folder).glob("*.onnx")):
            yield Rival(f"Olive {told['version']} {path.stem}", Format.ONNX, path.read_bytes())


def _run(python: str, script: str, *arguments: str) -> str:
    """Run a script beside this file; returns the last line that it complained with."""
    command = [python, str(Path(__file__).with_name(script)), *arguments]
    environment = {**os.environ, **_QUIET}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {SECONDS_MAX} s"
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]


def _ai_edge(case: Case, name: str, rows: int = 1) -> bytes:
    """Apply a stock recipe to the float tflite export, with the quantizer's own calibration where it needs one."""
    export = case.export(Format.TFLITE)
    quantizer = Quantizer(export.read_bytes(), getattr(stock, name)())
    if not quantizer.need_calibration:
        return bytes(_quietly(lambda: quantizer.quantize(enable_progress_report=False)).quantized_model)
    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        quantizer.update_quantization_recipe(".*", end, algorithm_key=AlgorithmName.NO_QUANTIZE)
    ranges = _quietly(lambda: quantizer.calibrate({"serving_default": _calibration(case, Format.TFLITE, rows)}))
    return bytes(_quietly(lambda: quantizer.quantize(ranges, enable_progress_report=False)).quantized_model)


def _quietly(call: Callable[[], object]) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call()


def _calibration(case: Case, model_format: Format, rows: int) -> list[dict[str, Array]]:
    session = open_session(model_format, case.export(model_format).read_bytes())
    return [dict(batch) for batch in session_batches(session, Path(case.recipe.data.calibration), rows)]


def _onnxruntime(case: Case, is_static: bool) -> bytes:
    """Quantize the ONNX export with onnxruntime's defaults after the preparation that its guide asks for."""
    with TemporaryDirectory() as folder:
        ready, result = Path(folder, "ready.onnx"), Path(folder, "result.onnx")
        quant_pre_process(str(case.export(Format.ONNX)), str(ready), skip_symbolic_shape=True)
        if is_static:
            batches = _calibration(case, Format.ONNX, _CALIBRATION_BATCH)
            ort_quantization.quantize_static(ready, result, _Reader(batches))
        else:
            ort_quantization.quantize_dynamic(ready, result)
        return result.read_bytes()


class _Reader(ort_quantization.CalibrationDataReader):
    """Hands onnxruntime one batch at a time."""

    def __init__(self, batches: list[dict[str, Array]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None at the end."""
        return next(self._batches, None)


logging.getLogger().setLevel(logging.ERROR)
