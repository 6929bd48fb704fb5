"""Structured pruning of models of both Kerases in one process; it equals the model whose removed channels are zero."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_models import Drawer, drawn_rows

from pipeline.compress.training.channel_groups import find_channels, kept_count, least_important
from pipeline.compress.training.model_graph import read_model
from pipeline.compress.training.products import find_products
from pipeline.compress.training.rebuilding import rebuild
from pipeline.compress.training.rotation import find_mixtures, rotated
from pipeline.compress.training.structured import shrink
from pipeline.core.names import Format
from pipeline.core.tensors import Array
from pipeline.engines.open import open_session

pytestmark = pytest.mark.slow

LIBRARIES = ("keras", "tf_keras")
TOLERANCE = 1e-5


@pytest.fixture(params=LIBRARIES)
def keras(request: pytest.FixtureRequest) -> Any:
    library = importlib.import_module(request.param)
    library.utils.set_random_seed(0)  # how near a shrunken model comes depends on the weights
    return library


def answers(model: Any, rows: Mapping[str, Array]) -> list[Array]:
    tensors = [rows[tensor.name.partition(":")[0]] for tensor in model.inputs]
    found = model(tensors if len(tensors) > 1 else tensors[0], training=False)
    return [np.asarray(values) for values in (found if isinstance(found, (list, tuple)) else [found])]


def difference(ours: list[Array], theirs: list[Array]) -> float:
    """Return the largest difference as a share of the largest answer."""
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(ours, theirs, strict=True))


def all_layers(model: Any) -> list[Any]:
    """Return the layers of a model and of the models in it."""
    found = []
    for layer in model.layers:
        found += all_layers(layer) if hasattr(layer, "layers") else [layer]
    return found


def silenced(layer: Any, gone: Array) -> None:
    """Set to zero all that a layer adds to its output channels ``gone``: by hand, not by the code under test."""
    weights = layer.get_weights()
    kind = type(layer).__name__
    if kind == "Conv2DTranspose":
        weights[0][:, :, gone, :] = 0
        weights[1][gone] = 0
    elif kind == "SeparableConv2D":
        weights[1][..., gone] = 0
        weights[2][gone] = 0
    elif kind == "DepthwiseConv2D":
        weights[1][gone] = 0
    elif kind in ("Dense", "Conv1D", "Conv2D", "Embedding"):
        for values in weights:
            values[..., gone] = 0
    elif kind == "BatchNormalization":
        for values in weights[:2]:
            values[gone] = 0
    layer.set_weights(weights)


def without(model: Any, ratio: float, seed: int, silence: Callable[[Any, Array], None] = silenced) -> tuple[Any, int]:
    """Silence random strands of a model in place; return the model rebuilt without them, and how many went."""
    graph = read_model(model)
    channels = find_channels(graph.network())
    chance = np.random.default_rng(seed)
    importance = {strand: float(chance.random()) for group in channels.groups for strand in group.strands}
    removed = frozenset().union(
        *(least_important(group, importance, kept_count(len(group.strands), ratio)) for group in channels.groups)
    )
    rebuilt = rebuild(graph, channels, removed).model
    for call in graph.calls:
        if call.layer in all_layers(model) and call.layer.weights:
            strands = channels.strands[call.outputs[0]]
            silence(call.layer, np.flatnonzero(np.isin(strands, list(removed))))
    return rebuilt, len(removed)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_left_equals_the_model_with_the_removed_channels_at_zero(keras: Any, seed: int) -> None:
    model, rows = Drawer(keras, seed).model(), drawn_rows(5, seed)
    whole = answers(model, rows)
    rebuilt, gone = without(model, 0.5, seed)
    assert gone > 0
    assert rebuilt.count_params() < model.count_params()
    assert {layer.output_dim for layer in rebuilt.layers if hasattr(layer, "input_dim")} == {8}
    assert difference(answers(rebuilt, rows), whole) > 100 * TOLERANCE
    assert difference(answers(rebuilt, rows), answers(model, rows)) < TOLERANCE


@pytest.mark.parametrize("seed", range(4, 6))
def test_channels_that_do_nothing_go_first_and_nothing_changes(keras: Any, seed: int) -> None:
    model, rows = Drawer(keras, seed).model(), drawn_rows(64, seed)
    rebuilt, _ = without(model, 0.5, seed)
    shrunk = shrink(model, 0.5, rows)
    assert shrunk.count_params() == rebuilt.count_params()
    assert difference(answers(shrunk, rows), answers(model, rows)) < 0.01


def test_what_goes_in_and_out_keeps_its_names_shapes_and_dtypes(keras: Any) -> None:
    model = Drawer(keras, 1).model()
    shrunk = shrink(model, 0.5, drawn_rows(16, 1))
    assert type(shrunk).__module__.partition(".")[0] == keras.__name__
    assert shrunk.output_names == model.output_names
    for ours, theirs in zip((*shrunk.inputs, *shrunk.outputs), (*model.inputs, *model.outputs), strict=True):
        assert (tuple(ours.shape), ours.dtype) == (tuple(theirs.shape), theirs.dtype)
    assert [tensor.name for tensor in shrunk.inputs] == [tensor.name for tensor in model.inputs]


def test_the_old_model_is_left_as_it_was(keras: Any) -> None:
    model, rows = Drawer(keras, 2).model(), drawn_rows(16, 2)
    before, weights = answers(model, rows), [np.array(values) for values in model.get_weights()]
    shrunk = shrink(model, 0.5, rows)
    shrunk.set_weights([np.zeros_like(values) for values in shrunk.get_weights()])
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert difference(answers(model, rows), before) == 0


def test_one_call_gives_one_answer(keras: Any) -> None:
    model, rows = Drawer(keras, 3).model(), drawn_rows(16, 3)
    first, second = (shrink(model, 0.5, rows).get_weights() for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def sequential(keras: Any) -> Any:
    layers, option = keras.layers, "batch_shape" if keras.__name__ == "keras" else "batch_input_shape"
    outer, inner = (layers.InputLayer(**{option: (None, 16, 4)}) for _ in range(2))
    encoder = keras.Sequential([inner, layers.Conv1D(16, 3, padding="same", activation="relu"), layers.Flatten()])
    return keras.Sequential(
        [
            outer,
            encoder,
            layers.Dense(64, activation="gelu"),
            layers.Reshape((4, 16)),
            layers.Conv1DTranspose(4, 4, strides=4),
        ]
    )


def test_a_sequential_model_with_a_model_in_it_shrinks(keras: Any) -> None:
    model = sequential(keras)
    rows = {
        model.inputs[0].name.partition(":")[0]: np.random.default_rng(0).normal(size=(32, 16, 4)).astype(np.float32)
    }
    shrunk = shrink(model, 0.5, rows)
    assert sorted(layer.filters for layer in all_layers(shrunk) if hasattr(layer, "filters")) == [4, 8]
    assert [layer.units for layer in all_layers(shrunk) if hasattr(layer, "units")] == [32]
    assert [array.shape for array in answers(shrunk, rows)] == [(32, 16, 4)]


def test_an_autoencoder_of_two_models_keeps_the_name_of_its_output(keras: Any) -> None:
    layers, signal, code = keras.layers, keras.Input((12,), name="signal"), keras.Input((8,))
    encoder = keras.Sequential([keras.Input((12,)), layers.Dense(32, "relu"), layers.Dense(8, "relu")], name="encoder")
    decoder = keras.Model(code, layers.Dense(12)(layers.Dense(32, "relu")(code)), name="decoder")
    model = keras.Model(signal, decoder(encoder(signal), training=False))
    rows = {"signal": np.random.default_rng(0).normal(size=(64, 12)).astype(np.float32)}
    rebuilt, _ = without(model, 0.5, 0)
    assert model.output_names == rebuilt.output_names == ["decoder"]
    assert [layer.units for layer in rebuilt.layers if hasattr(layer, "units")] == [16, 4, 16, 12]
    assert difference(answers(rebuilt, rows), answers(model, rows)) < TOLERANCE


@pytest.mark.parametrize("cell", ["LSTM", "GRU", "SimpleRNN"])
def test_recurrent_layers_shrink_like_the_same_cell_with_silent_units(keras: Any, cell: str) -> None:
    layers, ids = keras.layers, keras.Input((6,), dtype="int32", name="ids")
    hidden = layers.Embedding(20, 16)(ids)
    hidden = getattr(layers, cell)(12, return_sequences=True)(hidden)
    hidden = getattr(layers, cell)(12)(hidden)
    model = keras.Model(ids, layers.Dense(2)(hidden))
    rows = {"ids": np.random.default_rng(0).integers(0, 20, (64, 6)).astype(np.int32)}
    rebuilt, _ = without(model, 0.5, 0, silence_recurrent)
    assert [layer.units for layer in rebuilt.layers if hasattr(layer, "units")] == [8, 8, 2]
    assert difference(answers(rebuilt, rows), answers(model, rows)) < TOLERANCE
    assert shrink(model, 0.5, rows).count_params() == rebuilt.count_params()


def silence_recurrent(layer: Any, gone: Array) -> None:
    """Close the units ``gone``: with all their weights at zero their state stays zero, whatever the gates say."""
    if not hasattr(layer, "recurrent_activation") and type(layer).__name__ != "SimpleRNN":
        silenced(layer, gone)
        return
    weights = layer.get_weights()
    for values in weights:
        values.reshape(*values.shape[:-1], -1, layer.units)[..., gone] = 0
    layer.set_weights(weights)


def straight_model(keras: Any, kind: str) -> tuple[Any, set[str]]:
    """Return a model with linear channels, and the names of the layers that make them."""
    layers, image = keras.layers, keras.Input((8, 8, 3), name="image")
    ids = {name: keras.Input((), dtype="int32", name=name) for name in ("user", "item")}
    words = keras.Input((6,), dtype="int32", name="words")
    if kind == "tables":
        tables = [
            layers.Embedding(40, 16, name=name)(one) for name, one in zip(("one", "two"), ids.values(), strict=True)
        ]
        both = layers.Concatenate()([*tables, layers.Dropout(0.2)(tables[0])])
        return keras.Model(list(ids.values()), layers.Dense(2)(layers.Dense(8, "relu")(both))), {"one", "two"}
    if kind == "sequence":
        table = layers.Embedding(40, 16, name="one")(words)
        both = layers.Concatenate()([layers.Flatten()(table), layers.SimpleRNN(4)(table)])
        return keras.Model(words, layers.Dense(2)(both)), {"one"}
    if kind == "convolution":
        linear = layers.Conv2D(16, 3, name="one")(layers.ZeroPadding2D()(image))
        bent = layers.Conv2D(8, 3, padding="same", activation="relu")(layers.AveragePooling2D(2)(linear))
        return keras.Model(image, layers.Dense(2)(layers.Flatten()(bent))), {"one"}
    chain = layers.Dense(16, name="two")(layers.Dense(16, name="one")(layers.Flatten()(image)))
    return keras.Model(image, layers.Dense(4)(chain)), {"one", "two"}


def straight_rows() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    ids = {name: rng.integers(0, 40, 200).astype(np.int32) for name in ("user", "item")}
    image = rng.normal(size=(200, 8, 8, 3)).astype(np.float32)
    return {**ids, "words": rng.integers(0, 40, (200, 6)).astype(np.int32), "image": image}


@pytest.mark.parametrize("kind", ["tables", "sequence", "convolution", "chain"])
def test_linear_channels_are_turned_and_nothing_changes(keras: Any, kind: str) -> None:
    (model, turning), rows = straight_model(keras, kind), straight_rows()
    for weight in model.weights:
        if not np.asarray(weight).any():
            weight.assign(np.random.default_rng(1).normal(size=tuple(weight.shape)).astype(np.float32))
    graph = read_model(model)
    channels = find_channels(graph.network())
    turned = rotated(graph, channels, rows).graph
    found = {call.name: call.layer for call in turned.calls}
    made = {mixture.maker.name for mixture in find_mixtures(graph, channels)}
    assert made == turning
    for name in turning:
        assert not np.allclose(found[name].get_weights()[0], model.get_layer(name).get_weights()[0])
    whole = rebuild(turned, find_channels(turned.network()), frozenset()).model
    assert difference(answers(whole, rows), answers(model, rows)) < 10 * TOLERANCE


def test_half_of_a_table_read_by_half_a_rank_goes_and_nothing_changes(keras: Any) -> None:
    layers, ids = keras.layers, keras.Input((), dtype="int32", name="ids")
    model = keras.Model(ids, layers.Dense(8)(layers.Embedding(50, 16, name="table")(ids)))
    rows = {"ids": np.arange(50, dtype=np.int32)}
    shrunk = shrink(model, 0.5, rows)
    assert shrunk.get_layer("table").output_dim == 8
    assert difference(answers(shrunk, rows), answers(model, rows)) < 0.02  # the ridge of making up for what went


def test_a_cut_table_loses_what_the_best_of_its_rank_would(keras: Any) -> None:
    layers, ids = keras.layers, keras.Input((), dtype="int32", name="ids")
    model = keras.Model(ids, layers.Dense(16, name="read")(layers.Embedding(50, 16, name="table")(ids)))
    rows = {"ids": np.arange(50, dtype=np.int32)}
    whole = answers(model, rows)[0]
    lost = np.square(answers(shrink(model, 0.5, rows), rows)[0] - whole).sum()
    centred = whole - whole.mean(axis=0)
    least = np.square(np.linalg.svd(centred, compute_uv=False)[8:]).sum()
    assert 0.999 * least <= lost <= 1.05 * least


def test_tables_that_meet_and_bent_layers_are_not_turned(keras: Any) -> None:
    for seed in range(2):
        graph = read_model(Drawer(keras, seed).model())
        assert list(find_mixtures(graph, find_channels(graph.network()))) == []


def factors(keras: Any, width: int, dot: bool = False, rank: int = 64) -> tuple[Any, dict[str, Array]]:
    """Return a model that scores two ids by the product of their rows, of few directions, and all pairs of ids."""
    layers, rng = keras.layers, np.random.default_rng(0)
    inputs = [keras.Input((), dtype="int32", name=name) for name in ("left", "right")]
    tables = [layers.Embedding(40, width, name=f"{name}_table") for name in ("left", "right")]
    sides = [table(ids) for table, ids in zip(tables, inputs, strict=True)]
    if dot:
        score = layers.Dot(1, name="dot")(sides)
    else:
        met = layers.Concatenate()([layers.Multiply()(sides), layers.Dense(4, "relu")(sides[0])]) if rank == 0 else None
        score = layers.Dense(1, name="score")(layers.Multiply()(sides) if met is None else met)
    model = keras.Model(inputs, score)
    for table in tables:
        table.set_weights([(rng.normal(size=(40, rank or width)) @ rng.normal(size=(rank or width, width))) / width])
    pairs = np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1).reshape(-1, 2).astype(np.int32)
    return model, {"left": pairs[:, 0], "right": pairs[:, 1]}


@pytest.mark.parametrize("dot", [False, True])
def test_two_tables_that_meet_in_one_number_keep_the_directions_that_it_tells(keras: Any, dot: bool) -> None:
    model, rows = factors(keras, 16, dot, rank=4)
    shrunk = shrink(model, 0.6, rows)
    assert [shrunk.get_layer(f"{side}_table").output_dim for side in ("left", "right")] == [8, 8]
    assert difference(answers(shrunk, rows), answers(model, rows)) < 0.02  # the ridge of making up for what went


def test_a_product_that_something_else_reads_too_is_not_turned(keras: Any) -> None:
    model, _ = factors(keras, 16, rank=0)
    graph = read_model(model)
    assert list(find_products(graph, find_channels(graph.network()))) == []


def test_a_wide_turned_table_comes_in_a_strong_and_a_weak_part(keras: Any) -> None:
    model, rows = factors(keras, 64)
    shrunk = shrink(model, 0.2, rows)
    widths = {layer.name: layer.output_dim for layer in shrunk.layers if hasattr(layer, "output_dim")}
    assert widths == {f"{side}_table_{part}": w for side in ("left", "right") for part, w in PARTS}
    strong, weak = (np.abs(shrunk.get_layer(f"left_table_{part}").get_weights()[0]).mean() for part, _ in PARTS)
    assert strong > weak
    assert difference(answers(shrunk, rows), answers(model, rows)) < 0.02


PARTS = (("strong", 16), ("weak", 32))


def test_dense_channels_that_do_nothing_go_from_one_layer_alone(keras: Any) -> None:
    layers, signal = keras.layers, keras.Input((8,), name="signal")
    hidden = layers.Dense(32, "relu", name="second")(layers.Dense(32, "relu", name="first")(signal))
    model = keras.Model(signal, layers.Dense(2)(hidden))
    first = model.get_layer("first").get_weights()
    first[0][:, 8:] = 0
    model.get_layer("first").set_weights(first)
    rows = {"signal": np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)}
    shrunk = shrink(model, 0.35, rows)
    assert [shrunk.get_layer(name).units for name in ("first", "second")] == [16, 32]
    assert difference(answers(shrunk, rows), answers(model, rows)) < 0.01


def frozen_models(keras: Any) -> dict[str, Any]:
    """Return heads whose input channels must stay whole."""
    layers = keras.layers
    return {
        "attention": lambda x: layers.MultiHeadAttention(2, 4)(x, x),
        "softmax gate": lambda x: layers.Activation("softmax")(x),
        "lambda": lambda x: layers.Lambda(lambda values: values * 2.0)(x),
        "group": lambda x: layers.Conv1D(16, 3, groups=4, padding="same")(x),
        "slice": lambda x: x[..., :8],
        "permute": lambda x: layers.Permute((2, 1))(x),
        "bidirectional": lambda x: layers.Bidirectional(layers.GRU(4, return_sequences=True))(x),
    }


@pytest.mark.parametrize("kind", ["attention", "softmax gate", "lambda", "group", "slice", "permute", "bidirectional"])
def test_what_an_unknown_layer_reads_stays_whole_and_the_rest_shrinks(keras: Any, kind: str) -> None:
    layers, signal = keras.layers, keras.Input((8, 4), name="signal")
    hidden = layers.Conv1D(16, 3, padding="same", activation="relu", name="free")(signal)
    hidden = layers.Conv1D(16, 3, padding="same", activation="relu", name="read")(hidden)
    hidden = layers.GlobalAveragePooling1D()(frozen_models(keras)[kind](hidden))
    model = keras.Model(signal, layers.Dense(2, name="answer")(hidden))
    rows = {"signal": np.random.default_rng(0).normal(size=(16, 8, 4)).astype(np.float32)}
    rebuilt, _ = without(model, 0.5, 0)
    assert (rebuilt.get_layer("free").filters, rebuilt.get_layer("read").filters) == (8, 16)
    assert difference(answers(rebuilt, rows), answers(model, rows)) < TOLERANCE


def test_sums_written_as_operators_are_ties(keras: Any) -> None:
    layers, signal = keras.layers, keras.Input((8,), name="signal")
    left, right = (layers.Dense(16, activation="relu", name=name)(signal) for name in ("left", "right"))
    model = keras.Model(signal, layers.Dense(2)((left + right) * 0.5))
    rows = {"signal": np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)}
    rebuilt, gone = without(model, 0.5, 0)
    assert gone == 8
    assert difference(answers(rebuilt, rows), answers(model, rows)) < TOLERANCE


def test_a_normalization_over_channels_shrinks_with_them(keras: Any) -> None:
    layers, signal = keras.layers, keras.Input((8, 4), name="signal")
    hidden = layers.LayerNormalization()(layers.Dense(16, activation="relu")(signal))
    model = keras.Model(signal, layers.Dense(2)(layers.GlobalAveragePooling1D()(hidden)))
    rows = {"signal": np.random.default_rng(0).normal(size=(64, 8, 4)).astype(np.float32)}
    shrunk = shrink(model, 0.5, rows)
    assert [layer.gamma.shape for layer in shrunk.layers if hasattr(layer, "gamma")] == [(8,)]
    assert difference(answers(shrunk, rows), answers(model, rows)) < 0.5


def test_a_model_without_channels_to_spare_is_refused_in_words(keras: Any) -> None:
    signal = keras.Input((8,), name="signal")
    model = keras.Model(signal, keras.layers.Dense(16)(signal))
    with pytest.raises(ValueError, match="none of its layers has channels that can be removed"):
        shrink(model, 0.5, {"signal": np.zeros((4, 8), np.float32)})


def test_a_model_of_own_code_is_refused_in_words(keras: Any) -> None:
    class Own(keras.Model):
        def call(self, values: Any) -> Any:
            return values

    with pytest.raises(ValueError, match="its graph of layers is not known"):
        shrink(Own(), 0.5, {})


def test_a_shrunk_model_loads_in_both_engines_and_is_a_quarter_of_the_size(keras: Any, tmp_path: Path) -> None:
    from pipeline.compress.training.exporting import export
    from pipeline.compress.training.trained import of_keras

    layers, image = keras.layers, keras.Input((16, 16, 3), name="image")
    hidden = layers.Conv2D(32, 3, padding="same", activation="relu")(image)
    for _ in range(2):
        inner = layers.Conv2D(32, 3, padding="same", use_bias=False)(hidden)
        inner = layers.ReLU()(layers.BatchNormalization()(inner))
        hidden = layers.Add()([hidden, layers.Conv2D(32, 3, padding="same")(inner)])
    hidden = layers.GlobalAveragePooling2D()(hidden)
    dense = keras.Model(image, layers.Dense(4, activation="softmax", name="label")(hidden))
    rows = {"image": np.random.default_rng(0).random((16, 16, 16, 3), np.float32)}
    shrunk = shrink(dense, 0.5, rows)
    for model_format in Format:
        made = export(of_keras(shrunk, "test"), model_format, rows, tmp_path)
        data = (tmp_path / made.file).read_bytes()
        assert open_session(model_format, data).run(rows)["label"].shape == (16, 4)
        assert len(data) < 0.35 * 4 * dense.count_params()
