"""Following one model's aliases, and renewing its channel: look, decide, do one step, look again.

Nothing is remembered that a restart would need: what is wished is read from the aliases, what is true from the signed
channel, what is built from dvc and the registry, the moment of a move from a tag. What a killed process left undone is
done at the next look. Kept in memory is only what was told already, so that it is not told again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from pipeline.commands.build.evidence import in_words, judge_pair, local_build
from pipeline.commands.build.follower_memory import Fate, Judged, Memory, Say, circumstances, plain
from pipeline.commands.build.follower_moments import Moments, forget_past, last_moment, moment_of
from pipeline.commands.build.follower_nodes import PROMOTING, Node, have_caught_up
from pipeline.commands.build.follower_rebuild import Opened, Replay, rebuild, replay_key
from pipeline.commands.build.follower_renewal import renew_if_due, unrenewed
from pipeline.commands.build.mending import align, carry_out
from pipeline.commands.build.project import Project
from pipeline.commands.build.reissuing import Reissued, reissue
from pipeline.commands.build.replaying import Took
from pipeline.core.clock import utc_now
from pipeline.core.errors import InputError, InternalError, PromotionRefused, Refusal, Untrusted
from pipeline.registry.agreement import Seen, WriteFolder
from pipeline.registry.follow_terms import OnRefusal
from pipeline.registry.following import (
    Agreed,
    Finish,
    Judge,
    Outlook,
    Rebuild,
    Step,
    Stuck,
    Wish,
    find_wish,
    left_behind,
    next_step,
    versions_behind,
)
from pipeline.registry.gates import Refuse
from pipeline.registry.history import Held
from pipeline.registry.lag import measure_lag
from pipeline.registry.record import Build

_STEPS_MAX = 10


@dataclass(frozen=True)
class _Again:
    """Something was done; look again."""


@dataclass(frozen=True)
class Follower:
    """One model's follower; ``moments`` holds what the webhook told of moves: (model, alias, version) to event."""

    model: str
    opened: Opened
    replay: Replay
    say: Say
    nodes: Sequence[Node] = ()
    moments: Moments = field(default_factory=dict)
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
                return replace(done, refused=(*done.refused, *unrenewed(self.memory)))
        raise InternalError(f"Following {self.model} does not come to an end; report this.")

    def _step(self) -> Fate | Rebuild | _Again:
        with self.opened() as project:
            seen = project.look(self.model)
            self._keep(project, seen)
            if renew_if_due(project, seen, self.memory, self.say):
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
                    return self._finish(project, seen)
                case Agreed():
                    return self._agreed(project, seen)
                case Stuck(alias, _, reasons):
                    return self._refused(project, seen, alias, reasons)
                case Rebuild():
                    return step
                case Judge():
                    return self._judge(project, seen, step, build)

    def _keep(self, project: Project, seen: Seen) -> None:
        """Have the folder hold the newest channel, too: whoever may write tags cannot take it away there."""
        newest = seen.in_force
        if newest is not None and (seen.folder is None or seen.folder.place < newest.place):
            carry_out(project.registry, self.model, WriteFolder(newest))

    def _finish(self, project: Project, seen: Seen, offered: Held | None = None) -> _Again:
        mended = align(project.registry, self.model, project.trust, offered)
        seq = offered.channel.seq if offered else _seq(seen)
        self.say("info", "finished", seq=seq, mended=[one.finding for one in mended])
        return _Again()

    def _judge(self, project: Project, seen: Seen, step: Judge, build: Build | None) -> Fate | Rebuild | _Again:
        offered = project.offered(self.model)
        if offered is not None and (seen.in_force is None or seen.in_force.place < offered.place):
            return self._finish(project, seen, offered)  # the registry lost it, or its signer was killed
        found = judge_pair(project, seen, step.pair, build)
        if not isinstance(found.verdict, Refuse):
            leaves = left_behind(seen, step.pair)
            sign = partial(reissue, project, seen, found.refs, dry_run=False, rollback_of=leaves)
            return self._promote(project, seen, step.wish, sign)
        is_replayed = replay_key(self.model, step.wish) in self.memory.replayed
        if step.can_rebuild and _wants_drill(found.verdict) and not is_replayed:
            return Rebuild(step.wish, from_source=False)
        return self._refused(project, seen, step.wish.alias, found.verdict.reasons)

    def _tell_wish(self, project: Project, seen: Seen, wish: Wish | None, step: Step) -> None:
        """Keep the moment of a move, and tell of it once."""
        if wish is None or isinstance(step, Finish):
            return
        moment, versions = self._moment(project, wish), versions_behind(seen, wish)
        if self.memory.is_new("wish", wish.alias, wish.version.number, moment):
            self.memory.begin_move()
            facts = {"version": wish.version.number, "moved_at": moment.isoformat(timespec="milliseconds")}
            self.say("info", "alias moved", alias=wish.alias, versions_behind=versions, **facts)
        if not isinstance(step, Stuck):
            lag = measure_lag("channel", versions, moment, None, utc_now())
            self.memory.alarm(lag, project.policy.follow, self.say)

    def _moment(self, project: Project, wish: Wish) -> datetime:
        return moment_of(project, self.model, wish, self.moments)

    def _agreed(self, project: Project, seen: Seen) -> Fate:
        forget_past(self.model, self.moments, project.now)
        newest = seen.in_force
        if newest is None:
            return Fate(terms=project.policy.follow)
        if self.memory.published != newest.place:
            self._publish_if_lost(project, seen)
        moment = last_moment(project, self.model, newest.channel.dates.issued_at)
        return Fate(newest.pair, newest.channel.seq, moment, terms=project.policy.follow)

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
        took = Took(PROMOTING, time.monotonic() - began)
        self.memory.took = (*self.memory.took, took)
        lag = measure_lag("channel", versions, moment, utc_now(), utc_now())
        self.memory.waiting.update(node.url for node in self.nodes)
        after = project.look(self.model)
        self.memory.published = after.in_force.place if after.in_force else None
        self.say(
            "info", "promoted", seq=made.seq, versions=versions, lag_s=round(lag.seconds, 3),
            told=made.published.strip(), steps=[plain(one) for one in self.memory.took],
        )  # fmt: skip
        self.memory.alarm(lag, project.policy.follow, self.say)
        return _Again()

    def _refused(self, project: Project, seen: Seen, alias: str, reasons: tuple[str, ...]) -> Fate:
        """Tell every reason once, and put the alias back where the policy says so; nothing else changes."""
        newest = seen.in_force
        terms = project.policy.follow
        restores = terms.on_refusal is OnRefusal.RESTORE and newest is not None and alias != "candidate"
        if self.memory.is_new("refused", alias, seen.aliases.get(alias), reasons) or restores:
            facts = {"in_force": _seq(seen), "restored": restores, "reasons": list(reasons)}
            self.say("error", "refused", alias=alias, version=seen.aliases.get(alias), **facts)
        if restores:
            align(project.registry, self.model, project.trust)
        fate = Fate(newest.pair if newest else None, _seq(seen), None, reasons, terms)
        self.memory.refusal = Judged(circumstances(project, seen), time.monotonic(), fate)
        return fate

    def _known_refusal(self, project: Project, seen: Seen) -> Fate | None:
        """Return how the same circumstances were judged a moment ago: bundles are not fetched at every look."""
        known = self.memory.refusal
        return known.outcome if known is not None and known.holds(circumstances(project, seen)) else None

    def _rebuild(self, step: Rebuild) -> Fate | _Again:
        """Replay the recipe and register what came of it; what failed is not tried again before something changes."""
        key = replay_key(self.model, step.wish)
        if key not in self.memory.failed:
            try:
                rebuild(self.model, step, self.opened, self.replay, self.moments, self.memory, self.say)
                return _Again()
            except (Refusal, InputError, Untrusted) as error:
                self.memory.failed[key] = in_words(error)
        with self.opened() as project:
            return self._refused(project, project.look(self.model), step.wish.alias, self.memory.failed[key])

    def look_at_nodes(self, fate: Fate) -> bool:
        """Ask every node what it serves, and tell who has caught up; tells whether all have."""
        return have_caught_up(self.nodes, self.model, fate, self.memory, self.say)


def _wants_drill(verdict: Refuse) -> bool:
    """Tell whether nothing is missing but a drill, which a replay can hold."""
    return all(gate.passed or gate.name.startswith("drill") for gate in verdict.gates)


def _seq(seen: Seen) -> int | None:
    return seen.in_force.channel.seq if seen.in_force else None
