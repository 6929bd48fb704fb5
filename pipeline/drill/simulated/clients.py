"""Clients and the network in the simulated world: open loop, deadlines, connections that drop, delay and reset."""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.drill.live.plan import Extra, Plan, schedule
from pipeline.drill.nouns import Load, Outcome, Request
from pipeline.drill.simulated.clock import VirtualLoop
from pipeline.drill.simulated.models import QUESTIONS, bundle_of, is_right, known
from pipeline.drill.simulated.service import SimulatedService
from pipeline.runtime.service import Answer, NotAnswered, RefusalKind

_TRANSIT_MS = (0.05, 0.25)
_AT_FAULT = (RefusalKind.BAD_REQUEST, RefusalKind.POISON, RefusalKind.UNKNOWN)  # 4xx
_RESET = "the connection was reset"


@dataclass
class Network:
    """What the way between clients and server does to bytes."""

    drops: int = 0
    resets: int = 0
    delay_ms: float = 0.0
    jitter_ms: float = 0.0


@dataclass(slots=True)
class _Asked:
    number: int
    question: int
    due_ms: float
    is_extra: bool
    done_ms: float | None = None
    left_ms: float | None = None
    outcome: Outcome | None = None
    role: Role | None = None
    term: int | None = None
    bundle_id: str = ""
    problem: str = ""


def due_times(load: Load, extras_ms: tuple[float, ...] = (), due_s: tuple[float, ...] = ()) -> list[tuple[float, int]]:
    """Return (seconds after the start, question) of every request, as a load generator would send them."""
    plan = Plan(
        0, "", ("",) * QUESTIONS, load.rate_per_s, load.seconds, load.seed, load.arrivals, load.deadline_ms,
        extras=tuple(Extra(at_ms / 1000, "") for at_ms in extras_ms), due_s=due_s,
    )  # fmt: skip
    return schedule(plan)


class Clients:
    """All requests of one load, each sent when it is due."""

    def __init__(
        self, load: Load, extras: tuple[float, ...], loop: VirtualLoop, draw: random.Random,
        service: SimulatedService, now_ms: Callable[[], float], due_s: tuple[float, ...] = (),
    ) -> None:  # fmt: skip
        """Plan a load; ``extras`` are the times of poison requests in ms, ``due_s`` those of a replay."""
        self.network = Network()
        self._loop = loop
        self._draw = draw
        self._service = service
        self._now_ms = now_ms
        self._deadline_ms = load.deadline_ms
        self._asked = [
            _Asked(number, question, 1000 * at_s, question >= QUESTIONS)
            for number, (at_s, question) in enumerate(due_times(load, extras, due_s))
        ]

    def start(self, began_s: float) -> None:
        """Send everything, from now on."""
        if self._asked:
            self._loop.call_at(began_s + self._asked[0].due_ms / 1000, self._send_due, began_s, 0)

    def _send_due(self, began_s: float, number: int) -> None:
        if number + 1 < len(self._asked):
            self._loop.call_at(began_s + self._asked[number + 1].due_ms / 1000, self._send_due, began_s, number + 1)
        self._send(self._asked[number])

    def _send(self, one: _Asked) -> None:
        network = self.network
        if network.resets:
            self._lose(one, _RESET)
        elif not network.drops:
            transit_ms = self._transit_ms()
            if transit_ms > _TRANSIT_MS[1]:
                self._loop.call_at(self._loop.time() + transit_ms / 1000, self._arrive, one, 0.0)
            else:
                self._arrive(one, transit_ms)

    def _transit_ms(self) -> float:
        network = self.network
        return self._draw.uniform(*_TRANSIT_MS) + network.delay_ms + self._draw.random() * network.jitter_ms

    def _arrive(self, one: _Asked, transit_ms: float) -> None:
        inputs: Mapping[str, Array] = known().poison if one.is_extra else known().inputs[one.question]
        self._service.ask(inputs, self._deadline_ms, lambda outcome: self._done(one, outcome, transit_ms))

    def _done(self, one: _Asked, outcome: Answer | NotAnswered | None, transit_ms: float) -> None:
        network = self.network
        if one.outcome is not None:
            return
        if outcome is None or network.resets:
            self._lose(one, _RESET)
        elif not network.drops:
            one.left_ms = self._now_ms()
            done_ms = one.left_ms + transit_ms + self._transit_ms()
            if done_ms - one.due_ms <= self._deadline_ms:
                one.done_ms = done_ms
                self._judge(one, outcome)

    def _judge(self, one: _Asked, outcome: Answer | NotAnswered) -> None:
        if isinstance(outcome, NotAnswered):
            one.problem = f"{outcome.kind}: {outcome.sentence}"
            abstained = outcome.kind is RefusalKind.ABSTAINED
            at_fault = Outcome.REFUSED if outcome.kind in _AT_FAULT else Outcome.LOST
            one.outcome = Outcome.ABSTAINED if abstained else at_fault
            one.done_ms = None if one.outcome is Outcome.LOST else one.done_ms
            return
        one.role, one.term, one.bundle_id = outcome.role, outcome.term, outcome.bundle_id
        known_id = outcome.bundle_id == bundle_of(outcome.role).bundle_id
        right = not one.is_extra and known_id and is_right(one.question, outcome.role, outcome.outputs)
        one.outcome = Outcome.RIGHT if right else Outcome.WRONG

    def _lose(self, one: _Asked, problem: str) -> None:
        one.outcome, one.problem = Outcome.LOST, problem

    def reset_all(self) -> None:
        """Reset every connection that waits for an answer."""
        now = self._now_ms()
        for one in self._asked:
            if one.outcome is None and one.due_ms <= now:
                self._lose(one, _RESET)

    @property
    def open(self) -> int:
        """Return how many wait, or are to be sent."""
        now = self._now_ms()
        return sum(1 for one in self._asked if one.outcome is None and now < one.due_ms + self._deadline_ms)

    def requests(self) -> tuple[Request, ...]:
        """Return what became of each request."""
        return tuple(
            Request(
                one.number, one.question, one.due_ms, one.due_ms, one.done_ms, one.outcome or Outcome.LOST, one.role,
                one.term, one.bundle_id, one.is_extra, one.problem if one.outcome else "no answer by the deadline",
                one.left_ms,
            )
            for one in self._asked
        )  # fmt: skip
