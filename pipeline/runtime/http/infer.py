"""The hot path: one inference request in, one reply out, as few steps as it takes."""

import asyncio
from typing import Any

from pipeline.core.errors import DataError
from pipeline.core.names import Role
from pipeline.runtime.http.admission import FOR_INFERENCE, token_refusal
from pipeline.runtime.http.answer import Body, write_answer
from pipeline.runtime.http.reply import CLOSE, JSON_TYPE, Headers, Reply, error_reply
from pipeline.runtime.http.request import InferRequest, RequestPlan, plan_requests, read_request
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.tokens import TokenUse
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind, ServedModel, Service

STATUS_OF = {
    RefusalKind.BAD_REQUEST: 400,
    RefusalKind.UNKNOWN: 404,
    RefusalKind.POISON: 422,
    RefusalKind.OVERLOADED: 429,
    RefusalKind.ABSTAINED: 503,
    RefusalKind.EXPIRED: 503,
    RefusalKind.UNAVAILABLE: 503,
    RefusalKind.DEADLINE: 504,
}
# A client that asks again at once would only lengthen the queue.
_RETRY_S = {RefusalKind.OVERLOADED: 1, RefusalKind.UNAVAILABLE: 1}
_OCTETS_TYPE = (b"content-type", b"application/octet-stream")
_LENGTH_DIGITS_MAX = 15


def find_model(service: Service, name: str, version: str | None) -> ServedModel | None:
    """Return the model that a path names."""
    for model in service.models():
        if model.name == name and version in (None, model.version):
            return model
    return None


class Inference:
    """Answers inference requests; remembers each model's plan until its bundle changes."""

    def __init__(self, service: Service, front: FrontSettings) -> None:
        self._service = service
        self._limits = front.limits
        self._deadline_ms_max = max(front.limits.deadline_ms_max, front.limits.deadline_ms)
        self._tokens = front.tokens
        self._needs_token = front.tokens.has(TokenUse.INFERENCE)
        self._plans: dict[str, RequestPlan] = {}
        self._held_bytes = 0  # of bodies, beyond each one's first piece
        self._held_bytes_max = max(front.limits.bodies_bytes_max, front.limits.body_bytes_max)

    async def reply(
        self, path: list[str], headers: dict[bytes, bytes], receive: Any, is_whole: bool = False
    ) -> Reply | None:
        """Answer ``/v2/models/{model}[/versions/{version}]/infer``; None when the client went away.

        Anything that is refused before its body was read closes the connection: the rest of the body is not a request.
        ``is_whole``: the body is there already.
        """
        early = self._refused_early(headers)
        if early is not None:
            return early
        model = self._find(path)
        if model is None:
            return _unknown(path)
        if is_whole:
            return await self._answer(model, headers, await self._body(receive, []))
        held_bytes: list[int] = []
        try:
            async with asyncio.timeout(self._limits.body_s_max):
                body = await self._body(receive, held_bytes)
        except TimeoutError:
            return error_reply(408, f"The body took longer than {self._limits.body_s_max:g} s.", (CLOSE,))
        else:
            model = self._find(path)  # a swap may have happened meanwhile
            return _unknown(path) if model is None else await self._answer(model, headers, body)
        finally:
            self._held_bytes -= sum(held_bytes)

    def _refused_early(self, headers: dict[bytes, bytes]) -> Reply | None:
        if self._needs_token:
            refusal = token_refusal(self._tokens, FOR_INFERENCE, headers.get(b"authorization"))
            if refusal is not None:
                return refusal
        if self._service.draining():
            sentence = "The server is ending; ask another, or this one again in a moment."
            return error_reply(503, sentence, ((b"retry-after", b"1"),))
        if headers.get(b"content-encoding", b"identity") != b"identity":
            return error_reply(415, "Compressed bodies are not read; send the body as it is.", (CLOSE,))
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or len(length) > _LENGTH_DIGITS_MAX or int(length) > self._limits.body_bytes_max:
            return self._too_large()
        return None

    def _find(self, path: list[str]) -> ServedModel | None:
        return find_model(self._service, path[0], path[2] if len(path) > 1 else None)

    def _too_large(self) -> Reply:
        most = self._limits.body_bytes_max
        return error_reply(413, f"The body is larger than {most} bytes; send fewer rows a request.", (CLOSE,))

    async def _answer(
        self, model: ServedModel, headers: dict[bytes, bytes], body: bytes | Reply | None
    ) -> Reply | None:
        if not isinstance(body, bytes):
            return body
        try:
            request = read_request(self._plan(model), body, _head_bytes(headers), self._limits.tensors_max)
            self._check_rows(request)
            deadline_ms = self._deadline_ms(request.timeout_ms, headers.get(b"hotspare-timeout-ms"))
        except DataError as error:
            return error_reply(400, str(error))
        answer = await self._service.infer(model.name, model.version, request.inputs, deadline_ms)
        if isinstance(answer, NotAnswered):
            return refusal_reply(answer)
        return _answered(model, request, answer)

    async def _body(self, receive: Any, held_bytes: list[int]) -> bytes | Reply | None:
        """Return the body, or why it is not read; what it took of the room for all bodies is added to the list."""
        message = await receive()
        body: bytes = message.get("body", b"")
        chunks, size = [body], len(body)
        while message.get("more_body"):
            if size > self._limits.body_bytes_max:
                return self._too_large()
            if self._held_bytes > self._held_bytes_max:
                sentence = "Too many large bodies arrive at once; try again."
                return error_reply(503, sentence, ((b"retry-after", b"1"), CLOSE))
            message = await receive()
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            held_bytes.append(len(chunks[-1]))
            self._held_bytes += len(chunks[-1])
        if message["type"] == "http.disconnect":
            return None
        if size > self._limits.body_bytes_max:
            return self._too_large()
        return body if len(chunks) == 1 else b"".join(chunks)

    def _check_rows(self, request: InferRequest) -> None:
        rows = max(array.shape[0] for array in request.inputs.values())
        if rows > self._limits.rows_max:
            raise DataError(f"{rows} rows are too many for one request, at most {self._limits.rows_max} are computed.")

    def _plan(self, model: ServedModel) -> RequestPlan:
        plan = self._plans.get(model.name)
        if plan is None or plan.io is not model.io:
            plan = self._plans[model.name] = plan_requests(model.io)
        return plan

    def _deadline_ms(self, asked_ms: float | None, header: bytes | None) -> float:
        if header is not None:
            if not header.isdigit() or len(header) > _LENGTH_DIGITS_MAX:
                raise DataError("the header hotspare-timeout-ms must be a whole number of milliseconds.")
            asked_ms = min(int(header) or self._deadline_ms_max, asked_ms or self._deadline_ms_max)
        return min(asked_ms or self._limits.deadline_ms, self._deadline_ms_max)


def refusal_reply(refused: NotAnswered) -> Reply:
    """Turn a request without outputs into its reply."""
    retry_s = refused.retry_after_s or _RETRY_S.get(refused.kind)
    kind: Headers = ((b"hotspare-refused", refused.kind.encode()),)
    headers = kind if retry_s is None else (*kind, (b"retry-after", str(retry_s).encode()))
    reply = error_reply(STATUS_OF[refused.kind], refused.sentence, headers)
    return Reply(reply.status, reply.headers, reply.body, {"refused": refused.kind})


def _answered(model: ServedModel, request: InferRequest, answer: Answer) -> Reply:
    # The pair that answered was looked up in the same step as this model: no swap lies between the two.
    body = write_answer(model.name, model.version, request, answer)
    facts = {"model": model.name, "role": answer.role, "term": answer.term, "hedged": answer.hedged}
    return Reply(200, _answer_headers(answer, body), body.content, facts)


def _answer_headers(answer: Answer, body: Body) -> Headers:
    stamps: Headers = (
        (b"hotspare-bundle-id", answer.bundle_id.encode()),
        (b"hotspare-role", answer.role.encode()),
        (b"hotspare-term", b"%d" % answer.term),
        (b"hotspare-degraded", b"false" if answer.role is Role.PRIMARY else b"true"),
    )
    if body.head_bytes is None:
        return (JSON_TYPE, *stamps)
    return (_OCTETS_TYPE, (b"inference-header-content-length", b"%d" % body.head_bytes), *stamps)


def _head_bytes(headers: dict[bytes, bytes]) -> int | None:
    value = headers.get(b"inference-header-content-length")
    if value is None:
        return None
    if not value.isdigit() or len(value) > _LENGTH_DIGITS_MAX:
        raise DataError("Inference-Header-Content-Length must be a whole number of bytes.")
    return int(value)


def _unknown(path: list[str]) -> Reply:
    of_version = f" of version {path[2]!r}" if len(path) > 1 else ""
    sentence = f"No model {path[0]!r}{of_version} is served here; GET /v2/models/NAME describes one that is."
    return error_reply(404, sentence, (CLOSE,))
