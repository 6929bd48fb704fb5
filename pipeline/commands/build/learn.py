"""``hotspare learn SETTINGS``: one of the two members of a model that learns online, until it is stopped."""

import argparse
import asyncio
import json
from pathlib import Path

from pipeline.bundle.learning import read_checkpoint
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.canonical import readable_json
from pipeline.core.errors import UsageError
from pipeline.core.schema import json_schema
from pipeline.online.place import CHECKPOINT
from pipeline.online.publishing import publish
from pipeline.online.settings import Settings, load_settings, make_member

EXAMPLE = "hotspare learn members/a.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("settings", type=Path, nargs="?", help="the member's settings, JSON; what it does is on stderr")
    what.add_argument("--schema", action="store_true", help="print the JSON schema of the settings, for editors")
    parser.add_argument(
        "--publish", type=Path, metavar="DIR", help="put the member's present checkpoint where a server reads it"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines; a member does always")


def run(args: argparse.Namespace) -> int:
    """Be the member until it is stopped; or publish its checkpoint, or print the schema, at once."""
    if args.schema:
        if args.publish is not None:
            raise UsageError("--publish goes with a member's settings; name the file.")
        print(readable_json(json_schema(Settings)).decode("utf-8"), end="")
    elif args.publish is None:
        asyncio.run(make_member(load_settings(args.settings)).run())
    else:
        settings = load_settings(args.settings)
        policy = load_policy(Path(settings.trust))
        found = publish(Path(settings.base), Path(settings.folder) / CHECKPOINT, policy, args.publish)
        print(_told(found, args))
    return 0


def _told(found: VerifiedBundle, args: argparse.Namespace) -> str:
    seq = read_checkpoint(found.files).seq
    if args.json:
        return json.dumps({"model": found.model, "bundle_id": found.bundle_id, "updates": seq}, sort_keys=True)
    return "\n".join(
        [
            f"published   {found.model} with {seq:,} updates, {found.bundle_id}, in {args.publish}",
            f"move to it  hotspare swap {found.model}, where hotspare serve was told {args.publish}",
        ]
    )
