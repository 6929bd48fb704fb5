"""The channel that a pair serves under, as time goes by: told once when it is due or has ended, and the door closed."""

from collections.abc import Callable
from datetime import datetime

from pipeline.bundle.channel import Standing
from pipeline.runtime.aging import channel_status, closed, happening
from pipeline.runtime.journal import Journal
from pipeline.runtime.pair_nouns import NoteKind
from pipeline.runtime.reception import Reception
from pipeline.runtime.release import Release
from pipeline.runtime.service import ChannelStatus


class Tenure:
    """One pair's channel and policy; all is as it was without a channel."""

    def __init__(
        self, release: Release, journal: Journal, reception: Reception, utc_now: Callable[[], datetime]
    ) -> None:
        self._release = release
        self._journal = journal
        self._reception = reception
        self._utc_now = utc_now
        self._standing = Standing.CURRENT

    @property
    def has_expired(self) -> bool:
        """Tell whether the channel has ended; that is told already."""
        return self._standing is Standing.EXPIRED

    def look(self) -> None:
        """Notice that the channel is to be renewed, has ended, or is good again (a clock was set right)."""
        if self._release.channel is None:
            return
        channel, expired = self._release.channel.channel, self._release.policy.expired
        standing = channel.dates.standing(self._utc_now())
        if standing is not self._standing:
            self._standing = standing
            told = happening(channel, standing, expired)
            self._journal.note(told.text, told.diagnosis, told.kind)
            self._reception.closed = closed(channel, standing, expired)

    def renew(self, release: Release) -> bool:
        """Go on under the channel and policy of ``release``; returns whether that is another channel."""
        before, self._release = self._release, release
        is_other = release.channel is not None and not release.has_same_channel_as(before)
        if release.channel is not None and is_other:
            found = release.channel.channel
            text = f"The channel was renewed: seq {found.seq}, good until {found.not_after}."
            self._journal.note(text, kind=NoteKind.CHANNEL_RENEWED)
        elif release.policy.expired is before.policy.expired:
            return False
        self._standing, self._reception.closed = Standing.CURRENT, None
        self.look()
        return is_other

    def status(self) -> ChannelStatus | None:
        """Return the channel for people and programs; None without one."""
        if self._release.channel is None:
            return None
        return channel_status(self._release.channel.channel, self._release.policy.expired, self._utc_now())
