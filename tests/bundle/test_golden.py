import numpy as np
import pytest
from sealed import tiny_payload

from pipeline.bundle.golden import Golden, check_golden, read_golden
from pipeline.core.errors import GoldenMismatch, Malformed
from pipeline.core.names import Format


@pytest.fixture
def golden() -> Golden:
    return read_golden(tiny_payload(Format.TFLITE))


def test_the_model_that_was_packed_passes(golden: Golden) -> None:
    assert check_golden(golden, lambda _: golden.outputs) == {"probability": 0.0}


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_answers_are_judged_by_the_tolerance(golden: Golden, factor: float) -> None:
    moved = golden.outputs["probability"].astype(np.float64)
    moved[3] += factor * golden.tolerances.absolute["probability"]
    if factor < 1:
        check_golden(golden, lambda _: {"probability": moved})
    else:
        with pytest.raises(GoldenMismatch, match="probability differs"):
            check_golden(golden, lambda _: {"probability": moved})


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"probability": np.zeros((1, 1))},
        {"probability": np.full((32, 1), np.nan)},
        {"probability": np.full((32, 1), np.inf)},
    ],
)
def test_answers_that_cannot_be_compared_are_a_mismatch(golden: Golden, answers) -> None:
    with pytest.raises(GoldenMismatch):
        check_golden(golden, lambda _: answers)


def test_golden_files_that_do_not_fit_each_other_are_malformed() -> None:
    files = dict(tiny_payload(Format.TFLITE))
    files["golden/tolerances.json"] = files["golden/tolerances.json"].replace(b"probability", b"chance")
    with pytest.raises(Malformed):
        read_golden(files)
    files["golden/outputs.npz"] = b"not an archive"
    with pytest.raises(Malformed):
        read_golden(files)
