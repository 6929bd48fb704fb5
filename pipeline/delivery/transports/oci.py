"""A depot in an OCI registry: ``oci://host[:port]/repository``. Chunks are blobs, every other file is a tag.

A tag (``channels.credit.channel.sig``) names a manifest whose one layer is the file's bytes. Beside each
``contents.sig`` a tag ``bundles.<id>.chunks`` names a manifest with the bundle's chunks as its layers: nobody reads it,
it keeps the registry's garbage collector from taking them. Who reads a chunk or a signature checks it, as everywhere.
Source: https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
"""

import http.client
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Final, Literal
from urllib.parse import SplitResult, urlencode, urlsplit

from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.errors import FileAccess, Malformed, UsageError
from pipeline.core.schema import Rule, plain
from pipeline.delivery.contents import unverified_contents
from pipeline.delivery.depot import CONTENTS_FILE, bundles_of, is_chunk_path
from pipeline.delivery.transports.oci_login import Login, followable, is_loopback
from pipeline.delivery.transports.web import ABSENT, Answer, WebServer, explained, host_of

_MANIFEST: Final = "application/vnd.oci.image.manifest.v1+json"
_EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
_FILE_TYPE: Final = "application/vnd.hotspare.depot.v1"
_BYTES_TYPE = "application/octet-stream"
_EMPTY = b"{}"
_TITLE = "org.opencontainers.image.title"
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_ADDRESS = re.compile(rf"oci://(?P<server>[^/@?#]+)/(?P<repository>{_PART}(?:/{_PART})*)/*")
_OURS_BYTES_MAX = 1 << 14  # a manifest with one layer takes 700 bytes
_PUT_BYTES_MAX = 4 << 20  # what every registry takes, and no more
_PAGE = 1_000
_PAGE_BYTES_MAX = 16 << 20  # some registries send all tags at once, of 90 bytes, four to a bundle
_MOVED = {301, 302, 303, 307, 308}
_OTHERS_MAX = 4


@dataclass(frozen=True)
class _Blob:
    """A descriptor."""

    mediaType: str  # noqa: N815 - the name in the format
    digest: Annotated[str, Rule(pattern="sha256:[0-9a-f]{64}")]
    size: Annotated[int, Rule("Bytes.", minimum=0)]

    @classmethod
    def of(cls, data: bytes, media_type: str = _BYTES_TYPE) -> "_Blob":
        return cls(media_type, f"sha256:{sha256_hex(data)}", len(data))


@dataclass(frozen=True)
class _Manifest:
    """An image manifest as this module writes it: its title, the file's path, makes every one another."""

    schemaVersion: Literal[2]  # noqa: N815 - the name in the format
    mediaType: Literal["application/vnd.oci.image.manifest.v1+json"]  # noqa: N815 - the name in the format
    artifactType: Literal["application/vnd.hotspare.depot.v1"]  # noqa: N815 - the name in the format
    config: _Blob
    layers: tuple[_Blob, ...]
    annotations: dict[str, str]

    @classmethod
    def of(cls, title: str, layers: Sequence[_Blob]) -> "_Manifest":
        return cls(2, _MANIFEST, _FILE_TYPE, _Blob.of(_EMPTY, _EMPTY_TYPE), tuple(layers), {_TITLE: title})


@dataclass(frozen=True)
class _Tags:
    """A page of tags; some registries say null for none."""

    name: str
    tags: tuple[str, ...] | None


@dataclass(frozen=True)
class OciDepot:
    """One repository of a registry."""

    address: str
    root: str
    """The registry's own URL."""
    repository: str
    server: WebServer
    login: Login
    lanes: int = 8
    frees_later: str | None = "The room is free when the registry has collected its garbage, as its manual says."
    _others: dict[str, WebServer] = field(default_factory=dict, repr=False)
    """Where the registry has its blobs lie, by host."""

    @classmethod
    def at(cls, address: str) -> "OciDepot":
        """Return the depot at an ``oci://`` address; raises UsageError for one that is none."""
        match = _ADDRESS.fullmatch(address)
        try:
            parts = urlsplit(f"https://{match['server']}" if match else "")
            host = host_of(parts)
        except ValueError:
            host = ""
        if match is None or not host:
            raise UsageError("That is no address of an OCI depot; write oci://host[:port]/repository in small letters.")
        is_plain = is_loopback(host)
        root = f"{'http' if is_plain else 'https'}://{match['server']}"
        server, login = WebServer.of(parts, is_tls=not is_plain), Login(match["server"], is_plain=is_plain)
        return cls(address.rstrip("/"), root, match["repository"], server, login)

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes, or None."""
        if is_chunk_path(path):
            return self._blob(_chunk_digest(path), f"{self.address}/{path}", bytes_max)
        layer = self._layer(path)
        if layer is None:
            return None
        if layer.size > bytes_max:
            raise Malformed(f"{self.address}/{path} is larger than {bytes_max} bytes; publish it again.")
        return self._blob(layer.digest, f"{self.address}/{path}", bytes_max)

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, or None; contents whose chunks the registry is free to take are not there."""
        if is_chunk_path(path):
            return self._blob_size(_chunk_digest(path), f"{self.address}/{path}")
        layer = self._layer(path)
        if layer is None or not self._are_chunks_kept(path):
            return None
        return layer.size

    def write(self, path: str, data: bytes) -> None:
        """Put a chunk, or a file and its tag; what keeps a bundle's chunks is put before its contents."""
        if is_chunk_path(path):
            self._upload(_chunk_digest(path), data, f"{self.address}/{path}")
            return
        if _is_contents(path):
            self._keep_chunks(path, data)
        layer = _Blob.of(data)
        self._upload(layer.digest, data, f"{self.address}/{path}")
        self._put_manifest(path, [layer])

    def bundle_ids(self) -> frozenset[str]:
        """Return the bundles about which there is a tag."""
        return bundles_of(tag.replace(".", "/", 2) for tag in self._tags())

    def remove(self, path: str) -> None:
        """Remove a file's manifest, and its tag with it; a chunk goes when no manifest names it any more."""
        if not is_chunk_path(path):
            self._remove_manifest(path)
        if _is_contents(path):
            self._remove_manifest(_keeper(path))

    def close(self) -> None:
        """Close every connection."""
        for server in (self.server, *self._others.values()):
            server.close()

    def _keep_chunks(self, path: str, contents: bytes) -> None:
        files = unverified_contents(contents, path).files
        sizes = {piece.sha256: piece.size for file in files for piece in file.pieces}
        self._put_manifest(_keeper(path), [_Blob(_BYTES_TYPE, f"sha256:{one}", sizes[one]) for one in sorted(sizes)])

    def _are_chunks_kept(self, path: str) -> bool:
        if not _is_contents(path):
            return True
        place = f"{self.address}/{_keeper(path)}"
        answer = self._ask("HEAD", f"manifests/{_tag(_keeper(path))}", place, 0, {"Accept": _MANIFEST})
        if answer.status not in ABSENT:
            self._require(answer, http.client.OK, place)
        return answer.status == http.client.OK

    def _layer(self, path: str) -> _Blob | None:
        """Return what a tag leads to; raises Malformed for a manifest that is none of ours."""
        place = f"{self.address}/{path}"
        answer = self._ask("GET", f"manifests/{_tag(path)}", place, _OURS_BYTES_MAX, {"Accept": _MANIFEST})
        if answer.status in ABSENT:
            return None
        self._require(answer, http.client.OK, place)
        manifest = fit(_Manifest, parse_strict(answer.body, f"The manifest of {place}"), f"The manifest of {place}")
        if len(manifest.layers) != 1 or manifest.annotations != {_TITLE: path}:
            raise Malformed(f"The manifest of {place} is of something else; remove that tag and publish again.")
        return manifest.layers[0]

    def _put_manifest(self, path: str, layers: Sequence[_Blob]) -> None:
        place, data = f"{self.address}/{path}", canonical_json(plain(_Manifest.of(path, layers)))
        if len(data) > _PUT_BYTES_MAX:
            raise FileAccess(f"{place} has more chunks than a registry takes in one manifest; use another depot.")
        empty = _Blob.of(_EMPTY)
        if self._blob_size(empty.digest, place) is None:
            self._upload(empty.digest, _EMPTY, place)
        answer = self._ask("PUT", f"manifests/{_tag(path)}", place, 0, {"Content-Type": _MANIFEST}, data)
        self._require(answer, http.client.CREATED, place)

    def _remove_manifest(self, path: str) -> None:
        place = f"{self.address}/{path}"
        found = self._ask("GET", f"manifests/{_tag(path)}", place, _PUT_BYTES_MAX, {"Accept": _MANIFEST})
        if found.status in ABSENT:
            return
        self._require(found, http.client.OK, place)
        done = self._ask("DELETE", f"manifests/sha256:{sha256_hex(found.body)}", place, 0)
        if done.status == http.client.METHOD_NOT_ALLOWED:
            raise FileAccess(f"{self.address} lets nothing be removed; allow it in the registry's settings.")
        if done.status not in ABSENT:
            self._require(done, http.client.ACCEPTED, place)

    def _tags(self) -> Iterator[str]:
        """Yield every tag, page by page."""
        place, last = f"{self.address} (its tags)", ""
        while True:
            query = urlencode({"n": _PAGE, **({"last": last} if last else {})})
            answer = self._ask("GET", f"tags/list?{query}", place, _PAGE_BYTES_MAX)
            if answer.status in ABSENT:
                return
            self._require(answer, http.client.OK, place)
            page = fit(_Tags, parse_strict(answer.body, place), place).tags or ()
            yield from page
            if "Link" not in answer.headers:
                return
            if not page or page[-1] <= last:
                raise Malformed(f"{place} come round and round; give another registry.")
            last = page[-1]

    def _blob(self, digest: str, place: str, bytes_max: int) -> bytes | None:
        answer = self._ask_for_blob("GET", digest, place, bytes_max)
        return None if answer is None else answer.body

    def _blob_size(self, digest: str, place: str) -> int | None:
        answer = self._ask_for_blob("HEAD", digest, place, 0)
        size = "" if answer is None else answer.headers.get("Content-Length", "")
        return int(size) if re.fullmatch(r"[0-9]{1,15}", size) else None

    def _ask_for_blob(self, method: str, digest: str, place: str, bytes_max: int) -> Answer | None:
        answer = self._ask(method, f"blobs/{digest}", place, bytes_max)
        if answer.status in _MOVED:
            answer = self._elsewhere(method, answer, place, bytes_max)
        if answer.status in ABSENT:
            return None
        self._require(answer, http.client.OK, place)
        return answer

    def _elsewhere(self, method: str, answer: Answer, place: str, bytes_max: int) -> Answer:
        """Ask where the registry has a blob lie: one step, without credentials; its digest is known anyhow."""
        parts = self._location(answer)
        if parts is None:
            raise FileAccess(f"{place} sends us to where nothing is fetched from; give another registry.")
        target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        return self._other(parts).ask(method, target, place, bytes_max)

    def _location(self, answer: Answer) -> SplitResult | None:
        told = answer.headers.get("Location")
        return followable(told, is_plain=self.server.tls is None, base=self.root) if told else None

    def _other(self, parts: SplitResult) -> WebServer:
        key = f"{parts.scheme}://{parts.netloc}"
        server = self._others.get(key)
        if server is None:
            server = WebServer.of(parts, is_tls=parts.scheme == "https")
            if len(self._others) < _OTHERS_MAX:
                server = self._others.setdefault(key, server)
        return server

    def _upload(self, digest: str, data: bytes, place: str) -> None:
        begun = self._ask("POST", "blobs/uploads/", place, 0)
        self._require(begun, http.client.ACCEPTED, place)
        parts = self._location(begun)
        if parts is None or _end(parts) != _end(urlsplit(self.root)):
            raise FileAccess(f"{place} is to be uploaded elsewhere, where nothing is sent; give that address.")
        query = "&".join(part for part in (parts.query, urlencode({"digest": digest})) if part)
        done = self._send("PUT", f"{parts.path}?{query}", place, 0, {"Content-Type": _BYTES_TYPE}, data)
        self._require(done, http.client.CREATED, place)

    def _ask(
        self,
        method: str,
        tail: str,
        place: str,
        bytes_max: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        return self._send(method, f"/v2/{self.repository}/{tail}", place, bytes_max, headers or {}, body)

    def _send(
        self, method: str, target: str, place: str, bytes_max: int, headers: dict[str, str], body: bytes
    ) -> Answer:
        """Ask the registry, and once more when it asks who we are."""
        answer = self.server.ask(method, target, place, bytes_max, {**headers, **self.login.headers}, body)
        if answer.status != http.client.UNAUTHORIZED:
            return answer
        self.login.answer(answer.headers.get_all("WWW-Authenticate", []), self.address)
        return self.server.ask(method, target, place, bytes_max, {**headers, **self.login.headers}, body)

    def _require(self, answer: Answer, status: int, place: str) -> None:
        if answer.status != status:
            is_closed = answer.status in (http.client.UNAUTHORIZED, http.client.FORBIDDEN)
            advice = self.login.advice if is_closed else "check the address, or give another registry"
            raise explained(answer, place, advice)


def _end(parts: SplitResult) -> tuple[str, str | None, int]:
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _tag(path: str) -> str:
    return path.replace("/", ".")


def _is_contents(path: str) -> bool:
    return path.endswith(f"/{CONTENTS_FILE}")


def _keeper(contents: str) -> str:
    return f"{contents.removesuffix(CONTENTS_FILE)}chunks"


def _chunk_digest(path: str) -> str:
    return f"sha256:{path.rpartition('/')[2]}"
