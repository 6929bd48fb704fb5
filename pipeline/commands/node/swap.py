"""``hotspare swap MODEL``: have a running server read a model's bundles again and move to them, losing no request."""

import argparse
import json

from pipeline.commands.node.running import RunningServer, add_token_argument, admin_token
from pipeline.core.printable import printable

EXAMPLE = "hotspare swap credit --url http://127.0.0.1:8080 --token-file admin.token"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", help="the model's name")
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="where the server is")
    add_token_argument(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Ask for the swap and say what came of it."""
    answer = RunningServer(args.url, admin_token(args)).swap(args.model)
    print(json.dumps(answer, indent=2, sort_keys=True) if args.json else printable(str(answer.get("done", answer))))
    return 0
