"""The one place that promotes: intent in the registry, the signed channel, then the aliases, in this order.

The swap of the channel's folder commits. A process killed before it leaves the old pair in force and a number that
is not used again; one killed after it leaves aliases that the next ``register`` puts right from the channel.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from fcntl import LOCK_EX, flock
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.channel import CHANNEL_FILE, CHANNEL_SIGNATURE, BundleRef, Channel
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.reading import read_small
from pipeline.bundle.verify import read_channel
from pipeline.core import layout
from pipeline.core.clock import from_text, to_text
from pipeline.core.errors import KeyFileError, Malformed, PromotionRefused, SignatureInvalid
from pipeline.core.files import disk_errors, replacing_dir, write_atomic
from pipeline.core.names import Role
from pipeline.registry.access import STORE
from pipeline.registry.promotion import ChannelTerms, Issue, Keep, Pair, Standard, plan_channel
from pipeline.registry.record import Build, Sealed
from pipeline.registry.store import Registry, version_of
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import load_private_key

BEGUN_TAG = "channel_seq_begun"
DONE_TAG = "channel_seq"


@dataclass(frozen=True)
class Promotion:
    """What promoting a pair came to."""

    plan: Keep | Issue
    seq: int
    aliases_moved: tuple[str, ...]


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
    """Return the channel in force, whatever its dates, or None when the model was never promoted here.

    Raises PromotionRefused when no pinned key signed what is there.
    """
    folder = layout.channel_dir(model)
    if not (folder / CHANNEL_SIGNATURE).exists():
        return None
    try:
        channel, _ = read_channel(read_small(folder / CHANNEL_SIGNATURE), trust, str(folder / CHANNEL_SIGNATURE))
    except (SignatureInvalid, Malformed) as error:
        raise PromotionRefused(
            f"{folder} is not a channel that a key of {layout.TRUST_POLICY} signed; "
            "move the folder away to begin anew above the registry's sequence number, or pin the key that signed it.",
            [str(error)],
        ) from error
    if channel.model != model:
        raise PromotionRefused(f"{folder} holds the channel of {channel.model}; move the folder away.")
    return channel


def plan_promotion(
    registry: Registry, build: Build, terms: ChannelTerms, current: Channel | None, now: datetime
) -> Keep | Issue:
    """Decide whether a build's pair needs a new channel."""
    begun = registry.model_tags(build.model).get(BEGUN_TAG, "0")
    registry_seq = int(begun) if begun.isascii() and begun.isdigit() else 0
    return plan_channel(terms, _standard(current), registry_seq, build.facts().pair, now)


def promote(registry: Registry, build: Build, terms: ChannelTerms, trust: TrustPolicy, now: datetime) -> Promotion:
    """Make a build's pair, which passed every gate, the current one; the same pair again changes nothing.

    Raises KeyFileError when the signing key is missing or not pinned, PromotionRefused for a foreign channel.
    """
    current = current_channel(build.model, trust)
    plan = plan_promotion(registry, build, terms, current, now)
    if isinstance(plan, Issue):
        key = load_private_key()
        current = _channel(build, plan, trust, current)
        signed = _sign(current, key, trust)
        registry.tag_model(build.model, BEGUN_TAG, str(plan.seq))
        _write(build.model, *signed)
    assert current is not None  # noqa: S101 - Keep is decided only where a channel is
    return Promotion(plan, current.seq, align(registry, build.model, current))


def align(registry: Registry, model: str, channel: Channel) -> tuple[str, ...]:
    """Make the files and aliases say what the signed channel says; returns the aliases that had to move."""
    folder = layout.channel_dir(model)
    if not (folder / CHANNEL_FILE).exists() or read_small(folder / CHANNEL_FILE) != channel.to_bytes():
        write_atomic(folder / CHANNEL_FILE, channel.to_bytes())
    versions, aliases, moved = registry.versions(model), registry.aliases(model), []
    for role in Role:
        version = version_of(versions, channel.ref(role).bundle_id)
        if version is not None and aliases.get(role) != version.number:
            registry.set_alias(model, role, version.number)
            moved.append(str(role))
    if versions and registry.model_tags(model).get(DONE_TAG) != str(channel.seq):
        registry.tag_model(model, DONE_TAG, str(channel.seq))
    return tuple(moved)


def _standard(channel: Channel | None) -> Standard | None:
    if channel is None:
        return None
    pair = Pair(channel.primary.bundle_id, channel.backup.bundle_id)
    return Standard(pair, channel.epoch, channel.seq, from_text(channel.refresh_by))


def _channel(build: Build, plan: Issue, trust: TrustPolicy, before: Channel | None) -> Channel:
    channel = Channel(
        schema_version=1,
        model=build.model,
        channel=trust.channel,
        epoch=plan.epoch,
        seq=plan.seq,
        issued_at=to_text(plan.issued_at),
        refresh_by=to_text(plan.refresh_by),
        not_after=to_text(plan.not_after),
        primary=_ref(build.primary),
        backup=_ref(build.backup),
    )
    return channel if before is None else replace(channel, revoked=before.revoked)


def _ref(sealed: Sealed) -> BundleRef:
    return BundleRef(sealed.bundle_id, sealed.size_bytes)


def _sign(channel: Channel, key: ec.EllipticCurvePrivateKey, trust: TrustPolicy) -> tuple[bytes, bytes]:
    payload, signature = sign_channel(channel, key)
    try:
        read_channel(signature, trust)
    except SignatureInvalid as error:
        raise KeyFileError(
            f"{layout.TRUST_POLICY} does not let the signing key sign channels; "
            "pin its public key there with the use `channel`, or sign with the key that is pinned."
        ) from error
    return payload, signature


def _write(model: str, payload: bytes, signature: bytes) -> None:
    with replacing_dir(layout.channel_dir(model)) as aside:
        write_atomic(aside / CHANNEL_FILE, payload)
        write_atomic(aside / CHANNEL_SIGNATURE, signature)
