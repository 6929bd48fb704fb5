"""Starlette responses of the cold endpoints."""

import orjson
from starlette.responses import Response

from pipeline.runtime.http.reply import Reply, error_reply

_NOT_KEPT = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


def ok(value: object) -> Response:
    """Answer 200 with JSON."""
    return Response(orjson.dumps(value), 200, _NOT_KEPT, "application/json")


def error(status: int, sentence: str) -> Response:
    """Answer ``{"error": sentence}``."""
    return as_response(error_reply(status, sentence))


def as_response(reply: Reply) -> Response:
    """Turn a reply of the hot path's kind into Starlette's."""
    headers = {key.decode(): value.decode() for key, value in reply.headers}
    return Response(reply.body, reply.status, {**_NOT_KEPT, **headers})
