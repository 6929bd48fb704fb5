"""The real server with sessions that take orders: ``python -m pipeline.drill.faulty_server --orders DIR ...``.

The other arguments are those of ``hotspare serve``, which cannot be talked into this: nobody imports this program.
Keeper, server, front and workers are the real ones; what differs is how a worker opens its model.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.commands.node.serve import add_arguments, serve
from pipeline.core.errors import HotspareError
from pipeline.core.names import Format
from pipeline.drill.faulty_clock import clock_of
from pipeline.drill.pair_settings import pair_settings

if TYPE_CHECKING:  # it imports numpy, which starts threads unless it is told not to
    from pipeline.engines.base import Session


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.drill.faulty_server", description=__doc__)
    parser.add_argument("--orders", type=Path, required=True, help="folder of orders, made by OrderBook")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the pair")
    add_arguments(parser)
    args = parser.parse_args(arguments)
    orders: Path = args.orders.resolve()

    def open_faulty(model_format: Format, model: bytes, threads: int) -> "Session":
        from pipeline.drill.faulty_session import faulty  # not at the top: numpy waits until threads are limited

        return faulty(orders)(model_format, model, threads)

    try:
        settings = pair_settings(_pair(text) for text in args.set) if args.set else None
        args.deadline_ms = args.deadline_ms if settings is None else settings.deadline_ms
        again = [sys.executable, "-m", "pipeline.drill.faulty_server", *arguments]
        with clock_of(orders):
            return serve(args, again, open_faulty, settings)
    except HotspareError as error:
        print(error, file=sys.stderr)
        return error.exit_code


def _pair(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
