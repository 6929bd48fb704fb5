import os
from pathlib import Path

import numpy as np
import pytest

from pipeline.core.errors import DataError, ModelError
from pipeline.core.names import Format
from pipeline.engines.base import TensorSpec
from pipeline.engines.litert import open_litert
from pipeline.engines.open import open_session

MODELS = Path(__file__).parents[1] / "fixtures" / "models"
BOTH = pytest.mark.parametrize("model_format", list(Format))


def dense(model_format: Format) -> bytes:
    return (MODELS / f"tiny_dense.{model_format}").read_bytes()


def rows(count: int) -> dict[str, np.ndarray]:
    return {"features": np.random.default_rng(3).normal(size=(count, 8)).astype(np.float32)}


@BOTH
def test_names_dtypes_and_shapes_are_those_of_the_signature(model_format: Format) -> None:
    session = open_session(model_format, dense(model_format))
    assert session.inputs == (TensorSpec("features", "float32", (-1, 8)),)
    assert session.outputs == (TensorSpec("probability", "float32", (-1, 1)),)


@BOTH
def test_any_number_of_rows_gives_the_same_answers_as_one_by_one(model_format: Format) -> None:
    session = open_session(model_format, dense(model_format))
    inputs = rows(7)
    together = session.run(inputs)["probability"]
    single = [session.run({"features": inputs["features"][i : i + 1]})["probability"] for i in range(7)]
    assert together.shape == (7, 1)
    np.testing.assert_allclose(together, np.concatenate(single), atol=1e-6)


@BOTH
def test_the_model_answers_by_the_rule_it_learnt(model_format: Format) -> None:
    x = rows(500)["features"]
    answer = open_session(model_format, dense(model_format), threads=2).run({"features": x})["probability"]
    truth = x[:, :1] * x[:, 1:2] + x[:, 2:3] > 0
    assert np.mean((answer > 0.5) == truth) > 0.95


@BOTH
def test_several_inputs_are_taken_by_name(model_format: Format) -> None:
    session = open_session(model_format, (MODELS / f"tiny_embedding.{model_format}").read_bytes())
    user = np.arange(40, dtype=np.int32).reshape(-1, 1)
    item = np.arange(40, dtype=np.int32)[::-1].reshape(-1, 1).copy()
    answer = session.run({"item": item, "user": user})["probability"]
    assert np.mean((answer > 0.5) == (user % 4 == item % 4)) > 0.95


def test_both_formats_of_one_model_agree() -> None:
    inputs = rows(64)
    answers = [open_session(f, dense(f)).run(inputs)["probability"] for f in Format]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


def test_plain_kernels_agree_with_xnnpack() -> None:
    inputs = rows(64)
    answers = [open_litert(dense(Format.TFLITE), xnnpack=on).run(inputs)["probability"] for on in (True, False)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)


@BOTH
@pytest.mark.parametrize("harm", ["empty", "cut", "noise", "zeros"])
def test_unreadable_bytes_are_a_model_error(model_format: Format, harm: str) -> None:
    whole = dense(model_format)
    broken = {"empty": b"", "cut": whole[: len(whole) // 2], "noise": os.urandom(len(whole)), "zeros": bytes(2000)}[
        harm
    ]
    with pytest.raises(ModelError):
        open_session(model_format, broken)


@BOTH
@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "'features' is missing"),
        ({**rows(2), "more": np.zeros((2, 1))}, "'more' is not an input"),
        ({"features": np.zeros((2, 8))}, "float64"),
        ({"features": np.zeros((2, 9), np.float32)}, "(n, 8)"),
        ({"features": np.zeros(8, np.float32)}, "(n, 8)"),
        ({"features": np.zeros((0, 8), np.float32)}, "no rows"),
    ],
)
def test_inputs_that_do_not_fit_are_a_data_error(
    model_format: Format, inputs: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(DataError) as caught:
        open_session(model_format, dense(model_format)).run(inputs)
    assert said in str(caught.value)


def test_inputs_of_unequal_length_are_a_data_error() -> None:
    session = open_session(Format.TFLITE, (MODELS / "tiny_embedding.tflite").read_bytes())
    with pytest.raises(DataError, match="number of rows"):
        session.run({"user": np.zeros((2, 1), np.int32), "item": np.zeros((3, 1), np.int32)})
