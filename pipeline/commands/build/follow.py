"""``hotspare follow``: notice moved aliases, rebuild what has no backup, promote what may be, tell the lag."""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from pipeline.bundle.policy import load_policy
from pipeline.commands.build.console import show_table
from pipeline.commands.build.evidence import in_words
from pipeline.commands.build.follower import Follower
from pipeline.commands.build.follower_memory import Fate, Say
from pipeline.commands.build.project import named_models, opened_project
from pipeline.commands.build.replaying import Dvc, OnStage, Replayed, replay
from pipeline.commands.build.webhook import Door, listening, parse_door, require_secret
from pipeline.commands.node.running import RunningServer
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.environment import WEBHOOK_SECRET
from pipeline.core.errors import HotspareError, LagExceeded, PromotionRefused, SurroundingsError, UsageError
from pipeline.core.printable import printable
from pipeline.core.recipe import Recipe
from pipeline.registry.webhook import AliasEvent

EXAMPLE = "hotspare follow credit --every 2 --webhook 127.0.0.1:8090 --node http://localhost:8080"
_EVERY_S = 2.0
_NODES_EVERY_S = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", nargs="*", help="by default all that artifacts/trust.yaml names")
    parser.add_argument("--every", type=float, default=_EVERY_S, metavar="S", help="look every S seconds")
    parser.add_argument("--once", action="store_true", help="do what is due, wait for the nodes, tell by the exit code")
    parser.add_argument(
        "--webhook", metavar="HOST:PORT",
        help=f"listen for MLflow's webhook, which only wakes; its secret is in {WEBHOOK_SECRET}",
    )  # fmt: skip
    parser.add_argument("--node", action="append", default=[], metavar="URL", help="a server to watch; may stand twice")
    parser.add_argument("--json", action="store_true", help="log one JSON object a line")


def run(args: argparse.Namespace) -> int:
    """Follow until SIGTERM or SIGINT, or once."""
    if not args.every > 0:
        raise UsageError("--every is a number of seconds above 0.")
    models = named_models(args.models, load_policy(layout.TRUST_POLICY))
    nodes = [RunningServer(url) for url in args.node]
    door = None if args.webhook is None else parse_door(args.webhook)
    secret = None if door is None else require_secret(os.environ.get(WEBHOOK_SECRET))
    log, bell = Log(as_json=args.json), Bell({}, threading.Event())
    dvc = Dvc()
    by_dvc = partial(_replay, dvc)
    followers = [Follower(one, opened_project, by_dvc, log.of(one), nodes, bell.moments) for one in models]
    with ExitStack() as stack:
        stack.callback(dvc.close)
        heard_at = None
        if door is not None and secret is not None:
            refused = partial(_tell_refused, log)
            heard_at = stack.enter_context(listening(door, secret, bell.ring, refused))
        log.write("info", "following", models=list(models), every_s=args.every, webhook=_words(heard_at))
        return _once(followers, log) if args.once else _for_ever(followers, bell, args.every, dvc)


@dataclass(frozen=True)
class Bell:
    """What the webhook told of moves, and what wakes the loop."""

    moments: dict[tuple[str, str, int | None], AliasEvent]
    rung: threading.Event

    def ring(self, event: AliasEvent) -> None:
        """Note a move and wake the loop."""
        self.moments[event.model, event.alias, event.version] = event
        self.rung.set()


@dataclass(frozen=True)
class Log:
    """One line for each thing that happened; on standard output."""

    as_json: bool

    def of(self, model: str) -> Say:
        """Return what takes the events of one model."""
        return partial(self._of, model)

    def _of(self, model: str, level: str, event: str, **facts: object) -> None:
        self.write(level, event, model=model, **facts)

    def write(self, level: str, event: str, **facts: object) -> None:
        """Write one event."""
        record = {"at": utc_now().isoformat(timespec="milliseconds"), "level": level, "event": event, **facts}
        line = json.dumps(record, ensure_ascii=True) if self.as_json else in_line(record)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
        if not self.as_json and event == "promoted":
            _show_steps(str(facts.get("model")), facts.get("steps"))


def in_line(record: Mapping[str, object]) -> str:
    """Return an event as people read it: what happened, then what there is to know; reasons on lines of their own."""
    apart = {"at", "level", "event", "model", "reasons", "steps"}
    facts = [f"{key}={value}" for key, value in record.items() if key not in apart and value not in (None, "", [])]
    head = " ".join(str(record[key]) for key in ("at", "level", "model", "event") if key in record)
    reasons = record.get("reasons")
    lines = [" ".join([head, *facts]), *(f"  - {reason}" for reason in (reasons if isinstance(reasons, list) else ()))]
    return "\n".join(printable(line) for line in lines)


def _show_steps(model: str, steps: object) -> None:
    """Print what each step took."""
    rows = [(str(one["stage"]), f"{one['seconds']:.2f}") for one in steps] if isinstance(steps, list) else []
    if len(rows) > 1:
        total = sum(float(seconds) for _, seconds in rows)
        show_table(f"{model}: what it took", ["step", "seconds"], [*rows, ("sum", f"{total:.2f}")])


def _once(followers: Sequence[Follower], log: Log) -> int:
    fates = {}
    failures = []
    for follower in followers:
        try:
            fates[follower.model] = follower.follow()
        except HotspareError as error:
            log.write(
                "error", "failed", model=follower.model, error=type(error).__name__, reasons=list(in_words(error))
            )
            failures.append(error)
    for follower in followers:
        if follower.model in fates:
            _await_nodes(follower, fates[follower.model])
    if failures:
        raise failures[0]
    _raise_alarms(followers)
    refused = [f"{model}: {reason}" for model, fate in fates.items() for reason in fate.refused]
    if refused:
        raise PromotionRefused("Not followed; the pairs promoted before stay in force.", refused)
    return 0


def _await_nodes(follower: Follower, fate: Fate) -> None:
    """Wait for the nodes until they have caught up, or the alarm is due."""
    ends = time.monotonic() + fate.terms.lag_alarm_s
    while not follower.look_at_nodes(fate) and fate.moved_at is not None and time.monotonic() < ends:
        if any(of != "channel" for of in follower.memory.alarms):
            return
        time.sleep(_NODES_EVERY_S)


def _raise_alarms(followers: Iterable[Follower]) -> None:
    late = [f"{one.model}: {of}" for one in followers for of in sorted(one.memory.alarms)]
    if late:
        raise LagExceeded("Not followed in the time that mlflow/promotion.yaml allows:", late)


def _replay(dvc: Dvc, recipe: Recipe, on_stage: OnStage) -> Replayed:
    return replay(recipe, on_stage, dvc)


def _for_ever(followers: Sequence[Follower], bell: Bell, every_s: float, dvc: Dvc) -> int:
    failures = 0
    while True:
        fates = [(follower, fate) for follower in followers if (fate := _guarded(follower)) is not None]
        if any(fate.terms.rebuild for _, fate in fates):
            dvc.get_ready()  # its libraries take longer than much of what it does
        failures = failures + 1 if len(fates) < len(followers) else 0
        ends = time.monotonic() + (min(every_s, 2.0 ** min(failures, 6)) if failures else every_s)
        while (left := ends - time.monotonic()) > 0:
            behind = [follower for follower, fate in fates if not follower.look_at_nodes(fate)]
            bell.rung.wait(left if not behind else min(left, _NODES_EVERY_S))
            if bell.rung.is_set():
                break
        bell.rung.clear()


def _guarded(follower: Follower) -> Fate | None:
    """Follow; what goes wrong is told once and tried again."""
    try:
        fate = follower.follow()
    except HotspareError as error:
        key = ("failed", str(error))
        if key not in follower.memory.told:
            follower.memory.told.add(key)
            level = "warning" if isinstance(error, SurroundingsError) and error.retry else "error"
            follower.say(level, "failed", error=type(error).__name__, reasons=list(in_words(error)))
        return None
    follower.memory.told = {key for key in follower.memory.told if key[0] != "failed"}
    return fate


def _tell_refused(log: Log, reason: str) -> None:
    log.write("warning", "webhook refused", reasons=[reason])


def _words(door: Door | None) -> str | None:
    return None if door is None else f"{door.host}:{door.port}"
