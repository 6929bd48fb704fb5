"""One side of an embedded pair: a bundle's bytes, the session made of them, and the canaries that watch it."""

from collections.abc import Callable
from dataclasses import dataclass

from pipeline.bundle.statement import bundle_id
from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import ModelError, Tampered
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session
from pipeline.runtime.canaries import CanaryWatch, canary_rounds
from pipeline.runtime.guards import Guard
from pipeline.runtime.loading import OpenSession, load_ready
from pipeline.runtime.members import Fault, Seat

VerifyAgain = Callable[[Seat], VerifiedBundle]

# What engines and numpy raise when a model cannot be run; a caller's wrong inputs are a DataError and no fault.
_FAILURES = (ModelError, RuntimeError, ValueError, MemoryError)


@dataclass(frozen=True)
class Trouble:
    """Why a side gave no answer that may be released."""

    fault: Fault
    sentence: str


class Side:
    """One model of the pair; loaded or not."""

    def __init__(
        self, seat: Seat, bundle: VerifiedBundle, open_session: OpenSession, verify_again: VerifyAgain | None
    ) -> None:
        self.seat = seat
        self.bundle = bundle
        self.incarnation = 0
        self.errors: list[str] = []  # in a row
        self._open_session = open_session
        self._verify_again = verify_again
        self._session: Session | None = None
        self._guard = Guard(bundle.io)
        self._watch = CanaryWatch(canary_rounds(bundle))

    @property
    def is_loaded(self) -> bool:
        """Tell whether it can be asked."""
        return self._session is not None

    def load(self) -> None:
        """Load the model from bytes that are still the verified ones, and compare its golden answers.

        Where they are not, the bundle is verified again from where it came from. Raises what stopped it.
        """
        if not self.is_intact():
            self._replace_bundle()
        self._session = load_ready(self.bundle, self._open_session)
        self._watch = CanaryWatch(canary_rounds(self.bundle))
        self.errors = []

    def unload(self) -> None:
        """Let go of the model; its verified bytes stay."""
        self._session = None

    def is_intact(self) -> bool:
        """Tell whether the bytes in memory, which the engine reads, are still those that were signed."""
        files = self.bundle.files
        return (
            bundle_id(tuple(sorted((path, sha256_hex(data)) for path, data in files.items()))) == self.bundle.bundle_id
        )

    def _replace_bundle(self) -> None:
        if self._verify_again is None:
            raise Tampered("The bundle's bytes in memory are not those that were signed; verify it again from disk.")
        fresh = self._verify_again(self.seat)
        if fresh.bundle_id != self.bundle.bundle_id:
            raise Tampered("There is another bundle now where this one came from; make a new pair of it.")
        self.bundle = fresh

    def answer(self, inputs: Tensors) -> dict[str, Array] | Trouble:
        """Return guarded outputs, or why there are none; raises DataError for inputs that do not fit."""
        outputs = self._run(inputs)
        if isinstance(outputs, Trouble):
            return outputs
        problem = self._guard.check(outputs, int(next(iter(inputs.values())).shape[0]))
        return outputs if problem is None else Trouble(Fault.BAD_OUTPUT, problem)

    def _run(self, inputs: Tensors) -> dict[str, Array] | Trouble:
        if self._session is None:
            return Trouble(Fault.ERRORS, "The model is not loaded.")
        try:
            return self._session.run(inputs)
        except _FAILURES as error:
            return Trouble(Fault.ERRORS, str(error))

    def probe(self) -> Trouble | None:
        """Ask the next canary round; returns what is wrong with its answer, or None."""
        turn = self._watch.next_turn()
        outputs = self.answer(self._watch.inputs(turn))
        if isinstance(outputs, Trouble):
            return outputs
        problem = self._watch.check(turn, outputs)
        return None if problem is None else Trouble(Fault.WRONG_ANSWER, problem)
