"""``hotspare swap MODEL``: have a running server read a model's bundles again and move to them, losing no request."""

import argparse
import json
import os
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

from pipeline.core.environment import TOKEN
from pipeline.core.errors import KeyFileError, Refusal, Unreachable, UsageError
from pipeline.core.files import read_bytes

EXAMPLE = "hotspare swap credit --url http://127.0.0.1:8080 --token-file admin.token"

_TIMEOUT_S = 120.0  # new workers are started, warmed and compared first
_ANSWER_BYTES_MAX = 1 << 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="the model's name")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the server is")
    parser.add_argument("--token-file", type=Path, help=f"file with an admin token; else the variable {TOKEN}")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Ask for the swap and say what came of it."""
    if not args.url.startswith(("http://", "https://")):
        raise UsageError(f"--url {args.url} is no http or https address.")
    address = f"{args.url.rstrip('/')}/admin/models/{quote(args.model, safe='')}/swap"
    request = urllib.request.Request(  # noqa: S310 - http or https, checked above
        address, data=b"{}", method="POST", headers={"Authorization": f"Bearer {_token(args)}"}
    )
    answer = _asked(request)
    print(json.dumps(answer, indent=2, sort_keys=True) if args.json else answer.get("done", answer))
    return 0


def _token(args: argparse.Namespace) -> str:
    if args.token_file is not None:
        return read_bytes(args.token_file, KeyFileError, "give the file that holds an admin token").decode().strip()
    if TOKEN not in os.environ:
        raise KeyFileError(f"A swap needs an admin token: --token-file FILE, or the variable {TOKEN}.")
    return os.environ[TOKEN].strip()


def _asked(request: urllib.request.Request) -> dict[str, object]:
    # A redirect would carry the token elsewhere, and so would a proxy, which could read it.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect)
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return _parsed(answer.read(_ANSWER_BYTES_MAX))
    except urllib.error.HTTPError as error:
        said = _parsed(error.read(_ANSWER_BYTES_MAX)).get("error", error.reason)
        raise Refusal(f"The server refused (HTTP {error.code}): {said}") from error
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise Unreachable(f"{request.full_url} does not answer ({error}); is the server running?") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def _parsed(content: bytes) -> dict[str, object]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
