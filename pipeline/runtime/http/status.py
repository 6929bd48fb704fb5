"""The status page and the figures it draws."""

import base64
import hashlib
import re
from importlib.resources import files

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from pipeline.runtime.http.metrics import CONTENT_TYPE, HttpCounts, metrics_text
from pipeline.runtime.http.settings import FrontSettings
from pipeline.runtime.http.tokens import TokenUse
from pipeline.runtime.service import Service

_INLINE = re.compile(r"<(style|script)>(.*?)</\1>", re.DOTALL)
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


class Status:
    """Shows the pairs to people (``/``), to the page (``/status.json``) and to Prometheus (``/metrics``)."""

    def __init__(self, service: Service, front: FrontSettings, counts: HttpCounts) -> None:
        self._service = service
        self._counts = counts
        self._can_be_told = front.tokens.has(TokenUse.ADMIN)
        self._page = files(__package__).joinpath("status.html").read_bytes()
        self._page_headers = {
            "content-security-policy": content_policy(self._page.decode()),
            "x-frame-options": "DENY",
            "x-content-type-options": "nosniff",
            "referrer-policy": "no-referrer",
            "cache-control": "no-store",
        }

    def routes(self) -> list[Route]:
        """Return the endpoints."""
        return [Route("/", self.page), Route("/status.json", self.figures), Route("/metrics", self.metrics)]

    async def page(self, _: Request) -> Response:
        """Return the page; it holds no figures itself."""
        return Response(self._page, 200, self._page_headers, "text/html")

    async def figures(self, _: Request) -> Response:
        """Return every pair's state as JSON."""
        figures = {
            "draining": self._service.draining(),
            "can_be_told": self._can_be_told,
            "pairs": self._service.status(),
        }
        body = orjson.dumps(figures, default=dict, option=_OPTIONS)
        return Response(body, 200, {"cache-control": "no-store"}, "application/json")

    async def metrics(self, _: Request) -> Response:
        """Return the metrics."""
        text = metrics_text(self._service.status(), self._counts, self._service.draining())
        return Response(text, 200, {"cache-control": "no-store"}, CONTENT_TYPE)


def content_policy(page: str) -> str:
    """Return the policy under which only a page's own inline style and script run, and only its server is asked."""
    hashes: dict[str, list[str]] = {"style": [], "script": []}
    for kind, text in _INLINE.findall(page):
        hashes[kind].append(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'")
    return (
        f"default-src 'none'; style-src {' '.join(hashes['style'])}; script-src {' '.join(hashes['script'])};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
