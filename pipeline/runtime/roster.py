"""Who can be asked: the workers of a pair's ready members, by whether their role serves."""

from collections.abc import Mapping

from pipeline.runtime.crew import Worker
from pipeline.runtime.members import MemberState, Seat
from pipeline.runtime.pair_nouns import PairState
from pipeline.runtime.request_nouns import Choice

Sides = tuple[tuple[Worker, ...], tuple[Worker, ...]]


class Roster:
    """The ready members' workers, looked up once a state of the pair machine: every request asks for them.

    A ready member keeps its worker: a new one comes with another state. Whether that worker is still usable is asked
    each time, since it may be lost before the machine hears of it.
    """

    def __init__(self, workers: Mapping[Seat, Worker]) -> None:
        self._workers = workers
        self._state: PairState | None = None
        self._sides: Sides = ((), ())

    def serving(self, state: PairState) -> list[Worker]:
        """Return the workers of the serving role that can take a request now."""
        return [worker for worker in self._of(state)[0] if worker.usable]

    def choices(self, state: PairState) -> tuple[tuple[Choice, ...], tuple[Choice, ...]]:
        """Return whom a request can be sent to: of the serving role, and of the other."""
        serving, others = self._of(state)
        return _choices(serving), _choices(others)

    def _of(self, state: PairState) -> Sides:
        if state is not self._state:
            ready = [m.seat for m in state.members if m.state is MemberState.READY and m.seat in self._workers]
            self._sides = (
                tuple(self._workers[seat] for seat in ready if seat.role is state.serving),
                tuple(self._workers[seat] for seat in ready if seat.role is not state.serving),
            )
            self._state = state
        return self._sides


def _choices(workers: tuple[Worker, ...]) -> tuple[Choice, ...]:
    return tuple([(worker.seat, worker.incarnation, worker.load) for worker in workers if worker.usable])
