"""Who may speak to the front: names in the Host header, bearer tokens."""

import ipaddress
from collections.abc import Mapping, Sequence

from pipeline.runtime.http.reply import Reply, error_reply
from pipeline.runtime.http.tokens import Tokens, TokenUse

FOR_ADMIN = frozenset({TokenUse.ADMIN})
FOR_INFERENCE = frozenset({TokenUse.ADMIN, TokenUse.INFERENCE})

_BEARER = b"bearer "
_CHALLENGE = ((b"www-authenticate", b"Bearer"),)


def has_one_host(fields: Sequence[tuple[bytes, bytes]], headers: Mapping[bytes, bytes], http_version: str) -> bool:
    """Tell whether a request has one Host header, as RFC 9112, 3.2 wants: of two, a proxy may believe the other one.

    ``headers`` are the ``fields`` by name. HTTP/1.0 does without.
    """
    if len(headers) == len(fields):  # no name stands there twice
        return b"host" in headers or http_version == "1.0"
    return sum(name == b"host" for name, _ in fields) == 1 or (b"host" not in headers and http_version == "1.0")


def host_admitted(host: bytes | None, names: frozenset[bytes]) -> bool:
    """Tell whether a Host header names this server: loopback, an IP address, or a configured name.

    A page can make its own site's name point at this machine, but not an address: only names have to be known. A
    request without the header (HTTP/1.0) comes from no browser.
    """
    return host is None or host in names or _name(host) in names or _is_address(_name(host))


def origin_admitted(headers: Mapping[bytes, bytes], names: frozenset[bytes]) -> bool:
    """Tell whether a request that changes or costs something comes from no browser, or from a page of this server.

    Browsers let any page post to any address without asking; they say which page it was. A page counts as ours if it is
    at the address that was asked, or at a name that this server is known under.
    """
    if headers.get(b"sec-fetch-site") == b"cross-site":
        return False
    origin = headers.get(b"origin")
    if origin is None:
        return True
    _, _, place = origin.rpartition(b"://")
    return bool(place) and (place == headers.get(b"host") or place in names or _name(place) in names)


def _name(host: bytes) -> bytes:
    name, _, port = host.rpartition(b":")
    return (name if name and port.isdigit() else host).lower()


def _is_address(name: bytes) -> bool:
    try:
        ipaddress.ip_address(name.strip(b"[]").decode("ascii"))
    except ValueError:  # UnicodeDecodeError is one
        return False
    return True


def token_refusal(tokens: Tokens, uses: frozenset[TokenUse], authorization: bytes | None) -> Reply | None:
    """Return the refusal of a request that has no token for any of the uses, else None."""
    if authorization is None or authorization[: len(_BEARER)].lower() != _BEARER:
        return error_reply(401, "This needs a token: send the header Authorization: Bearer TOKEN.", _CHALLENGE)
    if not tokens.admit(authorization[len(_BEARER) :].strip(), uses):
        return error_reply(401, "This token does not open this; ask who runs the server for one.", _CHALLENGE)
    return None
