"""Administration: switch, hold, release, swap. Absent unless the token file has an admin token."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.core.errors import HotspareError, InputError, Refusal, SurroundingsError, Untrusted, UsageError
from pipeline.core.names import Role
from pipeline.core.schema import Rule, SchemaProblems, read
from pipeline.runtime.http.admission import FOR_ADMIN, token_refusal
from pipeline.runtime.http.responses import as_response, error, ok
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.tokens import TokenUse
from pipeline.runtime.members import Seat
from pipeline.runtime.service import PairStatus, Service

BODY_BYTES_MAX = 4096
SEAT = r"(primary|backup)-[0-9]{1,3}"

_STATUS_OF: tuple[tuple[type[HotspareError], int], ...] = (
    (Refusal, 409),
    (Untrusted, 409),
    (InputError, 400),
    (SurroundingsError, 503),
)
T = TypeVar("T")


@dataclass(frozen=True)
class SwitchOrder:
    """Which role shall serve."""

    to: Role


@dataclass(frozen=True)
class SeatOrder:
    """Which member is meant."""

    seat: Annotated[str, Rule("A member, e.g. backup-0.", pattern=SEAT)]

    def parsed(self) -> Seat:
        """Return the seat."""
        role, replica = self.seat.rsplit("-", 1)
        return Seat(Role(role), int(replica))


@dataclass(frozen=True)
class SwapOrder:
    """Nothing to say: the bundles are read again from where they were."""


class Admin:
    """Carries orders to the service; every one needs an admin token."""

    def __init__(self, service: Service, front: FrontSettings) -> None:
        self._service = service
        self._tokens = front.tokens
        self._body_s_max = front.limits.body_s_max

    def routes(self) -> list[Route]:
        """Return the endpoints; none where no token could open them."""
        if not self._tokens.has(TokenUse.ADMIN):
            return []
        orders = {"switch": self._switch, "hold": self._hold, "release": self._release, "swap": self._swap}
        return [Route(f"/admin/models/{{model}}/{n}", self._guarded(o), methods=["POST"]) for n, o in orders.items()]

    def _guarded(
        self, order: Callable[[PairStatus, bytes], Awaitable[str]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            refusal = token_refusal(self._tokens, FOR_ADMIN, _authorization(request))
            if refusal is not None:
                return as_response(refusal)
            pair = next((pair for pair in self._service.status() if pair.model == request.path_params["model"]), None)
            if pair is None:
                return error(404, f"No model {request.path_params['model']!r} is served here.")
            try:
                async with asyncio.timeout(self._body_s_max):
                    body = await _body(request)
                return ok({"done": await order(pair, body)})
            except TimeoutError:
                return error(408, "The body took too long to arrive.")
            except HotspareError as refused:
                return error(_status_of(refused), str(refused))

        return endpoint

    async def _switch(self, pair: PairStatus, body: bytes) -> str:
        return await self._service.switch(pair.model, _order(SwitchOrder, body).to)

    async def _hold(self, pair: PairStatus, body: bytes) -> str:
        return await self._service.hold(pair.model, _seat(pair, body))

    async def _release(self, pair: PairStatus, body: bytes) -> str:
        return await self._service.release(pair.model, _seat(pair, body))

    async def _swap(self, pair: PairStatus, body: bytes) -> str:
        _order(SwapOrder, body)
        return await self._service.swap(pair.model)


def _authorization(request: Request) -> bytes | None:
    value = request.headers.get("authorization")
    return None if value is None else value.encode("latin-1")


async def _body(request: Request) -> bytes:
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise UsageError(f"The body is longer than {BODY_BYTES_MAX} bytes; an order is short.")
    except ClientDisconnect as gone:
        raise UsageError("The client went away before its order was read.") from gone
    return body


def _order(cls: type[T], body: bytes) -> T:
    try:
        return read(cls, orjson.loads(body or b"{}"))
    except orjson.JSONDecodeError as raised:
        raise UsageError(f"The body is not JSON: {raised.msg}.") from raised
    except SchemaProblems as problems:
        raise UsageError("; ".join(problems.problems) + ".") from problems


def _seat(pair: PairStatus, body: bytes) -> Seat:
    seat = _order(SeatOrder, body).parsed()
    if not any(member.seat == seat for member in pair.members):
        raise UsageError(f"{pair.model} has no member {seat}; it has {', '.join(str(m.seat) for m in pair.members)}.")
    return seat


def _status_of(refused: HotspareError) -> int:
    return next((status for kind, status in _STATUS_OF if isinstance(refused, kind)), 500)
