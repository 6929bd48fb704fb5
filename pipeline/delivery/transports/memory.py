"""A depot in memory, for tests: the same contract as the real ones."""

from dataclasses import dataclass, field

from pipeline.core.errors import Malformed
from pipeline.delivery.depot import bundles_of


@dataclass(frozen=True)
class MemoryDepot:
    """Keeps every file in a dictionary."""

    files: dict[str, bytes] = field(default_factory=dict)
    address: str = "memory"
    lanes: int = 1
    frees_later: str | None = None

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes, or None."""
        data = self.files.get(path)
        if data is not None and len(data) > bytes_max:
            raise Malformed(f"{path} in {self.address} is larger than {bytes_max} bytes; publish it again.")
        return data

    def size(self, path: str) -> int | None:
        """Return a file's size in bytes, or None."""
        data = self.files.get(path)
        return None if data is None else len(data)

    def write(self, path: str, data: bytes) -> None:
        """Write a file."""
        self.files[path] = data

    def bundle_ids(self) -> frozenset[str]:
        """Return the bundles about which there is a file."""
        return bundles_of(self.files)

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        self.files.pop(path, None)
