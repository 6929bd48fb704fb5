import json
from dataclasses import replace

import numpy as np
import pytest
from sealed import RECIPE, tiny_inputs, tiny_payload, tiny_rows

from pipeline.bundle.canaries import CANARIES_FILE
from pipeline.bundle.golden import check_golden, read_golden
from pipeline.bundle.manifest import REQUIRED_FILES
from pipeline.core.errors import DataError, ModelError
from pipeline.core.names import Format, Scheme
from pipeline.core.recipe import Metric
from pipeline.engines.open import open_session
from pipeline.seal.measured import TOLERANCE_MIN, output_rule, tolerance
from pipeline.seal.payload import build_payload
from pipeline.seal.synthetic import synthetic_rows

BOTH = pytest.mark.parametrize("model_format", list(Format))


@BOTH
def test_equal_inputs_give_equal_bytes(model_format: Format) -> None:
    assert build_payload(tiny_inputs(model_format)) == tiny_payload(model_format)


@BOTH
def test_every_file_of_the_format_is_there_and_nothing_else(model_format: Format) -> None:
    assert set(tiny_payload(model_format)) == {*REQUIRED_FILES, CANARIES_FILE, f"model/model.{model_format}"}


@BOTH
def test_the_sealed_model_passes_its_own_golden_check(model_format: Format) -> None:
    files = tiny_payload(model_format)
    session = open_session(model_format, files[f"model/model.{model_format}"])
    assert max(check_golden(read_golden(files), session.run).values()) <= TOLERANCE_MIN


def test_another_seed_gives_other_golden_rows() -> None:
    given = tiny_inputs(Format.TFLITE)
    other = build_payload(replace(given, recipe=replace(RECIPE, seed=6)))
    assert other["warmup/inputs.npz"] != tiny_payload(Format.TFLITE)["warmup/inputs.npz"]


def test_the_payload_names_no_role_clock_or_host() -> None:
    text = b"\n".join(data for name, data in tiny_payload(Format.TFLITE).items() if name.endswith(("json", "md")))
    manifest = json.loads(tiny_payload(Format.TFLITE)["bundle.json"])
    assert "role" not in manifest
    for word in (b"latency", b"rss_mb", b"load_ms", b"primary", b"backup", b"2026"):
        assert word not in text


def test_the_scorecard_travels_without_timings_and_with_the_locked_test() -> None:
    card = json.loads(tiny_payload(Format.TFLITE)["scorecard.json"])
    assert card["task"]["value"] == 0.93
    assert card["locked_test"]["rows"] == 400
    assert "timings" not in card


def test_the_model_card_tells_what_a_person_needs() -> None:
    card = tiny_payload(Format.TFLITE)["MODEL_CARD.md"].decode()
    for words in ("# A tiny model", "Knows one rule.", "-0.0010 to +0.0010", "hotspare verify", "no real row"):
        assert words in card


def test_calibration_rows_that_do_not_fit_are_a_data_error() -> None:
    given = tiny_inputs(Format.TFLITE)
    with pytest.raises(DataError):
        build_payload(replace(given, calibration={"other": tiny_rows(10)["features"]}))


def test_a_model_that_answers_nan_is_not_sealed() -> None:
    given = tiny_inputs(Format.TFLITE)
    with pytest.raises(ModelError, match="NaN"):
        build_payload(replace(given, calibration={"features": np.full((9, 8), 3e38, np.float32)}))


@pytest.mark.parametrize(
    ("difference", "expected"), [(0.0, 1e-5), (1e-9, 1e-5), (4e-3, 2**-7), (0.0078125, 2**-7), (0.04, 2**-4)]
)
def test_tolerances_are_rounded_up_to_a_power_of_two(difference: float, expected: float) -> None:
    assert tolerance(difference) == expected
    assert tolerance(difference) >= difference


@pytest.mark.parametrize(
    ("values", "declared", "expected"),
    [
        ([[0.1], [0.9]], True, (0.0, 1.0, False, "declared")),
        ([[0.1], [1.5]], True, (0.1, 1.5, False, "observed")),
        ([[0.25, 0.75], [0.5, 0.5]], True, (0.0, 1.0, True, "declared")),
        ([[0.5, 0.75], [0.5, 0.5]], True, (0.0, 1.0, False, "declared")),
        ([[0.25, 0.75]], False, (0.25, 0.75, False, "observed")),
    ],
)
def test_output_rules(values, declared: bool, expected) -> None:
    rule = output_rule("p", np.array(values), declared)
    assert (rule.minimum, rule.maximum, rule.simplex, rule.source) == expected


def test_integer_models_get_room_for_other_processors_rounding() -> None:
    given = tiny_inputs(Format.TFLITE)
    payload = build_payload(replace(given, record=replace(given.record, scheme=Scheme.W8A8)))
    assert json.loads(payload["golden/tolerances.json"])["absolute"]["probability"] == 2**-7
    floats = json.loads(tiny_payload(Format.TFLITE)["golden/tolerances.json"])["absolute"]["probability"]
    assert floats == TOLERANCE_MIN


def test_a_regression_declares_no_probabilities() -> None:
    given = tiny_inputs(Format.TFLITE)
    payload = build_payload(replace(given, recipe=replace(RECIPE, metric=Metric.RMSE)))
    assert json.loads(payload["io.json"])["rules"][0]["source"] == "observed"


def test_an_unquantized_model_card_does_not_speak_of_quantized_weights() -> None:
    given = tiny_inputs(Format.TFLITE)
    record = replace(given.record, scheme=Scheme.W8, quantized_ratio=0.97)
    card = build_payload(replace(given, record=record))["MODEL_CARD.md"].decode()
    assert "97% of the float weight bytes" in card
    assert "float weight bytes" not in tiny_payload(Format.TFLITE)["MODEL_CARD.md"].decode()


def test_no_real_row_and_no_extreme_travels() -> None:
    real = {"x": np.random.default_rng(0).normal(size=(2000, 6)).astype(np.float32)}
    real["x"][5] = 1000.0
    drawn = synthetic_rows(real, 64, seed=1)["x"]
    assert drawn.shape == (64, 6)
    assert drawn.dtype == np.float32
    assert np.abs(drawn).max() < 10
    assert not {row.tobytes() for row in drawn} & {row.tobytes() for row in real["x"]}


def test_columns_are_drawn_independently_from_their_own_marginals() -> None:
    base = np.random.default_rng(0).normal(size=5000)
    real = {"x": np.stack([base, base * 2 + 7], axis=1).astype(np.float32)}
    drawn = synthetic_rows(real, 2000, seed=1)["x"]
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.1
    np.testing.assert_allclose(drawn.mean(axis=0), [0, 7], atol=0.2)


def test_ids_stay_in_range_and_few_values_stay_themselves() -> None:
    rng = np.random.default_rng(0)
    real = {
        "item": rng.integers(3, 50, (500, 1), dtype=np.int32),
        "flag": rng.integers(0, 2, (500, 3)).astype(np.float32),
        "picture": rng.random((40, 4, 4, 1), dtype=np.float32),
    }
    drawn = synthetic_rows(real, 100, seed=1)
    assert drawn["item"].dtype == np.int32
    assert drawn["item"].min() >= 3
    assert drawn["item"].max() < 50
    assert set(np.unique(drawn["flag"])) == {0.0, 1.0}
    assert drawn["picture"].shape == (100, 4, 4, 1)
