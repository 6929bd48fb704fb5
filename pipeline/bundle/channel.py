"""``channel.json``: when, and as which, bundles serve; and the pure rules by which a node accepts it."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal

from pipeline.bundle.floor import Floor, check_order
from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.clock import from_text
from pipeline.core.errors import Expired, NotAccepted, Revoked
from pipeline.core.names import MODEL_NAME, Role
from pipeline.core.schema import Rule, plain

CHANNEL_FILE = "channel.json"
CHANNEL_SIGNATURE = "channel.sig"
CHANNEL_TYPE = "application/vnd.hotspare.channel+json"
DEFAULT_CHANNEL = "stable"

_SHA256 = Rule(pattern="[0-9a-f]{64}")
_TIME = Rule("UTC, e.g. 2026-01-31T12:00:00Z.", pattern=r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


class Expiry(StrEnum):
    """What a node does past a channel's ``not_after``; its trust policy says which."""

    REFUSE = "refuse"  # nothing is loaded any more, and what runs stops answering
    SERVE_AND_ALARM = "serve-and-alarm"  # it goes on, and says so


class Standing(StrEnum):
    """Where a moment lies in a channel's life."""

    CURRENT = "current"
    DUE = "due"  # it was to be renewed by now
    EXPIRED = "expired"


@dataclass(frozen=True)
class Dates:
    """A channel's three moments, in their order."""

    issued_at: datetime
    refresh_by: datetime
    not_after: datetime

    def standing(self, now: datetime) -> Standing:
        """Return where ``now`` lies; the last second of ``not_after`` and ``refresh_by`` still counts."""
        if now > self.not_after:
            return Standing.EXPIRED
        return Standing.DUE if now > self.refresh_by else Standing.CURRENT


@dataclass(frozen=True)
class BundleRef:
    """A bundle by its id; ``size`` is the sum of its payload files' bytes."""

    bundle_id: Annotated[str, _SHA256]
    size: Annotated[int, Rule("Bytes of all payload files together.", minimum=1)]


@dataclass(frozen=True)
class Revocations:
    """What must not be loaded any more: key hints (sha256 of the public PEM) and bundle ids."""

    keys: tuple[Annotated[str, _SHA256], ...] = ()
    bundles: tuple[Annotated[str, _SHA256], ...] = ()


@dataclass(frozen=True)
class Channel:
    """The current pair of one model, its place in the order of channels, and its dates."""

    schema_version: Literal[1]
    model: Annotated[str, Rule(pattern=MODEL_NAME)]
    channel: Annotated[str, Rule(pattern=MODEL_NAME)]
    epoch: Annotated[int, Rule("Starts again above all seqs; counts only upwards.", minimum=0)]
    seq: Annotated[int, Rule("Place in the order of channels; counts only upwards.", minimum=1)]
    issued_at: Annotated[str, _TIME]
    refresh_by: Annotated[str, _TIME]
    not_after: Annotated[str, _TIME]
    primary: BundleRef
    backup: BundleRef
    revoked: Revocations = Revocations()
    rollback_of: Annotated[int | None, Rule("The seq that this channel takes back.", minimum=1)] = None

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if self.primary.bundle_id == self.backup.bundle_id:
            yield "backup: the same bundle as the primary"
        try:
            dates = self.dates
        except ValueError as error:
            yield f"issued_at, refresh_by, not_after: {error}"
        else:
            if not dates.issued_at <= dates.refresh_by <= dates.not_after:
                yield "issued_at, refresh_by, not_after: not in this order"
        if self.rollback_of is not None and self.rollback_of >= self.seq:
            yield "rollback_of: not below seq"

    def ref(self, role: Role) -> BundleRef:
        """Return the bundle of a role."""
        return self.primary if role is Role.PRIMARY else self.backup

    @property
    def bundle_ids(self) -> dict[Role, str]:
        """Return the ids of both bundles."""
        return {role: self.ref(role).bundle_id for role in Role}

    @cached_property
    def dates(self) -> Dates:
        """Return its moments; raises ValueError where one is no date, which no channel that was read has."""
        return Dates(from_text(self.issued_at), from_text(self.refresh_by), from_text(self.not_after))

    def to_bytes(self) -> bytes:
        """Return the one byte form of ``channel.json``."""
        return canonical_json(plain(self))

    @property
    def digest(self) -> str:
        """Return sha256 of ``channel.json``."""
        return sha256_hex(self.to_bytes())

    @property
    def floor(self) -> Floor:
        """Return the floor that accepting this channel sets."""
        return Floor(self.epoch, self.seq, self.digest)


def check_dates(channel: Channel, now: datetime, expired: Expiry = Expiry.REFUSE) -> tuple[str, ...]:
    """Return warnings about a channel's dates; raises Expired past ``not_after``, unless it may serve on."""
    dates = channel.dates
    standing = dates.standing(now)
    if standing is Standing.EXPIRED and expired is Expiry.REFUSE:
        raise Expired(ended(channel))
    warnings = []
    if now < dates.issued_at:
        warnings.append(f"The channel was issued at {channel.issued_at}, after this machine's time; check its clock.")
    if standing is Standing.DUE:
        warnings.append(overdue(channel))
    if standing is Standing.EXPIRED:
        warnings.append(f"{ended(channel)} It serves on, as the trust policy says.")
    return tuple(warnings)


def overdue(channel: Channel) -> str:
    """Say that a channel was not renewed in time, and how long that is no harm."""
    return f"The channel was to be renewed by {channel.refresh_by}; it ends at {channel.not_after}."


def ended(channel: Channel) -> str:
    """Say that a channel has ended."""
    return f"The channel of {channel.model} (seq {channel.seq}) ended at {channel.not_after}; fetch a renewed one."


def check_floor(channel: Channel, floor: Floor | None) -> None:
    """Raise RolledBack for a channel older than the floor, or another one of the floor's own sequence number."""
    if floor is not None:
        check_order(channel.floor, floor, f"The channel of {channel.model}")


def check_revoked(channel: Channel, key_hint: str, bundle_id: str | None = None) -> None:
    """Raise Revoked when the channel revokes this key or bundle."""
    if key_hint in channel.revoked.keys:
        raise Revoked(f"The channel of {channel.model} revokes the key {key_hint[:16]}… that signed this.")
    if bundle_id in channel.revoked.bundles:
        raise Revoked(f"The channel of {channel.model} revokes the bundle {bundle_id}.")


def role_of(channel: Channel, bundle_id: str, wanted: Role | None) -> Role:
    """Return the role that the channel gives a bundle; raises NotAccepted when it is none, or not ``wanted``."""
    for role in Role:
        if channel.ref(role).bundle_id == bundle_id:
            if wanted is not None and role is not wanted:
                raise NotAccepted(f"The channel of {channel.model} names this bundle as its {role}, not its {wanted}.")
            return role
    raise NotAccepted(
        f"The channel of {channel.model} (seq {channel.seq}) does not name the bundle {bundle_id}; fetch its bundles."
    )
