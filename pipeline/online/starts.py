"""What a log goes on from once old records are dropped: a signed checkpoint of its own, verified before it is used.

It is lent to a member whose own log ends before it. Only what its base has not travels, with its signature: the
borrower puts it together, and verifies that before it begins its log anew.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.bundle.learning import CHECKPOINT_FILE, Learning, read_checkpoint, read_learning
from pipeline.bundle.manifest import GOLDEN_FILE, TOLERANCES_FILE
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.reading import SIGNATURE_FILE
from pipeline.bundle.verify import VerifiedBundle, verify_checkpoint
from pipeline.core.canonical import sha256_hex
from pipeline.core.clock import utc_now
from pipeline.core.errors import Malformed, RolledBack
from pipeline.core.files import read_bytes, replacing_dir
from pipeline.core.tensors import decode_npz, encode_npz
from pipeline.online.checkpoints import changed_files, tip_of, write_checkpoint
from pipeline.online.learner import Head, read_head, replay
from pipeline.online.records import Record, Tip, genesis
from pipeline.online.update_log import UpdateLog

_LENT_FILES = (CHECKPOINT_FILE, GOLDEN_FILE, TOLERANCES_FILE)
_STATE = ("weights", "bias")


@dataclass(frozen=True)
class Start:
    """Where a log begins: after which record, the state there, and the signed checkpoint of it; none for the base."""

    tip: Tip
    head: Head
    bundle: VerifiedBundle | None = None
    signature: bytes = b""


def read_start(folder: Path, base: VerifiedBundle, policy: TrustPolicy) -> Start:
    """Return what a folder holds, the base itself where there is none; raises what verifying raises."""
    if not folder.exists():
        return Start(genesis(base.bundle_id), read_head(base.model_file, read_learning(base.files)))
    return _start(verify_checkpoint(folder, base, policy, utc_now()), read_bytes(folder / SIGNATURE_FILE))


def _start(bundle: VerifiedBundle, signature: bytes) -> Start:
    tip = tip_of(read_checkpoint(bundle.files))
    return Start(tip, read_head(bundle.model_file, read_learning(bundle.files)), bundle, signature)


def settle(log: UpdateLog, start: Start, folder: Path) -> None:
    """Make a log begin where its start is: a kill may have come between the two. Raises RolledBack."""
    if start.tip.seq < log.start.seq or (start.tip.seq == log.start.seq and start.tip != log.start):
        raise RolledBack(
            f"{log.path} goes on from record {log.start.seq}, but {folder} holds the state of record {start.tip.seq}: "
            f"remove the member's whole folder, and the other member will fill it again."
        )
    if log.tip_at(start.tip.seq) == start.tip:
        log.shorten(start.tip.seq)
    else:
        log.begin(start.tip)


def make_start(
    folder: Path, payload: Mapping[str, bytes], signature: bytes, base: VerifiedBundle, policy: TrustPolicy
) -> Start:
    """Put a checkpoint in place as a log's start, all or nothing, verified; raises what verifying and writing raise."""
    with replacing_dir(folder) as aside:
        write_checkpoint(aside, payload, signature)
        return _start(verify_checkpoint(aside, base, policy, utc_now()), signature)


def keep_start(folder: Path, start: Start) -> None:
    """Put a start that was borrowed in place, all or nothing: the very bytes that were verified."""
    if start.bundle is not None:
        with replacing_dir(folder) as aside:
            write_checkpoint(aside, start.bundle.files, start.signature)


def lend(start: Start) -> bytes:
    """Return a start as it travels; raises Malformed for the base, which everybody has."""
    if start.bundle is None:
        raise Malformed("The log begins with the base: there is nothing to lend.")
    parts = dict(zip(_STATE, (start.head.weights, start.head.bias), strict=True))
    parts |= {name: start.bundle.files[name] for name in _LENT_FILES} | {SIGNATURE_FILE: start.signature}
    return encode_npz({name: np.frombuffer(data, np.uint8) for name, data in parts.items()})


def borrow(body: bytes, base: VerifiedBundle, policy: TrustPolicy) -> Start:
    """Put together what was lent and verify it; raises the Untrusted error that fits. Nothing is kept on disk."""
    parts = {name: array.tobytes() for name, array in decode_npz(body, "the lent checkpoint", Malformed).items()}
    if parts.keys() != {*_STATE, *_LENT_FILES, SIGNATURE_FILE}:
        raise Malformed(f"The lent checkpoint consists of {', '.join(sorted(parts))}, which is not what was agreed.")
    head, signature = Head(parts["weights"], parts["bias"]), parts[SIGNATURE_FILE]
    payload = {**changed_files(base, head), **{name: parts[name] for name in _LENT_FILES}}
    with tempfile.TemporaryDirectory(prefix="hotspare-lent-") as folder:
        write_checkpoint(Path(folder), payload, signature)
        return _start(verify_checkpoint(Path(folder), base, policy, utc_now()), signature)


def heads_at(start: Start, records: Sequence[Record], seqs: Iterable[int], learning: Learning) -> dict[int, Head]:
    """Return the states after some records of a log, replayed from its start."""
    heads, head, done = {}, start.head, 0
    for seq in sorted(set(seqs)):
        head = replay(head, [record.payload for record in records[done : seq - start.tip.seq]], learning)
        done = seq - start.tip.seq
        heads[seq] = head
    return heads


def state_digest(head: Head) -> str:
    """Return what members compare of a state."""
    return sha256_hex(head.weights + head.bias)
