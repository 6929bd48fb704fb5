"""A running server, asked from a shell: what it serves, and to read its bundles again."""

import argparse
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from pipeline.core.environment import TOKEN
from pipeline.core.errors import KeyFileError, Refusal, Unreachable, UsageError
from pipeline.core.files import read_bytes

_TOKEN = re.compile(rb"[!-~]+")
_SWAP_S = 120.0  # new workers are started, warmed and compared first
_STATUS_S = 10.0
_ANSWER_BYTES_MAX = 1 << 22


@dataclass(frozen=True)
class RunningServer:
    """A server by its address, and the admin token that it takes orders with; raises UsageError for no address."""

    url: str
    token: str | None = None

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
            (parts.hostname or "").encode("idna")  # as whoever looks the name up will
            parts.path.encode("ascii")
        except ValueError:
            is_address = False
        if not is_address:
            raise UsageError(f"{self.url} is no http or https address.")

    def swap(self, model: str) -> dict[str, object]:
        """Have it read a model's bundles again and move to them; returns what it says.

        Raises Refusal with its reason, Unreachable.
        """
        return self._asked(f"/admin/models/{quote(model, safe='')}/swap", _SWAP_S, b"{}")

    def pair(self, model: str) -> dict[str, object]:
        """Return what its ``/status.json`` says of a model; raises Refusal when it does not serve it, Unreachable."""
        pairs = self._asked("/status.json", _STATUS_S).get("pairs")
        for pair in pairs if isinstance(pairs, list) else []:
            if isinstance(pair, dict) and pair.get("model") == model:
                return pair
        raise Refusal(f"The server at {self.url} does not serve {model}; name one that does.")

    def _asked(self, path: str, within_s: float, body: bytes | None = None) -> dict[str, object]:
        headers = {} if body is None or self.token is None else {"Authorization": f"Bearer {self.token}"}
        request = urllib.request.Request(f"{self.url.rstrip('/')}{path}", data=body, headers=headers)  # noqa: S310
        # A redirect would carry the token elsewhere, and so would a proxy, which could read it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
        try:
            with opener.open(request, timeout=within_s) as answer:
                return _parsed(answer.read(_ANSWER_BYTES_MAX))
        except urllib.error.HTTPError as error:
            said = _parsed(error.read(_ANSWER_BYTES_MAX)).get("error", error.reason)
            raise Refusal(f"The server refused (HTTP {error.code}): {said}") from error
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{request.full_url} does not answer ({error}); is the server running?") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _parsed(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def add_token_argument(parser: "argparse._ActionsContainer") -> None:
    """Declare where the admin token is."""
    parser.add_argument("--token-file", type=Path, help=f"file with an admin token; else the variable {TOKEN}")


def admin_token(args: argparse.Namespace) -> str:
    """Return the admin token that the arguments or the environment name; raises KeyFileError when there is none."""
    if args.token_file is not None:
        place = str(args.token_file)
        held = read_bytes(args.token_file, KeyFileError, "give the file that holds an admin token")
    elif TOKEN in os.environ:
        place, held = f"The variable {TOKEN}", os.environb[TOKEN.encode()]
    else:
        raise KeyFileError(f"A swap needs an admin token: --token-file FILE, or the variable {TOKEN}.")
    if not _TOKEN.fullmatch(held.strip()):  # never shown: it may be another secret
        raise KeyFileError(f"{place} holds no token; `hotspare token` prints one: a line of letters, digits, - and _.")
    return held.strip().decode()
