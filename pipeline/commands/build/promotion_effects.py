"""The one place that promotes: a number claimed in the registry, the signed channel, its record, then the aliases.

The swap of the channel's folder commits. A process killed before it leaves the old pair in force and a number that is
not used again. One killed after it leaves a record and aliases behind, which the next ``register``, ``promote`` or
``reconcile`` puts right from the channel: everything follows the newest channel that a pinned key signed.

Two project folders may promote into one registry at once. MLflow has no compare-and-set, so a number is claimed by a
tag of one's own, and the others' tags are read after it: of two that claim one number at least one sees the other,
and whoever does takes another. So no two channels get one number. The higher one is in force, what either revokes
is revoked by a third, and whoever mends last mends towards the newest.
"""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from fcntl import LOCK_EX, flock
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.channel import CHANNEL_FILE, CHANNEL_SIGNATURE, BundleRef, Channel, Revocations
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.reading import read_small
from pipeline.bundle.verify import read_channel
from pipeline.core import layout
from pipeline.core.clock import to_text
from pipeline.core.errors import KeyFileError, Malformed, PromotionRefused, SignatureInvalid, Unreachable
from pipeline.core.files import disk_errors, replacing_dir, write_atomic
from pipeline.core.names import Role
from pipeline.registry.access import STORE
from pipeline.registry.agreement import (
    Drift,
    Mend,
    PointAlias,
    Record,
    Seen,
    SetTag,
    WriteFolder,
    find_drift,
    unheeded_in_words,
    unsaid,
)
from pipeline.registry.channel_plan import Issue, Keep, plan_channel
from pipeline.registry.history import DONE_TAG, Held, claim_tag, history_tags, read_history, tag_beyond
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import ChannelTerms
from pipeline.registry.record import Build
from pipeline.registry.registered import is_registered_pair, latest_pair
from pipeline.registry.store import Registry, version_of
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import load_private_key

_TRIES_MAX = 20
_ROUNDS_MAX = 10
_NOTHING = Revocations()


@dataclass(frozen=True)
class Promotion:
    """What promoting a pair came to; ``seq`` is the number in force, which another folder may have raised since."""

    plan: Keep | Issue
    seq: int
    mended: tuple[Drift, ...]

    @property
    def aliases_moved(self) -> tuple[str, ...]:
        """Return the aliases that had to move."""
        return tuple(one.mend.alias for one in self.mended if isinstance(one.mend, PointAlias))


@contextmanager
def one_at_a_time(root: Path) -> Iterator[None]:
    """Hold the project's lock: two commands of one project never register or promote at once."""
    place = root / STORE / ".lock"
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        flock(descriptor, LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def current_channel(model: str, trust: TrustPolicy) -> Channel | None:
    """Return the channel in this project's folder, whatever its dates, or None when there is none.

    Raises PromotionRefused when no pinned key signed what is there.
    """
    held = read_folder(model, trust)
    return None if held is None else held.channel


def read_folder(model: str, trust: TrustPolicy) -> Held | None:
    """Return the channel in this project's folder with its signature; raises as :func:`current_channel` does."""
    folder = layout.channel_dir(model)
    if not (folder / CHANNEL_SIGNATURE).exists():
        return None
    signature = read_small(folder / CHANNEL_SIGNATURE)
    try:
        channel, _ = read_channel(signature, trust, str(folder / CHANNEL_SIGNATURE))
    except (SignatureInvalid, Malformed) as error:
        raise PromotionRefused(
            f"{folder} is not a channel that a key of {layout.TRUST_POLICY} signed; "
            "move the folder away to go on from what the registry knows, or pin the key that signed it.",
            [str(error)],
        ) from error
    if channel.model != model:
        raise PromotionRefused(f"{folder} holds the channel of {channel.model}; move the folder away.")
    return Held(channel, signature)


def look(registry: Registry, model: str, trust: TrustPolicy, depot: Held | None = None) -> Seen:
    """Read what the folder and the registry say of a model.

    The history is read first: what is recorded while this looks is seen by whoever recorded it.
    """
    tags = registry.model_tags(model)
    folder = read_folder(model, trust)
    return Seen(
        model=model,
        folder=folder,
        folder_is_whole=folder is not None and _is_whole(folder),
        history=read_history(tags, model, trust),
        done=tags.get(DONE_TAG),
        versions=registry.versions(model),
        aliases=registry.aliases(model),
        latest=latest_pair(tags),
        depot=depot,
    )


def build_refs(build: Build) -> dict[Role, BundleRef]:
    """Return how a channel names a build's bundles."""
    return {sealed.role: BundleRef(sealed.bundle_id, sealed.size_bytes) for sealed in build.sealed}


def promote_pair(
    registry: Registry,
    model: str,
    refs: Mapping[Role, BundleRef] | None,
    terms: ChannelTerms,
    trust: TrustPolicy,
    now: datetime,
    *,
    rollback_of: int | None = None,
    revoke: Revocations = _NOTHING,
    why: str | None = None,
    depot: Held | None = None,
) -> Promotion:
    """Make a registered pair, which passed every gate, the current one; the same pair again changes nothing.

    Without ``refs`` it is whatever pair is in force when the number is claimed: no alias is touched then, for where
    one stands it may be a wish that nobody has judged yet. ``rollback_of``, new revocations or a ``why`` have a
    channel signed in any case. Hold :func:`one_at_a_time`.
    Raises KeyFileError when the signing key is missing or not pinned, PromotionRefused for a foreign channel, a
    pair that was not registered as one, or a revoked bundle, Unreachable when the registry does not answer.
    """
    skip = 0
    for _ in range(_TRIES_MAX):
        seen = look(registry, model, trust, depot)
        named = refs_in_force(seen) if refs is None else refs
        plan = plan_pair(seen, named, terms, now, rollback_of=rollback_of, revoke=revoke, why=why)
        if isinstance(plan, Keep):
            return _settled(registry, seen, trust, plan, moves_aliases=refs is not None)[0]
        plan = replace(plan, seq=plan.seq + skip)
        held = _signed(channel_of(seen, named, plan, trust, rollback_of, revoke), trust)
        rivals = _claim(registry, seen, plan.seq, trust)
        if rivals is None:
            _write(model, held)
            done, after = _settled(registry, seen, trust, plan, moves_aliases=refs is not None)
            return _brought_together(registry, after, terms, trust, now, done, moves_aliases=refs is not None)
        skip = rivals
    raise Unreachable(f"Others promote {model} without a pause; run the same command again in a while.")


def refs_in_force(seen: Seen) -> dict[Role, BundleRef]:
    """Return how the channel in force names its pair; raises PromotionRefused where there is none."""
    if seen.in_force is None:
        raise PromotionRefused(f"{seen.model} was never promoted; there is nothing to renew.")
    return seen.in_force.refs


def plan_pair(
    seen: Seen,
    refs: Mapping[Role, BundleRef],
    terms: ChannelTerms,
    now: datetime,
    *,
    rollback_of: int | None = None,
    revoke: Revocations = _NOTHING,
    why: str | None = None,
) -> Keep | Issue:
    """Decide whether a registered pair needs a new channel, and which.

    Raises PromotionRefused for two bundles that were not registered as one pair, or of which one is revoked, and where
    a later channel may revoke what nobody here can read.
    """
    if seen.unheeded:
        raise PromotionRefused(f"{seen.model}: {unheeded_in_words(seen)}.")
    pair = Pair(refs[Role.PRIMARY].bundle_id, refs[Role.BACKUP].bundle_id)
    newest, wanted = seen.in_force, _with_revoked(seen, revoke)
    _check_pair(seen, pair, wanted)
    if rollback_of is not None:
        why = why or f"rollback of seq {rollback_of}"
    if newest is not None and any(unsaid(wanted, newest.channel)):
        why = why or "revocations"
    return plan_channel(terms, newest.standard if newest else None, seen.seq_max, pair, now, why)


def channel_of(
    seen: Seen,
    refs: Mapping[Role, BundleRef],
    plan: Issue,
    trust: TrustPolicy,
    rollback_of: int | None = None,
    revoke: Revocations = _NOTHING,
) -> Channel:
    """Return the channel that a plan makes, not signed yet."""
    return Channel(
        schema_version=1,
        model=seen.model,
        channel=trust.channel,
        epoch=plan.epoch,
        seq=plan.seq,
        issued_at=to_text(plan.issued_at),
        refresh_by=to_text(plan.refresh_by),
        not_after=to_text(plan.not_after),
        primary=refs[Role.PRIMARY],
        backup=refs[Role.BACKUP],
        revoked=_with_revoked(seen, revoke),
        rollback_of=rollback_of,
    )


def align(registry: Registry, model: str, trust: TrustPolicy, depot: Held | None = None) -> tuple[Drift, ...]:
    """Make folder, record and aliases say what the newest channel says; returns what had to be mended.

    Ends only after a look that found nothing to mend: a channel that another folder records meanwhile is seen by it or
    by that folder's own call, and whoever moves the aliases last moves them to the newest.
    """
    return _align(registry, model, trust, depot, moves_aliases=True)[0]


def _align(
    registry: Registry, model: str, trust: TrustPolicy, depot: Held | None, *, moves_aliases: bool
) -> tuple[tuple[Drift, ...], Seen]:
    mended: list[Drift] = []
    for _ in range(_ROUNDS_MAX):
        seen = look(registry, model, trust, depot)
        found = [drift for drift in find_drift(seen) if drift.mend is not None]
        if not moves_aliases:
            found = [drift for drift in found if not isinstance(drift.mend, PointAlias)]
        if not found:
            return tuple(mended), seen
        for drift in found:
            carry_out(registry, model, drift.mend)
        mended += found
    raise Unreachable(
        f"{model} does not stay as it is mended ({found[0].part}: {found[0].finding}): others promote it without a "
        "pause, or somebody goes on changing it. Run the same command again in a while."
    )


def carry_out(registry: Registry, model: str, mend: Mend | None) -> None:
    """Do one step of mending; doing it again does no harm."""
    match mend:
        case WriteFolder(held):
            _write(model, held)
        case Record(held):
            _record(registry, model, held)
        case PointAlias(alias, None):
            registry.remove_alias(model, alias)
        case PointAlias(alias, int(number)):
            registry.set_alias(model, alias, number)
        case SetTag(key, None):
            registry.untag_model(model, key)
        case SetTag(key, str(value)):
            registry.tag_model(model, key, value)


def _record(registry: Registry, model: str, held: Held) -> None:
    if tag_beyond(held) in registry.model_tags(model):
        registry.untag_model(model, tag_beyond(held))
    for key, text in history_tags(held):
        registry.tag_model(model, key, text)


def _settled(
    registry: Registry, seen: Seen, trust: TrustPolicy, plan: Keep | Issue, *, moves_aliases: bool
) -> tuple[Promotion, Seen]:
    mended, after = _align(registry, seen.model, trust, seen.depot, moves_aliases=moves_aliases)
    newest = after.in_force
    assert newest is not None  # noqa: S101 - Keep is decided only where a channel is, Issue writes one
    return Promotion(plan, newest.channel.seq, mended), after


def _brought_together(
    registry: Registry,
    seen: Seen,
    terms: ChannelTerms,
    trust: TrustPolicy,
    now: datetime,
    done: Promotion,
    *,
    moves_aliases: bool,
) -> Promotion:
    """Sign once more where another folder's channel, recorded meanwhile, revokes what the newest does not."""
    newest = seen.in_force
    if newest is None or not any(unsaid(seen.revoked, newest.channel)):
        return done
    again = promote_pair(registry, seen.model, newest.refs if moves_aliases else None, terms, trust, now)
    return replace(again, plan=done.plan, mended=done.mended + again.mended)


def _check_pair(seen: Seen, pair: Pair, revoked: Revocations) -> None:
    bad = [one[:12] for one in (pair.primary, pair.backup) if one in revoked.bundles]
    if bad:
        raise PromotionRefused(f"{seen.model}: {' and '.join(bad)} revoked for ever; pack another build.")
    advice = "run `hotspare register` where their build is"
    lost = [one[:12] for one in (pair.primary, pair.backup) if version_of(seen.versions, one) is None]
    if lost:
        raise PromotionRefused(f"{seen.model}: no version in the registry holds {' and '.join(lost)}; {advice}.")
    if pair not in [one.pair for one in seen.all_held] and not is_registered_pair(seen.versions, pair):
        both = f"{pair.primary[:12]} and {pair.backup[:12]}"
        raise PromotionRefused(f"{seen.model}: {both} were not registered as one pair; {advice}.")


def _with_revoked(seen: Seen, revoke: Revocations) -> Revocations:
    known = seen.revoked
    return Revocations(tuple(sorted({*known.keys, *revoke.keys})), tuple(sorted({*known.bundles, *revoke.bundles})))


def _signed(channel: Channel, trust: TrustPolicy) -> Held:
    """Sign before the number is claimed: a key that may not, or a channel that nobody could read, leaves no trace."""
    key = load_private_key()
    _check_key(key, trust, channel)
    signature = sign_channel(channel, key)[1]
    read_channel(signature, trust, f"the channel of {channel.model} to be signed")
    return Held(channel, signature)


def _check_key(key: ec.EllipticCurvePrivateKey, trust: TrustPolicy, channel: Channel) -> None:
    hint = key_hint(key.public_key())
    if hint not in trust.keys_for(KeyUse.CHANNEL):
        raise KeyFileError(
            f"{layout.TRUST_POLICY} does not let the signing key sign channels; "
            "pin its public key there with the use `channel`, or sign with the key that is pinned."
        )
    if hint in channel.revoked.keys:
        raise KeyFileError(
            f"The signing key {hint[:12]} is revoked by the channel of {channel.model}; sign with another that "
            f"{layout.TRUST_POLICY} pins."
        )


def _claim(registry: Registry, seen: Seen, seq: int, trust: TrustPolicy) -> int | None:
    """Claim a number; None when it is ours alone, else how many numbers to skip at the next try.

    Rivals who saw each other skip different ones. Also lost is a number that a recorded channel reached meanwhile.
    """
    mine = claim_tag(secrets.token_hex(8))
    registry.tag_model(seen.model, mine, str(seq))
    after = look(registry, seen.model, trust)
    rivals = sorted(tag for tag, claimed in after.history.claims if claimed == seq and tag != mine)
    overtaken = after.in_force is not None and after.in_force.channel.seq >= seq
    return sum(tag < mine for tag in rivals) if rivals or overtaken else None


def _write(model: str, held: Held) -> None:
    with replacing_dir(layout.channel_dir(model)) as aside:
        write_atomic(aside / CHANNEL_FILE, held.channel.to_bytes())
        write_atomic(aside / CHANNEL_SIGNATURE, held.signature)


def _is_whole(held: Held) -> bool:
    place = layout.channel_dir(held.channel.model) / CHANNEL_FILE
    return place.exists() and read_small(place) == held.channel.to_bytes()
