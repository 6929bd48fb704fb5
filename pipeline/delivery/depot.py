"""A depot: where promoted releases are published for nodes. Its layout, and the port that every transport fulfils.

::

    DEPOT/channels/<model>/channel.sig          the only file that changes; written last
    DEPOT/bundles/<bundle_id>/bundle.sig        as signed
    DEPOT/bundles/<bundle_id>/contents.sig      which chunks the bundle's files are made of
    DEPOT/bundles/<bundle_id>/drill.json        the drill attestation of the pair whose primary this is
    DEPOT/chunks/<first 2 hex>/<sha256>         the raw bytes of one chunk

Nothing in a depot is believed: whoever can write it can keep nodes from getting a release, and no more.
"""

import re
from collections.abc import Iterable
from typing import Protocol

from pipeline.core.errors import UsageError
from pipeline.core.names import MODEL_NAME

CONTENTS_FILE = "contents.sig"
DRILL_FILE = "drill.json"

_BUNDLE_FILE = re.compile(r"bundles/([0-9a-f]{64})/[^/]+")
_CHANNEL_ADDRESS = re.compile(rf"(?P<depot>.*[^/])/+channels/(?P<model>{MODEL_NAME})/*", re.DOTALL)


class Depot(Protocol):
    """A depot to read from; several threads may."""

    @property
    def address(self) -> str:
        """Where it is, for messages; holds no secret."""

    @property
    def lanes(self) -> int:
        """How many reads (or writes) at once are worth their while: one where nothing is waited for."""

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes, or None where there is no such file.

        Never holds much more than ``bytes_max`` bytes. Raises Malformed for a larger file, Unreachable when the depot
        does not answer, FileAccess when it does not let us read.
        """


class WritableDepot(Depot, Protocol):
    """A depot to publish to, and to remove from."""

    @property
    def frees_later(self) -> str | None:
        """What has yet to be done until the room of removed chunks is free; None where it is free at once."""

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, or None where there is no such file."""

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all, over what is there; raises OutOfSpace, FileAccess or Unreachable."""

    def bundle_ids(self) -> frozenset[str]:
        """Return the bundles about which there is a file; raises FileAccess or Unreachable."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there; raises FileAccess or Unreachable."""


def channel_path(model: str) -> str:
    """Return where a model's channel is."""
    return f"channels/{model}/channel.sig"


def bundle_path(bundle_id: str, name: str) -> str:
    """Return where a file about a bundle is."""
    return f"bundles/{bundle_id}/{name}"


def bundles_of(paths: Iterable[str]) -> frozenset[str]:
    """Return the bundles that files of a depot are about."""
    return frozenset(match[1] for path in paths if (match := _BUNDLE_FILE.fullmatch(path)))


def chunk_path(sha256: str) -> str:
    """Return where a chunk is."""
    return f"chunks/{sha256[:2]}/{sha256}"


def is_chunk_path(path: str) -> bool:
    """Tell whether a file of a depot is a chunk."""
    return path.startswith("chunks/")


def split_channel(address: str) -> tuple[str, str]:
    """Return the depot's address and the model of ``<depot>/channels/<model>``; raises UsageError for anything else."""
    match = _CHANNEL_ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(f"{address} is no channel of a depot; write <depot>/channels/<model>.")
    return match["depot"], match["model"]
