"""The ASGI application: the inference path as a plain callable, everything else through Starlette's routes."""

import time
from collections.abc import MutableMapping
from contextlib import ExitStack
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.core.errors import UsageError
from pipeline.core.printable import printable
from pipeline.runtime.http.admin import Admin
from pipeline.runtime.http.admission import has_one_host, host_admitted, origin_admitted
from pipeline.runtime.http.connection import TRANSPORT, WHOLE, answer_at_once
from pipeline.runtime.http.infer import Inference
from pipeline.runtime.http.metadata import Metadata
from pipeline.runtime.http.metrics import HttpCounts
from pipeline.runtime.http.openapi import OpenApi
from pipeline.runtime.http.reply import CLOSE, Reply, error_reply
from pipeline.runtime.http.responses import error
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.status import Status
from pipeline.runtime.http.unread import Unread, in_messages
from pipeline.runtime.service import Service

_MODELS = "/v2/models/"
_INFER = "/infer"
_OK = 200
_WITH_VERSION = 3
_LOGGED_CHARS = 500  # of a path: thousands of lines may wait for whoever reads the log
_LOOPBACK = frozenset({b"localhost", b"127.0.0.1", b"[::1]"})


def build_app(service: Service, front: FrontSettings) -> ASGIApp:
    """Return the application that serves ``service`` by HTTP; raises UsageError when the settings make no sense."""
    problems = [*front.problems()]
    if problems:
        raise UsageError("\n".join(problems))
    return ServerErrorMiddleware(Front(service, front), handler=_bug)


class Front:
    """Admits a request, sends it on its path, sends the reply, counts and logs it."""

    def __init__(self, service: Service, front: FrontSettings) -> None:
        self._service = service
        self._unread = Unread(front.limits.unread_bytes_max)
        self._counts = HttpCounts(self._unread)
        self._inference = Inference(service, front)
        self._names = _LOOPBACK | {name.lower().encode() for name in front.hosts}
        self._log = front.access_log
        self._cold = Starlette(
            routes=[
                *Metadata(service, front).routes(),
                *Status(service, front, self._counts).routes(),
                *OpenApi(service, front).routes(),
                *Admin(service, front).routes(),
            ],
            exception_handlers={HTTPException: _http_error},
        )
        self._cold.router.redirect_slashes = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        started_s = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        reply = self._turned_away(scope, headers)
        if reply is not None:
            pass
        elif (parts := _model_parts(scope["path"])) is None:
            scope.pop(WHOLE, None)
            await self._cold_reply(scope, receive, send, started_s)
        elif scope["method"] == "POST":
            reply = await self._inference.reply(parts, headers, receive, WHOLE in scope)
        else:
            reply = error_reply(405, "Inference is asked for by POST.", ((b"allow", b"POST"),))
        if reply is not None:
            cycle = scope.pop(WHOLE, None)  # it holds the scope: left there, each request would wait for the collector
            if cycle is None or self._service.draining() or not answer_at_once(cycle, reply):
                await self._send(reply, scope, send)
            self._done(scope, reply.status, started_s, reply)

    def _turned_away(self, scope: Scope, headers: dict[bytes, bytes]) -> Reply | None:
        """Return the refusal of a request that is not for this server, or that another site's page makes."""
        if not has_one_host(scope["headers"], headers, scope["http_version"]):
            sentence = "A request needs one Host header, which names this server; send it once."
            return error_reply(400, sentence, (CLOSE,))
        if not host_admitted(headers.get(b"host"), self._names):
            sentence = "This server is not known under that Host name; name it with --name, or use its address."
            return error_reply(421, sentence)
        if scope["method"] == "POST" and not origin_admitted(headers, self._names):
            sentence = "A page of another site may not ask this; serve it under a --name of this server."
            return error_reply(403, sentence)
        return None

    async def _cold_reply(self, scope: Scope, receive: Receive, send: Send, started_s: float) -> None:
        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._done(scope, message["status"], started_s, None)
                size_bytes = int(dict(message["headers"]).get(b"content-length", 0))
                sending.enter_context(self._unread.sending(size_bytes, scope[TRANSPORT]))
                await send(message)
            else:
                await _send_body(message["body"], scope["scheme"], send)

        with ExitStack() as sending:
            await self._cold(scope, receive, watched)

    async def _send(self, reply: Reply, scope: Scope, send: Send) -> None:
        headers = [*reply.headers, (b"content-length", b"%d" % len(reply.body))]
        if self._service.draining():  # the next request must not meet a connection that is about to close
            headers.append((b"connection", b"close"))
        with self._unread.sending(len(reply.body), scope[TRANSPORT]):
            await send({"type": "http.response.start", "status": reply.status, "headers": headers})
            await _send_body(reply.body, scope["scheme"], send)

    def _done(self, scope: Scope, status: int, started_s: float, reply: Reply | None) -> None:
        took_s = time.perf_counter() - started_s
        self._counts.count(status)
        if reply is not None and status == _OK:
            self._counts.time(took_s)
        if self._log is None:
            return
        record: MutableMapping[str, Any] = {
            "kind": "access",
            "method": scope["method"],
            "path": printable(scope["path"][:_LOGGED_CHARS]),
            "status": status,
            "ms": round(took_s * 1000, 3),
            "client": (scope.get("client") or ("",))[0],
        }
        if reply is not None:
            record.update(reply.facts)
        self._log(record)


async def _send_body(body: bytes, scheme: str, send: Send) -> None:
    for message in in_messages(body, scheme):
        await send(message)


def _model_parts(path: str) -> list[str] | None:
    """Return [model] or [model, 'versions', version] of an inference path, else None."""
    if not (path.endswith(_INFER) and path.startswith(_MODELS)):
        return None
    parts = path[len(_MODELS) : -len(_INFER)].split("/")
    return parts if len(parts) == 1 or (len(parts) == _WITH_VERSION and parts[1] == "versions") else None


async def _http_error(_: Request, raised: Exception) -> Response:
    status, headers = (raised.status_code, raised.headers) if isinstance(raised, HTTPException) else (500, None)
    sentences = {404: "Nothing is here; GET /openapi.json lists what is.", 405: "This path takes another method."}
    response = error(status, sentences.get(status, "The request cannot be answered."))
    response.headers.update(headers or {})
    return response


async def _bug(_: Request, __: Exception) -> Response:
    return error(500, "The server failed at this request; its log says how.")
