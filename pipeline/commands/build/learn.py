"""``hotspare learn SETTINGS``: one of the two members of a model that learns online, until it is stopped."""

import argparse
import asyncio
from pathlib import Path

from pipeline.core.canonical import readable_json
from pipeline.core.schema import json_schema
from pipeline.online.settings import Settings, load_settings, make_member

EXAMPLE = "hotspare learn members/a.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("settings", type=Path, nargs="?", help="the member's settings, JSON; what it does is on stderr")
    what.add_argument("--schema", action="store_true", help="print the JSON schema of the settings, for editors")
    parser.add_argument("--json", action="store_true", help="print JSON (always so)")


def run(args: argparse.Namespace) -> int:
    """Be the member until it is stopped, or print the schema."""
    if args.schema:
        print(readable_json(json_schema(Settings)).decode("utf-8"), end="")
        return 0
    asyncio.run(make_member(load_settings(args.settings)).run())
    return 0
