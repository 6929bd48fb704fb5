"""The pair: a primary and its hot standby, served together on one machine, or embedded in one process."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.runtime.embedded import EmbeddedPair

__all__ = ["EmbeddedPair"]


def __getattr__(name: str) -> object:
    # Imported when it is asked for: it loads numpy, which most commands start without.
    if name == "EmbeddedPair":
        from pipeline.runtime.embedded import EmbeddedPair

        return EmbeddedPair
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
