"""What signing a channel would change, for ``--dry-run``: the channel and the aliases, now and then."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pipeline.bundle.channel import Channel
from pipeline.commands.build.console import show_table
from pipeline.core.names import Role
from pipeline.registry.agreement import Seen, wanted_aliases
from pipeline.registry.history import Held
from pipeline.registry.store import version_of


@dataclass(frozen=True)
class Change:
    """One thing, as it is and as it would be."""

    what: str
    now: str
    then: str


def changes(seen: Seen, channel: Channel | None) -> tuple[Change, ...]:
    """Return what differs once ``channel`` is in force (None: the one in force stays) and aliases follow it."""
    after = seen if channel is None else replace(seen, folder=Held(channel, b""))
    now = seen.in_force.channel if seen.in_force else None
    lines = [*_of_channel(seen, now, channel or now), *_of_aliases(seen, after)]
    return tuple(one for one in lines if one.now != one.then)


def show_changes(model: str, lines: Sequence[Change]) -> None:
    """Print them for people."""
    if lines:
        show_table(f"{model}: what would change", ["", "now", "then"], [(c.what, c.now, c.then) for c in lines])
    else:
        print(f"{model}: nothing would change.")


def _of_channel(seen: Seen, now: Channel | None, then: Channel | None) -> Iterator[Change]:
    for what in ("seq", "epoch", "refresh_by", "not_after", "rollback_of"):
        yield Change(f"channel {what}", _text(now, what), _text(then, what))
    for role in Role:
        yield Change(f"channel {role}", _bundle(seen, now, role), _bundle(seen, then, role))
    for kind in ("bundles", "keys"):
        before, after = (set(getattr(one.revoked, kind)) if one else set() for one in (now, then))
        for item in sorted(after - before):
            yield Change(f"revoked {kind}", "-", item[:12])


def _text(channel: Channel | None, what: str) -> str:
    value = getattr(channel, what) if channel else None
    return "-" if value is None else str(value)


def _bundle(seen: Seen, channel: Channel | None, role: Role) -> str:
    if channel is None:
        return "-"
    bundle_id = channel.ref(role).bundle_id
    version = version_of(seen.versions, bundle_id)
    return f"{bundle_id[:12]} {version.tags.get('candidate', '') if version else ''}".strip()


def _of_aliases(seen: Seen, after: Seen) -> Iterator[Change]:
    for alias, number in wanted_aliases(after).items():
        yield Change(f"alias {alias}", _version(seen.aliases.get(alias)), _version(number))


def _version(number: int | None) -> str:
    return "-" if number is None else f"version {number}"
