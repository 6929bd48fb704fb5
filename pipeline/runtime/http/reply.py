"""What the front sends back."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from pipeline.core.printable import printable

Headers = tuple[tuple[bytes, bytes], ...]

JSON_TYPE = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")


@dataclass(frozen=True)
class Reply:
    """Status, headers (without the length) and body of an answer, and what the access log says of it."""

    status: int
    headers: Headers
    body: bytes
    facts: Mapping[str, object] = field(default_factory=dict)


def error_reply(status: int, sentence: str, headers: Headers = ()) -> Reply:
    """Make the protocol's ``{"error": "..."}`` answer."""
    body = orjson.dumps({"error": printable(sentence)})
    return Reply(status, (JSON_TYPE, *headers), body)
