"""A depot in an object store, by fsspec: ``s3://bucket/prefix``, ``gs://…``, ``memory://…``.

Credentials and endpoints come from where the store's own tools look for them (``AWS_*``, ``~/.aws``, an instance's
role), never from an address. An object store puts an object whole or not at all; of other fsspec systems (sftp) a kill
may leave part of a file, which its size or its digest gives away, and which publishing again puts right.
"""

import sys
from dataclasses import dataclass
from typing import Any

from fsspec.core import url_to_fs

from pipeline.core.errors import FileAccess, Malformed, MissingExtra, Unreachable, UsageError
from pipeline.delivery.depot import bundles_of

# Libraries below fsspec that let out errors of their own: taken only where they were loaded already.
_FOREIGN = (("botocore.exceptions", "BotoCoreError"), ("aiohttp", "ClientError"), ("urllib3.exceptions", "HTTPError"))


@dataclass(frozen=True)
class ObjectStoreDepot:
    """One prefix of a store."""

    address: str
    store: Any
    prefix: str
    lanes: int = 8
    frees_later: str | None = None

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return an object's bytes, or None; asks for no more than may be."""
        place = f"{self.address}/{path}"
        try:
            # A range, so that a larger object is never sent whole.
            data = bytes(self.store.cat_file(f"{self.prefix}/{path}", start=0, end=bytes_max + 1))
        except FileNotFoundError:
            return None
        except _failures() as error:
            raise _explained(error, place) from error
        if len(data) > bytes_max:
            raise Malformed(f"{place} is larger than {bytes_max} bytes; publish it again.")
        return data

    def size(self, path: str) -> int | None:
        """Return an object's size in bytes, or None."""
        try:
            return int(self.store.info(f"{self.prefix}/{path}")["size"])
        except FileNotFoundError:
            return None
        except _failures() as error:
            raise _explained(error, f"{self.address}/{path}") from error

    def write(self, path: str, data: bytes) -> None:
        """Put an object."""
        place = f"{self.prefix}/{path}"
        try:
            if self.store.root_marker:  # it has folders, as sftp does
                self.store.makedirs(place.rsplit("/", 1)[0], exist_ok=True)
            self.store.pipe_file(place, data)
        except _failures() as error:
            raise _explained(error, f"{self.address}/{path}") from error

    def bundle_ids(self) -> frozenset[str]:
        """Return the bundles about which there is an object."""
        place = f"{self.prefix}/bundles"
        try:
            found = [str(path) for path in self.store.find(place)]
        except FileNotFoundError:
            return frozenset()
        except _failures() as error:
            raise _explained(error, f"{self.address}/bundles") from error
        return bundles_of("bundles" + path.rpartition("/bundles")[2] for path in found)

    def remove(self, path: str) -> None:
        """Remove an object, if it is there."""
        try:
            self.store.rm_file(f"{self.prefix}/{path}")
        except FileNotFoundError:
            return
        except _failures() as error:
            raise _explained(error, f"{self.address}/{path}") from error


def open_object_store(address: str) -> ObjectStoreDepot:
    """Open a prefix of a store; raises UsageError for an unknown scheme, MissingExtra for a missing package.

    Raises Unreachable, or FileAccess, where a store that is connected to right away does not answer.
    """
    try:
        # No listings are kept: what another process published must be seen.
        store, prefix = url_to_fs(address.rstrip("/"), use_listings_cache=False, skip_instance_cache=True)
    except ImportError as error:
        raise MissingExtra(f"A depot at {address} needs a package that is not installed: {error}.") from error
    except ValueError as error:
        known = "a folder, http(s)://, s3:// or another that fsspec knows"
        raise UsageError(f"{address} is no address of a depot ({error}); write {known}.") from error
    except _failures() as error:  # some stores are connected to right away, as ftp is
        raise _explained(error, address) from error
    return ObjectStoreDepot(address.rstrip("/"), store, prefix.rstrip("/"))


def _failures() -> tuple[type[BaseException], ...]:
    loaded = ((sys.modules.get(module), name) for module, name in _FOREIGN)
    return (OSError, *(getattr(module, name) for module, name in loaded if module is not None))


def _explained(error: BaseException, place: str) -> FileAccess | Unreachable:
    said = f"{place}: {str(error) or type(error).__name__}"
    if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
        return FileAccess(f"{said}; check credentials and the bucket's policy.")
    return Unreachable(f"{said}; check the address, or try later.")
