"""What a channel's age means for the pair that serves under it, pure: due to be renewed, ended, good again."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.bundle.channel import Channel, Expiry, Standing, ended, overdue
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.members import Diagnosis, Fault
from pipeline.runtime.pair_nouns import NoteKind
from pipeline.runtime.service import ChannelStatus, NotAnswered, RefusalKind

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Happening:
    """What is told once, when a channel's standing changes."""

    text: str
    kind: NoteKind
    diagnosis: Diagnosis | None = None


def happening(channel: Channel, standing: Standing, expired: Expiry) -> Happening:
    """Return what is told when a channel has come to a standing."""
    if standing is Standing.EXPIRED:
        then = "requests are refused" if expired is Expiry.REFUSE else "it serves on, as the trust policy says"
        evidence = Evidence(fault=Fault.EXPIRED, errors=(ended(channel),))
        return Happening(f"The channel has ended: {then}.", NoteKind.CHANNEL_EXPIRED, diagnose(None, evidence))
    if standing is Standing.DUE:
        return Happening(overdue(channel), NoteKind.CHANNEL_DUE)
    return Happening(f"The channel (seq {channel.seq}) is good until {channel.not_after}.", NoteKind.CHANNEL_RENEWED)


def closed(channel: Channel, standing: Standing, expired: Expiry) -> NotAnswered | None:
    """Return what every request gets while nothing may be answered under a channel; None: requests are answered."""
    if standing is Standing.EXPIRED and expired is Expiry.REFUSE:
        return NotAnswered(RefusalKind.EXPIRED, ended(channel))
    return None


def channel_status(channel: Channel, expired: Expiry, now: datetime) -> ChannelStatus:
    """Return a channel as people and programs see it."""
    dates = channel.dates
    standing = dates.standing(now)
    return ChannelStatus(
        name=channel.channel,
        epoch=channel.epoch,
        seq=channel.seq,
        issued_at=channel.issued_at,
        refresh_by=channel.refresh_by,
        not_after=channel.not_after,
        age_s=(now - dates.issued_at) // _SECOND,
        refresh_in_s=(dates.refresh_by - now) // _SECOND,
        expires_in_s=(dates.not_after - now) // _SECOND,
        is_due=standing is not Standing.CURRENT,
        is_expired=standing is Standing.EXPIRED,
        policy=expired,
    )
