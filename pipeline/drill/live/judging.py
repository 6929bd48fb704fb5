"""Questions for a served pair, their right answers asked offline, and what becomes of each answer under load."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.bundle.golden import read_golden
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core.clock import utc_now
from pipeline.core.errors import DataError
from pipeline.core.names import Role
from pipeline.core.tensors import Array, cast_tensors, map_npz
from pipeline.drill.live.plan import Exchange
from pipeline.drill.nouns import Outcome
from pipeline.engines.open import open_session
from pipeline.runtime.http.tensors import DATATYPES

LATE_MS = 100.0
POISON = -31415.0

_DTYPES = {datatype: name for name, datatype in DATATYPES.items()}

BUNDLE_HEADER = "hotspare-bundle-id"
ROLE_HEADER = "hotspare-role"
TERM_HEADER = "hotspare-term"
REFUSED_HEADER = "hotspare-refused"


@dataclass(frozen=True)
class Reference:
    """What one bundle answers offline, row by row: outputs (questions, ...), and how much an answer may differ."""

    bundle_id: str
    role: Role
    model: str
    outputs: Mapping[str, Array]
    tolerances: Mapping[str, float]


@dataclass(frozen=True)
class Questions:
    """Single rows of real inputs, encoded; every reference has an answer to each."""

    model: str
    rows: Mapping[str, Array]
    bodies: tuple[str, ...]
    references: Mapping[str, Reference]

    def of_role(self, role: Role) -> Reference:
        """Return the reference of a role."""
        return next(one for one in self.references.values() if one.role is role)


def ask_offline(bundles: Mapping[Role, Path], trust: Path, rows: Path | None, count: int) -> Questions:
    """Take ``count`` rows spread over an npz and run both verified bundles on them, one row at a time.

    Without an npz, the primary's warm-up rows are asked, which are synthetic. Raises DataError, the Untrusted error
    that fits, TrustPolicyError.
    """
    verified = {role: verify_bundle(path, load_policy(trust), utc_now()) for role, path in bundles.items()}
    return questions_of(verified, rows, count)


def questions_of(verified: Mapping[Role, VerifiedBundle], rows: Path | None, count: int) -> Questions:
    """Do the same with bundles that are verified already."""
    primary = verified[Role.PRIMARY]
    taken = dict(read_golden(primary.files).inputs) if rows is None else take_rows(primary, rows, count)
    references = (_reference(role, bundle, taken) for role, bundle in verified.items())
    count = len(next(iter(taken.values())))
    bodies = tuple(request_body({name: array[row : row + 1] for name, array in taken.items()}) for row in range(count))
    return Questions(verified[Role.PRIMARY].model, taken, bodies, {one.bundle_id: one for one in references})


def spread(rows: int, count: int) -> slice:
    """Return ``count`` of so many rows, spread evenly."""
    step = max(1, rows // count)
    return slice(0, step * count, step)


def take_rows(bundle: VerifiedBundle, rows: Path, count: int) -> dict[str, Array]:
    """Return ``count`` rows of the bundle's inputs, spread evenly over an npz."""
    arrays = map_npz(rows, DataError)
    names = [tensor.name for tensor in bundle.io.inputs]
    if len(names) == 1 and names[0] not in arrays:
        arrays = {names[0]: arrays["x"]}
    picked = {name: np.array(arrays[name][spread(len(arrays[name]), count)]) for name in names}
    return cast_tensors(picked, {tensor.name: tensor.dtype for tensor in bundle.io.inputs}, str(rows))


def _reference(role: Role, bundle: VerifiedBundle, rows: Mapping[str, Array]) -> Reference:
    entry = bundle.manifest.entrypoint
    session = open_session(entry.format, bundle.files[entry.path], bundle.manifest.runtime.threads)
    count = len(next(iter(rows.values())))
    parts = [session.run({name: array[row : row + 1] for name, array in rows.items()}) for row in range(count)]
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return Reference(bundle.bundle_id, role, bundle.model, outputs, read_golden(bundle.files).tolerances.absolute)


def request_body(rows: Mapping[str, Array]) -> str:
    """Encode inputs as an Open Inference Protocol request in JSON."""
    return json.dumps({"inputs": [_tensor(name, array) for name, array in sorted(rows.items())]})


def _tensor(name: str, array: Array) -> dict[str, object]:
    datatype = DATATYPES[array.dtype.name]
    return {"name": name, "shape": list(array.shape), "datatype": datatype, "data": array.ravel().tolist()}


def poison_body(questions: Questions, row: int = 0) -> str:
    """Return a request that holds the poison number in the first input of one of the questions' rows.

    Another row is another poison: the one that was quarantined by its digest does not reach a worker again.
    """
    at = row % len(next(iter(questions.rows.values())))
    rows = {name: array[at : at + 1].copy() for name, array in questions.rows.items()}
    first = rows[min(rows)]
    first.reshape(-1)[0] = first.dtype.type(abs(POISON) if first.dtype.kind == "u" else POISON)
    return request_body(rows)


def outcome(exchange: Exchange, questions: Questions, default_role: Role | None = None) -> Outcome:
    """Judge one exchange; without a bundle id header, as an answer of ``default_role`` (plain workers)."""
    if exchange.status == 200:
        reference = _reference_of(exchange, questions, default_role)
        return Outcome.RIGHT if reference and is_right(exchange, reference) else Outcome.WRONG
    if exchange.headers.get(REFUSED_HEADER) == "abstained":
        return Outcome.ABSTAINED
    return Outcome.REFUSED if 400 <= exchange.status < 500 and exchange.status != 429 else Outcome.LOST


def judge_all(exchanges: Sequence[Exchange], questions: Questions) -> list[Outcome]:
    """Judge a run; what was sent beside the questions is poison, and no answer to it is the right one."""
    return [outcome(one, questions) if one.question < len(questions.bodies) else _of_poison(one) for one in exchanges]


def _of_poison(exchange: Exchange) -> Outcome:
    if exchange.status == 0:
        return Outcome.LOST
    return Outcome.WRONG if exchange.status == 200 else Outcome.REFUSED


def _reference_of(exchange: Exchange, questions: Questions, default_role: Role | None) -> Reference | None:
    named = exchange.headers.get(BUNDLE_HEADER)
    if named is None and default_role is not None:
        return questions.of_role(default_role)
    return questions.references.get(named or "")


def is_right(exchange: Exchange, reference: Reference) -> bool:
    """Tell whether an answer is the reference's: every output, its type and shape, finite, within golden tolerance."""
    answers = answered_outputs(exchange.body)
    if answers is None or answers.keys() != reference.outputs.keys():
        return False
    return all(
        _within(answers[name], array[exchange.question % len(array)][np.newaxis], reference.tolerances[name])
        for name, array in reference.outputs.items()
    )


def answered_outputs(body: str) -> dict[str, Array] | None:
    """Return the outputs of an answer's JSON body by name, of the types that it says; None for any other body."""
    try:
        outputs = json.loads(body)["outputs"]
        return {one["name"]: np.array(one["data"], _DTYPES[one["datatype"]]).reshape(one["shape"]) for one in outputs}
    except (ValueError, KeyError, TypeError, OverflowError):
        return None


def _within(answer: Array, expected: Array, tolerance: float) -> bool:
    if answer.shape != expected.shape or answer.dtype != expected.dtype:
        return False
    return bool((np.abs(answer.astype(np.float64) - expected.astype(np.float64)) <= tolerance).all())


@dataclass(frozen=True)
class Tally:
    """All exchanges of one run; times in ms. ``downtime_ms`` is the longest time without a right answer."""

    sent: int
    lost: int
    wrong: int
    abstained: int
    refused: int
    degraded: int
    late: int
    worst_ms: float
    p50_ms: float
    p99_ms: float
    downtime_ms: float
    generator_lag_ms: float
    stale: int
    terms: tuple[int, ...]
    errors: dict[str, int]


def tally(exchanges: Sequence[Exchange], outcomes: Sequence[Outcome]) -> Tally:
    """Count a run; exchanges are in the order in which they were due."""
    counts = Counter(outcomes)
    answered = [one for one in exchanges if one.status == 200]
    latencies = np.array([one.latency_ms or 0.0 for one in answered] or [0.0])
    return Tally(
        sent=len(exchanges),
        lost=counts[Outcome.LOST],
        wrong=counts[Outcome.WRONG],
        abstained=counts[Outcome.ABSTAINED],
        refused=counts[Outcome.REFUSED],
        degraded=sum(one.headers.get(ROLE_HEADER) == Role.BACKUP for one in answered),
        late=int((latencies > LATE_MS).sum()),
        worst_ms=round(float(latencies.max()), 2),
        p50_ms=round(float(np.percentile(latencies, 50)), 2),
        p99_ms=round(float(np.percentile(latencies, 99)), 2),
        downtime_ms=round(downtime_ms(exchanges, outcomes), 1),
        generator_lag_ms=round(max(((one.sent_ms or 0.0) - one.scheduled_ms for one in exchanges), default=0.0), 2),
        stale=stale(answered),
        terms=tuple(sorted({int(one.headers[TERM_HEADER]) for one in answered if TERM_HEADER in one.headers})),
        errors=dict(Counter(_error(one) for one in exchanges if one.status != 200)),
    )


def _error(exchange: Exchange) -> str:
    return exchange.error or f"HTTP {exchange.status}"


def downtime_ms(exchanges: Iterable[Exchange], outcomes: Iterable[Outcome]) -> float:
    """Return the longest stretch without a right answer, by when its first request and the next right one were due.

    One that nothing right follows lasts until the last request was due.
    """
    longest, since, due_ms = 0.0, None, 0.0
    for exchange, one in sorted(zip(exchanges, outcomes, strict=True), key=lambda pair: pair[0].scheduled_ms):
        due_ms = exchange.scheduled_ms
        if one is Outcome.RIGHT and since is not None:
            longest, since = max(longest, due_ms - since), None
        elif one is not Outcome.RIGHT and since is None:
            since = due_ms
    return longest if since is None else max(longest, due_ms - since)


def stale(answered: Sequence[Exchange]) -> int:
    """Count answers of a term that was over: sent after an answer of a later term had come back."""
    stamped = [(one, int(one.headers[TERM_HEADER])) for one in answered if TERM_HEADER in one.headers]
    count = 0
    for one, term in stamped:
        later = [other.done_ms for other, newer in stamped if newer > term and other.done_ms is not None]
        count += bool(later) and one.sent_ms is not None and one.sent_ms > min(later)
    return count
