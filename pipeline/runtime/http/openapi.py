"""``/openapi.json``: what this server serves, with the names of its models and the limits it holds."""

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline import __version__
from pipeline.core.names import Role
from pipeline.runtime.http.admin import SEAT
from pipeline.runtime.http.responses import ok
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.tensors import DATATYPES
from pipeline.runtime.http.tokens import TokenUse
from pipeline.runtime.service import ServedModel, Service

Json = dict[str, Any]

_SENTENCES = {
    400: "The request does not fit the model's contract, or is no request.",
    401: "A token is missing or wrong.",
    403: "A page of another site asks.",
    404: "No such model, version or path.",
    405: "The path takes another method.",
    408: "The body took too long to arrive.",
    409: "Refused: it would end the service, or the bundles are not to be trusted.",
    413: "The body is too large.",
    415: "The body is compressed.",
    421: "The Host header names another server.",
    422: "The request takes workers down and is quarantined.",
    429: "The queue is full; Retry-After says when to ask again.",
    500: "A bug of the server.",
    503: "Nobody can answer now, or the answers disagree in verify mode.",
    504: "No answer before the deadline.",
}
_ANYWHERE = (421, 500)
_INFER_ERRORS = (400, 403, 404, 408, 413, 415, 422, 429, 503, 504)
_STAMPS = {
    "hotspare-bundle-id": "The bundle that answered.",
    "hotspare-role": "primary or backup.",
    "hotspare-term": "The term in which it answered; it grows at each change of who serves.",
    "hotspare-degraded": "true for an answer of the backup.",
}


class OpenApi:
    """Describes the front."""

    def __init__(self, service: Service, front: FrontSettings) -> None:
        self._service = service
        self._front = front

    def routes(self) -> list[Route]:
        """Return the endpoint."""
        return [Route("/openapi.json", self.document)]

    async def document(self, _: Request) -> Response:
        """Return the description."""
        return ok(describe_api(self._service.models(), self._front))


def describe_api(models: Sequence[ServedModel], front: FrontSettings) -> Json:
    """Write the OpenAPI 3.1 document of a front."""
    by_token = front.tokens.has(TokenUse.INFERENCE)
    paths = {**_server_paths(), **_model_paths(models, by_token)}
    if front.tokens.has(TokenUse.ADMIN):
        paths |= _admin_paths(models)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hotspare",
            "version": __version__,
            "description": "Open Inference Protocol v2, administration and figures of a pair. The body of an inference"
            f" request holds at most {front.limits.body_bytes_max} bytes.",
        },
        "paths": paths,
        "components": {"schemas": _schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }


def _server_paths() -> Json:
    return {
        "/": {"get": _operation("page", "The status page.", {"text/html": {"type": "string"}})},
        "/status.json": {"get": _operation("status", "Every pair's state.", _json({"type": "object"}))},
        "/metrics": {"get": _operation("metrics", "Prometheus metrics.", {"text/plain": {"type": "string"}})},
        "/openapi.json": {"get": _operation("openapi", "This document.", _json({"type": "object"}))},
        "/v2": {"get": _operation("server", "The server's name, version and extensions.", _json(_ref("Server")))},
        "/v2/health/live": {"get": _operation("live", "The process runs.", _json({"type": "object"}))},
        "/v2/health/ready": {"get": _operation("ready", "Every model answers.", _json({"type": "object"}), (503,))},
    }


def _model_paths(models: Sequence[ServedModel], by_token: bool) -> Json:
    paths: Json = {}
    for base, parameters in _bases(models):
        suffix = "Version" if "version" in base else ""
        metadata = _operation(f"model{suffix}", "A model's tensors.", _json(_ref("Model")), (404,), by_token)
        ready = _operation(f"modelReady{suffix}", "The model answers.", _json({"type": "object"}), (404, 503))
        paths[base] = {"get": metadata, "parameters": parameters}
        paths[f"{base}/ready"] = {"get": ready, "parameters": parameters}
        paths[f"{base}/infer"] = {"post": _infer(f"infer{suffix}", by_token), "parameters": parameters}
    return paths


def _bases(models: Sequence[ServedModel]) -> list[tuple[str, list[Json]]]:
    model = _path_parameter("model", [model.name for model in models])
    version = _path_parameter("version", sorted({model.version for model in models}))
    return [("/v2/models/{model}", [model]), ("/v2/models/{model}/versions/{version}", [model, version])]


def _infer(name: str, by_token: bool) -> Json:
    content = {**_json(_ref("InferAnswer")), "application/octet-stream": {}}
    operation = _operation(name, "Answer one request.", content, _INFER_ERRORS, by_token)
    stamps = {key: {"description": text, "schema": {"type": "string"}} for key, text in _STAMPS.items()}
    operation["responses"]["200"]["headers"] = stamps
    operation["parameters"] = [
        {
            "name": "hotspare-timeout-ms",
            "in": "header",
            "description": "The deadline in milliseconds; 0 for the server's own.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 10**9},
        }
    ]
    operation["requestBody"] = {"required": True, "content": _json(_ref("InferRequest"))}
    return operation


def _admin_paths(models: Sequence[ServedModel]) -> Json:
    role = {"type": "object", "properties": {"to": {"enum": list(Role)}}, "required": ["to"]}
    seat = {"type": "object", "properties": {"seat": {"type": "string", "pattern": f"^{SEAT}$"}}, "required": ["seat"]}
    orders: tuple[tuple[str, str, Json], ...] = (
        ("switch", "Make a role serve.", role),
        ("hold", "Stop a member for maintenance.", seat),
        ("release", "Bring a held or quarantined member back.", seat),
        ("swap", "Read the bundles again and move to them.", {"type": "object", "properties": {}}),
    )
    return {f"/admin/models/{{model}}/{name}": _order(models, name, text, body) for name, text, body in orders}


def _order(models: Sequence[ServedModel], name: str, text: str, body: Json) -> Json:
    operation = _operation(name, text, _json(_ref("Done")), (400, 403, 404, 408, 409, 503), by_token=True)
    operation["requestBody"] = {"required": True, "content": _json({**body, "additionalProperties": False})}
    return {"post": operation, "parameters": [_path_parameter("model", [model.name for model in models])]}


def _operation(name: str, summary: str, content: Json, errors: Iterable[int] = (), by_token: bool = False) -> Json:
    statuses = sorted({*errors, *_ANYWHERE, *([401] if by_token else [])})
    responses: Json = {"200": {"description": summary, "content": content}}
    for status in statuses:
        responses[str(status)] = {"description": _SENTENCES[status], "content": _json(_ref("Error"))}
    return {"operationId": name, "summary": summary, "responses": responses} | (
        {"security": [{"token": []}]} if by_token else {}
    )


def _path_parameter(name: str, values: list[str]) -> Json:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values}}


def _json(schema: Json) -> Json:
    return {"application/json": {"schema": schema}}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _record(required: Sequence[str], **properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _schemas() -> Json:
    text: Json = {"type": "string"}
    texts: Json = {"type": "array", "items": text}
    datatype: Json = {"enum": list(DATATYPES.values())}
    parameters: Json = {"type": "object"}
    sizes: Json = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}
    asked = _record(["name", "shape", "datatype"], name=text, shape=sizes, datatype=datatype, parameters=parameters)
    asked["properties"]["data"] = {"type": "array", "minItems": 1}
    given = _record(["name", "shape", "datatype"], name=text, shape=sizes, datatype=datatype, parameters=parameters)
    given["properties"]["data"] = {"type": "array", "items": {"type": ["number", "boolean"]}}
    described = _record(["name", "shape", "datatype"], name=text, datatype=datatype)
    described["properties"]["shape"] = {"type": "array", "items": {"type": "integer"}}
    wanted = _record(["name"], name=text, parameters=parameters)
    return {
        "Error": _record(["error"], error=text),
        "Done": _record(["done"], done=text),
        "Server": _record(["name", "version", "extensions"], name=text, version=text, extensions=texts),
        "Model": _record(
            ["name", "versions", "platform", "inputs", "outputs"],
            name=text,
            versions=texts,
            platform=text,
            inputs={"type": "array", "items": described},
            outputs={"type": "array", "items": described},
        ),
        "InferRequest": _record(
            ["inputs"],
            id=text,
            parameters=parameters,
            inputs={"type": "array", "items": asked, "minItems": 1},
            outputs={"type": "array", "items": wanted},
        ),
        "InferAnswer": _record(
            ["model_name", "model_version", "outputs"],
            id=text,
            model_name=text,
            model_version=text,
            outputs={"type": "array", "items": given},
        ),
    }
