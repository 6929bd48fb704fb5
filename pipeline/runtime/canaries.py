"""Canaries: rows whose right answers are known, asked again and again; and when two bundles' answers agree.

A canary round holds the rows that were chosen when the bundle was packed, and a few other golden rows in turn: a
table's entry shows only to a row that looks it up, so all golden rows come round in time.
"""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.bundle.canaries import CANARY_ROWS_MAX, read_canaries, repeat_tolerance
from pipeline.bundle.golden import Golden, largest_differences
from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.errors import NotAccepted
from pipeline.core.tensors import Array, Tensors

_TURN_ROWS = 8


@dataclass(frozen=True)
class Canaries:
    """One round: the rows to ask, the answers that were packed, and by how much each output may differ from them."""

    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    tolerances: Mapping[str, float]

    @property
    def rows(self) -> int:
        """Return how many rows one round asks."""
        return int(next(iter(self.inputs.values())).shape[0])

    def check(self, outputs: Tensors) -> str | None:
        """Return which output is wrong and by how much, in one sentence, or None when all are within tolerance."""
        for name, difference in largest_differences(self.expected, outputs).items():
            if not difference <= self.tolerances[name]:
                return (
                    f"The canary rows' {name!r} differs by {difference:.3g} from the known answer, "
                    f"where {self.tolerances[name]:.3g} is tolerated."
                )
        return None

    def pinned(self, outputs: Tensors) -> "Canaries":
        """Return the round with a healthy model's own answers as the known ones, and hardly any tolerance.

        Golden tolerances leave room for other processors; one loaded model repeats itself, so what it answered
        when its weights were fresh tells a smaller corruption. ``outputs`` must have passed :meth:`check`.
        """
        own = {name: np.array(outputs[name]) for name in self.expected}
        tolerances = {
            name: repeat_tolerance(self.tolerances[name], float(np.abs(array).max(initial=0)))
            for name, array in own.items()
        }
        return replace(self, expected=own, tolerances=tolerances)


def canary_rounds(bundle: VerifiedBundle) -> tuple[Canaries, ...]:
    """Return a bundle's canary rounds: the chosen rows in each, all other golden rows in turn.

    A bundle without a canary plan has its first golden rows as the chosen ones. Raises Malformed.
    """
    golden = bundle.golden
    rows = int(next(iter(golden.inputs.values())).shape[0])
    plan = read_canaries(bundle.files, rows)
    chosen = list(plan.rows) if plan is not None else list(range(min(rows, CANARY_ROWS_MAX)))
    others = [row for row in range(rows) if row not in set(chosen)]
    turns = [others[start : start + _TURN_ROWS] for start in range(0, len(others), _TURN_ROWS)]
    return tuple(_round(golden, chosen + turn) for turn in turns or [[]])


def _round(golden: Golden, rows: list[int]) -> Canaries:
    return Canaries(
        inputs={name: np.ascontiguousarray(array[rows]) for name, array in golden.inputs.items()},
        expected={name: np.ascontiguousarray(array[rows]) for name, array in golden.outputs.items()},
        tolerances=golden.tolerances.absolute,
    )


class CanaryWatch:
    """The canaries of one loaded model: which round is next, and what this very model answered the first time.

    Make a new one for every start of a worker: another process may calculate with other kernels.
    """

    def __init__(self, rounds: tuple[Canaries, ...]) -> None:
        self._rounds = list(rounds)
        self._is_pinned = [False] * len(rounds)
        self._turns = itertools.cycle(range(len(rounds)))

    def next_turn(self) -> int:
        """Return the number of the round to ask now."""
        return next(self._turns)

    def inputs(self, turn: int) -> Mapping[str, Array]:
        """Return the rows of a round."""
        return self._rounds[turn].inputs

    def check(self, turn: int, outputs: Tensors) -> str | None:
        """Judge the answer to a round: first by golden tolerance, later by the model's own first answer."""
        problem = self._rounds[turn].check(outputs)
        if problem is None and not self._is_pinned[turn]:
            self._rounds[turn] = self._rounds[turn].pinned(outputs)
            self._is_pinned[turn] = True
        return problem


@dataclass(frozen=True)
class Agreement:
    """When the answers of two bundles of one model agree.

    ``tolerances`` are in each output's own unit; ``source`` says where they come from.
    """

    tolerances: Mapping[str, float]
    source: str

    def agree(self, outputs: Tensors, others: Tensors) -> bool:
        """Tell whether all rows agree within tolerance."""
        return bool(self.agreeing_rows(outputs, others).all())

    def agreeing_rows(self, outputs: Tensors, others: Tensors) -> npt.NDArray[np.bool_]:
        """Return for each row whether every output agrees within tolerance; NaN and other shapes agree with nothing."""
        rows = len(next(iter(outputs.values())))
        together = np.ones(rows, np.bool_)
        for name, tolerance in self.tolerances.items():
            together &= _rows_within(outputs.get(name), others.get(name), tolerance, rows)
        return together


def _rows_within(one: Array | None, other: Array | None, tolerance: float, rows: int) -> npt.NDArray[np.bool_]:
    if one is None or other is None or one.shape != other.shape or one.shape[:1] != (rows,):
        return np.zeros(rows, np.bool_)
    if one.size == 1:  # most requests: numpy's own overhead would be most of the time
        return np.full(1, abs(float(one.item()) - float(other.item())) <= tolerance)
    with np.errstate(invalid="ignore"):
        gaps = np.abs(one.astype(np.float64) - other.astype(np.float64)).reshape(rows, -1)
    return np.asarray((gaps <= tolerance).all(axis=1))


def pair_tolerance(one: VerifiedBundle, other: VerifiedBundle) -> Agreement:
    """Return when the answers of two bundles of one model agree.

    Where both tell their distance from one float parent: within the sum of the distances that 99.9 % of the
    calibration rows keep. By the triangle inequality a pair exceeds that on at most 0.2 % of such rows, which leaves
    a factor of ten, for rows unlike them, below the 2 % that a healthy pair may abstain on. Otherwise: within twice
    the largest difference of the golden answers to the rows that both bundles share, and both golden tolerances.
    Raises Malformed, or NotAccepted when the two cannot be compared.
    """
    first, second = one.golden, other.golden
    if first.outputs.keys() != second.outputs.keys():
        raise NotAccepted(f"{one.candidate} and {other.candidate} have different outputs; they cannot be a pair.")
    return _from_parent(first, second) or _from_golden(first, second)


def own_tolerance(bundle: VerifiedBundle) -> Agreement:
    """Return when two replicas of one bundle agree: within its golden tolerances. Raises Malformed."""
    return Agreement(bundle.golden.tolerances.absolute, "golden tolerances")


def _from_parent(first: Golden, second: Golden) -> Agreement | None:
    ours, theirs = first.tolerances.from_parent, second.tolerances.from_parent
    if ours is None or theirs is None or ours.sha256 != theirs.sha256:
        return None
    # Two float models may both be at no distance; then rounding, the steadier one's golden tolerance, is the room.
    tolerances = {
        name: max(ours.absolute[name].p99_9 + theirs.absolute[name].p99_9, min(_golden_tolerances(first, second, name)))
        for name in first.outputs
    }
    return Agreement(tolerances, "distances from the float parent")


def _golden_tolerances(first: Golden, second: Golden, name: str) -> tuple[float, float]:
    return first.tolerances.absolute[name], second.tolerances.absolute[name]


def _from_golden(first: Golden, second: Golden) -> Agreement:
    pairs = list(_shared_rows(first, second))
    if not pairs:
        raise NotAccepted("The two bundles share no golden rows, so their answers cannot be compared; pack both again.")
    ours, theirs = (list(rows) for rows in zip(*pairs, strict=True))
    gaps = largest_differences(
        {name: array[ours] for name, array in first.outputs.items()},
        {name: array[theirs] for name, array in second.outputs.items()},
    )
    tolerances = {name: 2 * gap + sum(_golden_tolerances(first, second, name)) for name, gap in gaps.items()}
    return Agreement(tolerances, "golden answers")


def _shared_rows(first: Golden, second: Golden) -> Iterator[tuple[int, int]]:
    places = {key: row for row, key in enumerate(_row_keys(second.inputs))}
    for row, key in enumerate(_row_keys(first.inputs)):
        if key in places:
            yield row, places[key]


def _row_keys(inputs: Tensors) -> list[bytes]:
    rows = len(next(iter(inputs.values())))
    return [b"".join(inputs[name][row].tobytes() for name in sorted(inputs)) for row in range(rows)]
