"""What is to be done when somebody moves an alias, pure: registry, channel and working folder in, a step out.

An alias is a wish, the channel is the fact. A wish names a version; its pair is judged by the promotion policy. A
version without a backup of its own build gets one where its build or its model file is.
"""

from dataclasses import dataclass
from datetime import datetime

from pipeline.core.names import Role
from pipeline.registry.agreement import CANDIDATE, Seen
from pipeline.registry.follow_terms import FollowTerms
from pipeline.registry.history import taken_back
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import Mode
from pipeline.registry.registered import is_registered_pair, pair_of
from pipeline.registry.store import Version, version_of

BUILT_TAG = "built_primary"


@dataclass(frozen=True)
class Wish:
    """An alias that names something else than the channel does."""

    alias: str
    version: Version

    @property
    def bundle_id(self) -> str:
        """Return the id of the bundle that the version holds, or that was built of its model; empty before."""
        return built_id(self.version)


def built_id(version: Version) -> str:
    """Return the id of the bundle that a version holds, or of the primary that was built of its trained model."""
    return version.bundle_id or version.tags.get(BUILT_TAG, "")


@dataclass(frozen=True)
class Agreed:
    """The aliases say what the channel says, or nothing that is to be followed."""


@dataclass(frozen=True)
class Finish:
    """A promotion was cut off after its channel was signed: the aliases are not yet what it says."""


@dataclass(frozen=True)
class Judge:
    """A registered pair is to be judged, and promoted if every gate passes.

    ``can_rebuild``: it is the working folder's own build, whose missing stages can be run.
    """

    wish: Wish
    pair: Pair
    can_rebuild: bool


@dataclass(frozen=True)
class Rebuild:
    """The wished version has no backup of its own build: the recipe is to be replayed.

    ``from_source``: the version holds a trained model, not a bundle; it takes the place of the recipe's source first.
    """

    wish: Wish
    from_source: bool


@dataclass(frozen=True)
class Stuck:
    """The alias can be followed nowhere from here; each reason says what to do."""

    alias: str
    version: Version | None
    reasons: tuple[str, ...]


Step = Agreed | Finish | Judge | Rebuild | Stuck


@dataclass(frozen=True)
class Outlook:
    """What is true of one model: all read anew at every look; ``local`` is the pair packed in the working folder."""

    seen: Seen
    mode: Mode
    local: Pair | None
    terms: FollowTerms


def next_step(outlook: Outlook) -> Step:
    """Decide what to do about a model's aliases."""
    seen = outlook.seen
    if _was_cut_off(seen):
        return Finish()
    wish = find_wish(seen, outlook.mode)
    if wish is None:
        return _missing_alias(seen) or Agreed()
    if version_of(seen.versions, wish.bundle_id) is None:
        return _may_rebuild(outlook, Rebuild(wish, from_source=True))
    pair = wished_pair(seen, wish)
    is_local = outlook.local is not None and outlook.local.primary == wish.bundle_id
    if pair is not None:
        return Judge(wish, pair, can_rebuild=outlook.terms.rebuild and pair == outlook.local)
    if is_local:
        return _may_rebuild(outlook, Rebuild(wish, from_source=False))
    return Stuck(wish.alias, wish.version, (_no_backup(seen.model, wish.version),))


def is_due(seen: Seen, now: datetime) -> bool:
    """Tell whether the channel in force is to be renewed now.

    Never before a promotion that was cut off is finished: its aliases would be taken for wishes.
    """
    newest = seen.in_force
    return newest is not None and now >= newest.channel.dates.refresh_by and not _was_cut_off(seen)


def _was_cut_off(seen: Seen) -> bool:
    newest = seen.in_force
    return newest is not None and bool(seen.versions) and seen.done != str(newest.channel.seq)


def find_wish(seen: Seen, mode: Mode) -> Wish | None:
    """Return the alias that names something else than the channel, the one of the primary first.

    ``candidate`` names what was registered last and waits. Where a person has to promote, it goes on waiting; nor is
    a pair followed that a rollback took back.
    """
    in_force = seen.in_force.pair if seen.in_force else None
    for role in Role:
        version = _named(seen, role)
        if version is not None and (in_force is None or built_id(version) != _bundle_id(in_force, role)):
            return Wish(role, version)
    version = _named(seen, CANDIDATE)
    if version is None or mode is Mode.MANUAL or (in_force is not None and built_id(version) == in_force.primary):
        return None
    wish = Wish(CANDIDATE, version)
    return None if wished_pair(seen, wish) in taken_back(seen.all_held) else wish


def wished_pair(seen: Seen, wish: Wish) -> Pair | None:
    """Return the pair that a wish is about, or None where the version has no registered backup.

    Where both aliases were moved, it is these two if they were registered as a pair. Else a primary brings the backup
    of its own build, and a backup that was moved alone is to stand beside the primary in force.
    """
    in_force = seen.in_force.pair if seen.in_force else None
    backup = _named(seen, Role.BACKUP)
    if wish.alias == Role.BACKUP:
        return Pair(in_force.primary, wish.bundle_id) if in_force else None
    if wish.alias == Role.PRIMARY and backup is not None and in_force and backup.bundle_id != in_force.backup:
        both = Pair(wish.bundle_id, backup.bundle_id)
        if is_registered_pair(seen.versions, both):
            return both
    version = version_of(seen.versions, wish.bundle_id)
    return pair_of(seen.versions, version) if version else None


def left_behind(seen: Seen, pair: Pair) -> int | None:
    """Return the number of the channel that is taken back when a pair is wished that was in force before; else None.

    Who goes back means it: what is left is not promoted again until a person asks for it.
    """
    newest = seen.in_force
    if newest is None or newest.pair == pair or pair not in [one.pair for one in seen.all_held]:
        return None
    return newest.channel.seq


def versions_behind(seen: Seen, wish: Wish) -> int:
    """Return how many versions that could be a primary lie between the one in force and the wished one, which counts.

    A step back to an older version is one.
    """
    in_force = seen.in_force
    current = version_of(seen.versions, in_force.channel.primary.bundle_id) if in_force else None
    after = current.number if current else 0
    passed = [one for one in seen.versions if after < one.number <= wish.version.number and _could_be_primary(one)]
    return max(1, len(passed))


def _could_be_primary(version: Version) -> bool:
    return not version.bundle_id or version.tags.get("selected_as") != Role.BACKUP


def _named(seen: Seen, alias: str) -> Version | None:
    number = seen.aliases.get(alias)
    return next((one for one in seen.versions if one.number == number), None)


def _bundle_id(pair: Pair, role: Role) -> str:
    return pair.primary if role is Role.PRIMARY else pair.backup


def _may_rebuild(outlook: Outlook, step: Rebuild) -> Rebuild | Stuck:
    if outlook.terms.rebuild:
        return step
    reason = (
        f"{_no_backup(outlook.seen.model, step.wish.version)}, or set `follow.rebuild: true` in mlflow/promotion.yaml"
    )
    return Stuck(step.wish.alias, step.wish.version, (reason,))


def _no_backup(model: str, version: Version) -> str:
    what = f"version {version.number} of {model}"
    if not version.bundle_id:
        return f"{what} holds a model that no stage has compressed; run `dvc repro` on it and `hotspare register`"
    return f"{what} has no registered backup of its own build; run `hotspare register {model}` where its build is"


def _missing_alias(seen: Seen) -> Stuck | None:
    if seen.in_force is None or not seen.versions:
        return None
    for role in Role:
        version = version_of(seen.versions, seen.in_force.channel.ref(role).bundle_id)
        if version is not None and role not in seen.aliases:
            seq = seen.in_force.channel.seq
            reason = f"it is not set, channel seq {seq} names version {version.number}; run `hotspare reconcile`"
            return Stuck(role, version, (reason,))
    return None
