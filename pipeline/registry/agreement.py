"""Whether the channel's folder, the registry and its aliases agree, pure: what was seen in, what to mend out.

The channel with the highest (epoch, seq) that a pinned key signed is in force, wherever it was found. Everything
else follows it, so whoever mends, however often and at the same time as others, comes to the same end.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from pipeline.bundle.channel import Channel, Revocations
from pipeline.core.names import Role
from pipeline.registry.history import DONE_TAG, Held, History, all_revoked, place_of_tag
from pipeline.registry.pair import Pair
from pipeline.registry.store import Version, version_of

CANDIDATE, PREVIOUS = "candidate", "previous_primary"
_AHEAD_MAX = 1_000  # promotions in a row of which each is killed before it signs


@dataclass(frozen=True)
class Seen:
    """What the places said of one model, read one after the other."""

    model: str
    folder: Held | None
    folder_is_whole: bool
    """``channel.json`` is there and says what ``channel.sig`` signs."""
    history: History
    done: str | None
    versions: tuple[Version, ...]
    aliases: dict[str, int]
    latest: Pair | None
    """The pair of the build that was registered last."""
    depot: Held | None = None

    @property
    def all_held(self) -> tuple[Held, ...]:
        """Return every verified channel once, oldest first."""
        known = {(one.place, one.channel.digest): one for one in (self.folder, self.depot, *self.history.held) if one}
        return tuple(known[key] for key in sorted(known))

    @property
    def in_force(self) -> Held | None:
        """Return the newest channel, or None where the model was never promoted."""
        return max(self.all_held, key=lambda one: one.place, default=None)

    @property
    def seq_max(self) -> int:
        """Return the highest number that was ever begun, as far as anybody knows; 0 for none."""
        signed = self._seq_signed
        return max([signed, *(seq for _, seq in self.history.begun if seq <= signed + _AHEAD_MAX)])

    @property
    def far_ahead(self) -> tuple[tuple[str, int], ...]:
        """Return (tag, seq) of numbers so far above all signed ones that no promotion began them.

        They count for nothing: else one forged tag would use up all numbers that a channel can have.
        """
        return tuple((tag, seq) for tag, seq in self.history.begun if seq > self._seq_signed + _AHEAD_MAX)

    @property
    def _seq_signed(self) -> int:
        return max((one.channel.seq for one in self.all_held), default=0)

    @property
    def revoked(self) -> Revocations:
        """Return what any known channel revokes."""
        return all_revoked(self.all_held)

    @property
    def unheeded(self) -> tuple[str, ...]:
        """Return the tags of channels that no pinned key signed and that the one in force does not come after.

        What they revoke is in no channel that can be read: whoever signed the next one would forget it.
        """
        newest = self.in_force
        return tuple(key for key in self.history.foreign if newest is None or place_of_tag(key) > newest.place)


@dataclass(frozen=True)
class WriteFolder:
    """The folder is to hold this channel."""

    held: Held


@dataclass(frozen=True)
class Record:
    """The registry is to keep this channel."""

    held: Held


@dataclass(frozen=True)
class PointAlias:
    """An alias is to name a version, or (None) to go."""

    alias: str
    number: int | None


@dataclass(frozen=True)
class SetTag:
    """A tag of the registered model is to have a value, or (None) to go."""

    key: str
    value: str | None


Mend = WriteFolder | Record | PointAlias | SetTag


@dataclass(frozen=True)
class Drift:
    """One disagreement; without ``mend`` it needs a person, whom ``finding`` tells what to do."""

    part: str
    finding: str
    mend: Mend | None = None


def find_drift(seen: Seen) -> Iterator[Drift]:
    """Yield every disagreement, in the order in which to mend them."""
    newest = seen.in_force
    if seen.unheeded:
        yield Drift("history", unheeded_in_words(seen))
    for tag, seq in seen.far_ahead:
        yield Drift("mark", f"the tag {tag} claims seq {seq}, which nobody began; remove it from {seen.model}")
    if newest is not None:
        yield from _places(seen, newest)
    yield from _aliases(seen, newest)
    if newest is not None:
        yield from _marks(seen, newest)
        yield from _beyond_mending(seen, newest)


def _places(seen: Seen, newest: Held) -> Iterator[Drift]:
    seq = newest.channel.seq
    if seen.folder is None:
        yield Drift("channel", f"the folder is lost; seq {seq} is known elsewhere", WriteFolder(newest))
    elif seen.folder.place < newest.place:
        yield Drift("channel", f"the folder has seq {seen.folder.channel.seq}, in force is {seq}", WriteFolder(newest))
    elif not seen.folder_is_whole:
        yield Drift("channel", "channel.json is not what channel.sig signs", WriteFolder(seen.folder))
    recorded = {one.place for one in seen.history.held}
    for one in (seen.depot, seen.folder):
        if one is not None and one.place not in recorded and seen.versions:
            yield Drift("history", f"the registry does not know channel seq {one.channel.seq}", Record(one))
            recorded.add(one.place)


def wanted_aliases(seen: Seen) -> dict[str, int | None]:
    """Return the version that each alias of ours should name; None where there should be no such alias.

    An alias whose bundle has no version in the registry is left out: nobody can say where it should point.
    """
    wanted: dict[str, int | None] = {}
    newest = seen.in_force
    if newest is not None:
        for role in Role:
            version = version_of(seen.versions, newest.channel.ref(role).bundle_id)
            if version is not None:
                wanted[str(role)] = version.number
        wanted[PREVIOUS] = _number(seen, _previous_primary(seen, newest))
    is_new = seen.latest is not None and (newest is None or newest.channel.primary.bundle_id != seen.latest.primary)
    wanted[CANDIDATE] = _number(seen, seen.latest.primary) if seen.latest is not None and is_new else None
    return wanted


def _number(seen: Seen, bundle_id: str | None) -> int | None:
    version = version_of(seen.versions, bundle_id) if bundle_id else None
    return version.number if version else None


def _previous_primary(seen: Seen, newest: Held) -> str | None:
    """Return the primary that served before the one in force, unless it is revoked."""
    passed = [one.pair.primary for one in seen.all_held if one.pair.primary != newest.pair.primary]
    kept = [bundle_id for bundle_id in passed if bundle_id not in seen.revoked.bundles]
    return kept[-1] if kept else None


def _aliases(seen: Seen, newest: Held | None) -> Iterator[Drift]:
    seq = newest.channel.seq if newest else None
    for alias, number in wanted_aliases(seen).items():
        found = seen.aliases.get(alias)
        if found == number:
            continue
        told = "is not set" if found is None else f"names version {found}"
        due = "it should not be set" if number is None else f"it should name version {number}"
        because = f"by channel seq {seq}" if alias != CANDIDATE else "by what was registered last"
        yield Drift(f"alias {alias}", f"{told}, {due} {because}", PointAlias(alias, number))


def _marks(seen: Seen, newest: Held) -> Iterator[Drift]:
    seq = newest.channel.seq
    if seen.versions and seen.done != str(seq):
        yield Drift(
            "mark", f"the registry's mark is {seen.done or 'not set'}, not seq {seq}", SetTag(DONE_TAG, str(seq))
        )
    # A number above it may be of a promotion that is under way. Below it no number is given out any more.
    for tag, claimed in seen.history.claims:
        if claimed <= seq:
            yield Drift("mark", f"a promotion that began seq {claimed} is over", SetTag(tag, None))


def _beyond_mending(seen: Seen, newest: Held) -> Iterator[Drift]:
    model, channel = seen.model, newest.channel
    for role in Role:
        bundle_id = channel.ref(role).bundle_id
        if seen.versions and version_of(seen.versions, bundle_id) is None:
            yield Drift(
                "version",
                f"no version holds the {role} {bundle_id[:12]} of channel seq {channel.seq}; run `hotspare register "
                f"{model}` where its bundle is, or promote another pair",
            )
    if len({one.channel.digest for one in seen.all_held if one.place == newest.place}) > 1:
        yield Drift(
            "channel",
            f"two channels have the number {channel.seq}; nodes keep the one they saw first, "
            f"so run `hotspare promote {model} --renew`, whose number is higher",
        )
    for what in unsaid(seen.revoked, channel):
        yield Drift("channel", f"seq {channel.seq} does not revoke {what}; run `hotspare promote {model} --renew`")


def unheeded_in_words(seen: Seen) -> str:
    """Say which channels are not heeded, and what to do."""
    tags = seen.unheeded
    named = tags[-1] if len(tags) == 1 else f"{tags[0]} to {tags[-1]}"
    return (
        f"no key that artifacts/trust.yaml pins for channels signed {named} in the registry, and what is revoked there "
        f"would be forgotten; pin that key once more until the next channel is signed, or, if it is nobody's, remove "
        f"the tag from the registered model {seen.model}"
    )


def unsaid(revoked: Revocations, channel: Channel) -> Iterator[str]:
    """Yield what is revoked and not so by this channel."""
    for bundle_id in revoked.bundles:
        if bundle_id not in channel.revoked.bundles:
            yield f"the bundle {bundle_id[:12]}, as an older one does"
    for hint in revoked.keys:
        if hint not in channel.revoked.keys:
            yield f"the key {hint[:12]}, as an older one does"


@dataclass(frozen=True)
class Behind:
    """How far somebody is behind the channel in force: releases that they lack, and since when the first was there."""

    versions: int
    seconds: float


def behind(seen: Seen, place: tuple[int, int], now: datetime) -> Behind:
    """Return how far whoever has the channel at ``place`` is behind; a renewal of the same pair is no release."""
    known = seen.all_held
    here = next((one for one in known if one.place == place), None)
    if seen.in_force is None or (here is not None and here.pair == seen.in_force.pair):
        return Behind(0, 0.0)
    pair, lacking = here.pair if here else None, list[Held]()
    for one in known:
        if one.place > place and one.pair != pair:
            lacking.append(one)
            pair = one.pair
    since = lacking[0].channel.dates.issued_at if lacking else now
    return Behind(len(lacking), max(0.0, (now - since).total_seconds()))


def place_of_pair(seen: Seen, pair: Pair) -> tuple[int, int] | None:
    """Return the place of the newest channel that names a pair, or None when none ever did."""
    return next((one.place for one in reversed(seen.all_held) if one.pair == pair), None)
