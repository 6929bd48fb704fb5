import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tiny_models import MODELS, answers, dense_rows, embedding_rows

from pipeline.compress.schemes.slimming import _merge_buffers, slimmed
from pipeline.compress.schemes.storing import calibrate, prepare, store
from pipeline.compress.schemes.tflite_file import parse_tflite
from pipeline.core.names import Format, Scheme
from pipeline.engines.open import open_session

ROWS = {"tiny_dense": dense_rows(200, seed=3)[0], "tiny_embedding": embedding_rows(200, seed=3)}


@pytest.mark.parametrize("scheme", Scheme)
@pytest.mark.parametrize("name", list(ROWS))
def test_slim_file_is_smaller_and_answers_bit_for_bit(name: str, scheme: Scheme) -> None:
    prepared = prepare(Format.TFLITE, (MODELS / f"{name}.tflite").read_bytes())
    stored = store(Format.TFLITE, prepared, scheme, calibrate(Format.TFLITE, prepared, [ROWS[name]]))
    slim = slimmed(stored)
    assert len(slim) < len(stored)
    assert slimmed(slim) == slim
    np.testing.assert_array_equal(answers(Format.TFLITE, slim, ROWS[name]), answers(Format.TFLITE, stored, ROWS[name]))
    before, after = open_session(Format.TFLITE, stored), open_session(Format.TFLITE, slim)
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)


def test_slim_lstm_keeps_its_states_and_several_outputs() -> None:
    export = (MODELS.parents[1] / "engines" / "models" / "tiny_lstm.tflite").read_bytes()
    slim = slimmed(export)
    before, after = open_session(Format.TFLITE, export), open_session(Format.TFLITE, slim)
    rng = np.random.default_rng(0)
    rows = {
        spec.name: rng.normal(size=[5 if axis == -1 else axis for axis in spec.shape]).astype(spec.dtype)
        for spec in before.inputs
    }
    wanted, found = before.run(rows), after.run(rows)
    assert len(slim) < len(export)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


def test_only_inputs_and_outputs_keep_names(dense_tflite: bytes) -> None:
    graph = parse_tflite(slimmed(dense_tflite)).subgraphs[0]
    named = {index for index, tensor in enumerate(graph.tensors) if tensor.name}
    assert named == {*graph.inputs, *graph.outputs}


def test_equal_weights_are_stored_once_and_equal_biases_apart(dense_tflite: bytes) -> None:
    twice = parse_tflite(dense_tflite)
    graph = twice.subgraphs[0]
    constants = [t for t in graph.tensors if t.type == schema.TensorType.FLOAT32 and len(t.shape) == 2 and t.buffer]
    matrix = next(t for t in constants if twice.buffers[t.buffer].data is not None)
    copy = schema.BufferT()
    copy.data = twice.buffers[matrix.buffer].data
    twice.buffers.append(copy)
    again = schema.TensorT()
    again.name, again.shape, again.type, again.buffer = b"again", matrix.shape, matrix.type, len(twice.buffers) - 1
    graph.tensors.append(again)
    _merge_buffers(twice)
    assert again.buffer == matrix.buffer
    vectors = [t.buffer for t in graph.tensors if len(t.shape) == 1 and twice.buffers[t.buffer].data is not None]
    assert len(set(vectors)) == len(vectors)
