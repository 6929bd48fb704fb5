"""Which channel comes next, pure: its number and its dates, or none where the one in force says it all."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.bundle.channel import Channel
from pipeline.core.clock import from_text
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import ChannelTerms


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
class Keep:
    """The channel already names this pair and is not due."""


@dataclass(frozen=True)
class Issue:
    """A new channel is to be signed."""

    epoch: int
    seq: int
    issued_at: datetime
    refresh_by: datetime
    not_after: datetime
    why: str


def plan_channel(
    terms: ChannelTerms, current: Standard | None, registry_seq: int, pair: Pair, now: datetime, why: str | None = None
) -> Keep | Issue:
    """Decide whether a pair needs a new channel, and which sequence number it takes.

    ``registry_seq`` is the highest number that the registry knows to have been begun (0 for none): a number is
    never used twice, even when the channel file was lost or a promotion was killed half-way. ``why`` is a reason of
    the caller's to sign one in any case.
    """
    why = why or _why_issue(terms, current, pair, now)
    if why is None:
        return Keep()
    seq = max(current.seq if current else 0, registry_seq) + 1
    epoch = max(current.epoch if current else 0, terms.epoch)
    refresh_by = now + timedelta(days=terms.refresh_days)
    return Issue(epoch, seq, now, refresh_by, now + timedelta(days=terms.valid_days), why)


def _why_issue(terms: ChannelTerms, current: Standard | None, pair: Pair, now: datetime) -> str | None:
    if current is None:
        return "promoted"
    if current.pair != pair:
        swapped = current.pair == Pair(pair.backup, pair.primary)
        return "roles swapped" if swapped else "promoted"
    if current.epoch < terms.epoch:
        return "new epoch"
    return "renewed" if now >= current.refresh_by else None
