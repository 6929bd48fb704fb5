"""The pair inside one process, for devices: guards, canaries, scrubbing and failover without a server."""

import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

from pipeline.bundle.verify import VerifiedBundle, VerifiedChannel
from pipeline.core.errors import HotspareError, ModelError, NotAccepted, Unreachable
from pipeline.core.names import Format, Role
from pipeline.core.tensors import Tensors
from pipeline.engines.open import open_session as open_engine_session
from pipeline.runtime.aging import Happening
from pipeline.runtime.diagnosis import Evidence, diagnose
from pipeline.runtime.embedded_channel import ChannelWatch, Under
from pipeline.runtime.embedded_side import Side, Trouble, VerifyAgain
from pipeline.runtime.loading import OpenSession
from pipeline.runtime.members import Diagnosis, Fault, Seat
from pipeline.runtime.pair import (
    Action,
    Event,
    Failed,
    Load,
    Note,
    PairState,
    ProbePassed,
    Ready,
    ReleaseAsked,
    Staged,
    Start,
    Stop,
    SwitchAsked,
    Tick,
    first_state,
    step,
)
from pipeline.runtime.service import Answer, ChannelStatus
from pipeline.runtime.settings import Settings

_KEPT = 100


class EmbeddedPair:
    """A primary and its standby in one process, LiteRT only; not safe to share between threads.

    Each answer is guarded before it is returned; canaries, the hashes of the models' bytes and reloads take their turn
    at calls of :meth:`predict` (or of :meth:`tend`, in a pause of the caller's). Who serves, when a failed side is
    reloaded and when the primary comes back is decided by the machine that the server uses.

    What one process cannot do: a model that hangs, or that takes the process down, takes both sides with it. An engine
    call cannot be interrupted, so a hang is never noticed here; where that matters, use a watchdog over the process,
    or `hotspare serve`, which gives every model a process of its own.
    """

    def __init__(
        self,
        primary: VerifiedBundle,
        standby: VerifiedBundle,
        settings: Settings | None = None,
        *,
        under: Under | None = None,
        probe_every_calls: int = 1000,
        term: int = 0,
        clock: Callable[[], float] = time.monotonic,
        verify_again: VerifyAgain | None = None,
        open_session: OpenSession = open_engine_session,
    ) -> None:
        """Load the primary, and the standby as ``settings.standby`` says.

        Settings about processes, queues and verify mode have no meaning here. ``under`` is the channel that both
        bundles were verified with, and what the trust policy says past its end. ``clock`` only grows, in seconds.
        Canaries are asked after ``settings.probe_every_ms`` or ``probe_every_calls`` calls, whichever comes first.
        ``term`` is the highest that was ever used: give the last ``term`` of the process before where that matters.
        ``verify_again`` verifies a side's bundle from disk once more, for when its bytes in memory went bad; without it
        such a side stays out.
        Raises NotAccepted when the two are no pair for this, Expired or Revoked as the channel says, and what stopped
        the primary when neither can be loaded.
        """
        _check_pair(primary, standby)
        seats = {Role.PRIMARY: primary, Role.BACKUP: standby}
        self._channel = _watched(under, seats)
        self._sides = {role: Side(Seat(role), bundle, open_session, verify_again) for role, bundle in seats.items()}
        self._clock = clock
        self._settings = replace(settings or Settings(), replicas=1)
        self._probe_every_calls = probe_every_calls
        self._calls = 0
        self._next_probe_ms = self._next_scrub_ms = 0
        self._diagnoses: deque[Diagnosis] = deque(maxlen=_KEPT)
        self._notes: deque[Note] = deque(maxlen=_KEPT)
        self._start_error: HotspareError | None = None
        self._events: deque[Event] = deque()
        self._state, actions = first_state(self._settings, self._now_ms(), term)
        self._plan_next()
        self._next_scrub_ms = self._now_ms() + 1000 * self._settings.scrub_every_s
        self._look_at_dates()
        self._perform(actions)
        if self._state.serving is None and self._start_error is not None:
            raise self._start_error

    @property
    def state(self) -> PairState:
        """Return who serves, under which term, and what is known of both members."""
        return self._state

    @property
    def diagnoses(self) -> tuple[Diagnosis, ...]:
        """Return the last faults and where they were, newest last."""
        return tuple(self._diagnoses)

    @property
    def notes(self) -> tuple[Note, ...]:
        """Return what happened to the pair, newest last."""
        return tuple(self._notes)

    @property
    def channel(self) -> ChannelStatus | None:
        """Return the channel that the pair serves under, and its age; None where it serves without one."""
        return None if self._channel is None else self._channel.status

    def predict(self, inputs: Tensors) -> Answer:
        """Answer rows by the side that serves, or by the other one where that fails.

        Raises Expired past the channel's end where the trust policy refuses then, DataError for inputs that do not fit,
        ModelError when both sides fail on them (which is then the rows' fault and not a side's), Unreachable when no
        side can be asked now.
        """
        self._look_at_dates()
        if self._channel is not None:
            self._channel.require_open()
        self._calls += 1
        if self._calls >= self._probe_every_calls or self._now_ms() >= self._next_probe_ms:
            self.tend()
        troubles: dict[Role, Trouble] = {}
        answer = self._ask(inputs, troubles)
        if answer is None:  # the look at who failed, and time, may have brought another side up
            self._settle(troubles, None)
            self.tend()
            answer = self._ask(inputs, troubles)
        if answer is None:
            raise _no_answer(troubles)
        return answer

    def _ask(self, inputs: Tensors, troubles: dict[Role, Trouble]) -> Answer | None:
        """Ask the loaded sides that were not asked yet, who serves first; why they gave no answer is added."""
        for side in self._in_order(troubles):
            outputs = side.answer(inputs)
            if isinstance(outputs, Trouble):
                troubles[side.seat.role] = outputs
                continue
            if troubles or side.errors:
                self._settle(troubles, side)
            bundle = side.bundle
            return Answer(outputs, bundle.bundle_id, bundle.candidate, side.seat.role, self._state.term, False)
        return None

    def tend(self) -> None:
        """Ask canaries on both sides, hash the models' bytes when it is time, and bring a failed side back."""
        self._look_at_dates()
        self._plan_next()
        self._feed(Tick(self._now_ms()))
        for side in self._loaded():
            self._probe(side)
        if self._now_ms() >= self._next_scrub_ms:
            self._next_scrub_ms = self._now_ms() + 1000 * self._settings.scrub_every_s
            self._scrub()

    def switch(self, to: Role) -> None:
        """Let a role serve; what stands against it is the newest of :attr:`notes`."""
        self._feed(SwitchAsked(to))

    def release(self, role: Role) -> None:
        """Bring back a side that failed too often, its failures forgotten."""
        self._feed(ReleaseAsked(Seat(role)))

    def renew(self, channel: VerifiedChannel) -> None:
        """Go on under a later channel over the same bundles, with the models that are loaded.

        Raises RolledBack for an older one, NotAccepted for one over other bundles (make a new pair of them), Revoked,
        Expired, and NotAccepted where the pair serves without a channel; then all stays as it was.
        """
        if self._channel is None:
            raise NotAccepted("This pair serves without a channel; make a new one under it.")
        self._tell(self._channel.renew(channel))
        self._look_at_dates()

    # The channel's dates.

    def _look_at_dates(self) -> None:
        """Notice that the channel is to be renewed, has ended, or is good again."""
        if self._channel is not None:
            self._tell(self._channel.look())

    def _tell(self, told: Happening | None) -> None:
        if told is not None:
            self._notes.append(Note(told.text, told.kind))
            if told.diagnosis is not None:
                self._diagnoses.append(told.diagnosis)

    # Who is asked.

    def _loaded(self) -> list[Side]:
        return [side for side in self._sides.values() if side.is_loaded]

    def _in_order(self, asked: Collection[Role]) -> list[Side]:
        sides = [side for side in self._loaded() if side.seat.role not in asked]
        return sides if self._state.serving is Role.PRIMARY else sides[::-1]

    def _settle(self, troubles: Mapping[Role, Trouble], answered: Side | None) -> None:
        """Judge the sides that gave no answer: by their canaries at once, and by how often it happened in a row.

        Rows that no side answers are the rows' own fault, if the canaries pass.
        """
        if answered is not None:
            answered.errors = []
        for role, trouble in troubles.items():
            side = self._sides[role]
            if answered is not None:
                side.errors.append(trouble.sentence)
            is_sound = self._probe(side)
            if is_sound and len(side.errors) >= self._settings.errors_in_a_row:
                self._fail(side, Evidence(fault=trouble.fault, other_side_ok=True, errors=tuple(side.errors)))

    # What is looked at.

    def _probe(self, side: Side) -> bool:
        trouble = side.probe() if side.is_loaded else None
        if trouble is None:
            self._feed(ProbePassed(side.seat, side.incarnation))
            return True
        self._fail(side, Evidence(fault=trouble.fault, canary_ok=False, errors=(trouble.sentence,)))
        return False

    def _scrub(self) -> None:
        for side in self._loaded():
            if not side.is_intact():
                self._fail(side, Evidence(fault=Fault.CORRUPT_WEIGHTS, memory_bytes_ok=False))

    def _fail(self, side: Side, evidence: Evidence) -> None:
        self._diagnoses.append(diagnose(side.seat, evidence))
        self._feed(Failed(side.seat, side.incarnation, evidence.fault))

    def _now_ms(self) -> int:
        return int(1000 * self._clock())

    def _plan_next(self) -> None:
        self._calls = 0
        self._next_probe_ms = self._now_ms() + self._settings.probe_every_ms

    # What the machine says.

    def _feed(self, event: Event) -> None:
        self._state, actions = step(self._state, event)
        self._perform(actions)

    def _perform(self, actions: tuple[Action, ...]) -> None:
        """Carry actions out; what comes of them is fed to the machine when all are done."""
        for action in actions:
            match action:
                case Start(seat, incarnation, then_load):
                    self._sides[seat.role].incarnation = incarnation
                    self._events.append(self._load(seat) if then_load else Staged(seat, incarnation))
                case Load(seat, _):
                    self._events.append(self._load(seat))
                case Stop(seat, _, _):
                    self._sides[seat.role].unload()
                case Note():
                    self._notes.append(action)
        while self._events:
            self._feed(self._events.popleft())

    def _load(self, seat: Seat) -> Event:
        side = self._sides[seat.role]
        try:
            side.load()
        except HotspareError as error:
            self._start_error = self._start_error or error
            self._diagnoses.append(diagnose(seat, Evidence(fault=Fault.START_FAILED, errors=(str(error),))))
            return Failed(seat, side.incarnation, Fault.START_FAILED)
        return Ready(seat, side.incarnation)


def _watched(under: Under | None, bundles: Mapping[Role, VerifiedBundle]) -> ChannelWatch | None:
    if under is not None:
        return ChannelWatch(under, bundles)
    if any(bundle.role is not None for bundle in bundles.values()):
        raise NotAccepted("A channel gave these bundles their roles; give it with `under`, or its end goes unnoticed.")
    return None


def _no_answer(troubles: Mapping[Role, Trouble]) -> HotspareError:
    if not troubles:
        return Unreachable("No side of the pair is ready; try again in a moment.")
    told = "; ".join(f"{role}: {trouble.sentence}" for role, trouble in troubles.items())
    return ModelError(f"No side of the pair can answer these rows ({told}).")


def _check_pair(primary: VerifiedBundle, standby: VerifiedBundle) -> None:
    for bundle in (primary, standby):
        if bundle.manifest.entrypoint.format is not Format.TFLITE:
            raise NotAccepted(
                f"An embedded pair runs LiteRT models alone, and {bundle.candidate} is of another format; "
                "pack a tflite candidate, or use `hotspare serve`."
            )
    if primary.model != standby.model:
        raise NotAccepted(f"{primary.model} and {standby.model} are two models; a pair is made of one.")
    if (primary.io.inputs, primary.io.outputs) != (standby.io.inputs, standby.io.outputs):
        raise NotAccepted(f"The bundles of {primary.model} take or give different tensors; pack both again.")
