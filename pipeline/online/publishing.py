"""A member's checkpoint, put where a server reads it: a copy with its base, whole, that the member leaves alone."""

from pathlib import Path

from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.reading import SIGNATURE_FILE, read_small
from pipeline.bundle.served import BASE, CHECKPOINT, verify_served
from pipeline.bundle.verify import VerifiedBundle, verify_bundle, verify_checkpoint
from pipeline.core.clock import utc_now
from pipeline.core.errors import FileAccess, Untrusted, UsageError
from pipeline.core.files import disk_errors, replacing_dir
from pipeline.online.checkpoints import write_checkpoint

_READINGS_MAX = 5  # of a checkpoint that the member replaces while it is read


def publish(base: Path, checkpoint: Path, policy: TrustPolicy, to: Path) -> VerifiedBundle:
    """Put a checkpoint and its base into ``to`` in one step, verified there; returns the checkpoint.

    Raises UsageError for a folder that holds something else, and what verifying and writing raise.
    """
    with disk_errors(to):
        if to.exists() and {path.name for path in to.iterdir()} != {BASE, CHECKPOINT}:
            raise UsageError(f"{to} holds something else than a published checkpoint; name a folder that is not there.")
    for _ in range(_READINGS_MAX - 1):
        try:
            return _publish(base, checkpoint, policy, to)
        except (Untrusted, FileAccess):
            continue
    return _publish(base, checkpoint, policy, to)


def _publish(base: Path, checkpoint: Path, policy: TrustPolicy, to: Path) -> VerifiedBundle:
    below = verify_bundle(base, policy, utc_now())
    signature = read_small(checkpoint / SIGNATURE_FILE)
    found = verify_checkpoint(checkpoint, below, policy, utc_now())
    with replacing_dir(to) as aside:
        write_checkpoint(aside / BASE, below.files, read_small(base / SIGNATURE_FILE))
        write_checkpoint(aside / CHECKPOINT, found.files, signature)
        return verify_served(aside, policy, utc_now())
