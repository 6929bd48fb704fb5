"""Fetching a model's release onto a node: verified step by step, only what is lacking, put in place by one exchange.

Channel, then both bundles' signatures, then their contents: all verified before a chunk is asked for. Chunks that are
on the node already are taken from there. Files are assembled in ``DIR/.incoming/<model>/``, where a killed run's are
found again; when both bundles verify there, ``DIR/<model>`` is exchanged for the new release in one step.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.bundle.channel import CHANNEL_FILE, CHANNEL_SIGNATURE, Channel
from pipeline.bundle.dsse import open_sigstore_bundle
from pipeline.bundle.floor import check_order
from pipeline.bundle.policy import KeyUse, TrustPolicy
from pipeline.bundle.reading import PAYLOAD, SIGNATURE_FILE, read_small
from pipeline.bundle.statement import read_statement
from pipeline.bundle.verify import read_channel, verify_bundle
from pipeline.core.clock import from_text
from pipeline.core.errors import FileAccess, Tampered, Untrusted
from pipeline.core.files import disk_errors, fsync_tree, locked, replacing_dir, write_atomic
from pipeline.core.names import Role
from pipeline.delivery.assembling import ChunkKey, Wanted, begin, reuse, write_chunk
from pipeline.delivery.depot import DRILL_FILE, Depot, chunk_path
from pipeline.delivery.lanes import in_lanes
from pipeline.delivery.metering import MeteredDepot
from pipeline.delivery.release import OfferedBundle, OfferedChannel, fetch_bundle, fetch_channel, fetch_drill

_INCOMING = ".incoming"


@dataclass(frozen=True)
class Staged:
    """What staging came to: the release that is in place now, and what it took to get it there."""

    epoch: int
    seq: int
    bytes_total: int
    bytes_moved: int
    chunks_moved: int
    was_current: bool
    issued_at: datetime


def stage(
    depot: Depot, model: str, policy: TrustPolicy, to: Path, now: datetime, *, believe_disk: bool = False
) -> Staged:
    """Bring ``to/<model>`` up to the release that the depot's channel names; two at once wait for each other.

    ``believe_disk`` is for loops: a release that is in place already is not read again, only its sizes are compared.
    Raises the Untrusted error that fits, Unreachable, FileAccess or OutOfSpace: what was staged before stays then, and
    what was fetched is not fetched again.
    """
    metered = MeteredDepot(depot)
    with locked(to / _INCOMING / f"{model}.lock"):
        offered = fetch_channel(metered, model, policy, now)
        channel = offered.verified.channel
        staged = staged_channel(to / model, policy)
        if staged is not None:
            check_order(channel.floor, staged.floor, f"The channel at {depot.address}")
        was_current = staged == channel and _is_whole(to / model, offered, policy, now, believe_disk)
        if not was_current:
            _replace(metered, offered, policy, to, now)
        shutil.rmtree(to / _INCOMING / model, ignore_errors=True)
    return Staged(
        epoch=channel.epoch,
        seq=channel.seq,
        bytes_total=sum(channel.ref(role).size for role in Role),
        bytes_moved=metered.bytes_read,
        chunks_moved=metered.chunks_read,
        was_current=was_current,
        issued_at=from_text(channel.issued_at),
    )


def _replace(depot: Depot, offered: OfferedChannel, policy: TrustPolicy, to: Path, now: datetime) -> None:
    channel = offered.verified
    model, incoming = channel.channel.model, to / _INCOMING / channel.channel.model
    bundles = {role: fetch_bundle(depot, channel, role, policy) for role in Role}
    drill = fetch_drill(depot, channel, policy)
    _assemble(depot, bundles, to / model, incoming)
    for role in Role:
        # One after the other: what is verified is held in memory whole.
        verify_bundle(incoming / bundles[role].bundle_id, policy, now, channel, role)
    with disk_errors(incoming):
        fsync_tree(incoming)
    with replacing_dir(to / model) as aside:
        for role in Role:
            shutil.copytree(incoming / bundles[role].bundle_id, aside / role, copy_function=_link)
        write_atomic(aside / CHANNEL_FILE, channel.channel.to_bytes())
        write_atomic(aside / CHANNEL_SIGNATURE, offered.signature)
        if drill is not None:
            write_atomic(aside / DRILL_FILE, drill)


def _assemble(depot: Depot, bundles: Mapping[Role, OfferedBundle], staged: Path, incoming: Path) -> None:
    """Make both bundles' folders whole in ``incoming``."""
    ids = {bundle.bundle_id for bundle in bundles.values()}
    leftovers = sorted(path for path in incoming.glob("*") if path.name not in ids)
    sources = [staged / role for role in Role] + leftovers
    wanted: Wanted = {}
    for bundle in bundles.values():
        lacking = begin(incoming / bundle.bundle_id, bundle.contents)
        reuse(lacking, bundle.contents, sources)
        write_atomic(incoming / bundle.bundle_id / SIGNATURE_FILE, bundle.signature)
        for key, places in lacking.items():
            wanted.setdefault(key, []).extend(places)
    for leftover in leftovers:  # before anything is fetched: the disk holds one release more than is served
        shutil.rmtree(leftover, ignore_errors=True)
    _fetch(depot, wanted)


def _fetch(depot: Depot, wanted: Wanted) -> None:
    def fetched(key: ChunkKey) -> None:
        data = depot.read(chunk_path(key.sha256), key.size)
        if data is None or not key.fits(data):
            what = "is missing" if data is None else "differs from what was signed"
            place = f"{depot.address}/{chunk_path(key.sha256)}"
            raise Tampered(f"{place} {what}; `hotspare reconcile --check-depot` puts it right.")
        write_chunk(wanted[key], data)

    for _ in in_lanes(depot.lanes, fetched, wanted):
        pass


def staged_channel(place: Path, policy: TrustPolicy) -> Channel | None:
    """Return the channel that is staged; None where there is none that its signer would know again."""
    try:
        return read_channel(read_small(place / CHANNEL_SIGNATURE), policy)[0]
    except (Untrusted, FileAccess):
        return None


def _is_whole(place: Path, offered: OfferedChannel, policy: TrustPolicy, now: datetime, believe_disk: bool) -> bool:
    try:
        if read_small(place / CHANNEL_FILE) != offered.verified.channel.to_bytes():
            return False
        for role in Role:
            if believe_disk:
                _check_size(place / role, offered.verified.channel, role, policy)
            else:
                verify_bundle(place / role, policy, now, offered.verified, role)
    except (Untrusted, FileAccess):
        return False
    return True


def _check_size(bundle: Path, channel: Channel, role: Role, policy: TrustPolicy) -> None:
    what = str(bundle / SIGNATURE_FILE)
    signed = open_sigstore_bundle(read_small(bundle / SIGNATURE_FILE), policy.keys_for(KeyUse.BUNDLE), what)
    statement, ref = read_statement(signed.payload), channel.ref(role)
    with disk_errors(bundle):
        size = sum((bundle / PAYLOAD / path).stat(follow_symlinks=False).st_size for path, _ in statement.files)
    if (statement.bundle_id, size) != (ref.bundle_id, ref.size):
        raise Tampered(f"{bundle} is not the channel's {role}; stage it again.")


def _link(source: str, target: str) -> None:
    """Give a file a second name: a kill before the exchange finds it under the first one."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        Path(source).rename(target)
