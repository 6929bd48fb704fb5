"""One pair, live: carries out what the pure machine decides, and tells it what workers do."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace

from pipeline.core.errors import HotspareError, Refusal
from pipeline.core.names import Role
from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.conductor import Conductor
from pipeline.runtime.crew import Crew, Worker
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.disk import Disk, watch_disk
from pipeline.runtime.flights import Blame, Flight, Flights
from pipeline.runtime.guards import Guard
from pipeline.runtime.journal import Journal
from pipeline.runtime.machine import Machine
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.pair import refusal
from pipeline.runtime.pair_nouns import (
    DrainAsked,
    Excused,
    Failed,
    HoldAsked,
    ProbePassed,
    Ready,
    ReleaseAsked,
    Staged,
    SwitchAsked,
    other,
)
from pipeline.runtime.pair_status import member_status, served_models
from pipeline.runtime.reception import Reception
from pipeline.runtime.release import Release
from pipeline.runtime.request import TASTER_REPLICA, Available
from pipeline.runtime.request_nouns import Outcome
from pipeline.runtime.roster import Roster
from pipeline.runtime.service import Answer, NotAnswered, PairStatus, ServedModel
from pipeline.runtime.settings import Settings
from pipeline.runtime.shadowing import Agreements, Shadowing
from pipeline.runtime.tasting import Taster
from pipeline.runtime.tenure import Tenure
from pipeline.runtime.terms import Terms
from pipeline.runtime.watch import Watch, ended_by_itself
from pipeline.runtime.worker_spec import WorkerSpec

TICK_S = 0.01
_TASTES_APART = 2


class Pair:
    """A primary and its standby behind one door."""

    def __init__(self, release: Release, settings: Settings, machine: Machine, disk: Disk, journal: Journal) -> None:
        """Make a pair with a block of terms of its own: both sides of a swap never share one.

        Raises FileAccess or OutOfSpace.
        """
        terms = Terms(disk.terms(release))
        self.release = release
        self._machine = machine
        self._disk = disk
        self._served = served_models(release)
        self.settings = settings
        self.journal = journal
        self._loop = asyncio.get_running_loop()
        self._crew = Crew(machine, self._spec, self)
        self._roster = Roster(self._crew.workers)
        self._agreements = Agreements(release.bundles)
        ids = itertools.count(1)
        self._flights = Flights(self, ids)
        shadowing = Shadowing(self._agreements.of_pair, settings.shadow_ratio)
        self._watch = Watch(release, settings, self, self._flights, ids, shadowing)
        self._guards = {role: Guard(bundle.io) for role, bundle in release.bundles.items()}
        self._conductor = Conductor(
            settings, self._crew, terms, journal, self._give_back, self._flights.members_changed
        )
        self._taster = Taster(self._crew, self._flights, settings)
        self._reception = Reception(self._flights, self._watch, journal, settings, self.now_ms)
        self._accepted = False
        self._tenure = Tenure(release, journal, self._reception, machine.utc_now)
        self._ticker: asyncio.TimerHandle | None = None
        self._disk_check: asyncio.Task[None] | None = None

    # Life.

    def start(self, take_in: Callable[[], None]) -> None:
        """Start the workers; ``take_in`` is called when what lies on disk is more than what this pair began with."""
        self._tenure.look()
        self._conductor.start()
        self._tick()
        work = watch_disk(self._disk, self, self.settings.scrub_every_s, take_in)
        self._disk_check = self._loop.create_task(work)

    def drain(self) -> None:
        """Start nothing new; what was accepted is answered."""
        self._conductor.tell(DrainAsked())

    async def finished(self, within_s: float) -> None:
        """Wait until nothing is in flight, at most so long."""
        until = self._loop.time() + within_s
        while self._reception.inside and self._loop.time() < until:
            await asyncio.sleep(0.005)

    def close(self) -> None:
        """End every worker, and start none any more."""
        self.drain()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._disk_check is not None:
            self._disk_check.cancel()
        self._taster.close()
        self._crew.kill_all()

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(TICK_S, self._tick)  # first: a bug below must not end the watch
        self._conductor.tick()
        self._watch.tick()
        self._taster.judge(self.now_ms())
        self._tenure.look()

    # The channel.

    @property
    def has_expired(self) -> bool:
        """Tell whether the channel has ended; that is told already."""
        return self._tenure.has_expired

    @property
    def can_be_renewed(self) -> bool:
        """Tell whether a renewed channel is all that the pair needs: else new workers start under it."""
        return self._conductor.is_settled()

    def renew(self, release: Release) -> None:
        """Serve the same bundles under another channel and policy, with the workers that have proven themselves."""
        self.release = replace(self.release, channel=release.channel, policy=release.policy)
        if self._tenure.renew(self.release):
            self._accept()

    def _spec(self, seat: Seat, incarnation: int, then_load: bool) -> WorkerSpec:
        memory_mb = self.settings.worker_memory_mb
        return self.release.worker_spec(seat, incarnation, self._conductor.state.term, then_load, memory_mb)

    # What workers report.

    def staged(self, worker: Worker) -> None:
        """Tell the machine; a taster is none of its members."""
        if worker.seat.replica != TASTER_REPLICA:
            self._conductor.tell(Staged(worker.seat, worker.incarnation))

    def ready(self, worker: Worker) -> None:
        """Tell the machine; the floor rises once a member of this release answered its golden rows."""
        if worker.seat.replica == TASTER_REPLICA:
            self._taster.ready(worker)
            return
        if worker.seat.role not in self.release.bundles:
            self.start_failed(
                worker, "Its bundle was refused when this server began; swap to take it in.", "NotAccepted"
            )
            return
        if not self._accepted:
            self._accept()
        self._watch.begin(worker)
        self._conductor.tell(Ready(worker.seat, worker.incarnation))
        self._flights.members_changed()  # a standby that comes is no change of who serves, but some wait for it

    def _accept(self) -> None:
        try:
            self._disk.accept(self.release)
            self._accepted = True
        except HotspareError as error:
            self.journal.note(f"The floor could not be kept: {error}")

    def start_failed(self, worker: Worker, sentence: str, error: str) -> None:
        """Tell the machine; the sentence says why."""
        if worker.seat.replica == TASTER_REPLICA:
            self._taster.gone(worker)
            return
        self.fail(worker, Fault.START_FAILED, Evidence(fault=Fault.START_FAILED, errors=(sentence, error)))

    def answered(self, worker: Worker, request_id: int, outputs: Mapping[str, Array] | None, error: str) -> None:
        """Pass an answer through the guards and on to its request, or to the canaries."""
        if self._watch.took(worker, request_id, outputs, error):
            return
        flight = self._flights.asked_by(request_id)
        if flight is None:
            return
        if worker.seat.replica == TASTER_REPLICA:
            self._taster.spoke()
        if outputs is None:
            self._flights.bad(request_id, Blame(worker, Fault.ERRORS, error))
        elif problem := self._guards[worker.seat.role].check(outputs, flight.rows):
            self.journal.tally.guarded += 1
            self._flights.bad(request_id, Blame(worker, Fault.BAD_OUTPUT, problem))
        else:
            self._watch.good(worker)
            self._flights.good(request_id, outputs)

    def blame(self, blame: Blame, other_ok: bool | None) -> None:
        """Take that a worker failed at what another answered well, or (None) at what no other was heard on."""
        self._watch.blame(blame.worker, blame.fault, blame.problem, other_ok)

    def lost(self, worker: Worker) -> None:
        """Tell the machine at once; what was in flight waits until it is known how the worker ended."""
        if worker.seat.replica != TASTER_REPLICA:
            self._conductor.tell(Failed(worker.seat, worker.incarnation, Fault.CRASH))

    def settled(self, worker: Worker, exit_status: int | None) -> None:
        """Deal with what was in flight: sent again, or suspected where the worker ended by itself."""
        if worker.seat.replica == TASTER_REPLICA:
            self._taster.gone(worker)
        if ended_by_itself(exit_status):
            worker.suspects = set(itertools.islice(worker.sent_ms, 1))  # it computes one at a time, the oldest first
        self._give_back(worker)

    def ended(self, worker: Worker, exit_status: int | None) -> None:
        """Say why a member ended that was ready and that nobody sent away."""
        if worker.seat.replica != TASTER_REPLICA and worker.facts is not None and not worker.dismissed:
            evidence = self._watch.ended(exit_status, worker.held, worker.nonsense)
            self.journal.note(f"{worker.seat}: {evidence.fault}", diagnose(worker.seat, evidence))

    def _give_back(self, worker: Worker) -> None:
        """Take from a worker what it will not answer any more; what it may have ended or hung at is suspected."""
        ids, worker.sent_ms = list(worker.sent_ms), {}
        self._flights.lost([one for one in ids if one in worker.suspects], suspect=True)
        others = [one for one in ids if one not in worker.suspects]
        alike = self._reception.like_suspects(others)  # sent on, they would end the next worker too
        self._flights.lost([one for one in others if one not in alike], suspect=False)
        self._flights.lost(sorted(alike), suspect=True)

    def fail(self, worker: Worker, fault: Fault, evidence: Evidence) -> None:
        """Say what is wrong with a worker, and let the machine act; what is known and planned for is not said again."""
        if self._conductor.state.member(worker.seat).leaving is fault:
            return
        diagnosis = diagnose(worker.seat, evidence)
        self.journal.note(f"{worker.seat}: {fault}", diagnosis)
        self._conductor.tell(Failed(worker.seat, worker.incarnation, fault))

    # What requests need.

    @property
    def term(self) -> int:
        """Return the current term."""
        return self._conductor.state.term

    def now_ms(self) -> float:
        """Return monotonic milliseconds."""
        return self._loop.time() * 1000

    def oom_kills(self) -> int:
        """Return how many processes were killed for want of memory so far."""
        return self._machine.oom_kills()

    def ready_workers(self) -> list[Worker]:
        """Return the workers that can answer."""
        return [worker for worker in self._crew.workers.values() if worker.usable]

    def starting_workers(self) -> list[Worker]:
        """Return the workers that are up and cannot answer yet."""
        return [worker for worker in self._crew.workers.values() if worker.is_starting]

    def probed(self, worker: Worker) -> None:
        """Tell the machine that a canary came back right and in time."""
        self._conductor.tell(ProbePassed(worker.seat, worker.incarnation))

    def doubt(self, sentence: str) -> None:
        """Say that the sides have come apart, though the canaries of both are right."""
        evidence = Evidence(fault=Fault.WRONG_ANSWER, canary_ok=True, errors=(sentence,))
        self.journal.note("The sides have come apart.", diagnose(None, evidence))

    def recent_ms(self) -> tuple[float, ...]:
        """Return recent answer times of the whole pair."""
        return self.journal.recent_ms

    def available(self) -> Available:
        """Return who can take a request now."""
        return Available(*self._roster.choices(self._conductor.state), self._taster.is_free)

    def serving_workers(self) -> list[Worker]:
        """Return the workers of the serving role that can take a request now."""
        return self._roster.serving(self._conductor.state)

    def worker(self, seat: Seat, incarnation: int) -> Worker | None:
        """Return the worker of a seat if it is still of this incarnation."""
        return self._crew.of(seat, incarnation)

    def agree(self, seat: Seat, outputs: Tensors, other: Seat, others: Tensors) -> bool:
        """Tell whether two answers agree: replicas within golden tolerance, a pair as measured at its build."""
        agreement = self._agreements.between(seat.role, other.role)
        return agreement is not None and agreement.agree(outputs, others)

    def taste(self, flight: Flight, role: Role | None) -> None:
        """Try a suspect on a spare worker: of the other side, where any will do, as a role may end at anything."""
        if role is not None and role in self.release.bundles:
            self._taster.taste(flight, role)
            return
        serving = self._conductor.state.serving or Role.PRIMARY
        ended = {one.seat.role for one in flight.state.attempts if one.outcome is Outcome.SUSPECT}
        roles = [role for role in (serving, other(serving)) if role in self.release.bundles]
        roles.sort(key=lambda role: role in ended)
        tries = sum(one.is_tasting for one in flight.state.attempts)
        self._taster.taste(flight, roles[0] if tries <= _TASTES_APART else roles[-1])  # it may not start: then another

    def doubted(self, flight: Flight) -> None:
        """Have a suspect that was given up remembered: asked again, it sees only a taster."""
        self._reception.doubt(flight)

    def excuse(self, seats: set[Seat]) -> None:
        """Take that these members ended because of a poison request: no failure of theirs."""
        for seat in sorted(seat for seat in seats if seat.replica != TASTER_REPLICA):
            self._conductor.tell(Excused(seat))

    def shadow(self, flight: Flight, answer: Answer) -> None:
        """Have the other side answer too, if it is this one's turn."""
        self._watch.shadow(flight.inputs, answer)

    def counted(self, hedge: bool, again: bool) -> None:
        """Count a sending."""
        if hedge:
            self.journal.tally.hedges += 1
            self._watch.hedged()
        self.journal.tally.resent += again and not hedge

    def named(self, seat: Seat, outputs: Mapping[str, Array], term: int, hedged: bool) -> Answer:
        """Stamp outputs with who gave them."""
        bundle = self.release.bundles[seat.role]
        self.journal.tally.degraded += seat.role is Role.BACKUP
        return Answer(outputs, bundle.bundle_id, bundle.candidate, seat.role, term, hedged)

    # What the front asks.

    async def infer(self, inputs: Mapping[str, Array], deadline_ms: float) -> Answer | NotAnswered:
        """Answer one request, or say why not."""
        return await self._reception.infer(inputs, deadline_ms)

    @property
    def served(self) -> ServedModel:
        """Return the model as clients see it."""
        return self._served[self._conductor.state.serving is not None and self._reception.closed is None]

    def status(self) -> PairStatus:
        """Return the pair's state, for people and metrics."""
        members = tuple(
            member_status(self.release, self._conductor.state, member, self._crew.workers.get(member.seat), self._watch)
            for member in self._conductor.state.members
        )
        return PairStatus(
            model=self.release.model,
            version=self.release.version,
            term=self._conductor.state.term,
            serving=self._conductor.state.serving,
            members=members,
            queue=self._reception.inside,
            counters=self.journal.tally.snapshot(),
            latency_ms=self.journal.latency_ms,
            timeline=self.journal.timeline,
            channel=self._tenure.status(),
        )

    def switch(self, to: Role) -> str:
        """Make a role serve; raises Refusal."""
        self._ask(SwitchAsked(to))
        when = (
            f"serves, term {self.term}" if self._conductor.state.serving is to else "will serve as soon as it is ready"
        )
        return f"{self.release.model}: the {to} {when}."

    def hold(self, seat: Seat) -> str:
        """Stop a member for maintenance; raises Refusal when it would end the service."""
        self._ask(HoldAsked(seat))
        return f"{self.release.model}: {seat} is held."

    def release_seat(self, seat: Seat) -> str:
        """Bring a held or quarantined member back; raises Refusal when it is neither."""
        self._ask(ReleaseAsked(seat))
        return f"{self.release.model}: {seat} starts."

    def _ask(self, event: SwitchAsked | HoldAsked | ReleaseAsked) -> None:
        why_not = refusal(self._conductor.state, event)
        if why_not is not None:
            raise Refusal(why_not)
        self._conductor.tell(event)

    async def complete(self, within_s: float) -> bool:
        """Wait until the primary serves and, where the standby is hot, that is ready too."""
        until = self._loop.time() + within_s
        while self._loop.time() < until:
            if self._conductor.is_whole():
                return True
            await asyncio.sleep(0.01)
        return False

    def exited(self, pid: int, status: int | None) -> None:
        """Take the keeper's word on how a worker ended."""
        self._crew.exited(pid, status)
