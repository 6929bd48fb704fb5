"""What a server is pointed at: a bundle, or the checkpoint of one that learns online, in one folder with its base."""

from datetime import datetime
from pathlib import Path

from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.verify import VerifiedBundle, VerifiedChannel, verify_bundle, verify_checkpoint
from pipeline.core.names import Role

BASE = "base"
CHECKPOINT = "checkpoint"


def verify_served(
    path: Path, policy: TrustPolicy, now: datetime, channel: VerifiedChannel | None = None, role: Role | None = None
) -> VerifiedBundle:
    """Verify a bundle's folder, or one with ``base`` and ``checkpoint`` in it; raises what verifying either raises.

    A channel names the base: its checkpoints have its role, its dates, and are revoked with it or alone.
    """
    if not (path / CHECKPOINT).is_dir():
        return verify_bundle(path, policy, now, channel, role)
    base = verify_bundle(path / BASE, policy, now, channel, role)
    return verify_checkpoint(path / CHECKPOINT, base, policy, now, channel)
