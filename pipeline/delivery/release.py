"""What a depot offers for a model: signatures first, in the order in which each vouches for the next."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from pipeline.bundle.attestation import verify_attestation
from pipeline.bundle.channel import check_revoked
from pipeline.bundle.dsse import open_sigstore_bundle
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.reading import SIGNATURE_FILE, SMALL_BYTES_MAX
from pipeline.bundle.statement import read_statement
from pipeline.bundle.verify import VerifiedChannel, accept_channel
from pipeline.core.errors import FileAccess, NotAccepted, Tampered, Untrusted
from pipeline.core.names import Role
from pipeline.delivery.contents import CONTENTS_BYTES_MAX, Contents, check_contents, read_contents
from pipeline.delivery.depot import CONTENTS_FILE, DRILL_FILE, Depot, bundle_path, channel_path


@dataclass(frozen=True)
class OfferedChannel:
    """A channel that this node accepts, with the bytes that say so."""

    signature: bytes
    verified: VerifiedChannel


@dataclass(frozen=True)
class OfferedBundle:
    """A bundle of the channel: its signature, and the chunks of its files; nothing is fetched of these yet."""

    bundle_id: str
    signature: bytes
    contents: Contents


def fetch_channel(depot: Depot, model: str, policy: TrustPolicy, now: datetime) -> OfferedChannel:
    """Fetch and verify a model's channel; raises FileAccess where there is none, else as ``accept_channel``."""
    path = channel_path(model)
    data = depot.read(path, SMALL_BYTES_MAX)
    if data is None:
        raise FileAccess(f"{depot.address} has no channel of {model}; check the address, or publish a release there.")
    verified = accept_channel(data, policy, now, f"{depot.address}/{path}")
    if verified.channel.model != model:
        raise NotAccepted(f"{depot.address}/{path} is the channel of {verified.channel.model}; publish it again.")
    return OfferedChannel(data, verified)


def fetch_bundle(depot: Depot, channel: VerifiedChannel, role: Role, policy: TrustPolicy) -> OfferedBundle:
    """Fetch and verify the signature and the contents of the bundle that the channel gives a role.

    Raises Tampered for another bundle, Revoked, and what the parsers raise.
    """
    ref = channel.channel.ref(role)
    place = f"{depot.address}/{bundle_path(ref.bundle_id, SIGNATURE_FILE)}"
    signature = _required(depot, bundle_path(ref.bundle_id, SIGNATURE_FILE), SMALL_BYTES_MAX)
    signed = open_sigstore_bundle(signature, policy.keys_for(KeyUse.BUNDLE), place)
    statement = read_statement(signed.payload)
    if statement.bundle_id != ref.bundle_id:
        raise Tampered(f"{place} is the signature of the bundle {statement.bundle_id}; publish it again.")
    check_revoked(channel.channel, signed.key_hint, ref.bundle_id)
    contents = _fetch_contents(depot, channel, role, policy, dict(statement.files))
    return OfferedBundle(ref.bundle_id, signature, contents)


def fetch_drill(depot: Depot, channel: VerifiedChannel, policy: TrustPolicy) -> bytes | None:
    """Fetch the attestation of the drill that this very pair went through; None where there is none to believe.

    A release is as good without it, so one that does not verify is left where it is.
    """
    found = channel.channel
    try:
        data = depot.read(bundle_path(found.primary.bundle_id, DRILL_FILE), SMALL_BYTES_MAX)
        if data is None:
            return None
        statement = verify_attestation(data, policy)
    except Untrusted:
        return None
    is_of_pair = statement.is_of(found.bundle_ids)
    return data if is_of_pair and statement.predicate.model == found.model else None


def _fetch_contents(
    depot: Depot, channel: VerifiedChannel, role: Role, policy: TrustPolicy, files: Mapping[str, str]
) -> Contents:
    ref = channel.channel.ref(role)
    path = bundle_path(ref.bundle_id, CONTENTS_FILE)
    contents, hint = read_contents(_required(depot, path, CONTENTS_BYTES_MAX), policy, f"{depot.address}/{path}")
    check_revoked(channel.channel, hint)
    check_contents(contents, ref.bundle_id, files, ref.size, f"{depot.address}/{path}")
    return contents


def _required(depot: Depot, path: str, bytes_max: int) -> bytes:
    data = depot.read(path, bytes_max)
    if data is None:
        raise Tampered(f"{depot.address}/{path} is missing; `hotspare reconcile --check-depot` puts it right.")
    return data
