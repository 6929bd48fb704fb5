"""Where requests come in: admitted or refused, gathered into batches, sent on their way; poison is remembered."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from pipeline.core.tensors import Array
from pipeline.runtime.batching import Batcher
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.flights import Flights
from pipeline.runtime.journal import Journal
from pipeline.runtime.loading import ROWS_AT_ONCE
from pipeline.runtime.members import Fault
from pipeline.runtime.request import Phase, first_request
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind
from pipeline.runtime.settings import Settings
from pipeline.runtime.watch import Watch

_POISON_KEPT = 1024


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
        self._poison: dict[str, None] = {}  # oldest first
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
            if self._settings.batch_rows_max:
                outcome = await self._batcher.infer(inputs, deadline_ms)
            else:
                outcome = await self._flown(inputs, deadline_ms)
        finally:
            self.inside -= 1
        if isinstance(outcome, NotAnswered) and outcome.kind is RefusalKind.POISON:
            self._quarantine(inputs, outcome.sentence)
        return outcome

    async def _flown(
        self, inputs: Mapping[str, Array], deadline_ms: float, is_suspect: bool = False
    ) -> Answer | NotAnswered:
        """Compute what came as one request, or what was gathered into one; a suspect sees only a taster."""
        rows = int(next(iter(inputs.values())).shape[0])
        # One that takes long by its size would only hold the standby up as well.
        hedge_after_ms = self._watch.hedge_after() if rows <= ROWS_AT_ONCE else float("inf")
        state = first_request(self._now_ms() + deadline_ms, hedge_after_ms, self._settings.verify)
        if is_suspect or self._is_like_a_suspect(inputs):
            state = state._replace(phase=Phase.TASTING)
        outcome = await self._flights.fly(state, inputs, rows)
        if isinstance(outcome, Answer):
            self._watch.shadow(inputs, outcome)
        return outcome

    def _is_like_a_suspect(self, inputs: Mapping[str, Array]) -> bool:
        suspects = self._suspects()
        return bool(suspects) and _digest(inputs) in suspects

    def like_suspects(self, request_ids: Sequence[int]) -> set[int]:
        """Return those of some requests in flight that ask the same as a suspect."""
        suspects = self._suspects()
        flights = ((one, self._flights.by_id.get(one)) for one in request_ids if suspects)
        return {one for one, flight in flights if flight is not None and _digest(flight.inputs) in suspects}

    def _suspects(self) -> set[str]:
        suspects = [flight for flight in self._flights.suspected if flight.state.phase is Phase.TASTING]
        for flight in suspects:  # digested once: large ones that wait for the taster would hold every arrival up
            flight.digest = flight.digest or _digest(flight.inputs)
        return {flight.digest for flight in suspects}

    def _quarantine(self, inputs: Mapping[str, Array], sentence: str) -> None:
        digest = _digest(inputs)
        if digest not in self._poison:
            if len(self._poison) >= _POISON_KEPT:  # who sends ever new poison must not keep the next from being known
                del self._poison[next(iter(self._poison))]
            self._poison[digest] = None
            evidence = Evidence(fault=Fault.POISON, errors=(sentence, f"inputs' sha256 {digest}"))
            self._journal.note("A request is quarantined.", diagnose(None, evidence))


def _digest(inputs: Mapping[str, Array]) -> str:
    """Return what tells two requests apart: once there is poison, every request is digested, so it is quick."""
    digest = hashlib.sha256()
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
