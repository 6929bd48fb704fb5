"""``golden/canaries.json``: which golden rows show that a loaded model's weights are what they were.

Optional: a bundle without it is watched with its first golden rows. XNNPACK executes packed copies of the weights that
no hash sees, so only answers can tell; the rows here were chosen when the bundle was packed, by corrupting every
constant in turn and looking which answers moved (``pipeline/seal/canaries.py``).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pipeline.bundle.strict_json import fit, parse_strict
from pipeline.core.errors import Malformed
from pipeline.core.schema import Rule

CANARIES_FILE = "golden/canaries.json"
CANARY_ROWS_MAX = 8

HARMFUL_RATIO = 0.05  # share of answers that a corruption must change to count
# A session repeats itself to the last bit on one machine; the room is for kernels that split a batch otherwise.
_REPEATS_WITHIN = 1e-5

_Count = Annotated[int, Rule(minimum=0)]


@dataclass(frozen=True)
class Watched:
    """One constant that operators calculate with, and how its corruptions show.

    Of the ``tried`` corruptions, ``harmful`` ones moved at least one answer in twenty beyond golden tolerance, and
    ``harmful_seen`` of these moved a canary row's answer beyond it too. ``moved`` ones moved any answer at all, and
    ``moved_seen`` of these a canary row's: a node sees them that compares with its own first answers.
    """

    constant: str
    operator: Annotated[str, Rule("The kind of operator that reads it.")]
    bytes: _Count
    rows: Annotated[tuple[int, ...], Rule("The canary rows that its corruptions moved.")]
    tried: _Count
    harmful: _Count
    harmful_seen: _Count
    moved: _Count
    moved_seen: _Count


@dataclass(frozen=True)
class LookedUp:
    """A table that is read by row: only an input that looks a row up shows what is in it."""

    constant: str
    entries: Annotated[int, Rule(minimum=1)]
    seen_ratio: Annotated[float, Rule("Share of its entries that the golden rows together look up.", 0, 1)]


@dataclass(frozen=True)
class CanaryPlan:
    """The canary rows (indices into the golden rows) and what they can see."""

    schema_version: Literal[1]
    rows: Annotated[tuple[int, ...], Rule(min_items=1)]
    watched: tuple[Watched, ...]
    tables: tuple[LookedUp, ...]
    uncovered: Annotated[tuple[str, ...], Rule("Constants of which no tried corruption moved a canary row.")]
    method: Annotated[str, Rule("How the rows were chosen, in words.")]

    def problems(self) -> Iterator[str]:
        """Yield what is wrong across fields."""
        if len(self.rows) > CANARY_ROWS_MAX:
            yield f"rows: more than {CANARY_ROWS_MAX}"
        if len(set(self.rows)) != len(self.rows):
            yield "rows: a row stands twice"
        if any(set(item.rows) - set(self.rows) for item in self.watched):
            yield "watched: a row is no canary row"


def repeat_tolerance(golden_tolerance: float, largest: float) -> float:
    """Return by how much one loaded model may differ from its own earlier answer to the same rows.

    ``largest`` is the largest magnitude of these answers. Golden tolerances leave room for other processors; on one
    machine a model repeats itself, so that a far smaller corruption shows.
    """
    return min(golden_tolerance, _REPEATS_WITHIN * largest) if largest > 0 else golden_tolerance


def read_canaries(files: Mapping[str, bytes], golden_rows: int) -> CanaryPlan | None:
    """Parse a verified bundle's canary plan, or return None where it has none.

    Raises Malformed when it breaks the format or names rows that are not among the ``golden_rows`` rows.
    """
    if CANARIES_FILE not in files:
        return None
    plan = fit(CanaryPlan, parse_strict(files[CANARIES_FILE], CANARIES_FILE), CANARIES_FILE)
    beyond = [row for row in plan.rows if not 0 <= row < golden_rows]
    if beyond:
        raise Malformed(
            f"{CANARIES_FILE} names row {beyond[0]} where the bundle has {golden_rows} golden rows; pack it again."
        )
    return plan
