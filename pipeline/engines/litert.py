"""LiteRT: the ``.tflite`` engine of choice."""

from typing import Any

from ai_edge_litert.interpreter import Interpreter, OpResolverType

from pipeline.engines.tflite_session import TfliteSession


def open_litert(model: bytes, threads: int = 1, xnnpack: bool = True) -> TfliteSession:
    """Load ``.tflite`` bytes; ``xnnpack=False`` runs the plain kernels, another way to the same answers.

    Raises ModelError when the bytes cannot be loaded.
    """
    resolver = OpResolverType.AUTO if xnnpack else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES

    def make(content: bytes) -> Any:
        return Interpreter(model_content=content, num_threads=threads, experimental_op_resolver_type=resolver)

    return TfliteSession(model, make)
