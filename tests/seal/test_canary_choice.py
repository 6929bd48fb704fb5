import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sealed import MODELS, tiny_payload

from pipeline.bundle.canaries import CANARY_ROWS_MAX, read_canaries
from pipeline.core.names import Format
from pipeline.core.tensors import decode_npz
from pipeline.engines.open import open_session
from pipeline.seal.canaries import Tried, cover, moved_rows, read_constants, try_corruptions
from pipeline.seal.constants import Constant, high_bits
from pipeline.seal.corruption import corruptions
from pipeline.seal.golden_rows import GOLDEN_ROWS, golden_and_canaries

BOTH = pytest.mark.parametrize("model_format", list(Format))
CONSTANT = Constant(0, "w", "MATMUL", bytes(64), 4, 1 << 31)


def _embedding(model_format: Format) -> bytes:
    return (MODELS / f"tiny_embedding.{model_format}").read_bytes()


def _ids(model_format: Format, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    specs = open_session(model_format, _embedding(model_format)).inputs
    return {
        spec.name: rng.integers(0, 12, (rows, *spec.shape[1:])).astype(spec.dtype)
        if spec.dtype.startswith("int")
        else rng.random((rows, *spec.shape[1:]), dtype=np.float32)
        for spec in specs
    }


@BOTH
def test_every_weight_and_bias_of_the_tiny_model_is_found(model_format: Format) -> None:
    file = read_constants(model_format, (MODELS / f"tiny_dense.{model_format}").read_bytes())
    assert sum(len(item.data) for item in file.constants) == 4 * 833  # its parameters, in float32
    assert {item.high_bits for item in file.constants} == {1 << 31}


@BOTH
def test_a_changed_constant_is_read_back_and_the_file_is_else_the_same(model_format: Format) -> None:
    model = (MODELS / f"tiny_dense.{model_format}").read_bytes()
    file = read_constants(model_format, model)
    for constant in file.constants:
        other = bytes(reversed(constant.data))
        found = read_constants(model_format, file.changed(constant, other)).constants
        assert [item.data for item in found] == [
            other if item.place == constant.place else item.data for item in file.constants
        ]
    with pytest.raises(ValueError, match="bytes, not"):
        file.changed(file.constants[0], b"")


@BOTH
def test_every_corruption_that_moves_an_answer_moves_a_canary(model_format: Format) -> None:
    files = tiny_payload(model_format)
    plan = read_canaries(files, GOLDEN_ROWS + CANARY_ROWS_MAX)
    assert plan is not None
    assert plan.uncovered == ()
    assert sum(item.moved for item in plan.watched) >= 0.9 * sum(item.tried for item in plan.watched) > 0
    for item in plan.watched:
        assert (item.harmful_seen, item.moved_seen) == (item.harmful, item.moved)


@BOTH
def test_canaries_see_corruptions_that_they_were_not_chosen_for(model_format: Format) -> None:
    files = tiny_payload(model_format)
    model = files[f"model/model.{model_format}"]
    inputs = decode_npz(files["warmup/inputs.npz"], "inputs", ValueError)
    tolerances = json.loads(files["golden/tolerances.json"])["absolute"]
    plan = read_canaries(files, len(inputs["features"]))
    tried = try_corruptions(model_format, model, read_constants(model_format, model), inputs, tolerances, seed=99)
    harmful = [item for item in tried if item.is_harmful]
    seen = [item.moved[list(plan.rows)].any() for item in harmful]
    assert len(seen) > 20
    assert np.mean(seen) >= 0.97


@BOTH
def test_rows_are_added_that_look_up_every_entry_of_a_table(model_format: Format) -> None:
    golden, plan = golden_and_canaries(
        model_format, _embedding(model_format), _ids(model_format, 300), seed=1, integer_activations=False
    )
    file = read_constants(model_format, _embedding(model_format))
    entries = {item.name: item.entries for item in file.constants if item.entries}
    assert {table.constant: table.entries for table in plan.tables} == entries != {}
    for table in plan.tables:
        assert table.seen_ratio == pytest.approx(min(1, 12 / table.entries), abs=1e-3)
    assert max(plan.rows) < len(next(iter(golden.inputs.values())))


def test_bundles_of_one_model_share_their_first_golden_rows() -> None:
    ours, theirs = (decode_npz(tiny_payload(item)["warmup/inputs.npz"], "inputs", ValueError) for item in Format)
    assert np.array_equal(ours["features"][:GOLDEN_ROWS], theirs["features"][:GOLDEN_ROWS])


@given(st.data())
def test_cover_shows_whatever_eight_rows_can_show(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 40))
    shown = data.draw(st.lists(st.lists(st.booleans(), min_size=rows, max_size=rows), max_size=6))
    tried = [Tried(CONSTANT, np.array(item), np.array(item)) for item in shown]
    chosen = cover(tried, rows)
    assert chosen == sorted(set(chosen)) == cover(tried, rows)
    assert len(chosen) == min(rows, CANARY_ROWS_MAX)
    assert set(chosen) <= set(range(rows))
    for item in tried:  # six corruptions at most, so eight rows suffice
        assert item.moved[chosen].any() == item.moved.any()


def test_harmful_corruptions_come_first_when_rows_are_few() -> None:
    never = np.zeros(20, np.bool_)
    slight = np.arange(20) < 10
    harmful = np.arange(20) == 15
    tried = [Tried(CONSTANT, never, slight), Tried(CONSTANT, harmful, harmful)]
    assert cover(tried, 20, rows_max=1) == [15]


def test_nan_counts_as_moved() -> None:
    clean = {"y": np.zeros((3, 2), np.float32)}
    answers = {"y": np.array([[0, 0], [np.nan, 0], [0, np.inf]], np.float32)}
    assert moved_rows(clean, answers, {"y": 0.1}).tolist() == [False, True, True]


@pytest.mark.parametrize(("item_bytes", "bits", "mask"), [(4, 32, 1 << 31), (1, 8, 0x80), (1, 4, 0x88), (1, 2, 0xAA)])
def test_high_bits_of_numbers_that_share_a_byte(item_bytes: int, bits: int, mask: int) -> None:
    assert high_bits(item_bytes, bits) == mask


@given(data=st.binary(min_size=1, max_size=300), item_bytes=st.sampled_from([1, 2, 4]), seed=st.integers(0, 2**32))
def test_corruptions_keep_the_length_and_repeat_with_their_seed(data: bytes, item_bytes: int, seed: int) -> None:
    data += bytes(-len(data) % item_bytes)
    constant = Constant(0, "w", "MATMUL", data, item_bytes, high_bits(item_bytes, 8 * item_bytes))
    for corruption in corruptions(2):
        once, again = (corruption.corrupt(constant, np.random.default_rng(seed)) for _ in range(2))
        assert once == again
        assert len(once) == len(data)
        if corruption.way.__name__ != "zero_run":
            assert once != data
