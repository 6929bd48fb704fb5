"""The only maker of a VerifiedBundle: signature, statement, channel, bytes, manifest, policy, in this order.

Nothing is parsed before it is verified, every file is read once, and what is handed out are the bytes that were
hashed: loading them can not be raced by whoever writes the disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipeline.bundle.channel import (
    CHANNEL_FILE,
    CHANNEL_SIGNATURE,
    CHANNEL_TYPE,
    Channel,
    check_dates,
    check_floor,
    check_revoked,
    role_of,
)
from pipeline.bundle.dsse import open_envelope, open_sigstore_bundle
from pipeline.bundle.floor import floor_path, read_floor
from pipeline.bundle.io_contract import IoContract
from pipeline.bundle.learning import check_checkpoint, checkpoint_manifest
from pipeline.bundle.manifest import (
    IO_FILE,
    MANIFEST_FILE,
    REQUIRED_FILES,
    Manifest,
    Node,
    engine_is_installed,
    misfits,
)
from pipeline.bundle.node import this_node
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.reading import BYTES_MAX, SIGNATURE_FILE, read_payload, read_small
from pipeline.bundle.statement import read_statement
from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import Malformed, NotAccepted, Tampered
from pipeline.core.names import Role

if TYPE_CHECKING:
    from pipeline.bundle.golden import Golden

_CHECKPOINT_ROOM_BYTES = 64 << 10  # what a checkpoint may have beyond its base: what it says of itself


@dataclass(frozen=True)
class VerifiedChannel:
    """A channel that a pinned key signed and that this node accepts now."""

    channel: Channel
    key_hint: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class VerifiedBundle:
    """A bundle this node may load; ``files`` holds the very bytes that were hashed, by path."""

    bundle_id: str
    model: str
    candidate: str
    role: Role | None
    manifest: Manifest
    io: IoContract
    files: Mapping[str, bytes]
    key_hint: str
    unchecked: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def size(self) -> int:
        """Return the bytes of all payload files together, as a channel tells them."""
        return sum(map(len, self.files.values()))

    @property
    def model_file(self) -> bytes:
        """Return the bytes of the model file."""
        return self.files[self.manifest.entrypoint.path]

    @cached_property
    def golden(self) -> "Golden":
        """Return its warm-up rows and golden answers, read once; raises Malformed when they do not fit each other."""
        from pipeline.bundle.golden import read_golden  # not at the top: who only verifies loads no numpy

        return read_golden(self.files)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a VerifiedBundle never crosses a process: verify again on the other side")


def read_channel(signature: bytes, policy: TrustPolicy, what: str = CHANNEL_SIGNATURE) -> tuple[Channel, str]:
    """Return what ``channel.sig`` signs, and the hint of the key that did: no dates, no floor.

    For signers that renew a channel; nodes use :func:`load_channel`. Raises Malformed or SignatureInvalid.
    """
    signed = open_envelope(signature, CHANNEL_TYPE, policy.keys_for(KeyUse.CHANNEL), what)
    inside = f"The channel in {what}"
    channel = fit(Channel, parse_strict(signed.payload, inside), inside)
    if channel.to_bytes() != signed.payload:
        raise Malformed(f"{inside} is not in its one byte form; promote again.")
    return channel, signed.key_hint


def load_channel(place: Path, policy: TrustPolicy, now: datetime) -> VerifiedChannel:
    """Load a channel's folder (or one of its two files) and check it: key, model, name, dates, floor.

    Raises Malformed, SignatureInvalid, Tampered (channel.json is not what channel.sig signs), NotAccepted, Expired
    (unless the policy lets it serve on: then that is a warning), Revoked or RolledBack.
    """
    folder = place.parent if place.name in (CHANNEL_FILE, CHANNEL_SIGNATURE) else place
    signature = read_small(folder / CHANNEL_SIGNATURE)
    accepted = accept_channel(signature, policy, now, str(folder / CHANNEL_SIGNATURE))
    if read_small(folder / CHANNEL_FILE) != accepted.channel.to_bytes():
        raise Tampered(f"{folder / CHANNEL_FILE} is not what {CHANNEL_SIGNATURE} signs; fetch both again.")
    return accepted


def accept_channel(signature: bytes, policy: TrustPolicy, now: datetime, what: str) -> VerifiedChannel:
    """Verify the bytes of ``channel.sig`` and check what they sign: key, model, name, floor, dates.

    Raises what :func:`load_channel` does.
    """
    channel, hint = read_channel(signature, policy, what)
    _check_addressee(channel, policy)
    check_revoked(channel, hint)
    check_floor(channel, read_floor(floor_path(policy.state_dir, channel.model)))
    return VerifiedChannel(channel, hint, check_dates(channel, now, policy.expired))


def _check_addressee(channel: Channel, policy: TrustPolicy) -> None:
    if channel.model not in policy.models:
        raise NotAccepted(f"The channel is for {channel.model}; this node accepts {', '.join(policy.models)}.")
    if channel.channel != policy.channel:
        raise NotAccepted(f"The channel is {channel.channel!r}; this node accepts {policy.channel!r}.")


def verify_bundle(
    path: Path,
    policy: TrustPolicy,
    now: datetime,
    channel: VerifiedChannel | None = None,
    role: Role | None = None,
    node: Node | None = None,
) -> VerifiedBundle:
    """Verify the bundle folder ``path`` against a trust policy and, where given, a channel and the role it must have.

    ``node`` is by default this machine. Raises the Untrusted error that fits, FileAccess when files cannot be read.
    """
    signature = read_small(path / SIGNATURE_FILE)
    signed = open_sigstore_bundle(signature, policy.keys_for(KeyUse.BUNDLE), str(path / SIGNATURE_FILE))
    statement = read_statement(signed.payload)
    if channel is not None:
        check_dates(channel.channel, now, policy.expired)
        check_revoked(channel.channel, signed.key_hint, statement.bundle_id)
        role = role_of(channel.channel, statement.bundle_id, role)
    elif role is not None:
        raise NotAccepted("Without a channel no bundle has a role; give the channel too.")
    found = node or this_node()
    size = channel.channel.ref(role).size if channel and role else None
    files = read_payload(path, statement, size, min(BYTES_MAX, found.ram_mb * 10**6 // 2))
    manifest, io = _read_descriptions(files)
    _check_accepted(manifest, policy, channel, found)
    return VerifiedBundle(
        bundle_id=statement.bundle_id,
        model=manifest.model,
        candidate=manifest.candidate,
        role=role,
        manifest=manifest,
        io=io,
        files=files,
        key_hint=signed.key_hint,
        unchecked=_unchecked(channel, manifest, found),
        warnings=channel.warnings if channel else (),
    )


def verify_checkpoint(
    path: Path,
    base: VerifiedBundle,
    policy: TrustPolicy,
    now: datetime,
    channel: VerifiedChannel | None = None,
    node: Node | None = None,
) -> VerifiedBundle:
    """Verify a checkpoint of ``base``, sealed by a key that the policy pins for updates of the base's model alone.

    It has the base's role, and differs from it in nothing but the bytes that the base's ``learning.json`` lets learn.
    Raises the Untrusted error that fits, FileAccess when files cannot be read.
    """
    if base.key_hint not in policy.keys_for(KeyUse.BUNDLE):
        raise NotAccepted("The base of a checkpoint is a bundle that a bundle key signed, never a checkpoint.")
    signature = read_small(path / SIGNATURE_FILE)
    signed = open_sigstore_bundle(signature, policy.update_keys(base.model), str(path / SIGNATURE_FILE))
    statement = read_statement(signed.payload)
    if channel is not None:
        check_dates(channel.channel, now, policy.expired)
        role_of(channel.channel, base.bundle_id, base.role)
        check_revoked(channel.channel, base.key_hint, base.bundle_id)
        check_revoked(channel.channel, signed.key_hint, statement.bundle_id)
    files = read_payload(path, statement, None, base.size + _CHECKPOINT_ROOM_BYTES)
    manifest, io = _read_descriptions(files)
    check_checkpoint(base.bundle_id, base.files, checkpoint_manifest(base.manifest, base.model_file), files)
    _check_accepted(manifest, policy, channel, node or this_node())
    return replace(
        base,
        bundle_id=statement.bundle_id,
        manifest=manifest,
        io=io,
        files=files,
        key_hint=signed.key_hint,
        warnings=channel.warnings if channel else (),
    )


def _unchecked(channel: VerifiedChannel | None, manifest: Manifest, node: Node) -> tuple[str, ...]:
    gaps = []
    if channel is None:
        gaps.append("no channel was given: the role, the dates, the floor against rollback, and revocations")
    if not engine_is_installed(manifest, node):
        gaps.append(f"no engine for {manifest.entrypoint.format} is installed: the version of {manifest.runtime.name}")
    return tuple(gaps)


def _read_descriptions(files: Mapping[str, bytes]) -> tuple[Manifest, IoContract]:
    missing = sorted(set(REQUIRED_FILES) - files.keys())
    if missing:
        raise Malformed(f"The bundle is signed but lacks {', '.join(missing)}; pack it again.")
    manifest = fit(Manifest, parse_strict(files[MANIFEST_FILE], MANIFEST_FILE), MANIFEST_FILE)
    if manifest.io_contract_sha256 != sha256_hex(files[IO_FILE]):
        raise Malformed(f"{MANIFEST_FILE} names another {IO_FILE} than the bundle holds; pack it again.")
    if manifest.entrypoint.path not in files:
        raise Malformed(f"{MANIFEST_FILE} names {manifest.entrypoint.path}, which the bundle lacks; pack it again.")
    return manifest, fit(IoContract, parse_strict(files[IO_FILE], IO_FILE), IO_FILE)


def _check_accepted(manifest: Manifest, policy: TrustPolicy, channel: VerifiedChannel | None, node: Node) -> None:
    if manifest.model not in policy.models:
        raise NotAccepted(f"The bundle is of {manifest.model}; this node accepts {', '.join(policy.models)}.")
    if channel is not None and channel.channel.model != manifest.model:
        raise NotAccepted(f"The bundle is of {manifest.model}, the channel of {channel.channel.model}.")
    reasons = misfits(manifest, node)
    if reasons:
        raise NotAccepted(f"The bundle does not run here: {'; '.join(reasons)}.")
