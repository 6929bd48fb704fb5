"""``hotspare keys new DIR``: a signing key and the trust policy that pins it; ``keys pin DIR``: one more key in it."""

import argparse
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.policy import KeyUse, load_policy, parse_policy
from pipeline.bundle.public_key import key_hint, public_pem
from pipeline.commands.build.console import show_json
from pipeline.core.environment import SIGNING_KEY
from pipeline.core.errors import KeyFileError, UsageError
from pipeline.core.files import read_bytes, write_atomic
from pipeline.core.recipe import RECIPES
from pipeline.seal.keys import PRIVATE_KEY, PUBLIC_KEY, load_private_key, load_public_key, new_key, write_public

EXAMPLE = "hotspare keys new artifacts/keys --trust artifacts/trust.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("action", choices=["new", "pin"], help="make a key, or pin one in a policy that is there")
    parser.add_argument("folder", type=Path, metavar="DIR", help="where signing.pem (0600) and signing.pub go, or are")
    parser.add_argument("--trust", type=Path, help="new: also write a trust policy that pins the key; pin: add it here")
    parser.add_argument("--name", default="next", help="pin: what the policy calls the key")
    parser.add_argument("--if-missing", action="store_true", help="keep a key and a policy that are there already")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Make the key, then the policy, and never overwrite either; or pin a key beside those that are pinned."""
    if args.action == "pin":
        return _pin(args)
    models = _models() if args.trust else ()
    if args.trust and args.trust.exists() and not args.if_missing:
        raise KeyFileError(f"{args.trust} exists and is not overwritten; remove it first, or add --if-missing.")
    key = _kept_or_new(args.folder) if args.if_missing else new_key(args.folder)
    if args.trust:
        _write_policy(args.trust, key, models, args.folder)
    _report(args, key, models)
    return 0


def _pin(args: argparse.Namespace) -> int:
    """Add a public key to a policy for every use; the keys that are pinned stay, so that both are good for a while."""
    if args.trust is None:
        raise UsageError("Name the policy to pin it in: --trust artifacts/trust.yaml.")
    policy, key = load_policy(args.trust), load_public_key(args.folder)
    if any(key_hint(key) == key_hint(pinned) for pinned, _ in policy.keys):
        raise KeyFileError(f"{args.trust} pins {args.folder / PUBLIC_KEY} already.")
    lines = read_bytes(args.trust, KeyFileError).decode("utf-8").splitlines(keepends=True)
    if "keys:\n" not in lines:
        raise KeyFileError(f"{args.trust} was written by hand in another way; add the key to its `keys:` yourself.")
    at = lines.index("keys:\n") + 1
    text = "".join([*lines[:at], _pinned(args.name, key), *lines[at:]])
    parse_policy(text.encode("utf-8"), str(args.trust))
    write_atomic(args.trust, text.encode("utf-8"))
    _report(args, key, policy.models)
    return 0


def _models() -> tuple[str, ...]:
    names = tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    if not names:
        raise UsageError(f"{RECIPES} holds no recipe to accept bundles of; run this at the root of a project.")
    return names


def _kept_or_new(folder: Path) -> ec.EllipticCurvePublicKey:
    if SIGNING_KEY not in os.environ and not (folder / PRIVATE_KEY).exists():
        return new_key(folder)
    key = load_private_key(folder).public_key()
    if not (folder / PUBLIC_KEY).exists():
        write_public(folder, key)
    return key


def _write_policy(path: Path, key: ec.EllipticCurvePublicKey, models: tuple[str, ...], folder: Path) -> None:
    if path.exists():
        # Not the use `drill`: policies from before drills stay good, and `hotspare drill` says what it lacks.
        if not all(key_hint(key) in load_policy(path).keys_for(use) for use in (KeyUse.BUNDLE, KeyUse.CHANNEL)):
            raise KeyFileError(f"{path} does not pin {folder / PUBLIC_KEY}; add the key there, or remove the file.")
        return
    text = policy_text(key, models)
    parse_policy(text.encode("utf-8"), str(path))
    write_atomic(path, text.encode("utf-8"))


def policy_text(key: ec.EllipticCurvePublicKey, models: tuple[str, ...]) -> str:
    """Return a trust policy that pins one key for every use."""
    return (
        "# What a node accepts. Copy it to nodes; change it only where you decide whom to trust.\n"
        "schema_version: 1\n"
        "keys:\n"
        f"{_pinned('main', key)}"
        f"models: {json.dumps(models)}\n"
        "state_dir: state   # what the node remembers against rollback; relative to this file\n"
    )


def _pinned(name: str, key: ec.EllipticCurvePublicKey) -> str:
    indented = "".join(f"      {line}\n" for line in public_pem(key).splitlines())
    return f"  {name}:\n    uses: [{', '.join(KeyUse)}]\n    public_key: |\n{indented}"


def _report(args: argparse.Namespace, key: ec.EllipticCurvePublicKey, models: tuple[str, ...]) -> None:
    if args.json:
        show_json({"public_key": str(args.folder / PUBLIC_KEY), "hint": key_hint(key), "models": models})
        return
    print(f"key         {args.folder / PUBLIC_KEY}, {key_hint(key)}")
    if args.trust:
        print(f"policy      {args.trust}, accepts {', '.join(models)}")
