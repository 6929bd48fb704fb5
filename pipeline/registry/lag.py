"""How far a channel, or a node, is behind an alias that somebody moved, pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from pipeline.core.names import Role
from pipeline.registry.pair import Pair
from pipeline.registry.store import Version

MOVED_TAG = "alias_moved"
_MOMENT = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class Lag:
    """How far something is behind; ``of`` is ``channel`` or a node's address.

    ``seconds`` count from the alias's move until it followed, or until now. ``versions`` is 0 when it has followed.
    """

    of: str
    versions: int
    seconds: float
    has_followed: bool

    def alarms(self, seconds_max: float) -> bool:
        """Tell whether that is too long."""
        return self.seconds > seconds_max


def measure_lag(of: str, versions: int, moved_at: datetime, followed_at: datetime | None, now: datetime) -> Lag:
    """Return the lag of a channel or a node; two clocks that are apart make no negative one."""
    seconds = ((followed_at or now) - moved_at).total_seconds()
    return Lag(of, 0 if followed_at else versions, max(0.0, seconds), followed_at is not None)


def moved_text(version: Version, at: datetime) -> str:
    """Return what a tag of the registered model says of a move, so that a killed process finds its moment again."""
    return f"{version.number} {at.astimezone(UTC).strftime(_MOMENT)}"


def moved_at(tags: Mapping[str, str], alias: str, version: Version) -> datetime | None:
    """Read that tag of an alias; None where it tells of another version, or of none."""
    number, _, moment = tags.get(f"{MOVED_TAG}.{alias}", "").partition(" ")
    return _moment(moment) if number == str(version.number) else None


def last_moved_at(tags: Mapping[str, str]) -> datetime | None:
    """Return the moment of the latest move that is known; None before the first."""
    moments = [_moment(text.partition(" ")[2]) for key, text in tags.items() if key.startswith(f"{MOVED_TAG}.")]
    return max((moment for moment in moments if moment is not None), default=None)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, _MOMENT).replace(tzinfo=UTC)
    except ValueError:
        return None


@dataclass(frozen=True)
class NodeReport:
    """What a node's ``/status.json`` says of one model: the bundles of its ready members, and its channel's number."""

    ready: Mapping[Role, str]
    seq: int | None

    def serves(self, pair: Pair) -> bool:
        """Tell whether both roles are ready with these bundles."""
        return (self.ready.get(Role.PRIMARY), self.ready.get(Role.BACKUP)) == (pair.primary, pair.backup)


def read_node(figures: object, model: str) -> NodeReport | None:
    """Read a node's figures; None where they have another form or tell nothing of the model."""
    pairs = figures.get("pairs") if isinstance(figures, dict) else None
    for pair in pairs if isinstance(pairs, list) else ():
        if isinstance(pair, dict) and pair.get("model") == model:
            channel = pair.get("channel")
            seq = channel.get("seq") if isinstance(channel, dict) else None
            return NodeReport(_ready(pair.get("members")), seq if isinstance(seq, int) else None)
    return None


def _ready(members: object) -> dict[Role, str]:
    """Return the bundle of each role; a role whose members are not all ready with one and the same has none."""
    found: dict[Role, set[str | None]] = {}
    for member in members if isinstance(members, list) else ():
        seat = member.get("seat") if isinstance(member, dict) else None
        role = seat.get("role") if isinstance(seat, dict) else None
        if role in tuple(Role):
            bundle_id = member.get("bundle_id") if member.get("state") == "ready" else None
            found.setdefault(Role(role), set()).add(bundle_id if isinstance(bundle_id, str) else None)
    return {role: only for role, ids in found.items() if len(ids) == 1 and (only := next(iter(ids))) is not None}
