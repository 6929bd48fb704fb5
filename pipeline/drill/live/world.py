"""The live world: one script played on real processes, under real load, with real faults, every answer judged.

Real: server, keeper, workers, engines, bundles and their verification, sockets, signals, disks, groups, the load.
Made up: a worker's engine does wrong because it is told to (its own session obeys orders), a channel is signed by the
drill, and the wall clock is set back in the server's processes alone (``faulty_clock``).
"""

import contextlib
import os
import platform
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from pipeline.core.errors import Unreachable
from pipeline.core.names import Role
from pipeline.drill.live.judging import (
    BUNDLE_HEADER,
    ROLE_HEADER,
    TERM_HEADER,
    Questions,
    judge_all,
    questions_of,
)
from pipeline.drill.live.launching import Hotspare, PairFiles
from pipeline.drill.live.leash import leashed
from pipeline.drill.live.plan import Exchange, Record
from pipeline.drill.live.playing import Play
from pipeline.drill.live.releases import Copied, copied
from pipeline.drill.live.resources import Dependency, is_root, memory_group, tiny_disk
from pipeline.drill.live.scene import Scene
from pipeline.drill.live.scoring import Scoring, degraded_scores
from pipeline.drill.live.strikes import CHANNEL, DESCRIPTORS_MAX, NET, prepare
from pipeline.drill.live.toxics import Proxy
from pipeline.drill.live.watching import is_server_death, moments_of, served_by
from pipeline.drill.nouns import FaultKind, Observed, Outcome, Request, Script
from pipeline.drill.pair_settings import pair_settings
from pipeline.runtime.settings import Settings

QUESTIONS = 200
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def live(
    script: Script, pair: PairFiles, folder: Path, rows: Path | None = None, given: Scoring | None = None, seed: int = 0
) -> Observed:
    """Play a script on copies of a pair, in ``folder``; whatever happens, nothing of it goes on running afterwards.

    ``rows`` is an npz of the task's own inputs (else the bundle's synthetic ones are asked); with ``given``, answers
    of the backup are scored. Where root or the kernel is needed and missing, nothing is played and the result says why.
    Raises InternalError when the pair does not start, the Untrusted error that fits when its bundles do not verify,
    UsageError or DataError for a script that cannot be played.
    """
    if "root" in script.needs and not is_root():
        return _left_out("It needs root, for a file system or a group of its own.")
    try:
        with _ended_by_signals(), ExitStack() as stack:
            return _played(script, pair, folder.resolve(), rows, given, seed, stack)
    except Unreachable as error:
        return _left_out(str(error))


def _left_out(why: str) -> Observed:
    return Observed("live", (), (), (), left_out=why)


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Let a signal that ends this process do so by an exception, after which everything is cleaned up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _played(
    script: Script, pair: PairFiles, folder: Path, rows: Path | None, given: Scoring | None, seed: int, stack: ExitStack
) -> Observed:
    faults = {one.fault for one in script.strikes}
    settings = pair_settings(script.settings)
    folder.mkdir(parents=True, exist_ok=True)
    served = copied(pair, folder, with_channel=bool(faults & CHANNEL))
    questions = questions_of(served.bundles, rows, QUESTIONS)
    scene = _scene(script, served, questions, settings, seed, stack)
    prepare(scene, script)
    has_mount = any(one.fault is FaultKind.DISK_FULL for one in script.strikes)
    stack.enter_context(leashed(scene.system.room, served.state if has_mount else None, scene.memory_group))
    stack.callback(scene.system.stop)
    scene.system.start()
    if scene.proxy is not None:
        stack.callback(scene.proxy.stop)
        scene.proxy.start()
    play = Play(script, scene, settings)
    record = play.run()
    return _observed(play, record, given)


def _scene(
    script: Script, served: Copied, questions: Questions, settings: Settings, seed: int, stack: ExitStack
) -> Scene:
    """Make what the script's faults need around the server; raises Unreachable where that is not allowed here."""
    faults = {one.fault for one in script.strikes}
    folder = served.files.trust.parent
    if FaultKind.DISK_FULL in faults:
        stack.enter_context(tiny_disk(served.state))
    group = stack.enter_context(memory_group(_group_name(folder))) if FaultKind.OUT_OF_MEMORY in faults else None
    registry, store = (_dependency(one in faults, stack) for one in (FaultKind.REGISTRY_DOWN, FaultKind.STORE_DOWN))
    environment = {} if registry is None else {"MLFLOW_TRACKING_URI": registry.url}
    environment |= {} if store is None else {"MLFLOW_S3_ENDPOINT_URL": store.url}
    system = Hotspare(
        served.files,
        folder,
        [text for name, value in script.settings for text in ("--set", f"{name}={value}")],
        environment,
        descriptors_max=DESCRIPTORS_MAX if FaultKind.DESCRIPTORS in faults else None,
        tier=settings.standby,
    )
    proxy = Proxy(system.port, seed) if faults & NET else None
    return Scene(system, served, questions, folder, seed, proxy, group, registry, store)


def _group_name(folder: Path) -> str:
    return f"hotspare-drill-{os.getpid()}-{folder.name}"


def _dependency(is_needed: bool, stack: ExitStack) -> Dependency | None:
    if not is_needed:
        return None
    made = Dependency()
    stack.callback(made.go_away)
    return made


def _observed(play: Play, record: Record, given: Scoring | None) -> Observed:
    scene, seen = play.scene, play.scene.system.seen
    outcomes = judge_all(record.exchanges, scene.questions)
    deaths = [one for one in play.struck if is_server_death(one)]
    moments = (*play.struck, *moments_of(seen, record.began_s))
    requests = _requests(record.exchanges, outcomes, scene.questions)
    channels = scene.served.channels
    last = [one for one in requests if one.outcome in (Outcome.RIGHT, Outcome.WRONG)][-1:]
    took = play.sampler.seen if play.sampler is not None else None
    scores = degraded_scores(given, record.exchanges, scene.questions)
    return Observed(
        world="live",
        requests=requests,
        moments=tuple(sorted(moments, key=lambda one: one.at_ms)),
        serving=served_by(seen, record.began_s, deaths),
        hedged=play.counted["hedges"],
        resent=play.counted["resent"],
        versions_behind=channels.behind(last[0].bundle_id) if channels and last else 0,
        memory_mb=round(took.memory_mb, 1) if took else 0.0,
        memory_rest_mb=round(took.memory_rest_mb, 1) if took else 0.0,
        cpu_ratio=round(took.cpu_ratio, 4) if took else 0.0,
        degraded_score=scores.get("degraded_score"),
        float_score=scores.get("float_score"),
        facts={**_facts(play), **scene.facts},
    )


def _requests(exchanges: Sequence[Exchange], outcomes: Sequence[Outcome], questions: Questions) -> tuple[Request, ...]:
    return tuple(
        Request(
            number=number,
            question=one.question,
            due_ms=one.scheduled_ms,
            sent_ms=one.sent_ms,
            done_ms=one.done_ms if outcome is not Outcome.LOST else None,
            outcome=outcome,
            role=Role(one.headers[ROLE_HEADER]) if ROLE_HEADER in one.headers else None,
            term=int(one.headers[TERM_HEADER]) if TERM_HEADER in one.headers else None,
            bundle_id=one.headers.get(BUNDLE_HEADER, ""),
            is_extra=one.question >= len(questions.bodies),
            problem="" if one.status == 200 else one.error or f"HTTP {one.status}: {one.body[:200]}",
        )
        for number, (one, outcome) in enumerate(zip(exchanges, outcomes, strict=True))
    )


def _facts(play: Play) -> dict[str, str]:
    """Return what a report says of where and with what this was played."""
    depends = {"registry": play.scene.registry, "store": play.scene.store}
    for one in filter(None, depends.values()):
        one.go_away()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} processors, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "ready after": f"{play.scene.system.ready_s:.2f} s",
        **{f"times that the {name} was asked": str(one.asked) for name, one in depends.items() if one is not None},
        **{f"{role} bundle": bundle.bundle_id for role, bundle in play.scene.served.bundles.items()},
    }
