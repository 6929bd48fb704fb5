"""The one place that promotes: a number claimed in the registry, the signed channel, its record, then the aliases.

The swap of the channel's folder commits. A process killed before it leaves the old pair in force and a number that is
not used again. One killed after it leaves a record and aliases behind, which the next ``register``, ``promote`` or
``reconcile`` puts right from the channel: everything follows the newest channel that a pinned key signed.

Two project folders may promote into one registry at once. MLflow has no compare-and-set, so a number is claimed by a
tag of one's own, and the others' tags are read after it: of two that claim one number at least one sees the other,
and whoever does takes another. So no two channels get one number. The higher one is in force, what either revokes
is revoked by a third, and whoever mends last mends towards the newest.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.channel import BundleRef, Channel, Revocations
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.verify import read_channel
from pipeline.commands.build.mending import aligned, carry_out, look
from pipeline.core import layout
from pipeline.core.errors import KeyFileError, Unreachable
from pipeline.core.names import Role
from pipeline.registry.agreement import Drift, PointAlias, Seen, WriteFolder, unsaid
from pipeline.registry.channel_plan import NOTHING, Issue, Keep, channel_of, plan_pair, refs_in_force
from pipeline.registry.history import Held, claim_tag
from pipeline.registry.promotion_policy import ChannelTerms
from pipeline.registry.store import Registry
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import load_private_key

_TRIES_MAX = 20


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


def promote_pair(
    registry: Registry,
    model: str,
    refs: Mapping[Role, BundleRef] | None,
    terms: ChannelTerms,
    trust: TrustPolicy,
    now: datetime,
    *,
    rollback_of: int | None = None,
    revoke: Revocations = NOTHING,
    why: str | None = None,
    depot: Held | None = None,
) -> Promotion:
    """Make a registered pair, which passed every gate, the current one; the same pair again changes nothing.

    Without ``refs`` it is whatever pair is in force when the number is claimed: no alias is touched then, for where
    one stands it may be a wish that nobody has judged yet. ``rollback_of``, new revocations or a ``why`` have a
    channel signed in any case. Hold :func:`project.one_at_a_time`.
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
            carry_out(registry, model, WriteFolder(held))
            done, after = _settled(registry, seen, trust, plan, moves_aliases=refs is not None)
            return _brought_together(registry, after, terms, trust, now, done, moves_aliases=refs is not None)
        skip = rivals
    raise Unreachable(f"Others promote {model} without a pause; run the same command again in a while.")


def _settled(
    registry: Registry, seen: Seen, trust: TrustPolicy, plan: Keep | Issue, *, moves_aliases: bool
) -> tuple[Promotion, Seen]:
    mended, after = aligned(registry, seen.model, trust, seen.depot, moves_aliases=moves_aliases)
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
