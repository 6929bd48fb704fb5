"""Writing a promoted release to a depot: chunks, then signatures, the channel last.

A kill leaves the old channel in force and chunks that the next run finds; the channel's own write commits. Publishing
the same release again writes nothing, and puts right what the depot lost.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.attestation import verify_attestation
from pipeline.bundle.channel import Channel
from pipeline.bundle.dsse import open_sigstore_bundle
from pipeline.bundle.floor import check_order
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.reading import PAYLOAD, SIGNATURE_FILE, SMALL_BYTES_MAX, read_small
from pipeline.bundle.statement import Statement, read_statement
from pipeline.bundle.verify import read_channel
from pipeline.core.errors import KeyFileError, Malformed, NotAccepted, SignatureInvalid, Tampered
from pipeline.core.files import disk_errors
from pipeline.core.names import Role
from pipeline.delivery.chunking import Chunk, average_bits, chunk_stream
from pipeline.delivery.contents import (
    CONTENTS_BYTES_MAX,
    CONTENTS_TYPE,
    Contents,
    FileContents,
    check_contents,
    file_contents,
    read_contents,
)
from pipeline.delivery.depot import (
    CONTENTS_FILE,
    DRILL_FILE,
    WritableDepot,
    bundle_path,
    channel_path,
    chunk_path,
)
from pipeline.delivery.lanes import in_lanes
from pipeline.delivery.transports.opening import open_writable
from pipeline.seal.envelope import sign_envelope


@dataclass(frozen=True)
class Published:
    """What publishing came to: what was written, and the size of the whole release."""

    chunks_new: int
    bytes_new: int
    bytes_total: int


@dataclass(frozen=True)
class Repair:
    """What publishing does beyond writing what the depot lacks.

    ``replaces_foreign``: a channel that no pinned key signed, or of another model, is written over. ``reads_chunks``:
    chunks that are there are read, and damaged ones written again; else one of the right size is taken for whole.
    """

    replaces_foreign: bool = False
    reads_chunks: bool = False


NO_REPAIR = Repair()


def publish_release(
    address: str,
    channel_sig: bytes,
    bundles: Mapping[Role, Path],
    key: ec.EllipticCurvePrivateKey,
    trust: TrustPolicy,
    attestation: bytes | None = None,
    repair: Repair = NO_REPAIR,
) -> Published:
    """Write a release to the depot at ``address``; idempotent, and a kill leaves the old channel in force.

    ``bundles`` are the folders of the very bundles that the channel names, ``attestation`` is that of their drill.
    Raises RolledBack where the depot has a newer channel already, KeyFileError when ``trust`` does not pin the key for
    bundles, Tampered or NotAccepted for other bundles than the channel's, and what the depot raises.
    """
    with open_writable(address) as depot:
        return publish(depot, channel_sig, bundles, key, trust, attestation, repair)


def publish(
    depot: WritableDepot,
    channel_sig: bytes,
    bundles: Mapping[Role, Path],
    key: ec.EllipticCurvePrivateKey,
    trust: TrustPolicy,
    attestation: bytes | None = None,
    repair: Repair = NO_REPAIR,
) -> Published:
    """Write a release to an open depot: see :func:`publish_release`."""
    _require_key(key, trust)
    channel, _ = read_channel(channel_sig, trust)
    _require_newer(depot, channel, trust, repair.replaces_foreign)
    if attestation is not None:
        _check_drill(attestation, channel, trust)
    writing = _Writing(depot, repair.reads_chunks)
    _publish_bundles(writing, channel, bundles, key, trust)
    if writing.has_lost():  # old releases are being removed; whoever does that sees these contents from now on
        _publish_bundles(writing, channel, bundles, key, trust)
    if attestation is not None:
        writing.put(bundle_path(channel.primary.bundle_id, DRILL_FILE), attestation)
    writing.put(channel_path(channel.model), channel_sig)
    return Published(writing.chunks, writing.bytes, channel.primary.size + channel.backup.size)


class _Writing:
    """A depot to which nothing is written that it holds; ``reads_chunks``: whose chunks are not taken for whole."""

    def __init__(self, depot: WritableDepot, reads_chunks: bool) -> None:
        self.depot = depot
        self._reads_chunks = reads_chunks
        self.chunks = 0
        self.bytes = 0
        self._found: dict[str, int] = {}

    def put(self, path: str, data: bytes) -> None:
        if self._holds(path, data):
            return
        self.depot.write(path, data)
        self.bytes += len(data)
        self._found.pop(path, None)

    def holds(self, path: str, size: int) -> bool:
        """Tell whether a file of this size is there, and note it."""
        is_there = self.depot.size(path) == size
        if is_there:
            self._found[path] = size
        return is_there

    def _holds(self, path: str, data: bytes) -> bool:
        return self.holds(path, len(data)) and self.depot.read(path, len(data)) == data

    def has_lost(self) -> bool:
        """Tell whether something that was found there is there no more."""
        sizes = in_lanes(self.depot.lanes, self.depot.size, list(self._found))
        return list(sizes) != list(self._found.values())

    def put_chunks(self, chunks: Iterator[tuple[str, bytes]]) -> None:
        """Write the chunks (digest, bytes) that are lacking, or not whole."""

        def put(chunk: tuple[str, bytes]) -> int:
            path, data = chunk_path(chunk[0]), chunk[1]
            if self._holds(path, data) if self._reads_chunks else self.holds(path, len(data)):
                return 0
            self.depot.write(path, data)
            return len(data)

        for size in in_lanes(self.depot.lanes, put, chunks):
            self.chunks += int(size > 0)
            self.bytes += size


def _publish_bundles(
    writing: _Writing,
    channel: Channel,
    bundles: Mapping[Role, Path],
    key: ec.EllipticCurvePrivateKey,
    trust: TrustPolicy,
) -> None:
    for role in Role:
        signature, statement = _signature(bundles[role], channel, role, trust)
        contents = _publish_payload(writing, bundles[role], statement, channel.ref(role).size)
        writing.put(bundle_path(statement.bundle_id, SIGNATURE_FILE), signature)
        _publish_contents(writing, contents, key, trust)


def _require_key(key: ec.EllipticCurvePrivateKey, trust: TrustPolicy) -> None:
    if key_hint(key.public_key()) not in trust.keys_for(KeyUse.BUNDLE):
        raise KeyFileError(
            "The trust policy does not let the signing key sign bundles, so no node would take the contents that it "
            f"signs; add `{KeyUse.BUNDLE}` to the uses of its key there, or sign with a key that has it."
        )


def _require_newer(depot: WritableDepot, channel: Channel, trust: TrustPolicy, replaces_foreign: bool) -> None:
    try:
        there = depot.read(channel_path(channel.model), SMALL_BYTES_MAX)
        if there is None:
            return
        found, _ = read_channel(there, trust, f"{depot.address}/{channel_path(channel.model)}")
    except Malformed:
        return  # what a kill left of a write to a store that writes in parts
    except SignatureInvalid:
        if replaces_foreign:
            return
        raise
    if replaces_foreign and (found.model, found.channel) != (channel.model, channel.channel):
        return
    check_order(channel.floor, found.floor, f"The channel to publish at {depot.address}")


def _check_drill(attestation: bytes, channel: Channel, trust: TrustPolicy) -> None:
    statement = verify_attestation(attestation, trust)
    if not statement.is_of(channel.bundle_ids):
        raise NotAccepted(
            f"The drill was of another pair than that of the channel's seq {channel.seq}; drill this one."
        )


def _signature(bundle: Path, channel: Channel, role: Role, trust: TrustPolicy) -> tuple[bytes, Statement]:
    signature = read_small(bundle / SIGNATURE_FILE)
    what = str(bundle / SIGNATURE_FILE)
    statement = read_statement(open_sigstore_bundle(signature, trust.keys_for(KeyUse.BUNDLE), what).payload)
    if statement.bundle_id != channel.ref(role).bundle_id:
        raise NotAccepted(f"{bundle} is not the {role} of the channel's seq {channel.seq}; publish the pair it names.")
    return signature, statement


def _publish_payload(depot: _Writing, bundle: Path, statement: Statement, size: int) -> Contents:
    """Write the chunks of a bundle's files; raises Tampered when a file is not what was signed."""
    files = [_publish_file(depot, bundle / PAYLOAD / path, path, digest) for path, digest in statement.files]
    contents = Contents(1, statement.bundle_id, tuple(files))
    check_contents(contents, statement.bundle_id, dict(statement.files), size, str(bundle))
    return contents


def _publish_file(depot: _Writing, path: Path, name: str, digest: str) -> FileContents:
    whole, made = hashlib.sha256(), list[tuple[str, int]]()

    def hashed(chunks: Iterator[Chunk]) -> Iterator[tuple[str, bytes]]:
        for chunk in chunks:
            whole.update(chunk.data)
            made.append((hashlib.sha256(chunk.data).hexdigest(), len(chunk.data)))
            yield made[-1][0], chunk.data

    with disk_errors(path), path.open("rb") as stream:
        bits = average_bits(path.stat().st_size)
        depot.put_chunks(hashed(chunk_stream(stream, bits)))
    if whole.hexdigest() != digest:
        raise Tampered(f"{path} differs from what was signed; pack the bundle again.")
    return file_contents(name, bits, made)


def _publish_contents(
    depot: _Writing,
    contents: Contents,
    key: ec.EllipticCurvePrivateKey,
    trust: TrustPolicy,
) -> None:
    """Sign what a bundle is made of, unless this key did already: two signatures of the same differ.

    Another key's is replaced, also while it is pinned: it may be on its way out.
    """
    path = bundle_path(contents.bundle_id, CONTENTS_FILE)
    try:
        there = depot.depot.read(path, CONTENTS_BYTES_MAX)
        if there is not None and depot.holds(path, len(there)):
            found, hint = read_contents(there, trust, path)
            if found == contents and hint == key_hint(key.public_key()):
                return
    except (Malformed, SignatureInvalid):
        pass  # not whole, larger than any that was signed, or by a key that is not trusted any more
    signed = sign_envelope(contents.to_bytes(), CONTENTS_TYPE, key)
    if len(signed) > CONTENTS_BYTES_MAX:
        raise NotAccepted(f"The bundle {contents.bundle_id} has too many files to be delivered; pack it in fewer.")
    depot.put(path, signed)
