import io
import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealed import Sealed, sealed

from pipeline.bundle.canaries import CANARIES_FILE, CANARY_ROWS_MAX
from pipeline.bundle.manifest import TOLERANCES_FILE
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.core.errors import Malformed, NotAccepted
from pipeline.engines.open import open_session
from pipeline.runtime.canaries import Agreement, Canaries, CanaryWatch, canary_rounds, pair_tolerance
from pipeline.runtime.loading import load_ready

ROUND = Canaries(
    {"x": np.zeros((2, 3), np.float32)}, {"y": np.array([[0.5], [0.25]], np.float32)}, {"y": 0.1}
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("canaries"))


@pytest.fixture(scope="module")
def primary(made: Sealed) -> VerifiedBundle:
    return verify_bundle(made.primary, load_policy(made.trust), datetime.now(UTC))


@pytest.fixture(scope="module")
def backup(made: Sealed) -> VerifiedBundle:
    return verify_bundle(made.backup, load_policy(made.trust), datetime.now(UTC))


def changed(bundle: VerifiedBundle, name: str, **changes: object) -> VerifiedBundle:
    value = {**json.loads(bundle.files[name]), **changes}
    return replace(bundle, files={**bundle.files, name: json.dumps(value).encode()})


def golden_rows(bundle: VerifiedBundle) -> np.ndarray:
    return np.load(io.BytesIO(bundle.files["warmup/inputs.npz"]))["features"]


def without(bundle: VerifiedBundle, *names: str) -> VerifiedBundle:
    return replace(bundle, files={name: data for name, data in bundle.files.items() if name not in names})


def test_every_round_holds_the_chosen_rows_and_all_golden_rows_come_round(backup: VerifiedBundle) -> None:
    rounds = canary_rounds(backup)
    chosen = json.loads(backup.files[CANARIES_FILE])["rows"]
    golden = golden_rows(backup)
    always = {golden[row].tobytes() for row in chosen}
    asked = [{row.tobytes() for row in item.inputs["features"]} for item in rounds]
    assert all(always <= item for item in asked)
    assert set.union(*asked) == {row.tobytes() for row in golden}
    assert max(item.rows for item in rounds) <= 2 * CANARY_ROWS_MAX


def test_a_healthy_model_passes_every_round_again_and_again(primary: VerifiedBundle, backup: VerifiedBundle) -> None:
    for bundle in (primary, backup):
        session = load_ready(bundle)
        watch = CanaryWatch(canary_rounds(bundle))
        for _ in range(30):
            turn = watch.next_turn()
            assert watch.check(turn, session.run(watch.inputs(turn))) is None


def test_a_bundle_without_a_plan_is_watched_by_its_first_rows(backup: VerifiedBundle) -> None:
    rounds = canary_rounds(without(backup, CANARIES_FILE))
    assert all(np.array_equal(item.inputs["features"][:8], rounds[0].inputs["features"][:8]) for item in rounds)


def test_a_plan_that_names_rows_that_are_not_there_is_malformed(backup: VerifiedBundle) -> None:
    with pytest.raises(Malformed, match="row 999"):
        canary_rounds(changed(backup, CANARIES_FILE, rows=[999], watched=[]))


@pytest.mark.parametrize(
    "outputs",
    [
        {},
        {"y": np.zeros((2, 2), np.float32)},
        {"y": np.array([[0.5], [np.nan]], np.float32)},
        {"y": np.array([[0.5], [np.inf]], np.float32)},
        {"y": np.array([[0.5], [0.36]], np.float32)},
    ],
)
def test_wrong_answers_to_canaries_are_told(outputs: dict[str, np.ndarray]) -> None:
    assert "'y' differs" in str(ROUND.check(outputs))


def test_golden_tolerance_is_for_other_processors_and_the_first_own_answer_for_this_one() -> None:
    watch = CanaryWatch((ROUND,))
    own = {"y": np.array([[0.55], [0.2]], np.float32)}
    assert watch.check(0, own) is None
    moved = {"y": own["y"] + np.float32(0.001)}
    assert ROUND.check(moved) is None
    assert "0.001 from the known" in str(watch.check(0, moved))
    assert watch.check(0, own) is None


def test_an_answer_beyond_golden_tolerance_is_never_taken_as_the_models_own() -> None:
    watch = CanaryWatch((ROUND,))
    wrong = {"y": np.array([[0.9], [0.2]], np.float32)}
    assert watch.check(0, wrong) is not None
    assert watch.check(0, wrong) is not None


def test_another_arrays_owner_cannot_move_what_is_known() -> None:
    watch = CanaryWatch((ROUND,))
    lent = np.array([[0.5], [0.25]], np.float32)
    assert watch.check(0, {"y": lent}) is None
    lent += np.float32(0.05)  # an arena slot that is used again
    assert watch.check(0, {"y": lent}) is not None


def test_two_bundles_of_one_parent_agree_within_their_distances(
    primary: VerifiedBundle, backup: VerifiedBundle
) -> None:
    agreement = pair_tolerance(primary, backup)
    assert agreement.source == "distances from the float parent"
    rows = {"features": np.random.default_rng(5).normal(size=(3000, 8)).astype(np.float32)}
    ours, theirs = (load_ready(bundle).run(rows) for bundle in (primary, backup))
    assert agreement.agreeing_rows(ours, theirs).mean() >= 0.98


def test_old_bundles_are_compared_by_the_golden_rows_that_they_share(
    primary: VerifiedBundle, backup: VerifiedBundle
) -> None:
    parents = json.loads(backup.files[TOLERANCES_FILE])["from_parent"]
    other = changed(backup, TOLERANCES_FILE, from_parent={**parents, "sha256": "0" * 64})
    for one in (changed(backup, TOLERANCES_FILE, from_parent=None), other):
        agreement = pair_tolerance(primary, one)
        assert agreement.source == "golden answers"
        assert 2e-5 <= agreement.tolerances["probability"] < 1e-3


def test_bundles_that_share_nothing_cannot_be_compared(primary: VerifiedBundle, backup: VerifiedBundle) -> None:
    old = changed(backup, TOLERANCES_FILE, from_parent=None)
    stream = io.BytesIO()
    np.savez(stream, features=np.ones_like(golden_rows(old)))
    stranger = replace(old, files={**old.files, "warmup/inputs.npz": stream.getvalue()})
    with pytest.raises(NotAccepted, match="share no golden rows"):
        pair_tolerance(primary, stranger)


@pytest.mark.parametrize(
    "from_parent",
    [
        {"more": 1},
        {"sha256": "no"},
        {"rows": 0},
        {"absolute": {}},
        {"absolute": {"probability": {"p50": -1, "p90": 0, "p99": 0, "p99_9": 0, "p100": 0}}},
        {"decisions_differ_ratio": {"probability": 2}},
        {"threshold": "half"},
    ],
)
def test_a_distance_that_breaks_the_format_is_malformed(
    primary: VerifiedBundle, backup: VerifiedBundle, from_parent: dict[str, object]
) -> None:
    good = json.loads(backup.files[TOLERANCES_FILE])["from_parent"]
    with pytest.raises(Malformed):
        pair_tolerance(primary, changed(backup, TOLERANCES_FILE, from_parent={**good, **from_parent}))


VALUES = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40)


@given(VALUES, st.floats(0, 1), st.floats(0.001, 2))
def test_agreement_is_symmetric_and_nan_agrees_with_nothing(values: list[float], gap: float, tolerance: float) -> None:
    agreement = Agreement({"y": tolerance}, "a test")
    one = {"y": np.array(values, np.float64)[:, None]}
    other = {"y": one["y"] + gap}
    expected = np.abs(one["y"] - other["y"])[:, 0] <= tolerance
    assert agreement.agreeing_rows(one, other).tolist() == expected.tolist()
    assert agreement.agree(one, other) == agreement.agree(other, one) == expected.all()
    bad = {"y": other["y"].copy()}
    bad["y"][0] = np.nan
    assert not agreement.agree(one, bad)
    assert not agreement.agree(bad, bad)
    assert not agreement.agree(one, {"y": other["y"][:, 0]})
    assert not agreement.agree(one, {})


def test_corrupted_executed_weights_are_seen_though_the_hash_of_the_bytes_is_good(backup: VerifiedBundle) -> None:
    model = backup.files["model/model.tflite"]
    watch = CanaryWatch(canary_rounds(backup))
    session = load_ready(backup)
    for _ in range(len(canary_rounds(backup))):
        turn = watch.next_turn()
        assert watch.check(turn, session.run(watch.inputs(turn))) is None
    bytes_ = np.frombuffer(model, np.uint8).copy()
    middle = len(model) // 8 * 4  # all but the ends of this file are float32 weights
    bytes_[middle + 3 : middle + 403 : 4] ^= 0x80
    corrupted = open_session(backup.manifest.entrypoint.format, bytes_.tobytes())
    turn = watch.next_turn()
    assert watch.check(turn, corrupted.run(watch.inputs(turn))) is not None
