"""A play's own copy of what is served: bundles, policy and, where a script is about it, a channel of the drill's.

The channel's key is made for one play and thrown away; the policy that pins it lies in the play's folder alone. The
version before the present one is made of the same payload under another model card: genuine, signed, and older.
"""

import base64
import json
import os
import shutil
import time
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.channel import CHANNEL_FILE, CHANNEL_SIGNATURE, DEFAULT_CHANNEL, BundleRef, Channel, Expiry
from pipeline.bundle.manifest import CARD_FILE
from pipeline.bundle.policy import KeyUse, PolicyFile, PolicyKey, TrustPolicy, load_policy, parse_policy
from pipeline.bundle.public_key import public_pem
from pipeline.bundle.reading import PAYLOAD, SIGNATURE_FILE
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core.canonical import canonical_json, readable_json, sha256_hex
from pipeline.core.clock import from_text, to_text, utc_now
from pipeline.core.errors import ModelError, TrustPolicyError
from pipeline.core.files import read_bytes, write_atomic
from pipeline.core.names import Role
from pipeline.core.schema import plain
from pipeline.drill.live.launching import PairFiles
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.signing import seal_bundle

SEQ = 7
_DAY = timedelta(days=1)
_YEAR = timedelta(days=365)


@dataclass(frozen=True)
class Copied:
    """What one play serves: its files, what was verified of them, and where its state is kept."""

    files: PairFiles
    bundles: dict[Role, VerifiedBundle]
    state: Path
    channels: "Channels | None" = None

    @property
    def model(self) -> str:
        """Return the model's name."""
        return self.bundles[Role.PRIMARY].model

    def model_bytes(self, role: Role) -> bytes:
        """Return the bytes of a role's model file."""
        bundle = self.bundles[role]
        return bundle.files[bundle.manifest.entrypoint.path]

    def model_path(self, role: Role) -> Path:
        """Return the model's file in a role's bundle on disk."""
        return self.files.bundle(role) / PAYLOAD / self.bundles[role].manifest.entrypoint.path


def copied(pair: PairFiles, folder: Path, with_channel: bool) -> Copied:
    """Copy a pair to a play's own folder, with a channel of the drill's if one is needed; its state is new.

    Raises the Untrusted error that fits when the bundles do not verify, TrustPolicyError for the policy.
    """
    files = pair.copied(folder)
    key = ec.generate_private_key(ec.SECP256R1()) if with_channel else None
    _write_policy(pair.trust, files.trust, key)
    policy = load_policy(files.trust)
    bundles = {role: verify_bundle(files.bundle(role), policy, utc_now()) for role in Role}
    if key is None:
        return Copied(files, bundles, policy.state_dir)
    channels = Channels(folder, key, policy, bundles)
    channels.write_current()
    return Copied(replace(files, channel=channels.folder), bundles, policy.state_dir, channels)


def _write_policy(given: Path, place: Path, key: ec.EllipticCurvePrivateKey | None) -> None:
    """Write the given policy without its channels and with state of its own; it pins the drill's key too.

    It refuses what has expired, whatever is given: that is what `expired` rehearses, in both worlds alike.
    """
    policy: PolicyFile = parse_policy(read_bytes(given, TrustPolicyError), str(given))
    keys = policy.keys
    if key is not None:
        own = PolicyKey(public_pem(key.public_key()), (KeyUse.BUNDLE, KeyUse.CHANNEL))
        keys = {**keys, "throw-away": own}
    changed = replace(
        policy, keys=keys, channels=None, channel=DEFAULT_CHANNEL, state_dir="state", expired=Expiry.REFUSE
    )
    write_atomic(place, readable_json(plain(changed)))


class Channels:
    """The channel of one play, and the version before it."""

    def __init__(
        self, folder: Path, key: ec.EllipticCurvePrivateKey, policy: TrustPolicy, bundles: dict[Role, VerifiedBundle]
    ) -> None:
        """Make and sign the version before the present one."""
        self.folder = folder / "channel"
        self.previous = PairFiles(folder / "previous-primary", folder / "previous-backup", folder / "trust.yaml")
        self._key = key
        self._current = bundles
        for role, bundle in bundles.items():
            card = bundle.files[CARD_FILE] + b"\n(The version before.)\n"
            seal_bundle(self.previous.bundle(role), {**bundle.files, CARD_FILE: card}, key)
        self.before = {role: verify_bundle(self.previous.bundle(role), policy, utc_now()) for role in Role}

    def write_current(self) -> None:
        """Put the channel of the present bundles in place."""
        self._write(self._current, SEQ, utc_now() + _YEAR)

    def write_ending(self, at: datetime) -> None:
        """Put a renewed channel in place that ends at a time, in whole seconds."""
        self._write(self._current, SEQ + 1, at)

    def write_before(self) -> None:
        """Put the channel of the version before in place of the current one."""
        self._write(self.before, SEQ - 1, utc_now() + _YEAR)

    def behind(self, bundle_id: str) -> int:
        """Return how many versions a bundle is behind what the channel promoted."""
        return int(bundle_id in {one.bundle_id for one in self.before.values()})

    def _write(self, bundles: dict[Role, VerifiedBundle], seq: int, not_after: datetime) -> None:
        refs = {role: BundleRef(bundle.bundle_id, bundle.size) for role, bundle in bundles.items()}
        channel = Channel(
            schema_version=1,
            model=bundles[Role.PRIMARY].model,
            channel=DEFAULT_CHANNEL,
            epoch=0,
            seq=seq,
            issued_at=to_text(utc_now() - _DAY),
            refresh_by=to_text(not_after),
            not_after=to_text(not_after),
            primary=refs[Role.PRIMARY],
            backup=refs[Role.BACKUP],
        )
        content, signature = sign_channel(channel, self._key)
        write_atomic(self.folder / CHANNEL_FILE, content)
        write_atomic(self.folder / CHANNEL_SIGNATURE, signature)


def next_whole_second() -> datetime:
    """Return the next moment that a channel can end at."""
    return from_text(to_text(utc_now())) + timedelta(seconds=1)


def wait_until(moment: datetime) -> None:
    """Wait until the wall clock says so."""
    time.sleep(max(0.0, (moment - utc_now()).total_seconds()))


# What is done to a bundle on disk.


def flip_bit(path: Path, at: float) -> None:
    """Flip one bit of a file, at a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 0x08
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Take the last eighth of a file away."""
    os.truncate(path, path.stat().st_size * 7 // 8)


def tamper(bundle: Path) -> None:
    """Rewrite a payload file, and its digest where the signature's statement has it, as one does who has no key.

    Raises ModelError where the digest does not stand in the signature file.
    """
    card, signature = bundle / PAYLOAD / CARD_FILE, bundle / SIGNATURE_FILE
    old = card.read_bytes()
    new = old + b"\n(Approved for everything.)\n"
    envelope = json.loads(signature.read_bytes())
    statement = base64.b64decode(envelope["dsseEnvelope"]["payload"]).decode()
    if sha256_hex(old) not in statement:
        raise ModelError(f"{signature} does not hold the digest of {card}; it cannot be tampered with like that.")
    changed = statement.replace(sha256_hex(old), sha256_hex(new))
    envelope["dsseEnvelope"]["payload"] = base64.b64encode(changed.encode()).decode()
    card.write_bytes(new)
    signature.write_bytes(canonical_json(envelope))


def put_in_place(new: Path, place: Path) -> None:
    """Put a copy of one bundle where another one is."""
    aside, coming = place.with_name(f"{place.name}.replaced"), place.with_name(f"{place.name}.coming")
    shutil.copytree(new, coming)
    place.rename(aside)
    coming.rename(place)
    shutil.rmtree(aside)
