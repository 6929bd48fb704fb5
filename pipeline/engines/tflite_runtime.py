"""tflite-runtime 2.14: the ``.tflite`` engine of devices that have no LiteRT (Python ≤ 3.11, numpy < 2)."""

from typing import Any

from tflite_runtime.interpreter import Interpreter

from pipeline.engines.tflite_session import TfliteSession


def open_tflite_runtime(model: bytes, threads: int = 1) -> TfliteSession:
    """Load ``.tflite`` bytes; raises ModelError when they cannot be loaded."""

    def make(content: bytes) -> Any:
        return Interpreter(model_content=content, num_threads=threads)

    return TfliteSession(model, make)
