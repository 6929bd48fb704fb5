"""The channel that an embedded pair serves under: its dates held against the clock, and its renewal."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.bundle.channel import Channel, Expiry, Standing, check_dates, check_revoked
from pipeline.bundle.floor import check_order
from pipeline.bundle.verify import VerifiedBundle, VerifiedChannel
from pipeline.core.clock import utc_now
from pipeline.core.errors import Expired, NotAccepted
from pipeline.core.names import Role
from pipeline.runtime.aging import Happening, channel_status, closed, happening
from pipeline.runtime.service import ChannelStatus


@dataclass(frozen=True)
class Under:
    """What lets a pair serve: a verified channel, what the trust policy says past its end, and the time of day."""

    channel: VerifiedChannel
    expired: Expiry = Expiry.REFUSE
    utc_now: Callable[[], datetime] = utc_now


class ChannelWatch:
    """One pair's channel and where it stands."""

    def __init__(self, under: Under, bundles: Mapping[Role, VerifiedBundle]) -> None:
        """Raise NotAccepted, Revoked or Expired where this channel does not let the bundles serve now."""
        self._under = under
        self._bundles = bundles
        self._standing = Standing.CURRENT
        self._take(under.channel.channel)

    def look(self) -> Happening | None:
        """Return what is to be told when the channel's standing has changed."""
        standing = self._dates.standing(self._under.utc_now())
        if standing is self._standing:
            return None
        self._standing = standing
        return happening(self._channel, standing, self._under.expired)

    def require_open(self) -> None:
        """Raise Expired while nothing may be answered, by where the channel stood at the last look."""
        refused = closed(self._channel, self._standing, self._under.expired)
        if refused is not None:
            raise Expired(refused.sentence)

    def renew(self, channel: VerifiedChannel) -> Happening | None:
        """Go on under a later channel over the same bundles; None: it is the one that counts already.

        Raises RolledBack for an older one, else what the first one would have been refused for.
        """
        check_order(channel.channel.floor, self._channel.floor, f"The channel of {channel.channel.model}")
        if channel.channel == self._channel:
            return None
        self._take(channel.channel)
        self._standing = Standing.CURRENT
        return happening(channel.channel, Standing.CURRENT, self._under.expired)

    @property
    def status(self) -> ChannelStatus:
        """Return the channel as people and programs see it."""
        return channel_status(self._channel, self._under.expired, self._under.utc_now())

    def _take(self, channel: Channel) -> None:
        _check_names(channel, self._bundles)
        check_dates(channel, self._under.utc_now(), self._under.expired)
        self._channel, self._dates = channel, channel.dates


def _check_names(channel: Channel, bundles: Mapping[Role, VerifiedBundle]) -> None:
    for role, bundle in bundles.items():
        check_revoked(channel, bundle.key_hint, bundle.bundle_id)
        if channel.model != bundle.model or channel.bundle_ids[role] != bundle.bundle_id:
            raise NotAccepted(
                f"The channel of {channel.model} (seq {channel.seq}) does not name {bundle.candidate} as the "
                f"{role} of {bundle.model}; give the primary, then its standby, as one channel names them."
            )
