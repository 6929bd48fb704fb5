"""Where requests come in: admitted or refused, gathered into batches, sent on their way; poison is remembered."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from pipeline.core.tensors import Array
from pipeline.runtime.batching import Batcher, Parts, joined
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.flights import Flight, Flights
from pipeline.runtime.journal import Journal
from pipeline.runtime.loading import ROWS_AT_ONCE
from pipeline.runtime.members import Fault
from pipeline.runtime.request import Phase, first_request
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind
from pipeline.runtime.settings import Settings
from pipeline.runtime.watch import Watch

_DIGESTS_KEPT = 1024


class Reception:
    """One pair's requests, from arrival to answer."""

    def __init__(
        self, flights: Flights, watch: Watch, journal: Journal, settings: Settings, now_ms: Callable[[], float]
    ) -> None:
        self.inside = 0  # requests that came in and have no answer yet
        self.closed: NotAnswered | None = None  # while this is set, every new request gets it
        self._flights = flights
        self._watch = watch
        self._journal = journal
        self._settings = settings
        self._now_ms = now_ms
        self._poison: dict[str, None] = {}  # digests, oldest first
        self._doubted: dict[str, None] = {}  # of suspects that were given up before a taster could tell
        self._batcher = Batcher(self._flown, settings.batch_rows_max, settings.batch_wait_ms)

    async def infer(self, inputs: Mapping[str, Array], deadline_ms: float) -> Answer | NotAnswered:
        """Answer one request, or say why not."""
        arrived = self._now_ms()
        outcome = self._refusal(inputs) or await self._answered(inputs, deadline_ms)
        if isinstance(outcome, Answer):
            self._journal.answered(self._now_ms() - arrived, outcome.hedged)
        else:
            self._journal.tally.refused[outcome.kind] += 1
        return outcome

    def _refusal(self, inputs: Mapping[str, Array]) -> NotAnswered | None:
        if self.closed is not None:
            return self.closed
        queue_max = self._settings.queue_max
        if self.inside >= queue_max or self._flights.is_behind(queue_max):
            return NotAnswered(RefusalKind.OVERLOADED, "Too many requests are waiting; try again later.", 1)
        if self._poison and _digest(inputs) in self._poison:  # before it gets into a batch
            return NotAnswered(RefusalKind.POISON, "This request took workers down before; it is not tried again.")
        return None

    async def _answered(self, inputs: Mapping[str, Array], deadline_ms: float) -> Answer | NotAnswered:
        self.inside += 1
        try:
            if self._settings.batch_rows_max and not self._is_like_a_suspect((inputs,)):
                outcome = await self._batcher.infer(inputs, deadline_ms)
            else:
                outcome = await self._flown((inputs,), deadline_ms)
        finally:
            self.inside -= 1
        if isinstance(outcome, NotAnswered) and outcome.kind is RefusalKind.POISON:
            self._quarantine(inputs, outcome.sentence)
        return outcome

    async def _flown(self, parts: Parts, deadline_ms: float) -> Answer | NotAnswered:
        """Compute what came as one request, or what was gathered into one; a suspect sees only a taster."""
        inputs = joined(parts)
        rows = int(next(iter(inputs.values())).shape[0])
        # One that takes long by its size would only hold the standby up as well.
        hedge_after_ms = self._watch.hedge_after() if rows <= ROWS_AT_ONCE else float("inf")
        state = first_request(self._now_ms() + deadline_ms, hedge_after_ms, self._settings.verify)
        if self._is_like_a_suspect(parts):
            state = state._replace(phase=Phase.TASTING)
        outcome = await self._flights.fly(state, inputs, rows, parts)
        if isinstance(outcome, Answer) and state.phase is Phase.TASTING:
            self._trust(parts)
        return outcome

    def _is_like_a_suspect(self, parts: Parts) -> bool:
        return self._has_suspects() and self._is_suspect(set(map(_digest, parts)))

    def like_suspects(self, request_ids: Sequence[int]) -> set[int]:
        """Return those of some requests in flight that ask, with others or alone, the same as a suspect."""
        flights = ((one, self._flights.by_id.get(one)) for one in request_ids if self._has_suspects())
        return {one for one, flight in flights if flight is not None and self._is_suspect(set(_digests(flight)))}

    def _has_suspects(self) -> bool:
        return bool(self._doubted or self._flights.suspected)

    def _is_suspect(self, digests: set[str]) -> bool:
        if not self._doubted.keys().isdisjoint(digests):  # looks up the few: doubts are many
            return True
        return any(not digests.isdisjoint(_digests(flight)) for flight in self._flights.suspected)

    def doubt(self, flight: Flight) -> None:
        """Remember a suspect that nobody waits for: a client of little patience may ask it again and again."""
        for digest in _digests(flight):
            _remember(self._doubted, digest)

    def _trust(self, parts: Parts) -> None:
        for digest in map(_digest, parts):
            self._doubted.pop(digest, None)

    def _quarantine(self, inputs: Mapping[str, Array], sentence: str) -> None:
        digest = _digest(inputs)
        if digest not in self._poison:
            _remember(self._poison, digest)
            self._doubted.pop(digest, None)
            evidence = Evidence(fault=Fault.POISON, errors=(sentence, f"inputs' sha256 {digest}"))
            self._journal.note("A request is quarantined.", diagnose(None, evidence))


def _remember(digests: dict[str, None], digest: str) -> None:
    if len(digests) >= _DIGESTS_KEPT:  # who sends ever new poison must not keep the next from being known
        del digests[next(iter(digests))]
    digests[digest] = None


def _digests(flight: Flight) -> tuple[str, ...]:
    """Digest a flight once: large suspects that wait for the taster would hold every arrival up."""
    flight.digests = flight.digests or tuple(map(_digest, flight.parts))
    return flight.digests


def _digest(inputs: Mapping[str, Array]) -> str:
    """Return what tells two requests apart: once there is poison, every request is digested, so it is quick."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
