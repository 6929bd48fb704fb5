"""Model bytes to a session, by the engine that is installed."""

import importlib.util

from pipeline.core.errors import MissingExtra
from pipeline.core.names import Format
from pipeline.engines.base import Session


def open_session(model_format: Format, model: bytes, threads: int = 1) -> Session:
    """Load a model from its bytes (the very bytes that were hashed).

    Raises ModelError when they cannot be loaded, MissingExtra when no engine for the format is installed.
    """
    return _open_onnx(model, threads) if model_format is Format.ONNX else _open_tflite(model, threads)


def _open_onnx(model: bytes, threads: int) -> Session:
    if not _installed("onnxruntime"):
        raise MissingExtra("No engine for onnx models is installed: pip install onnxruntime.")
    from pipeline.engines.onnx import open_onnx

    return open_onnx(model, threads)


def _open_tflite(model: bytes, threads: int) -> Session:
    if _installed("ai_edge_litert"):
        from pipeline.engines.litert import open_litert

        return open_litert(model, threads)
    if _installed("tflite_runtime"):
        from pipeline.engines.tflite_runtime import open_tflite_runtime

        return open_tflite_runtime(model, threads)
    raise MissingExtra("No engine for tflite models is installed: pip install ai-edge-litert.")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
