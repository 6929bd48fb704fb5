"""A release: the two verified bundles that are served together, and what the server keeps of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.bundle.floor import floor_path, raise_floor
from pipeline.bundle.io_contract import IoContract
from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.bundle.served import verify_served
from pipeline.bundle.verify import VerifiedBundle, VerifiedChannel, load_channel
from pipeline.core.errors import HotspareError, NotAccepted, SurroundingsError, Untrusted, UsageError
from pipeline.core.names import Role
from pipeline.runtime.members import Seat
from pipeline.runtime.worker_spec import WorkerSpec

VERSION_DIGITS = 12
_READINGS_MAX = 3  # of a release whose folders are exchanged while they are read


@dataclass(frozen=True)
class Places:
    """Where a pair's files are; read again at every start and swap."""

    primary: Path
    standby: Path
    trust: Path
    channel: Path | None = None

    def bundle(self, role: Role) -> Path:
        """Return the bundle's folder of a role."""
        return self.primary if role is Role.PRIMARY else self.standby


@dataclass(frozen=True)
class Release:
    """Bundles that this node may serve; after a restart one of them may be missing, with the reason why."""

    model: str
    places: Places
    policy: TrustPolicy
    channel: VerifiedChannel | None
    bundles: Mapping[Role, VerifiedBundle]
    refused: Mapping[Role, str]

    @property
    def version(self) -> str:
        """Return what clients call this release: the first digits of its primary's bundle id."""
        return self._any.bundle_id[:VERSION_DIGITS]

    @property
    def io(self) -> IoContract:
        """Return the tensors that both bundles take and give."""
        return self._any.io

    def has_same_bundles_as(self, other: "Release") -> bool:
        """Tell whether both serve the same bundles in the same roles, be it under another channel."""
        mine, theirs = ({role: one.bundle_id for role, one in release.bundles.items()} for release in (self, other))
        return mine == theirs

    def has_same_channel_as(self, other: "Release") -> bool:
        """Tell whether both were verified under the same channel, or both under none."""
        return self.channel_digest == other.channel_digest

    @property
    def channel_digest(self) -> str | None:
        """Return what tells this release's channel from any other; None: it has none."""
        return None if self.channel is None else self.channel.channel.digest

    def worker_spec(
        self, seat: Seat, incarnation: int, term: int, then_load: bool, memory_mb: int | None
    ) -> WorkerSpec:
        """Return what a worker of this release is told; it verifies its bundle itself."""
        bundle = self.bundles.get(seat.role)
        return WorkerSpec(
            bundle=str(self.places.bundle(seat.role)),
            trust=str(self.places.trust),
            channel=None if self.places.channel is None else str(self.places.channel),
            model=self.model,
            seat=seat,
            incarnation=incarnation,
            term=term,
            then_load=then_load,
            threads=1 if bundle is None else bundle.manifest.runtime.threads,
            memory_mb=memory_mb,
            bundle_id=None if bundle is None else bundle.bundle_id,
        )

    @property
    def _any(self) -> VerifiedBundle:
        return self.bundles.get(Role.PRIMARY) or self.bundles[Role.BACKUP]


def open_release(places: Places, now: datetime, strict: bool) -> Release:
    """Verify both bundles of a pair; with ``strict`` false, one that is refused is left out and named.

    A release that is put in place of another meanwhile is read again, so that nothing of two is mixed. Raises the
    Untrusted error that fits, TrustPolicyError, UsageError for a policy that wants a channel.
    """
    for _ in range(_READINGS_MAX - 1):
        before = _identity(places)
        try:
            release = _read_release(places, now, strict)
        except Untrusted:
            if _identity(places) == before:
                raise
        else:
            if _identity(places) == before:
                return release
    return _read_release(places, now, strict)


def _identity(places: Places) -> tuple[tuple[int, int] | None, ...]:
    """Return what changes when a folder is exchanged for another one."""
    return tuple(None if place is None else _inode(place) for place in (places.primary, places.standby, places.channel))


def _inode(place: Path) -> tuple[int, int] | None:
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _read_release(places: Places, now: datetime, strict: bool) -> Release:
    policy = load_policy(places.trust)
    channel = _channel(places, policy, now)
    bundles: dict[Role, VerifiedBundle] = {}
    refused: dict[Role, str] = {}
    for role in Role:
        try:
            bundles[role] = verify_served(places.bundle(role), policy, now, channel, role if channel else None)
        except Untrusted as error:
            refused[role] = str(error)
            if strict or (not bundles and len(refused) == len(Role)):
                raise
    require_one_contract(bundles)
    model = next(iter(bundles.values())).model
    return Release(model, places, policy, channel, bundles, refused)


def _channel(places: Places, policy: TrustPolicy, now: datetime) -> VerifiedChannel | None:
    if places.channel is not None:
        return load_channel(places.channel, policy, now)
    if policy.channels is not None:
        raise UsageError(f"{places.trust} wants a channel for every bundle; name it with --channel.")
    return None


def require_one_contract(bundles: Mapping[Role, VerifiedBundle]) -> None:
    """Raise NotAccepted unless the bundles are of one model and take and give the same tensors."""
    if len(bundles) < len(Role):
        return
    primary, backup = bundles[Role.PRIMARY], bundles[Role.BACKUP]
    if primary.model != backup.model:
        raise NotAccepted(f"The primary is of {primary.model}, the standby of {backup.model}; serve one model's pair.")
    if _tensors(primary.io) != _tensors(backup.io):
        raise NotAccepted(f"The two bundles of {primary.model} take or give different tensors; pack them anew.")


def _tensors(io: IoContract) -> set[tuple[str, str, tuple[int, ...]]]:
    return {(tensor.name, tensor.dtype, tensor.shape) for tensor in (*io.inputs, *io.outputs)}


def disk_problems(release: Release, now: datetime) -> dict[Role, str]:
    """Verify policy, channel and bundles on disk once more, as a start does; returns why one would not be loaded now.

    Said by role. The channel may have been renewed, or have ended, or revoke since what it named before. A release that
    is put in place of another meanwhile is looked at again.
    """
    for _ in range(_READINGS_MAX - 1):
        before = _identity(release.places)
        problems = _look(release, now)
        if not problems or _identity(release.places) == before:
            return problems
    return _look(release, now)


def _look(release: Release, now: datetime) -> dict[Role, str]:
    try:
        policy = load_policy(release.places.trust)
        channel = _channel(release.places, policy, now)
    except HotspareError as error:
        return dict.fromkeys(Role, f"{type(error).__name__}: {error}")
    problems = {}
    for role in Role:
        try:
            found = verify_served(release.places.bundle(role), policy, now, channel, role if channel else None)
            if role in release.bundles and found.bundle_id != release.bundles[role].bundle_id:
                problems[role] = f"NotAccepted: {found.bundle_id} lies there by now; `hotspare swap` moves to it"
        except (Untrusted, SurroundingsError) as error:
            problems[role] = f"{type(error).__name__}: {error}"
    return problems


def is_renewed(release: Release, now: datetime) -> bool:
    """Tell whether another channel than the release's lies on disk by now, and is accepted."""
    try:
        channel = _channel(release.places, load_policy(release.places.trust), now)
    except HotspareError:
        return False
    return channel is not None and channel.channel.digest != release.channel_digest


def accept(release: Release) -> None:
    """Persist the floor that this release's channel sets, once its primary answered; no channel, nothing to persist."""
    if release.channel is not None:
        found = release.channel.channel
        raise_floor(floor_path(release.policy.state_dir, found.model), found.floor)
