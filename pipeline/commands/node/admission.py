"""What ``verify`` and ``run`` share: which bundle, under which policy, named by which channel."""

import argparse
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.bundle.verify import VerifiedBundle, VerifiedChannel, load_channel, verify_bundle
from pipeline.core.errors import UsageError
from pipeline.core.names import Role


@dataclass(frozen=True)
class Admitted:
    """A verified bundle, with the policy and the channel that let it in."""

    bundle: VerifiedBundle
    policy: TrustPolicy
    channel: VerifiedChannel | None


def add_trust_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the bundle and what it is judged by."""
    parser.add_argument("bundle", type=Path, help="a bundle's folder")
    parser.add_argument("--trust", type=Path, required=True, help="the trust policy, e.g. artifacts/trust.yaml")
    parser.add_argument(
        "--channel", type=Path, help="a channel's folder or channel.json; default: what the policy says"
    )
    parser.add_argument("--role", choices=[role.value for role in Role], help="refuse the bundle in any other role")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def admit(args: argparse.Namespace, now: datetime) -> Admitted:
    """Verify the bundle that the arguments name; raises TrustPolicyError, UsageError or the Untrusted error that fits.

    A policy with ``channels`` needs a channel: that of the bundle's model is taken from there.
    """
    policy = load_policy(args.trust)
    role = None if args.role is None else Role(args.role)
    place = args.channel or _policys_channel(args.bundle, policy, now)
    if place is None:
        if role is not None:
            raise UsageError("--role needs --channel: only a channel says which role a bundle has.")
        return Admitted(verify_bundle(args.bundle, policy, now), policy, None)
    channel = load_channel(place, policy, now)
    return Admitted(verify_bundle(args.bundle, policy, now, channel, role), policy, channel)


def _policys_channel(bundle: Path, policy: TrustPolicy, now: datetime) -> Path | None:
    """Return where the policy keeps the channel of the bundle's model, which only a first verification tells."""
    return policy.channels / verify_bundle(bundle, policy, now).model if policy.channels else None


def described(admitted: Admitted) -> dict[str, object]:
    """Return what was verified as plain data, for ``--json``."""
    bundle, channel = admitted.bundle, admitted.channel
    return {
        "bundle_id": bundle.bundle_id,
        "model": bundle.model,
        "candidate": bundle.candidate,
        "role": bundle.role,
        "size": bundle.size,
        "signed_by": bundle.key_hint,
        "channel": None if channel is None else {"epoch": channel.channel.epoch, "seq": channel.channel.seq},
        "unchecked": list(bundle.unchecked),
        "warnings": list(bundle.warnings),
    }


def told(admitted: Admitted) -> list[str]:
    """Return what was verified as lines for people."""
    bundle, channel = admitted.bundle, admitted.channel
    role = f", {bundle.role} of its channel" if bundle.role else ""
    lines = [
        f"verified    {bundle.model} {bundle.candidate}{role}",
        f"bundle id   {bundle.bundle_id}",
        f"signed by   {bundle.key_hint}",
        f"files       {len(bundle.files)}, {bundle.size:,} bytes, every one hashed",
    ]
    if channel is not None:
        found = channel.channel
        lines.append(f"channel     {found.channel}, epoch {found.epoch}, seq {found.seq}, until {found.not_after}")
    lines += [f"not checked {text}" for text in bundle.unchecked]
    return lines + [f"warning     {text}" for text in bundle.warnings]
