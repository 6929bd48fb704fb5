"""``hotspare status``: registry, channel, depot and nodes in one table; what does not answer is a row of it."""

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pipeline.bundle.channel import Standing
from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.mending import look
from pipeline.commands.build.project import age_in_words, named_models
from pipeline.commands.build.published import depot_channel, depot_name
from pipeline.commands.node.running import RunningServer
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError
from pipeline.core.names import Role
from pipeline.core.printable import printable
from pipeline.registry.access import address, open_registry
from pipeline.registry.agreement import CANDIDATE, PREVIOUS, Seen, behind, find_drift, place_of_pair
from pipeline.registry.history import Held
from pipeline.registry.lag import read_node
from pipeline.registry.loading import project_root
from pipeline.registry.memory import MemoryRegistry
from pipeline.registry.pair import Pair
from pipeline.registry.promotion_policy import load_policy as load_promotion_policy
from pipeline.registry.store import Registry

EXAMPLE = "hotspare status credit --node http://localhost:8080"
_ALIASES = (str(Role.PRIMARY), str(Role.BACKUP), PREVIOUS, CANDIDATE)


@dataclass(frozen=True)
class Row:
    """One part of one model's delivery: what it holds, and how far it is behind what is in force."""

    model: str
    part: str
    holds: str
    seq: int | None = None
    lag_versions: int | None = None
    lag_seconds: float | None = None
    reachable: bool = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", nargs="*", help="by default all that artifacts/trust.yaml names")
    parser.add_argument("--depot", metavar="ADDRESS", help="a depot to look at; else that of mlflow/promotion.yaml")
    parser.add_argument("--node", action="append", default=[], metavar="URL", help="a server to ask; may stand twice")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    """Ask every part; nothing is changed, and nobody is waited for longer than its own time-out."""
    trust, now = load_policy(layout.TRUST_POLICY), utc_now()
    models = named_models(args.models, trust)
    depot = args.depot or load_promotion_policy().depot
    nodes = [RunningServer(url) for url in args.node]
    registry, problem = _open()
    rows = []
    for model in models:
        if problem is not None:
            rows.append(Row(model, "registry", problem, reachable=False))
        rows += _rows(model, registry, trust, depot, nodes, now)
    if args.json:
        show_json(rows)
        return 0
    cells = [(row.model, row.part, row.holds, _number(row.seq), _lag(row)) for row in rows]
    show_table("What is in force, and who has it", ["model", "part", "holds", "seq", "behind"], cells)
    return 0


def _open() -> tuple[Registry, str | None]:
    """Open the registry, or an empty one and what to tell instead; looking creates no store."""
    root = project_root(os.environ)
    try:
        own = address(root, os.environ.get("MLFLOW_TRACKING_URI", "")).own_database
        if own is not None and not own.exists():
            return MemoryRegistry(), "there is none yet; run `hotspare register`"
        return open_registry(root), None
    except HotspareError as error:
        return MemoryRegistry(), str(error)


def _rows(
    model: str,
    registry: Registry,
    trust: TrustPolicy,
    depot: str | None,
    nodes: Sequence[RunningServer],
    now: datetime,
) -> Iterator[Row]:
    try:
        seen = look(registry, model, trust)
    except HotspareError as error:
        yield Row(model, "channel", str(error), reachable=False)
        return
    published, offered = None, None
    if depot is not None:
        published, offered = _depot_row(model, depot, trust, seen, now)
    seen = replace(seen, depot=offered)
    yield from _registry_rows(seen)
    yield _channel_row(seen, now)
    if published is not None:
        yield published
    for node in nodes:
        yield _node_row(node, seen, now)
    drift = list(find_drift(seen))
    if drift:
        told = f"{len(drift)} disagreement(s), first: {drift[0].part}: {drift[0].finding}"
        yield Row(model, "agreement", f"{told}; run `hotspare reconcile {model}`")


def _registry_rows(seen: Seen) -> Iterator[Row]:
    by_number = {version.number: version for version in seen.versions}
    for alias in _ALIASES:
        version = by_number.get(seen.aliases.get(alias, 0))
        if version is not None:
            said = f"version {version.number}, {printable(version.tags.get('candidate', 'no candidate'))}"
            yield Row(seen.model, alias, f"{said}, {version.bundle_id[:12]}")


def _channel_row(seen: Seen, now: datetime) -> Row:
    if seen.folder is None:
        return Row(seen.model, "channel", "none in this folder")
    channel, lag = seen.folder.channel, behind(seen, seen.folder.place, now)
    told = f"{age_in_words(channel, now)}, renewed from {channel.refresh_by}"
    if channel.dates.standing(now) is not Standing.CURRENT:
        told += f", which has passed: run `hotspare follow {seen.model} --once`"
    return Row(seen.model, "channel", told, channel.seq, lag.versions, lag.seconds)


def _depot_row(model: str, place: str, trust: TrustPolicy, seen: Seen, now: datetime) -> tuple[Row, Held | None]:
    part = "depot"
    try:
        part = f"depot {depot_name(place)}"
        held = depot_channel(place, model, trust)
    except HotspareError as error:
        return Row(model, part, str(error), reachable=False), None
    if held is None:
        lag = behind(seen, (0, 0), now)
        return Row(model, part, "no channel", None, lag.versions, lag.seconds), None
    lag = behind(seen, held.place, now)
    return Row(model, part, age_in_words(held.channel, now), held.channel.seq, lag.versions, lag.seconds), held


def _node_row(node: RunningServer, seen: Seen, now: datetime) -> Row:
    part = f"node {node.url}"
    try:
        pair = node.pair(seen.model)
    except HotspareError as error:
        return Row(seen.model, part, str(error), reachable=False)
    report = read_node({"pairs": [pair]}, seen.model)
    if report is None:
        return Row(seen.model, part, "its status has another form than this version reads", reachable=False)
    told = f"version {printable(str(pair.get('version')))[:12]}, term {printable(str(pair.get('term')))}, "
    told += f"{printable(str(pair.get('serving') or 'nobody'))} serves"
    ready = [report.ready.get(role) for role in Role]
    if None in ready:
        missing = " and ".join(role for role in Role if role not in report.ready)
        return Row(seen.model, part, f"{told}, {missing} not ready", report.seq)
    place = place_of_pair(seen, Pair(str(ready[0]), str(ready[1])))
    lag = behind(seen, place or (0, 0), now)
    told += "" if place else ", a pair that no known channel names"
    return Row(seen.model, part, told, report.seq, lag.versions, lag.seconds)


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _lag(row: Row) -> str:
    if row.lag_versions is None:
        return "-" if row.reachable else "?"
    return "no" if row.lag_versions == 0 else f"{row.lag_versions} version(s), {row.lag_seconds or 0:.0f} s"
