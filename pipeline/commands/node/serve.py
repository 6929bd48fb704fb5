"""``hotspare serve``: a primary and its hot standby behind one port, by the Open Inference Protocol."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.environment import SECRETS, for_children
from pipeline.core.errors import MissingExtra, UsageError
from pipeline.runtime.forking import more_descriptors, one_thread
from pipeline.runtime.members import Tier
from pipeline.runtime.release import Places
from pipeline.runtime.settings import Failback, Settings, VerifyMode

if TYPE_CHECKING:
    from pipeline.runtime.loading import OpenSession

EXAMPLE = (
    "hotspare serve --primary artifacts/bundles/credit-primary --standby artifacts/bundles/credit-backup "
    "--trust artifacts/trust.yaml --channel artifacts/channels/credit --port 8080"
)

_DEFAULTS = Settings()
_OWN_DESCRIPTORS = 256  # sockets, arenas, pipes of workers, twice as many in a swap: no connection takes these


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    several = "; give it again for another model"
    parser.add_argument("--primary", type=Path, action="append", required=True, help=f"the primary's bundle{several}")
    parser.add_argument("--standby", type=Path, action="append", required=True, help=f"the standby's bundle{several}")
    parser.add_argument("--trust", type=Path, required=True, help="the trust policy, e.g. artifacts/trust.yaml")
    parser.add_argument("--channel", type=Path, action="append", help="each pair's channel folder, in the same order")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; loopback unless told")
    parser.add_argument("--port", type=int, default=8080, help="%(default)s unless told; 0: any that is free")
    _add_pair_arguments(parser.add_argument_group("the pair"))
    _add_front_arguments(parser.add_argument_group("the front"))


def _add_pair_arguments(group: "argparse._ArgumentGroup") -> None:
    told = " (default %(default)s)"
    group.add_argument("--replicas", type=int, default=_DEFAULTS.replicas, help=f"workers a role{told}")
    words = f"how ready the standby is{told}"
    group.add_argument("--tier", choices=[tier.value for tier in Tier], default=_DEFAULTS.standby.value, help=words)
    words = f"what answers are compared with before they leave{told}"
    group.add_argument(
        "--verify", choices=[mode.value for mode in VerifyMode], default=_DEFAULTS.verify.value, help=words
    )
    words = f"whether the primary takes over again{told}"
    group.add_argument(
        "--failback", choices=[way.value for way in Failback], default=_DEFAULTS.failback.value, help=words
    )
    for flag, default, words in (
        ("--deadline-ms", _DEFAULTS.deadline_ms, "of a request that names none"),
        ("--probe-every-ms", _DEFAULTS.probe_every_ms, "canaries' period"),
        ("--scrub-every-s", _DEFAULTS.scrub_every_s, "hash the loaded bytes again"),
        ("--queue", _DEFAULTS.queue_max, "requests waiting, at most"),
        ("--batch-rows", 0, "gather requests up to so many rows; 0: never"),
        ("--batch-wait-ms", _DEFAULTS.batch_wait_ms, "gather for so long, at most"),
    ):
        group.add_argument(flag, type=int, default=default, help=f"{words}{told}")
    group.add_argument("--worker-memory-mb", type=int, help="what a worker may take on top of its libraries")


def _add_front_arguments(group: "argparse._ArgumentGroup") -> None:
    group.add_argument("--name", action="append", default=[], help="a host name that clients use, beside loopback")
    group.add_argument("--tokens", type=Path, help="token file (hotspare token); without one nobody administers")
    group.add_argument("--tls-cert", type=Path, help="certificate chain, PEM")
    group.add_argument("--tls-key", type=Path, help="its key, PEM")
    group.add_argument("--tls-client-ca", type=Path, help="only clients with a certificate of this authority")
    group.add_argument("--access-log", action="store_true", help="one JSON line a request on stderr")
    group.add_argument("--rows-max", type=int, default=65_536, help="rows of a request, at most (default %(default)s)")
    group.add_argument("--body-mb", type=int, default=16, help="largest request body (default %(default)s)")


def settings_of(args: argparse.Namespace) -> Settings:
    """Return the pair's settings; raises UsageError with everything that does not fit together."""
    settings = Settings(
        deadline_ms=args.deadline_ms,
        probe_every_ms=args.probe_every_ms,
        scrub_every_s=args.scrub_every_s,
        failback=Failback(args.failback),
        standby=Tier(args.tier),
        replicas=args.replicas,
        verify=VerifyMode(args.verify),
        queue_max=args.queue,
        batch_rows_max=args.batch_rows,
        batch_wait_ms=args.batch_wait_ms,
        worker_memory_mb=args.worker_memory_mb,
    )
    problems = [*settings.problems(), *_front_problems(args)]
    if problems:
        raise UsageError("\n".join(problems))
    return settings


def _front_problems(args: argparse.Namespace) -> list[str]:
    problems = []
    if len(args.primary) != len(args.standby):
        problems.append("Give as many --standby as --primary: they are paired in their order.")
    if args.channel and len(args.channel) != len(args.primary):
        problems.append("Give one --channel a pair, in the same order, or none.")
    if (args.tls_cert is None) != (args.tls_key is None) or (args.tls_client_ca and not args.tls_cert):
        problems.append("TLS needs --tls-cert and --tls-key; --tls-client-ca comes on top.")
    if not 0 <= args.port < 65536:
        problems.append("--port is a number from 0 to 65535.")
    return problems


def places_of(args: argparse.Namespace) -> tuple[Places, ...]:
    """Return where each pair's files are."""
    channels: Sequence[Path | None] = args.channel or [None] * len(args.primary)
    return tuple(
        Places(primary.resolve(), standby.resolve(), args.trust.resolve(), channel and channel.resolve())
        for primary, standby, channel in zip(args.primary, args.standby, channels, strict=True)
    )


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reads the bundles and the TLS files again."""
    return serve(args, [sys.executable, "-m", "pipeline.cli", *sys.argv[1:]])


def serve(
    args: argparse.Namespace, take_over_argv: Sequence[str], open_session: "OpenSession | None" = None,
    settings: Settings | None = None,
) -> int:  # fmt: skip
    """Serve what the arguments say; ``open_session`` is what workers load models with, by default the engines.

    ``settings`` are used instead of the arguments' own.
    """
    settings = settings or settings_of(args)
    if SECRETS & os.environ.keys():  # forked processes keep all memory: only a new program is rid of them
        os.execve(take_over_argv[0], list(take_over_argv), for_children())  # noqa: S606 - no shell is wanted
    one_thread()  # before numpy is imported: the keeper forks
    try:
        from pipeline.runtime.http.certificate import Certificate, Tls
        from pipeline.runtime.http.settings import FrontSettings, Limits
        from pipeline.runtime.http.tokens import Tokens, load_tokens
        from pipeline.runtime.server import Serving
        from pipeline.runtime.serving import Door, engines, run_service
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("pipeline"):
            raise
        raise MissingExtra(f"Serving needs the package {error.name!r}: pip install 'hotspare[serve]'.") from error
    tokens = Tokens() if args.tokens is None else load_tokens(args.tokens)
    tls = Tls(args.tls_cert, args.tls_key, args.tls_client_ca) if args.tls_cert else None
    limits = Limits(
        body_bytes_max=args.body_mb << 20,
        rows_max=args.rows_max,
        deadline_ms=float(args.deadline_ms),
        connections_max=max(1, min(Limits.connections_max, more_descriptors() - _OWN_DESCRIPTORS)),
    )
    return run_service(
        Door(args.host, args.port),
        Serving(places_of(args), settings),
        lambda log: FrontSettings(
            tuple(args.name),
            tokens,
            None if tls is None else Certificate(tls),
            limits,
            access_log=log.put if args.access_log else None,
        ),
        take_over_argv,
        open_session or engines,
    )
