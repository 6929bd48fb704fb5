"""Removing old releases from a depot: which bundles nobody needs any more, and the chunks that no other one is made of.

Publishing and removing may run at once; neither waits for the other. Whoever publishes writes a bundle's contents, and
then looks once more for all that it had found there; whoever removes looks once more, when it has removed, for contents
and channels that came meanwhile. One of the two comes later, and sees what the other did.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.bundle.channel import Channel
from pipeline.bundle.reading import SIGNATURE_FILE
from pipeline.core.names import Role
from pipeline.delivery.contents import CONTENTS_BYTES_MAX, unverified_contents
from pipeline.delivery.depot import CONTENTS_FILE, DRILL_FILE, Depot, WritableDepot, bundle_path, chunk_path
from pipeline.delivery.lanes import in_lanes


@dataclass(frozen=True)
class Removal:
    """A bundle that goes, and its chunks (digest and size) that no bundle that stays is made of."""

    bundle_id: str
    chunks: Mapping[str, int]

    @property
    def size(self) -> int:
        """Return the bytes of its chunks."""
        return sum(self.chunks.values())


def old_bundles(channels: Sequence[Channel], keep: int, since: datetime) -> dict[str, Channel]:
    """Return the bundles of a model that old releases alone are made of, each with the last channel that named it.

    A release (a pair, however often it was promoted) stays while it is one of the ``keep`` that were in force last, the
    present one among them, or gave way to another at ``since`` or later: nodes may still be fetching it.
    """
    pairs: list[dict[Role, str]] = []
    needed, last = set[str](), dict[str, Channel]()
    gave_way: datetime | None = None
    for channel in sorted(channels, key=lambda one: (one.epoch, one.seq), reverse=True):
        pair = channel.bundle_ids
        if pair not in pairs:
            pairs.append(pair)
        if pairs.index(pair) < keep or gave_way is None or gave_way >= since:
            needed |= set(pair.values())
        for bundle_id in pair.values():
            last.setdefault(bundle_id, channel)
        gave_way = channel.dates.issued_at
    return {bundle_id: channel for bundle_id, channel in last.items() if bundle_id not in needed}


def plan_removal(depot: WritableDepot, there: Collection[str], old: Collection[str]) -> tuple[Removal, ...]:
    """Return what is to be removed of a depot that holds the bundles ``there``.

    Raises Malformed for a bundle whose contents cannot be read: what it is made of must not be guessed.
    """
    spoken_for = {chunk for bundle_id in sorted(there) if bundle_id not in old for chunk in _chunks(depot, bundle_id)}
    found = []
    for bundle_id in sorted(set(old) & set(there)):
        own = {chunk: size for chunk, size in _chunks(depot, bundle_id).items() if chunk not in spoken_for}
        spoken_for |= own.keys()
        found.append(Removal(bundle_id, own))
    return tuple(found)


def remove(depot: WritableDepot, removals: Iterable[Removal]) -> None:
    """Remove bundles: chunks first, then what tells of them, so that a run that was killed can be repeated."""
    for removal in removals:
        for _ in in_lanes(depot.lanes, depot.remove, map(chunk_path, removal.chunks)):
            pass
        for name in (CONTENTS_FILE, DRILL_FILE, SIGNATURE_FILE):
            depot.remove(bundle_path(removal.bundle_id, name))


def harmed(depot: WritableDepot, there: Collection[str], removals: Sequence[Removal]) -> tuple[str, ...]:
    """Return the bundles that were published after the first look (``there``) and lack what was removed."""
    if depot.frees_later is not None:  # the chunks are there still, and are needed again
        return ()
    gone = {chunk for removal in removals for chunk in removal.chunks}
    came = depot.bundle_ids() - set(there)
    return tuple(bundle_id for bundle_id in sorted(came) if not gone.isdisjoint(_chunks(depot, bundle_id)))


def _chunks(depot: Depot, bundle_id: str) -> dict[str, int]:
    path = bundle_path(bundle_id, CONTENTS_FILE)
    data = depot.read(path, CONTENTS_BYTES_MAX)
    files = () if data is None else unverified_contents(data, f"{depot.address}/{path}").files
    return {piece.sha256: piece.size for file in files for piece in file.pieces}
