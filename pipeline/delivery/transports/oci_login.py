"""Who we are to an OCI registry that asks: what it asks for, and what the docker configuration holds for it.

Source of the token's protocol: https://distribution.github.io/distribution/spec/auth/token/
"""

import base64
import http.client
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import SplitResult, urlencode, urljoin, urlsplit

from pipeline.bundle.strict_json import parse_strict
from pipeline.core.environment import REGISTRIES
from pipeline.core.errors import FileAccess, Malformed
from pipeline.core.files import disk_errors
from pipeline.delivery.transports.web import WebServer, explained, host_of

_FOLDER = "DOCKER_CONFIG"
_CONFIG_BYTES_MAX = 1 << 20
_TOKEN_BYTES_MAX = 1 << 16
_PARAMETER = re.compile(r'([A-Za-z_]+)="([^"\\]*)"')
_TEXT = re.compile(r"[!-~]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+=*")


@dataclass(frozen=True)
class Challenge:
    """What a registry asks for: ``basic``, or a bearer token that ``realm`` gives out."""

    is_basic: bool
    realm: str = ""
    asked: tuple[tuple[str, str], ...] = ()
    """What to ask the realm for: service and scope."""


@dataclass(frozen=True)
class Credentials:
    """An entry of a docker configuration."""

    basic: str | None = field(repr=False)
    """User and password, as the header wants them."""
    bearer: str | None = field(repr=False)
    """A token for the registry itself."""


class Login:
    """Answers one registry's challenges. Nothing is sent before it asks, or to anybody whom it does not name."""

    def __init__(self, registry: str, *, is_plain: bool, environment: Mapping[str, str] = os.environ) -> None:
        self._registry = registry
        self._is_plain = is_plain
        self._environment = environment
        self._header: Mapping[str, str] = {}

    @property
    def headers(self) -> Mapping[str, str]:
        """What to send with the next request; a secret."""
        return self._header

    def answer(self, challenges: Sequence[str], place: str) -> None:
        """Get what the registry asks for.

        Raises FileAccess where there is nothing to say, or a realm that must not be asked; Unreachable, Malformed.
        """
        challenge = read_challenge(challenges)
        known = find_credentials(self._registry, self._environment)
        if challenge is None:
            raise FileAccess(f"{place} is closed, and does not say what it asks for; check the address.")
        if known is not None and known.bearer is not None:
            self._header = {"Authorization": f"Bearer {known.bearer}"}
        elif not challenge.is_basic:
            self._header = {"Authorization": f"Bearer {self._token(challenge, known)}"}
        elif known is not None and known.basic is not None:
            self._header = {"Authorization": f"Basic {known.basic}"}
        else:
            raise FileAccess(f"{place} asks for user and password; {self.advice}.")

    @property
    def advice(self) -> str:
        """What somebody who was not let in is to do."""
        return f"run `docker login {self._registry}`, or set {REGISTRIES} (credential helpers are not asked)"

    def _token(self, challenge: Challenge, known: Credentials | None) -> str:
        parts = followable(challenge.realm, is_plain=self._is_plain)
        if parts is None:
            raise FileAccess(f"{self._registry} sends us for a token to where nothing is sent; give another registry.")
        place = f"{parts.scheme}://{parts.netloc}{parts.path}, the token server of {self._registry},"
        query = "&".join(part for part in (parts.query, urlencode(challenge.asked)) if part)
        target = f"{parts.path or '/'}?{query}"
        secret = {} if known is None or known.basic is None else {"Authorization": f"Basic {known.basic}"}
        server = WebServer.of(parts, is_tls=parts.scheme == "https")
        try:
            answer = server.ask("GET", target, place, _TOKEN_BYTES_MAX, secret)
        finally:
            server.close()
        if answer.status != http.client.OK:
            raise explained(answer, place, self.advice)
        return _read_token(answer.body, place)


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine: there alone plain HTTP is spoken."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def followable(address: str, *, is_plain: bool, base: str = "") -> SplitResult | None:
    """Take apart an address that a registry names, as seen from ``base``; None for one that must not be asked.

    It is https, or on this machine as the registry itself is.
    """
    try:
        whole = urljoin(base, address)
        parts = urlsplit(whole)
        host = host_of(parts)
    except ValueError:
        return None
    if not host or "@" in parts.netloc or not _TEXT.fullmatch(whole):
        return None
    is_plain_too = is_plain and parts.scheme == "http" and is_loopback(host)
    return parts if parts.scheme == "https" or is_plain_too else None


def read_challenge(challenges: Sequence[str]) -> Challenge | None:
    """Read ``WWW-Authenticate``: the first challenge of a kind that is known; None where there is none."""
    for text in challenges:
        kind, _, rest = text.partition(" ")
        told = dict(_PARAMETER.findall(rest))
        if kind.lower() == "basic":
            return Challenge(True)
        if kind.lower() == "bearer" and "realm" in told:
            asked = tuple((name, told[name]) for name in ("service", "scope") if name in told)
            return Challenge(False, told["realm"], asked)
    return None


def find_credentials(registry: str, environment: Mapping[str, str]) -> Credentials | None:
    """Return what the docker configuration holds for a registry (``host[:port]``), or None.

    Raises FileAccess for a configuration that cannot be read; its text is never quoted.
    """
    text, place = _configuration(environment)
    if text is None:
        return None
    try:
        auths = json.loads(text).get("auths") or {}
        entry = next((value for key, value in auths.items() if _host_of(key) == registry), None)
        return None if entry is None else _credentials(entry)
    except (AttributeError, RecursionError, TypeError, ValueError):
        # Neither the text nor what was expected of it: both may be secrets.
        raise FileAccess(f"{place} is no docker configuration; run `docker login {registry}`.") from None


def _configuration(environment: Mapping[str, str]) -> tuple[str | None, str]:
    if environment.get(REGISTRIES):  # a build service sets what nobody filled in to nothing
        return environment[REGISTRIES], REGISTRIES
    folder = environment.get(_FOLDER) or Path(environment.get("HOME", "/"), ".docker")
    path = Path(folder, "config.json")
    with disk_errors(path):
        try:
            with path.open("rb") as stream:
                return stream.read(_CONFIG_BYTES_MAX).decode("utf-8", "replace"), str(path)
        except FileNotFoundError:
            return None, str(path)


def _host_of(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _credentials(entry: Mapping[str, object]) -> Credentials:
    basic, bearer = _field(entry, "auth", _BASE64), _field(entry, "registrytoken", _TEXT)
    if basic is not None and b":" not in base64.b64decode(basic):
        raise ValueError("no user and password")
    return Credentials(basic, bearer)


def _field(entry: Mapping[str, object], name: str, pattern: re.Pattern[str]) -> str | None:
    value = entry.get(name) or None
    if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
        raise ValueError(name)
    return value


def _read_token(body: bytes, place: str) -> str:
    told = parse_strict(body, place)
    token = (told.get("token") or told.get("access_token")) if isinstance(told, dict) else None
    if not isinstance(token, str) or not _TEXT.fullmatch(token):
        raise Malformed(f"{place} gives no token; try later, or give another registry.")
    return token
