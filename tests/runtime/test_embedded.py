import ctypes
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sealed import NOW, Sealed, sealed, tiny_channel, tiny_inputs, tiny_rows

from pipeline.bundle.channel import BundleRef, Expiry, Revocations
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle, VerifiedChannel, verify_bundle
from pipeline.core.errors import (
    DataError,
    Expired,
    GoldenMismatch,
    ModelError,
    NotAccepted,
    Revoked,
    RolledBack,
    Tampered,
    Unreachable,
)
from pipeline.core.names import Format, Role, Scheme
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.base import Session
from pipeline.engines.open import open_session
from pipeline.runtime import EmbeddedPair
from pipeline.runtime.embedded_channel import Under
from pipeline.runtime.members import Fault, MemberState, Seat, Tier
from pipeline.runtime.pair_nouns import NoteKind
from pipeline.runtime.settings import Settings
from pipeline.seal.payload import build_payload
from pipeline.seal.signing import seal_bundle

ROWS = tiny_rows(3)
Bend = Callable[[dict[str, Array]], dict[str, Array]]


@dataclass
class World:
    """A clock that stands still, and engines that can be bent; the newest one of a side is the loaded one."""

    now_s: float = 100.0
    engines: list["Engine"] = field(default_factory=list)
    broken_starts: int = 0

    def open(self, model_format: Format, model: bytes, threads: int) -> Session:
        if self.broken_starts:
            self.broken_starts -= 1
            raise ModelError("cannot be loaded")
        self.engines.append(Engine(open_session(model_format, model, threads)))
        return self.engines[-1]


class Engine:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.inputs, self.outputs = session.inputs, session.outputs
        self.bend: Bend | None = None
        self.calls = 0

    def run(self, inputs: Tensors) -> dict[str, Array]:
        self.calls += 1
        outputs = self.session.run(inputs)
        return outputs if self.bend is None else self.bend(outputs)


def raising(outputs: dict[str, Array]) -> dict[str, Array]:
    raise ModelError("the engine failed")


def bent(change: Callable[[Array], Array]) -> Bend:
    return lambda outputs: {name: change(array) for name, array in outputs.items()}


NAN = bent(lambda array: np.full_like(array, np.nan))
OBVIOUS = {
    "error": raising,
    "nan": NAN,
    "infinite": bent(lambda array: np.full_like(array, np.inf)),
    "range": bent(lambda array: array + 2),
    "shape": bent(lambda array: array[:, 0]),
    "rows": bent(lambda array: array[:-1]),
    "dtype": bent(lambda array: array.astype(np.float64)),
    "missing": lambda _: {},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    made = sealed(tmp_path_factory.mktemp("embedded"))
    given_ = tiny_inputs(Format.TFLITE)
    other = replace(given_, record=replace(given_.record, scheme=Scheme.W8A8))
    seal_bundle(made.folder / "tiny-other", build_payload(other), made.key)
    return made


def verified(made: Sealed, name: str) -> VerifiedBundle:
    return verify_bundle(made.folder / name, load_policy(made.trust), datetime.now(UTC))


@pytest.fixture(scope="module")
def bundles(made: Sealed) -> tuple[VerifiedBundle, VerifiedBundle]:
    return verified(made, "tiny-backup"), verified(made, "tiny-other")


@pytest.fixture
def world() -> World:
    return World()


def pair_of(world: World, bundles: tuple[VerifiedBundle, VerifiedBundle], **more) -> EmbeddedPair:
    return EmbeddedPair(*bundles, clock=lambda: world.now_s, open_session=world.open, **more)


TINY = tiny_channel(
    seq=7, issued_at="2026-06-01T11:00:00Z", refresh_by="2026-06-01T13:00:00Z", not_after="2026-06-01T14:00:00Z"
)


@dataclass
class Day:
    """The time of day, and a channel that is due after an hour and ends after two."""

    bundles: tuple[VerifiedBundle, VerifiedBundle]
    now: datetime = NOW

    def channel(self, seq: int = 7, ends: str = TINY.not_after, **changes: object) -> VerifiedChannel:
        primary, backup = (BundleRef(bundle.bundle_id, bundle.size) for bundle in self.bundles)
        made = replace(TINY, seq=seq, not_after=ends, primary=primary, backup=backup)
        return VerifiedChannel(replace(made, **changes), "hint", ())

    def under(self, expired: Expiry = Expiry.REFUSE, **changes: object) -> Under:
        return Under(self.channel(**changes), expired, lambda: self.now)

    def go_on(self, **for_: float) -> None:
        self.now += timedelta(**for_)


@pytest.fixture
def day(bundles: tuple[VerifiedBundle, VerifiedBundle]) -> Day:
    return Day(bundles)


def right(bundles: tuple[VerifiedBundle, VerifiedBundle], rows: Tensors = ROWS) -> Array:
    return open_session(Format.TFLITE, bundles[0].files["model/model.tflite"]).run(rows)["probability"]


def test_the_primary_answers_as_its_bare_engine(world: World, bundles) -> None:
    pair = pair_of(world, bundles, term=41)
    answer = pair.predict(ROWS)
    assert np.array_equal(answer.outputs["probability"], right(bundles))
    assert (answer.role, answer.term, answer.bundle_id) == (Role.PRIMARY, 42, bundles[0].bundle_id)
    assert pair.diagnoses == ()


@pytest.mark.parametrize("how", sorted(OBVIOUS))
def test_what_no_healthy_model_answers_is_never_released(world: World, bundles, how: str) -> None:
    pair = pair_of(world, bundles)
    world.engines[0].bend = OBVIOUS[how]
    for _ in range(5):
        answer = pair.predict(ROWS)
        assert np.array_equal(answer.outputs["probability"], right(bundles))
        assert (answer.role, answer.term) == (Role.BACKUP, 2)
    assert pair.diagnoses[0].seat == Seat(Role.PRIMARY)


def test_one_request_that_the_primary_alone_cannot_answer_does_not_move_the_pair(world: World, bundles) -> None:
    pair = pair_of(world, bundles)
    strange = tiny_rows(7)
    world.engines[0].bend = lambda outputs: raising(outputs) if len(outputs["probability"]) == 7 else outputs
    for _ in range(2):
        assert pair.predict(strange).role is Role.BACKUP
        assert pair.predict(ROWS).role is Role.PRIMARY
    assert (pair.state.term, pair.diagnoses) == (1, ())
    for _ in range(3):
        assert pair.predict(strange).role is Role.BACKUP
    assert (pair.state.term, pair.predict(ROWS).role) == (2, Role.BACKUP)
    assert pair.diagnoses[-1].fault is Fault.ERRORS


def test_rows_that_no_side_can_answer_are_refused_and_nobody_is_blamed(world: World, bundles) -> None:
    pair = pair_of(world, bundles)
    for engine in world.engines:
        engine.bend = lambda outputs: NAN(outputs) if len(outputs["probability"]) == 7 else outputs
    for _ in range(9):
        with pytest.raises(ModelError, match=r"primary: .*NaN.*backup: .*NaN"):
            pair.predict(tiny_rows(7))
    assert pair.predict(ROWS).term == 1
    assert pair.diagnoses == ()


@pytest.mark.parametrize("inputs", [{}, {"features": np.zeros((2, 7), np.float32)}, {"other": np.zeros((2, 8))}])
def test_inputs_that_do_not_fit_are_the_callers_fault(world: World, bundles, inputs) -> None:
    pair = pair_of(world, bundles)
    with pytest.raises(DataError):
        pair.predict(inputs)
    assert pair.diagnoses == ()


def corrupted(bundle: VerifiedBundle) -> Session:
    """Return the model with executed weights that no hash of the bundle's bytes sees."""
    model = np.frombuffer(bundle.files["model/model.tflite"], np.uint8).copy()
    middle = len(model) // 8 * 4
    model[middle + 3 : middle + 403 : 4] ^= 0x80
    return open_session(Format.TFLITE, model.tobytes())


def test_corrupted_executed_weights_are_found_by_canaries_in_a_set_number_of_calls(world: World, bundles) -> None:
    pair = pair_of(world, bundles, probe_every_calls=10)
    rows = tiny_rows(200)
    clean = right(bundles, rows)
    pair.predict(rows)
    world.engines[0].session = corrupted(bundles[0])
    assert np.mean(np.abs(world.engines[0].run(rows)["probability"] - clean) > 1e-3) > 0.05
    answers = [pair.predict(rows) for _ in range(30)]
    wrong = [not np.array_equal(answer.outputs["probability"], clean) for answer in answers]
    assert sum(wrong) <= 10
    assert not any(wrong[10:])
    assert pair.diagnoses[0].fault is Fault.WRONG_ANSWER


def test_canaries_come_round_with_time_too_and_on_the_standby(world: World, bundles) -> None:
    pair = pair_of(world, bundles)
    world.engines[1].session = corrupted(bundles[1])
    pair.predict(ROWS)
    assert pair.diagnoses == ()
    world.now_s += 0.2
    assert pair.predict(ROWS).role is Role.PRIMARY
    assert [item.seat for item in pair.diagnoses] == [Seat(Role.BACKUP)]


def test_a_failed_side_is_loaded_again_and_serves_again_after_clean_probes(world: World, bundles) -> None:
    pair = pair_of(world, bundles, settings=Settings(failback_probes=3))
    world.engines[0].bend = raising
    assert pair.predict(ROWS).term == 2
    roles = []
    for _ in range(8):
        world.now_s += 0.15
        roles.append(pair.predict(ROWS).role)
    assert len(world.engines) == 3
    assert roles[0] is Role.BACKUP
    assert roles[-1] is Role.PRIMARY
    assert pair.predict(ROWS).term == 3


def test_a_side_that_fails_again_and_again_is_quarantined_until_it_is_released(world: World, bundles) -> None:
    pair = pair_of(world, bundles)
    world.engines[0].bend = raising
    pair.predict(ROWS)
    world.broken_starts = 10**6
    for _ in range(40):
        world.now_s += 2
        assert pair.predict(ROWS).role is Role.BACKUP
    assert pair.state.member(Seat(Role.PRIMARY)).state is MemberState.QUARANTINED
    world.broken_starts = 0
    pair.release(Role.PRIMARY)
    assert pair.state.member(Seat(Role.PRIMARY)).state is MemberState.READY


def overwrite(data: bytes, place: int) -> None:
    """Flip bits of an immutable object, as a failing memory would."""
    offset = bytes.__basicsize__ - 1
    ctypes.c_char.from_address(id(data) + offset + place).value = bytes([data[place] ^ 0xFF])


def copied(bundle: VerifiedBundle) -> VerifiedBundle:
    return replace(bundle, files={name: bytes(bytearray(data)) for name, data in bundle.files.items()})


def test_scrubbing_finds_bytes_that_changed_in_memory(world: World, bundles) -> None:
    primary = copied(bundles[0])
    pair = pair_of(world, (primary, bundles[1]), settings=Settings(scrub_every_s=5))
    overwrite(primary.files["model/model.tflite"], 3000)
    world.now_s += 4
    assert pair.predict(ROWS).role is Role.PRIMARY
    world.now_s += 1
    assert pair.predict(ROWS).role is Role.BACKUP
    assert pair.diagnoses[0].fault is Fault.CORRUPT_WEIGHTS
    world.now_s += 1
    assert pair.predict(ROWS).role is Role.BACKUP
    assert "not those that were signed" in " ".join(pair.diagnoses[-1].evidence)


def test_a_side_whose_bytes_went_bad_is_verified_again_from_where_it_came(world: World, bundles, made) -> None:
    primary = copied(bundles[0])
    asked = []

    def again(seat: Seat) -> VerifiedBundle:
        asked.append(seat)
        return verified(made, "tiny-backup")

    pair = pair_of(world, (primary, bundles[1]), settings=Settings(scrub_every_s=1), verify_again=again)
    overwrite(primary.files["model/model.tflite"], 3000)
    world.now_s += 2
    assert pair.predict(ROWS).role is Role.BACKUP
    world.now_s += 1
    pair.predict(ROWS)
    assert asked == [Seat(Role.PRIMARY)]
    assert pair.state.member(Seat(Role.PRIMARY)).state is MemberState.READY


def test_another_bundle_where_the_old_one_was_is_not_taken(world: World, bundles, made) -> None:
    primary = copied(bundles[0])
    again = lambda _: verified(made, "tiny-other")  # noqa: E731
    pair = pair_of(world, (primary, bundles[1]), settings=Settings(scrub_every_s=1), verify_again=again)
    overwrite(primary.files["model/model.tflite"], 3000)
    for _ in range(3):
        world.now_s += 2
        assert pair.predict(ROWS).role is Role.BACKUP
    assert "another bundle" in " ".join(pair.diagnoses[-1].evidence)


def test_a_warm_standby_is_loaded_when_it_is_needed_and_still_answers_the_same_call(world: World, bundles) -> None:
    pair = pair_of(world, bundles, settings=Settings(standby=Tier.WARM))
    assert len(world.engines) == 1
    world.engines[0].bend = NAN
    answer = pair.predict(ROWS)
    assert np.array_equal(answer.outputs["probability"], right(bundles))
    assert answer.role is Role.BACKUP


def test_when_nobody_is_left_it_says_so_and_comes_back(world: World, bundles) -> None:
    pair = pair_of(world, bundles)
    for engine in world.engines:
        engine.bend = raising
    world.broken_starts = 2
    with pytest.raises(ModelError):
        pair.predict(ROWS)
    with pytest.raises(Unreachable):
        pair.predict(ROWS)
    world.now_s += 1
    with pytest.raises(Unreachable):
        pair.predict(ROWS)
    world.now_s += 1
    assert np.array_equal(pair.predict(ROWS).outputs["probability"], right(bundles))
    assert pair.state.term == 3  # the standby had the second, for a moment


def test_the_standby_serves_when_the_primary_cannot_be_loaded(world: World, bundles) -> None:
    world.broken_starts = 1
    assert pair_of(world, bundles).predict(ROWS).role is Role.BACKUP


def test_without_any_side_there_is_no_pair(world: World, bundles) -> None:
    world.broken_starts = 2
    with pytest.raises(ModelError, match="cannot be loaded"):
        pair_of(world, bundles)


def test_a_model_that_answers_otherwise_than_packed_does_not_start(world: World, bundles) -> None:
    def opens(model_format: Format, model: bytes, threads: int) -> Session:
        return corrupted(bundles[0])

    with pytest.raises(GoldenMismatch):
        EmbeddedPair(*bundles, open_session=opens)


def test_an_operator_may_switch(world: World, bundles) -> None:
    pair = pair_of(world, bundles)
    pair.switch(Role.BACKUP)
    assert (pair.predict(ROWS).role, pair.predict(ROWS).term) == (Role.BACKUP, 2)
    pair.switch(Role.BACKUP)
    assert "serves already" in pair.notes[-1].text


def test_onnx_is_refused_in_a_sentence(world: World, bundles, made: Sealed) -> None:
    with pytest.raises(NotAccepted, match=r"LiteRT models alone.*dense\.f32\.onnx"):
        pair_of(world, (verified(made, "tiny-primary"), bundles[1]))


def test_two_models_are_no_pair(world: World, bundles) -> None:
    with pytest.raises(NotAccepted, match="two models"):
        pair_of(world, (bundles[0], replace(bundles[1], model="other")))
    other = replace(bundles[1].io, outputs=(replace(bundles[1].io.outputs[0], name="chance"),))
    with pytest.raises(NotAccepted, match="different tensors"):
        pair_of(world, (bundles[0], replace(bundles[1], io=other)))


def test_bytes_that_are_not_the_verified_ones_are_not_loaded(world: World, bundles) -> None:
    bad = [replace(item, files={**item.files, "LICENSE": b"another"}) for item in bundles]
    with pytest.raises(Tampered):
        pair_of(world, (bad[0], bad[1]))


def test_past_its_channels_end_a_pair_refuses_and_keeps_its_models_ready(world: World, bundles, day: Day) -> None:
    pair = pair_of(world, bundles, under=day.under())
    day.go_on(hours=2)
    assert pair.predict(ROWS).role is Role.PRIMARY  # the last second of not_after still counts
    day.go_on(seconds=1)
    for _ in range(3):
        with pytest.raises(Expired, match=r"seq 7.*ended at 2026-06-01T14:00:00Z"):
            pair.predict(ROWS)
    assert [item.fault for item in pair.diagnoses] == [Fault.EXPIRED]
    assert pair.channel is not None and pair.channel.is_expired
    assert len(world.engines) == 2
    assert pair.state.serving is Role.PRIMARY


def test_past_its_channels_end_a_pair_serves_on_with_an_alarm_where_the_policy_says_so(
    world: World, bundles, day: Day
) -> None:
    pair = pair_of(world, bundles, under=day.under(Expiry.SERVE_AND_ALARM))
    day.go_on(days=3)
    answers = [pair.predict(ROWS) for _ in range(3)]
    assert {(answer.role, answer.term) for answer in answers} == {(Role.PRIMARY, 1)}
    assert [item.fault for item in pair.diagnoses] == [Fault.EXPIRED]
    assert [note.kind for note in pair.notes].count(NoteKind.CHANNEL_EXPIRED) == 1


def test_a_pair_that_is_made_past_the_end_does_as_the_policy_says(world: World, bundles, day: Day) -> None:
    day.go_on(days=3)
    with pytest.raises(Expired):
        pair_of(world, bundles, under=day.under())
    assert world.engines == []
    pair = pair_of(world, bundles, under=day.under(Expiry.SERVE_AND_ALARM))
    assert [item.fault for item in pair.diagnoses] == [Fault.EXPIRED]
    assert pair.predict(ROWS).role is Role.PRIMARY


def test_a_due_renewal_is_told_once_and_changes_nothing(world: World, bundles, day: Day) -> None:
    pair = pair_of(world, bundles, under=day.under())
    day.go_on(minutes=61)
    pair.tend()
    assert pair.predict(ROWS).role is Role.PRIMARY
    assert [note.kind for note in pair.notes if "renewed by" in note.text] == [NoteKind.CHANNEL_DUE]
    assert pair.diagnoses == ()


def test_a_renewed_channel_opens_the_door_again_with_the_same_models(world: World, bundles, day: Day) -> None:
    pair = pair_of(world, bundles, under=day.under())
    day.go_on(hours=3)
    with pytest.raises(Expired):
        pair.predict(ROWS)
    pair.renew(day.channel(8, "2026-06-09T00:00:00Z", refresh_by="2026-06-08T00:00:00Z"))
    assert (pair.predict(ROWS).term, len(world.engines)) == (1, 2)
    assert pair.notes[-1].kind is NoteKind.CHANNEL_RENEWED
    assert pair.channel is not None and (pair.channel.seq, pair.channel.is_due) == (8, False)


def test_a_clock_that_is_set_right_ends_the_refusal(world: World, bundles, day: Day) -> None:
    pair = pair_of(world, bundles, under=day.under())
    day.go_on(hours=3)
    with pytest.raises(Expired):
        pair.predict(ROWS)
    day.go_on(hours=-3)
    assert pair.predict(ROWS).role is Role.PRIMARY


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"seq": 6, "ends": "2026-06-09T00:00:00Z"}, RolledBack),
        ({"ends": "2026-06-09T00:00:00Z"}, RolledBack),
        ({"seq": 8}, Expired),
        ({"seq": 8, "ends": "2026-06-09T00:00:00Z", "primary": TINY.primary}, NotAccepted),
        ({"seq": 8, "ends": "2026-06-09T00:00:00Z", "model": "other"}, NotAccepted),
    ],
    ids=["older", "same number", "ended too", "another pair", "another model"],
)
def test_a_channel_that_may_not_follow_leaves_the_door_shut(world: World, bundles, day: Day, changes, error) -> None:
    pair = pair_of(world, bundles, under=day.under())
    day.go_on(hours=3)
    with pytest.raises(error):
        pair.renew(day.channel(**changes))
    with pytest.raises(Expired):
        pair.predict(ROWS)


def test_a_channel_that_revokes_what_runs_is_not_taken(world: World, bundles, day: Day) -> None:
    for revoked in (Revocations(bundles=(bundles[1].bundle_id,)), Revocations(keys=(bundles[0].key_hint,))):
        with pytest.raises(Revoked):
            pair_of(world, bundles, under=day.under(revoked=revoked))
        pair = pair_of(world, bundles, under=day.under())
        with pytest.raises(Revoked):
            pair.renew(day.channel(8, revoked=revoked))


def test_bundles_with_roles_need_the_channel_that_gave_them(world: World, bundles, day: Day) -> None:
    in_roles = tuple(replace(bundle, role=role) for bundle, role in zip(bundles, Role, strict=True))
    with pytest.raises(NotAccepted, match="its end goes unnoticed"):
        pair_of(world, in_roles)
    with pytest.raises(NotAccepted, match="give the primary, then its standby"):
        pair_of(world, bundles[::-1], under=day.under())


STEPS = st.lists(
    st.tuples(
        st.sampled_from([None, *sorted(OBVIOUS)]),
        st.sampled_from([None, *sorted(OBVIOUS)]),
        st.sampled_from([0.0, 0.01, 0.2, 3.0]),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None)
@given(STEPS)
def test_whatever_fails_when_answers_are_right_or_none_and_terms_only_grow(bundles, steps) -> None:
    world, was_bent = World(), False
    pair, expected, term = pair_of(world, bundles), right(bundles), 1
    for primary, standby, wait_s in steps:
        world.engines[-1].bend = OBVIOUS.get(primary or "")
        world.engines[-2 if len(world.engines) > 1 else -1].bend = OBVIOUS.get(standby or "")
        world.now_s += wait_s
        was_bent |= primary is not None or standby is not None
        try:
            answer = pair.predict(ROWS)
        except (ModelError, Unreachable):
            assert was_bent
        else:
            assert np.array_equal(answer.outputs["probability"], expected)
            assert answer.term >= term
            term = answer.term
    assert len(pair.diagnoses) <= 100


def test_it_needs_the_base_install_alone(root: Path) -> None:
    code = (
        "import sys; from pipeline.runtime import EmbeddedPair; print(*sorted({n.split('.')[0] for n in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    extras = {"starlette", "uvicorn", "uvloop", "httptools", "orjson", "setproctitle", "tensorflow", "onnx", "mlflow"}
    assert set(done.stdout.split()) & extras == set()
    assert "numpy" in done.stdout.split()
