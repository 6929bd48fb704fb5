"""The node's disk in the simulated world: it alone outlives the server.

Modelled: bytes, signatures and files. Real: the channel's rules (dates, floor, roles), the order of checks, terms.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta

from pipeline.bundle.channel import Channel, check_dates, role_of
from pipeline.bundle.floor import Floor, check_order
from pipeline.bundle.verify import VerifiedBundle, VerifiedChannel
from pipeline.core.errors import HotspareError, NotAccepted, OutOfSpace, SurroundingsError, Untrusted
from pipeline.core.names import Role
from pipeline.drill.simulated.models import MODEL, bundle_of, channel_of, places, policy
from pipeline.runtime.release import Places, Release
from pipeline.runtime.terms import Remembered, TermsStore
from pipeline.runtime.worker_spec import WorkerSpec

SEQ = 7
_BEGAN = datetime(2026, 6, 1, 12, 0, 0, tzinfo=UTC)


@functools.cache
def _channel(seq: int, is_stale: bool, not_after: str) -> tuple[Channel, Floor]:
    channel = channel_of(seq, is_stale, not_after)
    return channel, channel.floor


class SimulatedDisk:
    """Bundles, their channel, the floor, and the terms."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.is_full = False
        self.clock_back_ms = 0.0
        self.floor: Floor | None = None
        self.remembered = Remembered(1, 0)
        self._now_s = now_s
        self._broken: dict[Role, type[Untrusted]] = {}
        self._stale: set[Role] = set()
        self._offered = _channel(SEQ, False, "2036-02-01T00:00:00Z")

    # What strikes do.

    def break_bundle(self, role: Role, error: type[Untrusted]) -> None:
        """Let a bundle fail its verification from now on."""
        self._broken[role] = error

    def put_stale(self, role: Role) -> None:
        """Put the bundle of the version before in place: it is genuine, and the channel does not name it."""
        self._stale.add(role)

    def expire(self) -> None:
        """Let the channel be one that ended."""
        self._offered = _channel(SEQ, False, "2026-06-01T11:00:00Z")

    def roll_back(self) -> None:
        """Put the channel of the version before in place, with its bundles."""
        self._offered = _channel(SEQ - 1, True, "2036-02-01T00:00:00Z")
        self._stale.update(Role)

    # What the node reads.

    def now(self) -> datetime:
        """Return the wall clock's time."""
        return _BEGAN + timedelta(seconds=self._now_s(), milliseconds=-self.clock_back_ms)

    def channel(self) -> VerifiedChannel:
        """Return the channel if it is accepted now; raises Expired or RolledBack."""
        channel, floor = self._offered
        if self.floor is not None:
            check_order(floor, self.floor, f"The channel of {MODEL}")
        return VerifiedChannel(channel, "simulated", check_dates(channel, self.now(), policy().expired))

    def bundle(self, role: Role, channel: VerifiedChannel) -> VerifiedBundle:
        """Return the bundle of a role if it may be loaded; raises the Untrusted error that fits."""
        if role in self._broken:
            raise self._broken[role](f"The {role}'s files are not what was signed; stage the bundle again.")
        bundle = bundle_of(role, role in self._stale)
        role_of(channel.channel, bundle.bundle_id, role)
        return bundle

    def verify(self, spec: WorkerSpec) -> VerifiedBundle:
        """Return a worker's bundle, as its own verification does."""
        bundle = self.bundle(spec.seat.role, self.channel())
        if spec.bundle_id not in (None, bundle.bundle_id):
            raise NotAccepted(f"Another bundle than is served lies there by now: {bundle.bundle_id}.")
        return bundle

    def versions_behind(self, bundle_id: str) -> int:
        """Return how many versions a bundle is behind the promoted one."""
        return int(bundle_id in {bundle_of(role, is_stale=True).bundle_id for role in Role})

    def require_space(self) -> None:
        """Raise OutOfSpace when it is full."""
        if self.is_full:
            raise OutOfSpace("No space left on device; free some.")


class ServersDisk:
    """One server process's view of the disk: a process that is gone writes nothing more."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.is_alive = True
        self._disk = disk

    def open_release(self, _places: Places, strict: bool) -> Release:
        """Verify both bundles; with ``strict`` false, one that is refused is left out and named."""
        channel = self._disk.channel()
        bundles: dict[Role, VerifiedBundle] = {}
        refused: dict[Role, str] = {}
        for role in Role:
            try:
                bundles[role] = self._disk.bundle(role, channel)
            except Untrusted as error:
                refused[role] = str(error)
                if strict or (not bundles and len(refused) == len(Role)):
                    raise
        return Release(MODEL, places(), policy(), channel, bundles, refused)

    def problems(self, release: Release) -> dict[Role, str]:
        """Return why a bundle would not be loaded now, by role."""
        try:
            channel = self._disk.channel()
        except HotspareError as error:
            return dict.fromkeys(Role, f"{type(error).__name__}: {error}")
        problems = {}
        for role in Role:
            try:
                found = self._disk.bundle(role, channel)
                if role in release.bundles and found.bundle_id != release.bundles[role].bundle_id:
                    problems[role] = f"NotAccepted: {found.bundle_id} lies there by now"
            except (Untrusted, SurroundingsError) as error:
                problems[role] = f"{type(error).__name__}: {error}"
        return problems

    def is_renewed(self, release: Release) -> bool:
        """Tell whether another channel than the release's is offered by now, and is accepted."""
        try:
            return self._disk.channel().channel.digest != release.channel_digest
        except HotspareError:
            return False

    def accept(self, release: Release) -> None:
        """Raise the floor."""
        if release.channel is None or not self.is_alive:
            return
        floor = release.channel.channel.floor
        if self._disk.floor is not None:
            check_order(floor, self._disk.floor, "The channel")
        if self._disk.floor != floor:
            self._disk.require_space()
            self._disk.floor = floor

    def terms(self, _release: Release) -> TermsStore:
        """Return where terms are kept."""
        return self

    def alone(self) -> AbstractContextManager[None]:
        """Keep nobody out: what is done to this disk is done at once."""
        return nullcontext()

    def read(self) -> Remembered:
        """Return what was remembered of terms."""
        return self._disk.remembered

    def write(self, remembered: Remembered) -> None:
        """Remember terms; raises OutOfSpace."""
        if self.is_alive:
            self._disk.require_space()
            self._disk.remembered = remembered
