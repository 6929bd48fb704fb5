"""The release in force, to and from the depot that ``mlflow/promotion.yaml`` names."""

import tempfile
from pathlib import Path

from pipeline.bundle.attestation import ATTESTATION_FILE, verify_attestation
from pipeline.bundle.dsse import open_sigstore_bundle
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.reading import SIGNATURE_FILE, SMALL_BYTES_MAX, read_small
from pipeline.bundle.statement import read_statement
from pipeline.bundle.verify import read_channel
from pipeline.commands.build.publishing import NO_REPAIR, Published, Repair, publish_release
from pipeline.core import layout
from pipeline.core.errors import FileAccess, Malformed, MissingStageError, NotAccepted, Untrusted
from pipeline.core.names import Role
from pipeline.delivery.depot import channel_path
from pipeline.delivery.transports.opening import open_depot
from pipeline.registry.history import Held
from pipeline.registry.store import Registry, version_of
from pipeline.seal.keys import load_private_key


def depot_channel(address: str, model: str, trust: TrustPolicy) -> Held | None:
    """Return a depot's channel of a model, whatever its dates, or None where it has none that is whole.

    Raises Unreachable, SignatureInvalid, NotAccepted for the channel of another model or name.
    """
    with open_depot(address) as depot:
        place = f"{depot.address}/{channel_path(model)}"
        try:
            data = depot.read(channel_path(model), SMALL_BYTES_MAX)
            if data is None:
                return None
            channel, _ = read_channel(data, trust, place)
        except Malformed:
            return None  # publishing writes over it
    if (channel.model, channel.channel) != (model, trust.channel):
        raise NotAccepted(f"{place} is the channel {channel.channel!r} of {channel.model}; publish to another depot.")
    return Held(channel, data)


def depot_name(address: str) -> str:
    """Return a depot's address as people may see it; raises UsageError or MissingExtra for one that is none."""
    with open_depot(address) as depot:
        return depot.address


def publish(
    registry: Registry, model: str, held: Held, address: str, trust: TrustPolicy, repair: Repair = NO_REPAIR
) -> Published:
    """Publish a channel with its bundles: those packed in the working folder, else the registry's copies."""
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder:
        bundles = {role: find_bundle(registry, model, held, role, trust, Path(folder)) for role in Role}
        key, drill = load_private_key(), _drill_of(model, held, trust)
        return publish_release(address, held.signature, bundles, key, trust, drill, repair)


def find_bundle(registry: Registry, model: str, held: Held, role: Role, trust: TrustPolicy, folder: Path) -> Path:
    """Return a folder that holds a channel's bundle of a role; the registry's copy is written below ``folder``.

    Raises MissingStageError when neither has it, NotAccepted for a copy that is another bundle.
    """
    bundle_id = held.channel.ref(role).bundle_id
    packed = layout.bundle_dir(model, role)
    if packed_id(packed, trust) == bundle_id:
        return packed
    version = version_of(registry.versions(model), bundle_id)
    if version is None:
        raise MissingStageError(
            f"The {role} {bundle_id[:12]} of {model}, channel seq {held.channel.seq}, is neither packed here nor "
            "registered; promote another pair."
        )
    place = folder / str(role)
    registry.fetch_bundle(model, version.number, place)
    found = packed_id(place, trust)
    if found not in (None, bundle_id):  # without an id, whoever verifies it says why
        raise NotAccepted(
            f"Version {version.number} of {model} holds the bundle {found[:12]}, not {bundle_id[:12]} as its tag "
            f"tells; delete that version in MLflow and run `hotspare register {model}` where its build is."
        )
    return place


def packed_id(bundle: Path, trust: TrustPolicy) -> str | None:
    """Return the id that a folder's signature gives it, or None where there is none that a pinned key made.

    The files are not looked at: whoever loads or publishes them hashes them.
    """
    try:
        signature = read_small(bundle / SIGNATURE_FILE)
        signed = open_sigstore_bundle(signature, trust.keys_for(KeyUse.BUNDLE), str(bundle / SIGNATURE_FILE))
        return read_statement(signed.payload).bundle_id
    except (Untrusted, FileAccess):
        return None


def _drill_of(model: str, held: Held, trust: TrustPolicy) -> bytes | None:
    """Return the attestation of the last drill here, if it was of the channel's very pair."""
    try:
        data = read_small(layout.drill_dir(model) / ATTESTATION_FILE)
        statement = verify_attestation(data, trust)
    except (Untrusted, FileAccess):
        return None
    return data if statement.is_of(held.channel.bundle_ids) else None
