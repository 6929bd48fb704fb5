"""The traps of converted models: state that leaks, fixed batches, missing signatures, swapped outputs."""

import copy
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.engines.open import open_session

HERE = Path(__file__).parent
DENSE = HERE.parent / "fixtures" / "models" / "tiny_dense.tflite"
LSTM = HERE / "models" / "tiny_lstm.tflite"


def edited(path: Path, edit: Any) -> bytes:
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(path.read_bytes(), 0))
    edit(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def without_signatures(model: Any) -> None:
    model.signatureDefs = None


def with_two_unnamed_signatures(model: Any) -> None:
    model.signatureDefs[0].signatureKey = "first"
    model.signatureDefs.append(copy.copy(model.signatureDefs[0]))
    model.signatureDefs[1].signatureKey = "second"


def with_fixed_batch(rows: int) -> Any:
    def edit(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            if tensor.shapeSignature is not None and len(tensor.shapeSignature) and tensor.shapeSignature[0] == -1:
                tensor.shape = np.array([rows, *tensor.shape[1:]], np.int32)
                tensor.shapeSignature = None

    return edit


def steps(rows: int) -> dict[str, np.ndarray]:
    return {"steps": np.random.default_rng(1).normal(size=(rows, 5, 3)).astype(np.float32)}


def test_a_recurrent_models_state_does_not_leak_into_the_next_call() -> None:
    session = open_session(Format.TFLITE, LSTM.read_bytes())
    inputs = steps(1)
    first = session.run(inputs)
    session.run(steps(4))
    again = session.run(inputs)
    for name in first:
        np.testing.assert_array_equal(first[name], again[name])


def test_rows_of_one_call_do_not_leak_into_each_other() -> None:
    session = open_session(Format.TFLITE, LSTM.read_bytes())
    inputs = steps(6)
    together = session.run(inputs)["dense"]
    single = [session.run({"steps": inputs["steps"][i : i + 1]})["dense"] for i in reversed(range(6))]
    np.testing.assert_array_equal(together, np.concatenate(single[::-1]))


def test_outputs_of_equal_shape_are_not_swapped() -> None:
    session = open_session(Format.TFLITE, LSTM.read_bytes())
    assert [spec.name for spec in session.outputs] == ["dense", "dense_1"]
    answer = session.run(steps(1))
    assert not np.allclose(answer["dense"], answer["dense_1"])


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_fixed_batch_still_takes_any_number_of_rows(batch: int, rows: int) -> None:
    x = np.random.default_rng(2).normal(size=(rows, 8)).astype(np.float32)
    fixed = open_session(Format.TFLITE, edited(DENSE, with_fixed_batch(batch)))
    free = open_session(Format.TFLITE, DENSE.read_bytes())
    assert fixed.inputs[0].shape == (-1, 8)
    np.testing.assert_allclose(
        fixed.run({"features": x})["probability"], free.run({"features": x})["probability"], atol=1e-6
    )


def test_a_model_without_signatures_is_called_by_its_tensors_names() -> None:
    x = np.random.default_rng(2).normal(size=(5, 8)).astype(np.float32)
    bare = open_session(Format.TFLITE, edited(DENSE, without_signatures))
    signed = open_session(Format.TFLITE, DENSE.read_bytes())
    (answer,) = bare.run({bare.inputs[0].name: x}).values()
    np.testing.assert_array_equal(answer, signed.run({"features": x})["probability"])


def test_an_ambiguous_choice_of_signature_is_refused() -> None:
    with pytest.raises(ModelError, match="first, second"):
        open_session(Format.TFLITE, edited(DENSE, with_two_unnamed_signatures))
