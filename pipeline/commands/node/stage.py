"""``hotspare stage CHANNEL``: fetch a model's release from a depot, verify it and put it in place in one step.

With ``--watch`` it follows the channel for ever, and has a running server move to each new release.
"""

import argparse
import json
import random
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pipeline.bundle.policy import load_policy
from pipeline.commands.node.running import RunningServer, add_token_argument, admin_token
from pipeline.core.clock import to_text, utc_now
from pipeline.core.errors import Refusal, UsageError
from pipeline.core.names import Role
from pipeline.delivery.depot import split_channel
from pipeline.delivery.staging import Staged, stage, staged_channel
from pipeline.delivery.transports.opening import open_depot
from pipeline.delivery.watching import Follower, Place

_EVERY_S = 30.0
_EVERY_S_MAX = 7 * 86_400.0

EXAMPLE = "hotspare stage https://models.example.org/depot/channels/credit --trust trust.yaml --to staged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("channel", help="<depot>/channels/<model>; the depot is a folder, http(s)://…, oci://…, s3://…")
    parser.add_argument("--trust", type=Path, required=True, help="the trust policy, e.g. artifacts/trust.yaml")
    parser.add_argument("--to", type=Path, required=True, help="folder for what is staged: <model>/ in it is replaced")
    parser.add_argument("--json", action="store_true", help="print JSON, for machines; --watch does always")
    group = parser.add_argument_group("following")
    group.add_argument("--watch", action="store_true", help="stage each new release, for ever; a JSON line an event")
    group.add_argument("--every", type=float, default=_EVERY_S, metavar="S", help="ask the depot every S seconds")
    group.add_argument("--swap", metavar="URL", help="the running server that is to move to each new release")
    add_token_argument(group)


def run(args: argparse.Namespace) -> int:
    """Stage the release once and say what it took, or follow the channel for ever."""
    address, model = split_channel(args.channel)
    if args.watch:
        return _watch(args, address, model)
    if args.swap is not None:
        raise UsageError("--swap goes with --watch; `hotspare swap` asks a server once.")
    policy = load_policy(args.trust)
    with open_depot(address) as depot:
        staged = stage(depot, model, policy, args.to, utc_now())
    if args.json:
        print(json.dumps(described(staged), indent=2, sort_keys=True))
    else:
        print("\n".join(told(staged, model, args)))
    return 0


def described(staged: Staged) -> dict[str, object]:
    """Return what staging came to as plain data."""
    return {**vars(staged), "issued_at": to_text(staged.issued_at)}


def told(staged: Staged, model: str, args: argparse.Namespace) -> list[str]:
    """Return what staging came to as lines for people."""
    place = args.to / model
    news = "in place already" if staged.was_current else "new"
    moved = f"{staged.bytes_moved:,} of {staged.bytes_total:,} bytes ({staged.bytes_moved / staged.bytes_total:.1%})"
    bundles = ["--primary", place / Role.PRIMARY, "--standby", place / Role.BACKUP]
    serve = ["hotspare", "serve", *bundles, "--channel", place, "--trust", args.trust]
    return [
        f"staged      {model}, epoch {staged.epoch}, seq {staged.seq}, issued {to_text(staged.issued_at)}; {news}",
        f"moved       {moved}, {staged.chunks_moved} chunks",
        f"serve it    {shlex.join(map(str, serve))}",
    ]


@dataclass(frozen=True)
class _Server:
    """The running server of one model, as a follower sees it."""

    server: RunningServer
    model: str

    def place(self) -> Place:
        """Return the epoch and seq of the channel that it serves under."""
        channel = self.server.pair(self.model).get("channel")
        place = (channel.get("epoch"), channel.get("seq")) if isinstance(channel, dict) else (None, None)
        if not isinstance(place[0], int) or not isinstance(place[1], int):
            raise Refusal(f"The server at {self.server.url} serves {self.model} without a channel; start it with one.")
        return place[0], place[1]

    def swap(self) -> None:
        """Order the swap."""
        self.server.swap(self.model)


def _watch(args: argparse.Namespace, address: str, model: str) -> int:
    """Follow the channel; what is wrong with the command line ends it before it begins."""
    if not 0 < args.every <= _EVERY_S_MAX:
        raise UsageError("--every is a number of seconds: more than none, a week at most.")
    load_policy(args.trust)
    with open_depot(address):
        pass
    server = None if args.swap is None else _Server(RunningServer(args.swap, admin_token(args)), model)
    follower = Follower(
        model=model,
        fetch=partial(_fetched, args, address, model),
        staged=lambda: staged_channel(args.to / model, load_policy(args.trust)),
        served=server,
        every_s=args.every,
        now=utc_now,
        draw=random.random,
        log=_print_line,
    )
    follower.follow(time.sleep)
    return 0


def _fetched(args: argparse.Namespace, address: str, model: str) -> Staged:
    # The policy and the depot are opened anew each time: keys are rotated, and addresses move.
    with open_depot(address) as depot:
        return stage(depot, model, load_policy(args.trust), args.to, utc_now(), believe_disk=True)


def _print_line(record: Mapping[str, object]) -> None:
    print(json.dumps(record, ensure_ascii=False), flush=True)
