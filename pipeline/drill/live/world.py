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
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType

from pipeline.core.errors import InternalError, Unreachable
from pipeline.core.names import Role
from pipeline.drill.live.generating import RECORD_FILE, generating
from pipeline.drill.live.judging import (
    BUNDLE_HEADER,
    ROLE_HEADER,
    TERM_HEADER,
    Questions,
    judge_all,
    poison_body,
    questions_of,
)
from pipeline.drill.live.launching import Hotspare, PairFiles
from pipeline.drill.live.plan import Exchange, Extra, Plan, Record, read_due_times, read_record
from pipeline.drill.live.releases import Copied, copied, next_whole_second, wait_until
from pipeline.drill.live.resources import Dependency, is_root, memory_group, tiny_disk
from pipeline.drill.live.scoring import Scoring, degraded_scores
from pipeline.drill.live.strikes import CHANNEL, DESCRIPTORS_MAX, NET, ON_DISK, Scene, poison_times, prepare, struck
from pipeline.drill.live.toxics import Proxy
from pipeline.drill.live.watching import Sampler, is_server_death, moments_of, served_by
from pipeline.drill.nouns import Arrivals, FaultKind, Moment, MomentKind, Observed, Outcome, Request, Script
from pipeline.drill.pair_settings import pair_settings
from pipeline.runtime.members import MemberState, Tier
from pipeline.runtime.settings import Failback, Settings

QUESTIONS = 200
SETTLE_S = 12.0  # after load and faults, at most so long until all is as before
SETTLE_WITHOUT_S = 1.5  # where what is wrong on disk stands in the way of that, so long
_LOOK_S = 0.05
_EXPIRED_FOR = timedelta(milliseconds=20)
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
    stack.callback(scene.system.stop)
    scene.system.start()
    if scene.proxy is not None:
        stack.callback(scene.proxy.stop)
        scene.proxy.start()
    play = _Play(script, scene, settings)
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


@dataclass
class _Play:
    """One play while it goes on."""

    script: Script
    scene: Scene
    settings: Settings
    began_s: float = 0.0
    struck: list[Moment] = field(default_factory=list)
    counted: dict[str, int] = field(default_factory=lambda: {"hedges": 0, "resent": 0})
    sampler: Sampler | None = None

    def run(self) -> Record:
        """Load the server, strike, take back, wait until all is as before or cannot be."""
        folder = self.scene.folder
        plan = _plan(self.script, self.scene)
        ends = self._channel_end()
        with Sampler(self.scene.system.family) as self.sampler, ExitStack() as strikes:
            self._wait_for_channel(ends)
            with generating(plan, folder) as self.began_s:
                self._strike_all(strikes)
            self._settle()
            self._count()
        return read_record(folder / RECORD_FILE)

    def now_ms(self) -> float:
        """Return ms after the load's start."""
        return 1000 * (time.monotonic() - self.began_s)

    # A channel that ends while it is played.

    def _channel_end(self) -> datetime | None:
        """Renew the channel so that it ends at the strike; returns when that is."""
        if not any(one.fault is FaultKind.EXPIRED for one in self.script.strikes) or self.scene.served.channels is None:
            return None
        ends = next_whole_second()
        self.scene.served.channels.write_ending(ends)
        return ends

    def _wait_for_channel(self, ends: datetime | None) -> None:
        if ends is not None:
            at_ms = min(one.at_ms for one in self.script.strikes if one.fault is FaultKind.EXPIRED)
            wait_until(ends + _EXPIRED_FOR - timedelta(milliseconds=at_ms))

    # Strikes.

    def _strike_all(self, strikes: ExitStack) -> None:
        """Begin and end every strike at its moment; what lasts is taken back by the stack, at the end of the play."""
        todo = [(one.at_ms, 0, number) for number, one in enumerate(self.script.strikes)]
        todo += [
            (one.at_ms + one.lasts_ms, 1, n) for n, one in enumerate(self.script.strikes) if one.lasts_ms is not None
        ]
        begun: dict[int, ExitStack] = {}
        for at_ms, is_end, number in sorted(todo, key=lambda one: one[0]):
            time.sleep(max(0.0, (at_ms - self.now_ms()) / 1000))
            if not is_end:
                begun[number] = strikes.enter_context(ExitStack())
                self._begin(number, begun[number])
            else:
                begun[number].close()
                self._note(MomentKind.ENDED, number)

    def _begin(self, number: int, stack: ExitStack) -> None:
        strike = self.script.strikes[number]
        if strike.fault is FaultKind.SERVER_DEATH:
            self._count()  # the next server counts from nothing
        due_ms = float(strike.at_ms) if strike.fault is FaultKind.POISON else self.now_ms()  # the load sends poison
        try:
            stack.enter_context(struck(self.scene, strike))
        except (InternalError, ProcessLookupError) as error:
            self.struck.append(Moment(due_ms, MomentKind.UNDONE, f"{strike.fault} could not be done: {error}"))
        self._note(MomentKind.STRUCK, number, due_ms)

    def _note(self, kind: MomentKind, number: int, at_ms: float | None = None) -> None:
        strike = self.script.strikes[number]
        text = str(strike.fault) if strike.target is None else f"{strike.fault} {strike.target}"
        at_ms = self.now_ms() if at_ms is None else at_ms
        self.struck.append(Moment(at_ms, kind, text, strike.target, strike=number))

    # The end.

    def _count(self) -> None:
        found = self.scene.system.status().get("counters", {})
        for name in self.counted:
            self.counted[name] += int(found.get(name, 0))

    def _settle(self) -> None:
        is_for_good = any(one.fault in ON_DISK for one in self.script.strikes)
        end_s = time.monotonic() + (SETTLE_WITHOUT_S if is_for_good else SETTLE_S)
        while not self._is_whole() and time.monotonic() < end_s:
            time.sleep(_LOOK_S)

    def _is_whole(self) -> bool:
        """Tell whether everybody who is needed is ready, and who serves is who should in the end."""
        status = self.scene.system.status()
        serving = status.get("serving")
        if serving is None or (serving == Role.BACKUP and self.settings.failback is Failback.AFTER_PROBES):
            return False
        hot = self.settings.standby is Tier.HOT
        needed = [one for one in status["members"] if hot or one["seat"]["role"] == Role.PRIMARY]
        still = (MemberState.READY, MemberState.HELD, MemberState.QUARANTINED)
        return all(one["state"] in still for one in needed)


def _plan(script: Script, scene: Scene) -> Plan:
    load = script.load
    extras = tuple(Extra(at_ms / 1000, poison_body(scene.questions)) for at_ms in poison_times(script))
    return Plan(
        port=scene.system.port if scene.proxy is None else scene.proxy.port,
        path=f"/v2/models/{scene.questions.model}/infer",
        bodies=scene.questions.bodies,
        rate=load.rate_per_s,
        seconds=load.seconds,
        seed=load.seed,
        arrivals=load.arrivals,
        deadline_ms=load.deadline_ms,
        extras=extras,
        due_s=read_due_times(Path(load.log)) if load.arrivals is Arrivals.REPLAY else (),
    )


def _observed(play: _Play, record: Record, given: Scoring | None) -> Observed:
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


def _facts(play: _Play) -> dict[str, str]:
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
