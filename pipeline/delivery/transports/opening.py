"""An address to a depot: the one place that knows which transports there are."""

import importlib.util
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.core.errors import MissingExtra, UsageError
from pipeline.delivery.depot import Depot, WritableDepot
from pipeline.delivery.transports.folder import FolderDepot

_SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)(://|::)")
_FILE = "file://"


@contextmanager
def open_depot(address: str) -> Iterator[Depot]:
    """Open a depot to read from: a folder, ``http(s)://…``, ``oci://…``, ``s3://…`` or what else fsspec knows.

    Raises UsageError for an address that is none, MissingExtra where a package for it is not installed. Nothing is
    asked of the depot yet.
    """
    if _scheme(address) in ("http", "https"):
        from pipeline.delivery.transports.http import HttpDepot

        with closing(HttpDepot.at(address)) as depot:
            yield depot
    else:
        with open_writable(address) as writable:
            yield writable


@contextmanager
def open_writable(address: str) -> Iterator[WritableDepot]:
    """Open a depot to publish to; as :func:`open_depot`, but an HTTP server takes nothing, so it raises UsageError."""
    scheme = _scheme(address)
    if scheme in ("http", "https"):
        raise UsageError(f"{address} can only be read; publish to the folder or bucket that it serves.")
    if scheme == "oci":
        from pipeline.delivery.transports.oci import OciDepot

        with closing(OciDepot.at(address)) as depot:
            yield depot
    elif scheme is None or address.startswith(_FILE):
        yield FolderDepot(Path(address.removeprefix(_FILE)))
    else:
        yield _object_store(scheme, address)


def _object_store(scheme: str, address: str) -> WritableDepot:
    if importlib.util.find_spec("fsspec") is None:
        raise MissingExtra(f"A depot at {scheme}:// needs the extra delivery: pip install 'hotspare[delivery]'.")
    from pipeline.delivery.transports.object_store import open_object_store

    return open_object_store(address)


def _scheme(address: str) -> str | None:
    match = _SCHEME.match(address)
    return None if match is None else match["scheme"].lower()
