import numpy as np
import pytest
from tiny_models import MODELS, answers, dense_rows, embedding_rows

from pipeline.compress.schemes.bias import believable_shift
from pipeline.compress.schemes.storing import correct_biases, prepare, store
from pipeline.core.names import Format, Scheme

ROWS = {"tiny_dense": dense_rows(2000, seed=3)[0], "tiny_embedding": embedding_rows(2000, seed=3)}


@pytest.mark.parametrize("scheme", [Scheme.W4, Scheme.W4D, Scheme.W8D])
@pytest.mark.parametrize("name", list(ROWS))
def test_corrected_file_has_the_same_size_and_answers_no_worse(name: str, scheme: Scheme) -> None:
    prepared = prepare(Format.TFLITE, (MODELS / f"{name}.tflite").read_bytes())
    stored = store(Format.TFLITE, prepared, scheme, None)
    calibration = {key: values[:1000] for key, values in ROWS[name].items()}
    others = {key: values[1000:] for key, values in ROWS[name].items()}
    corrected = correct_biases(Format.TFLITE, prepared, stored, [calibration])
    wanted = answers(Format.TFLITE, prepared, others)
    before, after = (
        float(np.square(answers(Format.TFLITE, model, others) - wanted).mean()) for model in (stored, corrected)
    )
    assert len(corrected) == len(stored)
    assert after <= before * 1.05
    if scheme is not Scheme.W8D and name == "tiny_embedding":
        assert after < before


def test_static_file_without_float_biases_is_left_as_it_is() -> None:
    prepared = prepare(Format.TFLITE, (MODELS / "tiny_dense.tflite").read_bytes())
    assert correct_biases(Format.TFLITE, prepared, prepared, []) == prepared


def test_shift_is_believed_as_far_as_the_rows_agree() -> None:
    rng = np.random.default_rng(0)
    errors = np.stack([np.full(400, 0.5), np.tile([1.0, -1.0], 200)], 1)
    np.testing.assert_allclose(believable_shift(errors), [0.5, 0.0])
    noisy = (0.1 + rng.normal(0, 1, (400, 1))).astype(np.float64)
    assert abs(believable_shift(noisy)[0]) < abs(noisy.mean())
