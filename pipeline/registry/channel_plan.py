"""Which channel comes next, pure: its number and its dates, or none where the one in force says it all."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipeline.bundle.channel import BundleRef, Channel, Revocations
from pipeline.bundle.policy import TrustPolicy
from pipeline.core.clock import to_text
from pipeline.core.errors import PromotionRefused
from pipeline.core.names import Role
from pipeline.registry.agreement import Seen, unheeded_in_words, unsaid
from pipeline.registry.history import Standard
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import ChannelTerms
from pipeline.registry.registered import is_registered_pair
from pipeline.registry.store import version_of

NOTHING = Revocations()


@dataclass(frozen=True)
class Keep:
    """The channel already names this pair and is not due."""


@dataclass(frozen=True)
class Issue:
    """A new channel is to be signed."""

    epoch: int
    seq: int
    issued_at: datetime
    refresh_by: datetime
    not_after: datetime
    why: str


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
    revoke: Revocations = NOTHING,
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
    revoke: Revocations = NOTHING,
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


def plan_channel(
    terms: ChannelTerms, current: Standard | None, registry_seq: int, pair: Pair, now: datetime, why: str | None = None
) -> Keep | Issue:
    """Decide whether a pair needs a new channel, and which sequence number it takes.

    ``registry_seq`` is the highest number that the registry knows to have been begun (0 for none): a number is
    never used twice, even when the channel file was lost or a promotion was killed half-way. ``why`` is a reason of
    the caller's to sign one in any case.
    """
    why = why or _why_issue(terms, current, pair, now)
    if why is None:
        return Keep()
    seq = max(current.seq if current else 0, registry_seq) + 1
    epoch = max(current.epoch if current else 0, terms.epoch)
    refresh_by = now + timedelta(days=terms.refresh_days)
    return Issue(epoch, seq, now, refresh_by, now + timedelta(days=terms.valid_days), why)


def _why_issue(terms: ChannelTerms, current: Standard | None, pair: Pair, now: datetime) -> str | None:
    if current is None:
        return "promoted"
    if current.pair != pair:
        swapped = current.pair == Pair(pair.backup, pair.primary)
        return "roles swapped" if swapped else "promoted"
    if current.epoch < terms.epoch:
        return "new epoch"
    return "renewed" if now >= current.refresh_by else None


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
