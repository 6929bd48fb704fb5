"""Following one model's aliases, and renewing its channel: look, decide, do one step, look again.

Nothing is remembered that a restart would need: what is wished is read from the aliases, what is true from the signed
channel, what is built from dvc and the registry, the moment of a move from a tag. What a killed process left undone is
done at the next look. Kept in memory is only what was told already, so that it is not told again.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from pipeline.bundle.channel import Standing
from pipeline.commands.build.evidence import in_words, judge_pair, local_build
from pipeline.commands.build.project import Project
from pipeline.commands.build.promotion_effects import align
from pipeline.commands.build.reissuing import Reissued, reissue
from pipeline.commands.build.renewing import Renewed, renew
from pipeline.commands.build.replaying import OnStage, Replayed, Took
from pipeline.commands.build.trained_source import place_source
from pipeline.core.canonical import sha256_file
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError, InputError, InternalError, PromotionRefused, Refusal, Untrusted
from pipeline.core.recipe import RECIPES, Recipe, load_recipe
from pipeline.registry.agreement import Seen
from pipeline.registry.follow_terms import DEFAULT_FOLLOW_TERMS, FollowTerms, OnRefusal
from pipeline.registry.following import (
    BUILT_TAG,
    Agreed,
    Finish,
    Judge,
    Outlook,
    Rebuild,
    Step,
    Stuck,
    Wish,
    find_wish,
    is_due,
    left_behind,
    next_step,
    versions_behind,
)
from pipeline.registry.lag import (
    MOVED_TAG,
    Lag,
    last_moved_at,
    measure_lag,
    moved_at,
    moved_text,
    read_node,
)
from pipeline.registry.loading import load_build, read_lineage
from pipeline.registry.promotion import Pair, Refuse
from pipeline.registry.record import Build
from pipeline.registry.registering import register_build
from pipeline.registry.webhook import AliasEvent

_STEPS_MAX = 10
_JUDGED_AGAIN_S = 60.0
_CLOCKS_APART = timedelta(seconds=60)


class Say(Protocol):
    """Takes one thing that happened, for the log."""

    def __call__(self, level: str, event: str, **facts: object) -> None:
        """Take it; ``level`` is info, warning, error or alarm."""


class Node(Protocol):
    """A running server, as far as a follower looks at it."""

    @property
    def url(self) -> str:
        """Return its address."""
        ...

    def pair(self, model: str) -> dict[str, object]:
        """Return what it says of a model; raises HotspareError."""
        ...


@dataclass(frozen=True)
class Fate:
    """How a round ended: what is in force, and what was wished and is refused."""

    pair: Pair | None = None
    seq: int | None = None
    moved_at: datetime | None = None
    refused: tuple[str, ...] = ()
    terms: FollowTerms = DEFAULT_FOLLOW_TERMS


@dataclass(frozen=True)
class _Again:
    """Something was done; look again."""


@dataclass
class Memory:
    """What one process has told and tried; losing it costs a line of log or a needless look."""

    told: set[tuple[object, ...]] = field(default_factory=set)
    failed: dict[tuple[object, ...], tuple[str, ...]] = field(default_factory=dict)
    replayed: set[tuple[object, ...]] = field(default_factory=set)
    refusal: tuple[object, float, Fate] | None = None
    unrenewed: tuple[object, float, tuple[str, ...]] | None = None
    published: tuple[int, int] | None = None
    took: tuple[Took, ...] = ()
    alarms: set[str] = field(default_factory=set)
    waiting: set[str] = field(default_factory=set)
    serving: dict[str, Pair] = field(default_factory=dict)


@dataclass(frozen=True)
class Follower:
    """One model's follower; ``moments`` holds what the webhook told of moves: (model, alias, version) to event."""

    model: str
    opened: Callable[[], AbstractContextManager[Project]]
    replay: Callable[[Recipe, OnStage], Replayed]
    say: Say
    nodes: Sequence[Node] = ()
    moments: dict[tuple[str, str, int | None], AliasEvent] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)

    def follow(self) -> Fate:
        """Do all that is to be done now.

        Raises SurroundingsError where a later try may do better, InputError and Untrusted for what a person has to
        mend first.
        """
        for _ in range(_STEPS_MAX):
            done = self._step()
            if isinstance(done, Rebuild):
                done = self._rebuild(done)
            if isinstance(done, Fate):
                return replace(done, refused=(*done.refused, *self._unrenewed))
        raise InternalError(f"Following {self.model} does not come to an end; report this.")

    def _step(self) -> Fate | Rebuild | _Again:
        with self.opened() as project:
            seen = project.look(self.model)
            if self._renew(project, seen):
                return _Again()
            wish = find_wish(seen, project.policy.mode)
            if wish is not None and (known := self._known_refusal(project, seen)) is not None:
                return known
            build = local_build(project, self.model) if wish else None
            local = build.facts().pair if build else None
            step = next_step(Outlook(seen, project.policy.mode, local, project.policy.follow))
            self._tell_wish(project, seen, wish, step)
            match step:
                case Finish():
                    mended = align(project.registry, self.model, project.trust)
                    self.say("info", "finished", seq=_seq(seen), mended=[one.finding for one in mended])
                    return _Again()
                case Agreed():
                    return self._agreed(project, seen)
                case Stuck(alias, _, reasons):
                    return self._refused(project, seen, alias, reasons)
                case Rebuild():
                    return step
                case Judge():
                    return self._judge(project, seen, step, build)

    def _judge(self, project: Project, seen: Seen, step: Judge, build: Build | None) -> Fate | Rebuild | _Again:
        found = judge_pair(project, seen, step.pair, build)
        if not isinstance(found.verdict, Refuse):
            leaves = left_behind(seen, step.pair)
            sign = partial(reissue, project, seen, found.refs, dry_run=False, rollback_of=leaves)
            return self._promote(project, seen, step.wish, sign)
        if step.can_rebuild and _wants_drill(found.verdict) and self._key(step.wish) not in self.memory.replayed:
            return Rebuild(step.wish, from_source=False)
        return self._refused(project, seen, step.wish.alias, found.verdict.reasons)

    def _renew(self, project: Project, seen: Seen) -> bool:
        """Renew the channel once it is due; what stands against it is told once, and once more when it has ended.

        It keeps nobody from being followed: another pair may be what mends it.
        """
        if not is_due(seen, project.now):
            self.memory.unrenewed = None
            return False
        around, known = self._circumstances(project, seen), self.memory.unrenewed
        if known is None or known[0] != around or time.monotonic() - known[1] > _JUDGED_AGAIN_S:
            try:
                made = renew(project, self.model)
            except (Refusal, InputError, Untrusted) as error:
                self.memory.unrenewed = around, time.monotonic(), in_words(error)
            else:
                self._tell_renewed(seen, made)
                return True
        self._tell_unrenewed(project, seen)
        return False

    @property
    def _unrenewed(self) -> tuple[str, ...]:
        known = self.memory.unrenewed
        return () if known is None else known[2]

    def _tell_renewed(self, before: Seen, made: Renewed | None) -> None:
        if made is not None:
            more = {"frozen": list(made.frozen), "told": made.published}
            was = before.in_force.channel.refresh_by if before.in_force else None
            dates = {"due_since": was, "refresh_by": made.refresh_by, "not_after": made.not_after}
            self.say("info", "renewed", seq=made.seq, **dates, **more)

    def _tell_unrenewed(self, project: Project, seen: Seen) -> None:
        channel = seen.in_force.channel if seen.in_force else None
        has_ended = channel is not None and channel.dates.standing(project.now) is Standing.EXPIRED
        if channel is not None and self._is_new("not renewed", channel.seq, has_ended, self._unrenewed):
            dates = {"due_since": channel.refresh_by, "not_after": channel.not_after, "has_ended": has_ended}
            level = "alarm" if has_ended else "error"
            self.say(level, "not renewed", seq=channel.seq, **dates, reasons=list(self._unrenewed))

    def _key(self, wish: Wish) -> tuple[object, ...]:
        """Return what a replay's outcome hangs on; another version or recipe is worth another try."""
        return wish.version.number, self._recipe_digest()

    def _recipe_digest(self) -> str | None:
        recipe = RECIPES / f"{self.model}.yaml"
        return sha256_file(recipe) if recipe.is_file() else None

    def _tell_wish(self, project: Project, seen: Seen, wish: Wish | None, step: Step) -> None:
        """Keep the moment of a move, and tell of it once."""
        if wish is None or isinstance(step, Finish):
            return
        moment, versions = self._moment(project, wish), versions_behind(seen, wish)
        if self._is_new("wish", wish.alias, wish.version.number, moment):
            self.memory.took = ()
            self.memory.alarms.clear()
            self.memory.told = {what for what in self.memory.told if what[0] != "alarm"}
            facts = {"version": wish.version.number, "moved_at": moment.isoformat(timespec="milliseconds")}
            self.say("info", "alias moved", alias=wish.alias, versions_behind=versions, **facts)
        if not isinstance(step, Stuck):
            self._alarm(measure_lag("channel", versions, moment, None, utc_now()), project.policy.follow)

    def _moment(self, project: Project, wish: Wish) -> datetime:
        """Return when an alias was moved: as the webhook told, as was noted before, else now, when it is first seen."""
        known = moved_at(project.registry.model_tags(self.model), wish.alias, wish.version)
        event = self.moments.get((self.model, wish.alias, wish.version.number))
        moments = [moment for moment in (known, event.at if event else None) if moment is not None]
        moment = min(moments, default=project.now)
        if moment != known:
            project.registry.tag_model(self.model, f"{MOVED_TAG}.{wish.alias}", moved_text(wish.version, moment))
        return moment

    def _agreed(self, project: Project, seen: Seen) -> Fate:
        newest = seen.in_force
        if newest is None:
            return Fate(terms=project.policy.follow)
        if self.memory.published != newest.place:
            self._publish_if_lost(project, seen)
        moment = self._last_moment(project, newest.channel.dates.issued_at)
        return Fate(newest.pair, newest.channel.seq, moment, terms=project.policy.follow)

    def _last_moment(self, project: Project, issued_at: datetime) -> datetime | None:
        """Return the latest move; one that was taken back before it was followed is forgotten."""
        tags = project.registry.model_tags(self.model)
        moment = last_moved_at(tags)
        if moment is None or moment < issued_at + _CLOCKS_APART:
            return moment
        for key in tags:
            if key.startswith(f"{MOVED_TAG}."):
                project.registry.untag_model(self.model, key)
        return None

    def _publish_if_lost(self, project: Project, seen: Seen) -> None:
        """Publish what is in force where the depot has less: a process was killed between, or the depot was away."""
        newest = seen.in_force
        assert newest is not None  # noqa: S101 - asked for only where a channel is in force
        if project.policy.depot is not None:
            offered = project.offered(self.model)
            if offered is None or offered.place < newest.place:
                self.say("info", "published", seq=newest.channel.seq, told=project.publish(self.model).strip())
        self.memory.published = newest.place

    def _promote(self, project: Project, seen: Seen, wish: Wish, sign: Callable[[], Reissued]) -> Fate | _Again:
        moment, versions = self._moment(project, wish), versions_behind(seen, wish)
        began = time.monotonic()
        try:
            made = sign()
        except PromotionRefused as error:
            return self._refused(project, seen, wish.alias, in_words(error))
        took = Took("promote and publish", time.monotonic() - began)
        self.memory.took = (*self.memory.took, took)
        lag = measure_lag("channel", versions, moment, utc_now(), utc_now())
        self.memory.waiting.update(node.url for node in self.nodes)
        after = project.look(self.model)
        self.memory.published = after.in_force.place if after.in_force else None
        self.say(
            "info", "promoted", seq=made.seq, versions=versions, lag_s=round(lag.seconds, 3),
            told=made.published.strip(), steps=[_plain(one) for one in self.memory.took],
        )  # fmt: skip
        self._alarm(lag, project.policy.follow)
        return _Again()

    def _refused(self, project: Project, seen: Seen, alias: str, reasons: tuple[str, ...]) -> Fate:
        """Tell every reason once, and put the alias back where the policy says so; nothing else changes."""
        newest = seen.in_force
        terms = project.policy.follow
        restores = terms.on_refusal is OnRefusal.RESTORE and newest is not None and alias != "candidate"
        if self._is_new("refused", alias, seen.aliases.get(alias), reasons) or restores:
            facts = {"in_force": _seq(seen), "restored": restores, "reasons": list(reasons)}
            self.say("error", "refused", alias=alias, version=seen.aliases.get(alias), **facts)
        if restores:
            align(project.registry, self.model, project.trust)
        fate = Fate(newest.pair if newest else None, _seq(seen), None, reasons, terms)
        self.memory.refusal = self._circumstances(project, seen), time.monotonic(), fate
        return fate

    def _known_refusal(self, project: Project, seen: Seen) -> Fate | None:
        """Return how the same circumstances were judged a moment ago: bundles are not fetched at every look."""
        known = self.memory.refusal
        if known is None or time.monotonic() - known[1] > _JUDGED_AGAIN_S:
            return None
        return known[2] if known[0] == self._circumstances(project, seen) else None

    def _circumstances(self, project: Project, seen: Seen) -> object:
        """Return what a judgement hangs on, beside the time and the working folder."""
        place = seen.in_force.place if seen.in_force else None
        return seen.aliases, place, seen.versions, project.policy, self._recipe_digest()

    def _rebuild(self, step: Rebuild) -> Fate | _Again:
        """Replay the recipe and register what came of it; what failed is not tried again before something changes."""
        key = self._key(step.wish)
        if key not in self.memory.failed:
            try:
                self._build(step)
                return _Again()
            except (Refusal, InputError, Untrusted) as error:
                self.memory.failed[key] = in_words(error)
        with self.opened() as project:
            return self._refused(project, project.look(self.model), step.wish.alias, self.memory.failed[key])

    def _build(self, step: Rebuild) -> None:
        recipe, wish = load_recipe(self.model), step.wish
        self.memory.replayed.add(self._key(wish))
        with self.opened() as project:
            placed = step.from_source and place_source(project.registry, recipe, wish.version)
            moment, terms = self._moment(project, wish), project.policy.follow
        self.say("info", "rebuilding", version=wish.version.number, source_placed=placed)
        with self._watched(moment, terms):
            replayed = self.replay(recipe, lambda stage: self.say("info", "stage", stage=stage))
        began = time.monotonic()
        with self.opened() as project:
            build = load_build(self.model, read_lineage(None), project.now)
            register_build(project.registry, build)
            if step.from_source:
                project.registry.tag_version(self.model, wish.version.number, BUILT_TAG, build.primary.bundle_id)
        registered = Took("register", time.monotonic() - began)
        self.memory.took = (*replayed.stages, registered)
        stages_s = sum(one.seconds for one in self.memory.took)
        seconds = replayed.seconds + registered.seconds
        self.say("info", "rebuilt", seconds=round(seconds, 3), stages_s=round(stages_s, 3))

    @contextmanager
    def _watched(self, moment: datetime, terms: FollowTerms) -> Iterator[None]:
        """Raise the alarm in time, though a stage may take hours."""
        left = terms.lag_alarm_s - (utc_now() - moment).total_seconds()
        timer = threading.Timer(
            max(0.0, left) + 0.001,
            lambda: self._alarm(measure_lag("channel", 1, moment, None, utc_now()), terms),
        )
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def look_at_nodes(self, fate: Fate) -> bool:
        """Ask every node what it serves, and tell who has caught up; tells whether all have."""
        if fate.pair is None:
            return True
        behind = [node for node in self.nodes if not self._has_caught_up(node, fate.pair, fate)]
        return not behind

    def _has_caught_up(self, node: Node, pair: Pair, fate: Fate) -> bool:
        if self.memory.serving.get(node.url) == pair:
            return True
        serves, seq = _asked(node, self.model, pair)
        moment = fate.moved_at
        if serves:
            if node.url in self.memory.waiting and moment is not None:
                lag = measure_lag(f"node {node.url}", 1, moment, utc_now(), utc_now())
                self._tell_ready(node, seq, lag)
                self._alarm(lag, fate.terms)
            self.memory.waiting.discard(node.url)
            self.memory.serving[node.url] = pair
            return True
        self.memory.waiting.add(node.url)
        if moment is not None:
            behind = max(1, (fate.seq or 1) - (seq or 0)) if seq is not None else 1
            self._alarm(measure_lag(f"node {node.url}", behind, moment, None, utc_now()), fate.terms)
        return False

    def _tell_ready(self, node: Node, seq: int | None, lag: Lag) -> None:
        stages_s = sum(one.seconds for one in self.memory.took if one.stage != "promote and publish")
        ratio = {"stages_s": round(stages_s, 3), "lag_per_stages": round(lag.seconds / stages_s, 3)} if stages_s else {}
        self.say("info", "node ready", node=node.url, seq=seq, lag_s=round(lag.seconds, 3), **ratio)

    def _alarm(self, lag: Lag, terms: FollowTerms) -> None:
        """Tell once of each thing that is too late."""
        if lag.alarms(terms.lag_alarm_s) and self._is_new("alarm", lag.of, lag.has_followed):
            self.memory.alarms.add(lag.of)
            self.say("alarm", "lag", **{**_plain(lag), "seconds": round(lag.seconds, 3)}, allowed_s=terms.lag_alarm_s)

    def _is_new(self, *what: object) -> bool:
        is_new = what not in self.memory.told
        self.memory.told.add(what)
        return is_new


def _asked(node: Node, model: str, pair: Pair) -> tuple[bool, int | None]:
    try:
        report = read_node({"pairs": [node.pair(model)]}, model)
    except HotspareError:
        return False, None
    return (report.serves(pair), report.seq) if report else (False, None)


def _wants_drill(verdict: Refuse) -> bool:
    """Tell whether nothing is missing but a drill, which a replay can hold."""
    return all(gate.passed or gate.name.startswith("drill") for gate in verdict.gates)


def _seq(seen: Seen) -> int | None:
    return seen.in_force.channel.seq if seen.in_force else None


def _plain(value: Took | Lag) -> dict[str, object]:
    return dict(vars(value))
