"""A model's signed channels, kept as tags of the registered model: what rollback and recovery read.

A tag says nothing by itself: every channel is verified with the pinned keys again when it is read.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.bundle.channel import BundleRef, Channel, Revocations
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.verify import read_channel
from pipeline.core.clock import from_text
from pipeline.core.errors import Malformed, SignatureInvalid
from pipeline.core.names import Role
from pipeline.registry.pair import Pair

CLAIM_TAG = "channel_seq_begun"
DONE_TAG = "channel_seq"
_CLAIM = re.compile(rf"{CLAIM_TAG}(\.[0-9a-f]+)?")
_HEAD = re.compile(r"channel\.([0-9]{1,15})\.([0-9]{1,15})")
# MLflow takes 100,000 characters, its column in PostgreSQL 5,000.
_PART_CHARS = 4_000


@dataclass(frozen=True)
class Standard:
    """What a channel says now: the pair, its place in the order and when it wants renewal."""

    pair: Pair
    epoch: int
    seq: int
    refresh_by: datetime

    @staticmethod
    def of(channel: Channel) -> "Standard":
        """Return what a channel says."""
        pair = Pair(channel.primary.bundle_id, channel.backup.bundle_id)
        return Standard(pair, channel.epoch, channel.seq, from_text(channel.refresh_by))


@dataclass(frozen=True)
class Held:
    """A channel that a pinned key signed, and the bytes of its ``channel.sig``."""

    channel: Channel
    signature: bytes

    @property
    def place(self) -> tuple[int, int]:
        """Return its place in the order of channels."""
        return self.channel.epoch, self.channel.seq

    @property
    def pair(self) -> Pair:
        """Return the bundles that it names."""
        return Pair(self.channel.primary.bundle_id, self.channel.backup.bundle_id)

    @property
    def refs(self) -> dict[Role, BundleRef]:
        """Return them as a channel names them."""
        return {role: self.channel.ref(role) for role in Role}

    @property
    def standard(self) -> Standard:
        """Return what a plan looks at."""
        return Standard.of(self.channel)


@dataclass(frozen=True)
class History:
    """What a registered model's tags tell of its channels."""

    held: tuple[Held, ...] = ()
    """Oldest first."""
    foreign: tuple[str, ...] = ()
    """Tags of channels that no pinned key signed (pinned no more, of somebody else, forged), oldest first."""
    claims: tuple[tuple[str, int], ...] = ()
    """(tag, seq) of promotions that began and are not known to have ended."""
    begun: tuple[tuple[str, int], ...] = ()
    """(tag, seq) of all numbers that a tag says were ever begun, whether anybody vouches for it or not."""

    def find(self, seq: int) -> Held | None:
        """Return the newest channel with a number, or None."""
        return next((one for one in reversed(self.held) if one.channel.seq == seq), None)


def read_history(tags: Mapping[str, str], model: str, trust: TrustPolicy) -> History:
    """Read and verify the channels in a registered model's tags."""
    held, foreign = [], []
    for key, text in _envelopes(tags):
        try:
            channel = _verified(key, text, model, trust)
        except SignatureInvalid:
            foreign.append(key)
            continue
        if channel is not None:
            held.append(channel)
    claims = tuple(sorted(_claims(tags)))
    begun = (*claims, *((key, int(found[2])) for key in sorted(tags) if (found := _HEAD.fullmatch(key))))
    return History(
        tuple(sorted(held, key=lambda one: one.place)),
        tuple(sorted(foreign, key=place_of_tag)),
        claims,
        begun,
    )


def history_tags(held: Held) -> tuple[tuple[str, str], ...]:
    """Return the tags that keep a channel, in the order in which to write them: the one that makes it whole last."""
    text = held.signature.decode("ascii")
    parts = [text[at : at + _PART_CHARS] for at in range(0, len(text), _PART_CHARS)]
    return tuple((_part_key(held, number), parts[number]) for number in reversed(range(len(parts))))


def tag_beyond(held: Held) -> str:
    """Return the tag that would be taken for one more part of a channel: it must not be there."""
    return _part_key(held, len(history_tags(held)))


def _part_key(held: Held, number: int) -> str:
    key = "channel.{}.{}".format(*held.place)
    return f"{key}.{number}" if number else key


def place_of_tag(key: str) -> tuple[int, int]:
    """Return the place in the order of channels that a channel's tag claims by its name."""
    _, epoch, seq = key.split(".")
    return int(epoch), int(seq)


def claim_tag(token: str) -> str:
    """Return the tag by which one promotion, told from all others by its token, claims a number."""
    return f"{CLAIM_TAG}.{token}"


def all_revoked(held: tuple[Held, ...]) -> Revocations:
    """Return everything that any of these channels revokes: what is revoked stays so."""
    keys = {key for one in held for key in one.channel.revoked.keys}
    bundles = {bundle for one in held for bundle in one.channel.revoked.bundles}
    return Revocations(tuple(sorted(keys)), tuple(sorted(bundles)))


def taken_back(held: tuple[Held, ...]) -> frozenset[Pair]:
    """Return the pairs that a rollback took back and that were not promoted again since."""
    by_seq = {one.channel.seq: one.pair for one in held}
    pairs: set[Pair] = set()
    for one in held:
        pairs.discard(one.pair)
        if one.channel.rollback_of in by_seq:
            pairs.add(by_seq[one.channel.rollback_of])
    return frozenset(pairs)


def _envelopes(tags: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key in sorted(tags):
        if _HEAD.fullmatch(key):
            parts, number = [tags[key]], 1
            while (more := tags.get(f"{key}.{number}")) is not None:
                parts.append(more)
                number += 1
            yield key, "".join(parts)


def _verified(key: str, text: str, model: str, trust: TrustPolicy) -> Held | None:
    """Return the channel of a tag, None where it is damaged or of another name; raises SignatureInvalid."""
    data = text.encode("utf-8", "replace")
    try:
        channel, _ = read_channel(data, trust, f"the tag {key} of {model}")
    except Malformed:
        return None
    if (channel.model, channel.channel) != (model, trust.channel) or key != f"channel.{channel.epoch}.{channel.seq}":
        return None
    return Held(channel, data)


def _claims(tags: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    for key, value in tags.items():
        if _CLAIM.fullmatch(key) and value.isascii() and value.isdigit() and len(value) <= 15:
            yield key, int(value)
