import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tiny_models import answers, embedding_rows

from pipeline.compress.schemes.coverage import stored_weights
from pipeline.compress.schemes.embedding import look_up_embeddings
from pipeline.compress.schemes.tflite_file import operators, parse_tflite, write_tflite
from pipeline.compress.schemes.tflite_schemes import quantizable, quantize_tflite
from pipeline.core.names import Format, Scheme

TABLES = 50 * 16 + 80 * 16


def test_gather_over_a_table_becomes_a_lookup_with_bit_identical_answers(embedding_tflite: bytes) -> None:
    model = parse_tflite(embedding_tflite)
    assert look_up_embeddings(model) == 2
    assert not list(operators(model, schema.BuiltinOperator.GATHER))
    for rows in (1, 7, 300):
        inputs = embedding_rows(rows, seed=rows)
        before = answers(Format.TFLITE, embedding_tflite, inputs)
        np.testing.assert_array_equal(answers(Format.TFLITE, write_tflite(model), inputs), before)


def test_model_without_tables_is_left_alone(dense_tflite: bytes) -> None:
    model = parse_tflite(dense_tflite)
    operators_before = len(model.subgraphs[0].operators)
    assert look_up_embeddings(model) == 0
    assert len(model.subgraphs[0].operators) == operators_before


def test_gather_of_ids_that_are_not_int32_is_left_alone(embedding_tflite: bytes) -> None:
    model = parse_tflite(embedding_tflite)
    for tensor in model.subgraphs[0].tensors:
        if tensor.type == schema.TensorType.INT32:
            tensor.type = schema.TensorType.INT64
    assert look_up_embeddings(model) == 0


def test_tables_take_at_most_three_tenths_of_their_bytes(embedding_tflite: bytes) -> None:
    for scheme in (Scheme.W8, Scheme.W8D):
        candidate = quantize_tflite(quantizable(embedding_tflite), scheme)
        tables = [item for item in stored_weights(Format.TFLITE, candidate) if item.count in (50 * 16, 80 * 16)]
        assert len(tables) == 2
        assert sum(item.count * item.bits // 8 for item in tables) <= 0.3 * 4 * TABLES


def test_quantized_tables_give_answers_close_to_float(embedding_tflite: bytes) -> None:
    inputs = embedding_rows(1000, seed=9)
    before = answers(Format.TFLITE, embedding_tflite, inputs)
    for scheme in (Scheme.F16, Scheme.W8, Scheme.W8D):
        candidate = quantize_tflite(quantizable(embedding_tflite), scheme)
        np.testing.assert_allclose(answers(Format.TFLITE, candidate, inputs), before, atol=1e-3)
