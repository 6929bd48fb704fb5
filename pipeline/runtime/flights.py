"""Requests in flight: carries out what the pure request machine decides, each on its own timer."""

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.core.names import Role
from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.crew import Worker
from pipeline.runtime.members import Fault, Seat
from pipeline.runtime.request import (
    Abstain,
    AnswerBad,
    AnswerGood,
    Arrived,
    Available,
    Compare,
    Compared,
    Lost,
    MembersChanged,
    Outcome,
    Phase,
    Refuse,
    Release,
    RequestAction,
    RequestEvent,
    RequestState,
    RequestTick,
    Send,
    Taste,
    WakeAt,
    heard,
    pursued,
)
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind

Key = tuple[Seat, int]
UNSENT_BYTES_MAX = 1 << 26


@dataclass(frozen=True)
class Blame:
    """A worker's failure at one request."""

    worker: Worker
    fault: Fault
    problem: str


class Ground(Protocol):
    """What flights need of the pair around them."""

    @property
    def term(self) -> int:
        """Return the current term."""

    def now_ms(self) -> float:
        """Return monotonic milliseconds."""

    def available(self) -> Available:
        """Return who can take a request now."""

    def serving_workers(self) -> list[Worker]:
        """Return the workers of the serving role that can take a request now."""

    def worker(self, seat: Seat, incarnation: int) -> Worker | None:
        """Return the worker of a seat if it is still of this incarnation."""

    def agree(self, seat: Seat, outputs: Tensors, other: Seat, others: Tensors) -> bool:
        """Tell whether two members' answers to one request agree."""

    def taste(self, flight: "Flight", role: Role | None) -> None:
        """Try a suspect on a worker that the service does not need, of one side or (None) of any."""

    def doubted(self, flight: "Flight") -> None:
        """Take that a suspect was given up before a taster could tell."""

    def blame(self, blame: Blame, other_ok: bool | None) -> None:
        """Take that a worker failed at what another answered well, or (None) at what no other was heard on."""

    def excuse(self, seats: set[Seat]) -> None:
        """Take that these members ended because of a poison request."""

    def counted(self, hedge: bool, again: bool) -> None:
        """Count a sending: a hedge, or one that is sent again because a member failed."""

    def shadow(self, flight: "Flight", answer: Answer) -> None:
        """Take that no member ended, failed or is late at a request: the other side may have it too."""

    def named(self, seat: Seat, outputs: Mapping[str, Array], term: int, hedged: bool) -> Answer:
        """Stamp outputs with who gave them."""


@dataclass(eq=False)
class Flight:
    """One accepted request: where it was sent, what came back."""

    state: RequestState
    inputs: Mapping[str, Array]
    parts: Sequence[Mapping[str, Array]]  # the requests that it was gathered from
    rows: int
    future: "asyncio.Future[Answer | NotAnswered]"
    sent: dict[int, tuple[Seat, int, int]] = field(default_factory=dict)  # request id → seat, incarnation, term
    answers: dict[Key, tuple[Mapping[str, Array], int]] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None
    hedged: bool = False
    blames: list[Blame] = field(default_factory=list)
    digests: tuple[str, ...] = ()  # of its parts, once somebody wanted them


class Flights:
    """All requests in flight of one pair."""

    def __init__(self, ground: Ground, ids: "itertools.count[int]") -> None:
        self.by_id: dict[int, Flight] = {}  # what workers hold, be it for nobody any more
        self.flying: dict[Flight, None] = {}  # oldest first: who waits longest is sent first
        self.suspected: set[Flight] = set()  # of those, the ones that a taster has not spoken for
        self._ground = ground
        self._ids = ids

    async def fly(
        self, state: RequestState, inputs: Mapping[str, Array], rows: int, parts: Sequence[Mapping[str, Array]] = ()
    ) -> Answer | NotAnswered:
        """Send a request on its way and wait for its one answer or refusal; ``parts``, if it was gathered from some."""
        now = self._ground.now_ms()
        flight = Flight(state, inputs, parts or (inputs,), rows, asyncio.get_running_loop().create_future())
        self.flying[flight] = None
        try:
            self._advance(flight, Arrived(now))
            return await flight.future
        finally:
            self._land(flight)

    def _land(self, flight: Flight) -> None:
        del self.flying[flight]
        if flight.timer is not None:
            flight.timer.cancel()
        flight.answers.clear()
        outcome = _outcome(flight)
        if isinstance(outcome, Answer) and _is_harmless(flight):
            self._ground.shadow(flight, outcome)
        if flight.blames and not (isinstance(outcome, NotAnswered) and outcome.kind is RefusalKind.BAD_REQUEST):
            self._blame(flight, None)
        if flight in self.suspected:
            self.suspected.discard(flight)
            if not _is_spoken_for(outcome):
                self._ground.doubted(flight)

    def _blame(self, flight: Flight, other_ok: bool | None) -> None:
        blames, flight.blames = flight.blames, []
        for blame in blames:
            self._ground.blame(blame, other_ok)

    def good(self, request_id: int, outputs: Mapping[str, Array]) -> None:
        """Take outputs that passed the guards."""
        flight = self.by_id.pop(request_id, None)
        if flight is not None:
            seat, incarnation, term = flight.sent[request_id]
            flight.answers[seat, incarnation] = (outputs, term)
            self._advance(flight, AnswerGood(seat, incarnation, self._ground.now_ms()))
            if flight.blames:  # in verify modes it may wait for a second opinion until its deadline
                self._blame(flight, True)

    def bad(self, request_id: int, blame: Blame) -> None:
        """Take an error, or outputs that the guards withheld; whom to blame shows when another has tried."""
        flight = self.by_id.pop(request_id, None)
        if flight is not None:
            seat, incarnation, _ = flight.sent[request_id]
            flight.blames.append(blame)
            self._advance(flight, AnswerBad(seat, incarnation, self._ground.now_ms(), blame.fault))
            if flight.answers:
                self._blame(flight, True)

    def lost(self, request_ids: list[int], suspect: bool) -> None:
        """Take that the worker which held these requests is gone."""
        for request_id in request_ids:
            flight = self.by_id.pop(request_id, None)
            if flight is not None and flight in self.flying:
                seat, incarnation, _ = flight.sent[request_id]
                self._advance(flight, Lost(seat, incarnation, self._ground.now_ms(), suspect))
            elif flight is not None and suspect and not _is_spoken_for(_outcome(flight)):
                self._ground.doubted(flight)

    def asked_by(self, request_id: int) -> Flight | None:
        """Return the request that an answer is to; None: nobody waits for it, so it is forgotten."""
        flight = self.by_id.get(request_id)
        if flight is None or flight in self.flying:
            return flight
        del self.by_id[request_id]
        return None

    def rows_of(self, request_id: int) -> int:
        """Return how many rows a request has, be it that its client gave up; 0 for one that is no client's."""
        flight = self.by_id.get(request_id)
        return 0 if flight is None else flight.rows

    def is_same(self, one: int, other: int) -> bool:
        """Tell whether two request ids are attempts at one request."""
        flight = self.by_id.get(one)
        return flight is not None and flight is self.by_id.get(other)

    def is_suspected(self, request_id: int) -> bool:
        """Tell whether a request may have ended or hung another worker already."""
        flight = self.by_id.get(request_id)
        return flight is not None and flight.state.phase is Phase.TASTING

    def members_changed(self) -> None:
        """Let every request look again at who can take it."""
        for flight in list(self.flying):
            self._advance(flight, MembersChanged(self._ground.now_ms()))

    def is_behind(self, requests_max: int) -> bool:
        """Tell whether all who serve owe too much, be it to clients that gave up: their requests are computed too."""
        serving = self._ground.serving_workers()
        for worker in serving:
            if worker.load < requests_max and worker.unsent_bytes <= UNSENT_BYTES_MAX:
                return False
        return bool(serving)

    def _advance(self, flight: Flight, event: RequestEvent) -> None:
        if flight.future.done():
            return
        found = heard(flight.state, event)
        if found is None:
            return
        flight.state, final = found
        if final is not None:
            self._perform(flight, final)
            return
        if flight.state.phase is Phase.TASTING:
            self.suspected.add(flight)
        elif self.suspected:
            self.suspected.discard(flight)
        flight.state, actions = pursued(flight.state, event.now_ms, self._ground.available())
        for action in actions:
            self._perform(flight, action)

    def _perform(self, flight: Flight, action: RequestAction) -> None:
        match action:
            case Send(seat, incarnation, hedge):
                self._send(flight, seat, incarnation, hedge)
            case Release(seat, incarnation):
                outputs, term = flight.answers[seat, incarnation]
                _settle(flight, self._ground.named(seat, outputs, term, flight.hedged))
            case WakeAt(at_ms):
                self._wake(flight, at_ms)
            case Compare(one, other):
                self._advance(flight, Compared(self._agree(flight, one, other), self._ground.now_ms()))
            case Taste(role):
                self._ground.taste(flight, role)
            case Abstain(sentence):
                _settle(flight, NotAnswered(RefusalKind.ABSTAINED, sentence))
            case Refuse(kind, sentence):
                self._refuse(flight, kind, sentence)

    def _send(self, flight: Flight, seat: Seat, incarnation: int, hedge: bool) -> None:
        worker = self._ground.worker(seat, incarnation)
        flight.hedged = flight.hedged or hedge
        is_again = bool(flight.sent) and any(not attempt.is_open for attempt in flight.state.attempts)
        self._ground.counted(hedge, is_again)
        self.give(flight, worker, seat, incarnation)

    def _refuse(self, flight: Flight, kind: RefusalKind, sentence: str) -> None:
        if kind is RefusalKind.POISON:
            self._ground.excuse({one.seat for one in flight.state.attempts if one.outcome is Outcome.SUSPECT})
        _settle(flight, NotAnswered(kind, sentence, _RETRY_AFTER_S.get(kind)))

    def _agree(self, flight: Flight, one: int, other: int) -> bool:
        first, second = flight.state.attempts[one], flight.state.attempts[other]
        outputs = flight.answers[first.seat, first.incarnation][0]
        others = flight.answers[second.seat, second.incarnation][0]
        return self._ground.agree(first.seat, outputs, second.seat, others)

    def give(self, flight: Flight, worker: Worker | None, seat: Seat, incarnation: int) -> None:
        """Put a request into a worker's hands; one that is gone loses it at once."""
        request_id = next(self._ids)
        flight.sent[request_id] = (seat, incarnation, self._ground.term)
        if worker is not None and worker.usable:
            worker.infer(request_id, self._ground.term, flight.inputs, self._ground.now_ms())
            self.by_id[request_id] = flight
        else:
            self._advance(flight, Lost(seat, incarnation, self._ground.now_ms()))

    def _wake(self, flight: Flight, at_ms: float) -> None:
        if flight.timer is not None:
            flight.timer.cancel()
        flight.timer = asyncio.get_running_loop().call_at(at_ms / 1000, self._woken, flight)

    def _woken(self, flight: Flight) -> None:
        self._advance(flight, RequestTick(self._ground.now_ms()))


_RETRY_AFTER_S = {RefusalKind.UNAVAILABLE: 1, RefusalKind.OVERLOADED: 1, RefusalKind.ABSTAINED: 1}


def _outcome(flight: Flight) -> Answer | NotAnswered | None:
    is_told = flight.future.done() and not flight.future.cancelled()
    return flight.future.result() if is_told else None


def _is_harmless(flight: Flight) -> bool:
    """Tell whether every member that was asked answered well: one that is late may be about to end, or hang, at it."""
    return all(one.outcome is Outcome.GOOD and not one.is_tasting for one in flight.state.attempts)


def _is_spoken_for(outcome: Answer | NotAnswered | None) -> bool:
    """Tell whether somebody answered a suspect, be it with an error, and lived."""
    return isinstance(outcome, Answer) or (outcome is not None and outcome.kind is RefusalKind.BAD_REQUEST)


def _settle(flight: Flight, outcome: Answer | NotAnswered) -> None:
    if not flight.future.done():
        flight.future.set_result(outcome)
