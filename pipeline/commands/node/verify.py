"""``hotspare verify BUNDLE``: tell whether this node may load it."""

import argparse
import json

from pipeline.commands.node.admission import add_trust_arguments, admit, described, told
from pipeline.core.clock import utc_now

EXAMPLE = (
    "hotspare verify artifacts/bundles/credit-backup --trust artifacts/trust.yaml --channel artifacts/channels/credit"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_trust_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Verify the bundle and say what was, and what was not, checked. Writes nothing: no floor moves."""
    admitted = admit(args, utc_now())
    print(json.dumps(described(admitted), indent=2, sort_keys=True) if args.json else "\n".join(told(admitted)))
    return 0
