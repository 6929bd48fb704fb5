"""``hotspare token FILE``: make a bearer token for a server; the file keeps only its hash."""

import argparse
import json
from pathlib import Path

from pipeline.runtime.http.tokens import TokenUse, add_token

EXAMPLE = "hotspare token artifacts/keys/tokens.json --use admin --name anna"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("file", type=Path, help="the token file of `hotspare serve --tokens`; made where missing")
    parser.add_argument("--use", choices=[use.value for use in TokenUse], required=True, help="what it opens")
    parser.add_argument("--name", required=True, help="whose token it is")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Add a token to the file and print it, once: it cannot be read back."""
    token = add_token(args.file, args.name, TokenUse(args.use))
    print(json.dumps({"token": token, "name": args.name, "use": args.use}) if args.json else token)
    return 0
