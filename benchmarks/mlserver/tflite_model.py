"""MLServer's side of the comparison: a custom model that answers from the TFLite file of a bundle's payload.

Runs in an environment of its own (``mlserver==1.7.1 ai-edge-litert httptools``), started by ``mlserver start FOLDER``
where FOLDER holds this file beside ``settings.json`` and ``model-settings.json``; ``python tflite_model.py PAYLOAD
FOLDER NAME PORT`` writes such a folder.
"""

import json
import shutil
import sys
from pathlib import Path

from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse, MetadataTensor

DATATYPES = {"float32": "FP32", "int32": "INT32"}


class TfliteModel(MLModel):
    """One TFLite model; inputs by name, outputs as the signature names them."""

    async def load(self) -> bool:
        """Open the file."""
        payload = Path(self.settings.parameters.uri)
        contract = json.loads((payload / "io.json").read_text())
        self.inputs, self.outputs = (self._tensors(contract[side]) for side in ("inputs", "outputs"))
        self._interpreter = Interpreter(str(payload / "model" / "model.tflite"), num_threads=1)
        self._runner = self._interpreter.get_signature_runner()
        return True

    def _tensors(self, tensors: list[dict]) -> list[MetadataTensor]:
        return [
            MetadataTensor(name=one["name"], datatype=DATATYPES[one["dtype"]], shape=one["shape"]) for one in tensors
        ]

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        sent = {one.name: self.decode(one, default_codec=NumpyCodec) for one in payload.inputs}
        known = {tensor.name: tensor.datatype for tensor in self.inputs}
        if sent.keys() != known.keys():
            raise InferenceError(f"inputs must be {', '.join(known)}")
        types = {datatype: dtype for dtype, datatype in DATATYPES.items()}
        answers = self._runner(**{name: array.astype(types[known[name]]) for name, array in sent.items()})
        wanted = {one.name for one in payload.outputs or []} or answers.keys()
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[NumpyCodec.encode_output(name, array) for name, array in answers.items() if name in wanted],
        )


def write_folder(payload: Path, folder: Path, name: str, port: int) -> None:
    """Write what ``mlserver start`` reads; its quickest way: inference in the server's own process, nothing counted."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / Path(__file__).name)
    settings = {
        "host": "127.0.0.1",
        "http_port": port,
        "grpc_port": port + 1,
        "metrics_port": port + 2,
        "parallel_workers": 0,
        "metrics_endpoint": None,
        "debug": False,
    }
    model = {
        "name": name,
        "versions": ["1"],
        "implementation": "tflite_model.TfliteModel",
        "parameters": {"uri": str(payload.resolve()), "version": "1"},
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=2))
    (folder / "model-settings.json").write_text(json.dumps(model, indent=2))


if __name__ == "__main__":
    write_folder(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
