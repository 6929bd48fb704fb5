"""The protocol's cold endpoints: server, health, models."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline import __version__
from pipeline.bundle.io_contract import TensorContract
from pipeline.runtime.http.admission import FOR_INFERENCE, token_refusal
from pipeline.runtime.http.infer import find_model
from pipeline.runtime.http.responses import as_response, error, ok
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.tensors import DATATYPES
from pipeline.runtime.http.tokens import TokenUse
from pipeline.runtime.service import ServedModel, Service


class Metadata:
    """Tells what is served and whether it is ready."""

    def __init__(self, service: Service, front: FrontSettings) -> None:
        self._service = service
        self._tokens = front.tokens

    def routes(self) -> list[Route]:
        """Return the endpoints; the model's ones with and without a version."""
        paths = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        return [
            Route("/v2", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            *(Route(path, self.model) for path in paths),
            *(Route(f"{path}/ready", self.model_ready) for path in paths),
        ]

    async def server(self, _: Request) -> Response:
        """Name the server."""
        return ok({"name": "hotspare", "version": __version__, "extensions": ["binary_tensor_data"]})

    async def live(self, _: Request) -> Response:
        """Tell that the process runs."""
        return ok({"live": True})

    async def ready(self, _: Request) -> Response:
        """Tell whether every model answers."""
        if self._service.draining():
            return error(503, "The server is ending.")
        waiting = [model.name for model in self._service.models() if not model.ready]
        return error(503, f"Not ready: {', '.join(waiting)}.") if waiting else ok({"ready": True})

    async def model_ready(self, request: Request) -> Response:
        """Tell whether a model answers."""
        model = self._find(request)
        if model is None:
            return _unknown(request)
        if self._service.draining() or not model.ready:
            return error(503, f"{model.name} is not ready.")
        return ok({"name": model.name, "ready": True})

    async def model(self, request: Request) -> Response:
        """Describe a model's tensors."""
        if self._tokens.has(TokenUse.INFERENCE):
            refusal = token_refusal(self._tokens, FOR_INFERENCE, request.headers.get("authorization", "").encode())
            if refusal is not None:
                return as_response(refusal)
        model = self._find(request)
        return _unknown(request) if model is None else ok(describe(model))

    def _find(self, request: Request) -> ServedModel | None:
        return find_model(self._service, request.path_params["model"], request.path_params.get("version"))


def describe(model: ServedModel) -> dict[str, Any]:
    """Return a model's metadata as the protocol spells it."""
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": model.platform,
        "inputs": [_tensor(tensor) for tensor in model.io.inputs],
        "outputs": [_tensor(tensor) for tensor in model.io.outputs],
    }


def _tensor(tensor: TensorContract) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": DATATYPES[tensor.dtype], "shape": list(tensor.shape)}


def _unknown(request: Request) -> Response:
    version = request.path_params.get("version")
    of_version = "" if version is None else f" of version {version!r}"
    return error(404, f"No model {request.path_params['model']!r}{of_version} is served here.")
