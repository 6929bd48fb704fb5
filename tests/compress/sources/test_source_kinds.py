"""A trained model is told by its content; what no stage could use is refused in one sentence, without TensorFlow."""

import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import h5py
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from tiny_models import MODELS, answers, dense_rows

from pipeline.compress.schemes.tflite_file import parse_tflite, write_tflite
from pipeline.compress.sources import onnx_source, saved_model_source
from pipeline.compress.sources.source import (
    KERAS_2,
    SAVED_MODEL,
    describe,
    kind_of_source,
    read_ready_made,
    require_supported,
    source_format_of,
    split_signature,
)
from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.core.recipe import SourceFormat
from pipeline.engines.open import open_session

DENSE = MODELS / "tiny_dense.keras"


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as caught:
        require_supported(path, source_format_of(path))
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    assert path.name.partition("#")[0] in said
    return said


def accepted(path: Path) -> SourceFormat:
    source_format = source_format_of(path)
    require_supported(path, source_format)
    return source_format


# --- Keras ---


def keras_config() -> dict[str, Any]:
    with zipfile.ZipFile(DENSE) as archive:
        config: dict[str, Any] = json.loads(archive.read("config.json"))
    return config


def layer(config: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = config["config"]["layers"][1]
    return found


def zipped(folder: Path, edit: Callable[[dict[str, Any]], object], leave_out: str = "") -> Path:
    path, config = folder / "model.keras", keras_config()
    edit(config)
    with zipfile.ZipFile(DENSE) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            if name != leave_out:
                new.writestr(name, json.dumps(config) if name == "config.json" else old.read(name))
    return path


def hdf5(folder: Path, edit: Callable[[dict[str, Any]], object], dtype: str = "float32") -> Path:
    path, config = folder / "model.h5", keras_config()
    for item in config["config"]["layers"]:
        item.pop("module"), item.pop("registered_name")
    edit(config)
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = "2.15.0"
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": config["config"]})
        file.create_dataset("model_weights/hidden/kernel", data=np.ones((4, 4), dtype))
        file.create_dataset("model_weights/hidden/seed", data=np.ones(2, "uint8"))
    return path


def unchanged(config: dict[str, Any]) -> None:
    pass


def as_custom(config: dict[str, Any]) -> None:
    layer(config).update(module=None, class_name="Swirl", registered_name="shop>Swirl")


def as_lambda(config: dict[str, Any]) -> None:
    layer(config).update(class_name="Lambda")


def as_stateful(config: dict[str, Any]) -> None:
    layer(config).update(class_name="LSTM")
    layer(config)["config"]["stateful"] = True


def with_own_activation(config: dict[str, Any]) -> None:
    layer(config)["config"]["activation"] = {"module": "builtins", "class_name": "function", "config": "bend"}


def with_text(config: dict[str, Any]) -> None:
    config["config"]["layers"][0]["config"]["dtype"] = "string"


def with_vectorization(config: dict[str, Any]) -> None:
    layer(config).update(class_name="TextVectorization")


KERAS_REFUSALS = [
    (as_custom, "the class 'Swirl'"),
    (as_lambda, "is a Lambda, that is, code inside a model file"),
    (as_stateful, "(LSTM) is stateful"),
    (with_own_activation, "the function 'bend'"),
    (with_text, "takes text"),
    (with_vectorization, "takes text"),
]


@pytest.mark.parametrize(("edit", "words"), KERAS_REFUSALS)
@pytest.mark.parametrize("form", [zipped, hdf5])
def test_a_keras_file_with_what_cannot_be_loaded_is_refused(tmp_path: Path, form: Any, edit: Any, words: str) -> None:
    assert accepted(form(tmp_path, unchanged)) is SourceFormat.KERAS
    assert words in refusal(form(tmp_path, edit))


def test_a_subclassed_model_is_refused_by_its_class(tmp_path: Path) -> None:
    subclassed = {"module": None, "class_name": "Ranker", "config": {}, "registered_name": "Ranker"}
    assert "the class 'Ranker'" in refusal(zipped(tmp_path, lambda config: (config.clear(), config.update(subclassed))))


@pytest.mark.parametrize("part", ["config.json", "model.weights.h5"])
def test_a_file_of_weights_alone_is_refused(tmp_path: Path, part: str) -> None:
    assert "save the whole model" in refusal(zipped(tmp_path, unchanged, leave_out=part))
    with h5py.File(tmp_path / "net.weights.h5", "w") as file:
        file.attrs["keras_version"] = "3.4.0"
    assert "weights without a model" in refusal(tmp_path / "net.weights.h5")


def test_integer_weights_are_told_by_their_type(tmp_path: Path) -> None:
    assert "already quantized" in refusal(hdf5(tmp_path, unchanged, "int8"))


def test_a_keras_file_with_a_flipped_byte_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    data = bytearray(DENSE.read_bytes())
    with zipfile.ZipFile(DENSE) as archive:
        place = archive.getinfo("model.weights.h5").header_offset + 2000
    data[place] ^= 0xFF
    path.write_bytes(data)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("name", ["metadata.json", "config.json", "assets/words.txt"])
def test_a_keras_file_that_unpacks_to_far_more_than_it_weighs_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(DENSE) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, old.read(member))
        new.writestr(name if name not in old.namelist() else "filler", bytes(1 << 20))
        info = new.filelist[-1]
        info.filename, info.file_size = name, 1 << 30
    assert "unpacks to 1,074 MB" in refusal(path)


# --- any kind ---


@pytest.mark.parametrize("name", ["tiny_dense.keras", "tiny_dense.tflite", "tiny_dense.onnx"])
def test_a_name_says_nothing(tmp_path: Path, name: str) -> None:
    other = tmp_path / "model.unknown"
    other.write_bytes((MODELS / name).read_bytes())
    assert accepted(other) is SourceFormat(name.rpartition(".")[2])


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(["tiny_dense.keras", "tiny_dense.tflite", "tiny_dense.onnx"]), share=st.floats(0, 0.999))
def test_a_truncated_file_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, name: str, share: float) -> None:
    path = tmp_path_factory.mktemp("cut") / name
    whole = (MODELS / name).read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    refusal(path)


@settings(max_examples=60, deadline=None)
@given(
    data=st.binary(max_size=200),
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x89HDF\r\n\x1a\n", b"\x08\x08", b"????TFL3"]),
)
def test_noise_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, data: bytes, start: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "model.bin"
    path.write_bytes(start + data)
    refusal(path)


def test_nothing_of_this_starts_tensorflow() -> None:
    script = (
        "import sys; from pathlib import Path; from pipeline.compress.sources.source import *\n"
        "for path in map(Path, sys.argv[1:]): require_supported(path, source_format_of(path)); describe(path)\n"
        "assert not {'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)"
    )
    paths = [str(MODELS / f"tiny_dense.{kind}") for kind in ("keras", "tflite", "onnx")]
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_kind_is_described_in_words(tmp_path: Path) -> None:
    onnx.save(
        onnx.load(MODELS / "tiny_dense.onnx"), tmp_path / "m.onnx", save_as_external_data=True, location="w",
        size_threshold=0,
    )  # fmt: skip
    assert describe(DENSE) == "Keras 2 (.keras)"
    assert describe(MODELS / "tiny_dense.tflite") == "TFLite"
    assert describe(tmp_path / "m.onnx") == "ONNX with external data"


# --- SavedModel ---


def saved_model(folder: Path, **changes: Any) -> Path:
    """Write a SavedModel of two signatures; ``changes`` give op, dtype, variable dtype and tag."""
    message = saved_model_source._message("SavedModel")()
    graph = message.meta_graphs.add()
    graph.info.tags.append(changes.get("tag", b"serve"))
    for name in changes.get("signatures", (b"score", b"embed")):
        signature = graph.signatures.add(key=name).value
        given = signature.inputs.add(key=b"row").value
        given.name, given.dtype = b"row:0", changes.get("dtype", 1)
        answer = signature.outputs.add(key=b"answer").value
        answer.name, answer.dtype = b"Call:0", 1
    graph.graph.nodes.add(name=b"row", op=b"Placeholder")
    call = graph.graph.nodes.add(name=b"Call", op=b"StatefulPartitionedCall", inputs=[b"row"])
    call.attributes.add(key=b"f").value.function.name = b"inference"
    graph.graph.nodes.add(name=b"save/Assign", op=b"AssignVariableOp")  # restoring is no state
    function = graph.graph.library.functions.add()
    function.signature.name = b"inference"
    function.nodes.add(name=b"inner", op=changes.get("op", b"MatMul"))
    variable = graph.objects.nodes.add().variable
    variable.dtype = changes.get("variable", 1)
    variable.shape.axes.add(size=3), variable.shape.axes.add(size=2)
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(message.SerializeToString())
    (folder / "variables").mkdir()
    (folder / "variables" / "variables.index").write_bytes(b"")
    return folder


def test_a_signature_of_several_is_named_behind_the_folder(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "net")
    assert "the signatures embed, score" in refusal(folder)
    assert accepted(tmp_path / "net#score") is SourceFormat.SAVEDMODEL
    assert "no signature 'rank'" in refusal(tmp_path / "net#rank")
    assert describe(tmp_path / "net#score") == "SavedModel, signature score"
    assert split_signature(folder) == (folder, None)
    assert kind_of_source(folder, SourceFormat.SAVEDMODEL) == SAVED_MODEL


@pytest.mark.parametrize("names", [(b"only",), (b"other", b"serving_default")])
def test_the_only_signature_or_serving_default_needs_no_name(tmp_path: Path, names: tuple[bytes, ...]) -> None:
    assert accepted(saved_model(tmp_path / "net", signatures=names)) is SourceFormat.SAVEDMODEL


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"op": b"AssignAddVariableOp"}, "is stateful"),
        ({"op": b"EagerPyFunc"}, "Python code"),
        ({"dtype": 7}, "'row' of signature one is text"),
        ({"variable": 6}, "already quantized"),
        ({"tag": b"train"}, "lacks the tag 'serve'"),
        ({"signatures": ()}, "the signatures none"),
    ],
)
def test_a_saved_model_with_what_cannot_be_used_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in refusal(saved_model(tmp_path / "net", **{"signatures": (b"one",), **changes}))


def test_a_saved_model_that_lost_its_variables_is_refused(tmp_path: Path) -> None:
    folder = saved_model(tmp_path / "net", signatures=(b"one",))
    (folder / "variables" / "variables.index").unlink()
    assert "copy the whole folder" in refusal(folder)
    (folder / "saved_model.pb").write_bytes(b"\x12\xff\xff")
    assert "damaged" in refusal(folder)


def test_a_saved_model_of_keras_2_layers_alone_is_known(tmp_path: Path) -> None:
    folder, config = saved_model(tmp_path / "net", signatures=(b"serving_default",)), keras_config()
    metadata = saved_model_source._message("KerasMetadata")()
    node = metadata.nodes.add(path=b"root", identifier=b"_tf_keras_network")
    for name, kind in (("Dense", KERAS_2), ("Swirl", SAVED_MODEL)):
        config["config"]["layers"][1]["class_name"] = name
        node.metadata = json.dumps({"class_name": "Functional", "config": config["config"]}).encode()
        (folder / "keras_metadata.pb").write_bytes(metadata.SerializeToString())
        assert kind_of_source(folder, SourceFormat.SAVEDMODEL) == kind
    assert kind_of_source(tmp_path / "net#serving_default", SourceFormat.SAVEDMODEL) == SAVED_MODEL


# --- tflite ---


def edited(folder: Path, edit: Callable[[Any], object], name: str = "tiny_dense.tflite") -> Path:
    model = parse_tflite((MODELS / name).read_bytes())
    edit(model)
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    path = folder / "edited.tflite"
    path.write_bytes(bytes(builder.Output()))
    return path


def weight(model: Any) -> Any:
    graph = model.subgraphs[0]
    return next(
        graph.tensors[op.inputs[1]] for op in graph.operators if graph.tensors[op.inputs[1]].type == 0
    )  # fmt: skip


def as_integers(model: Any) -> None:
    tensor = weight(model)
    values = model.buffers[tensor.buffer].data.view(np.float32)
    tensor.type, tensor.quantization = schema.TensorType.INT8, schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = np.array([0.01], np.float32), np.array([0])
    model.buffers[tensor.buffer].data = (values * 100).clip(-127, 127).astype(np.int8).view(np.uint8)


def as_halves(model: Any) -> None:
    graph, tensor = model.subgraphs[0], weight(model)
    half = copy.copy(tensor)
    half.type, half.name = schema.TensorType.FLOAT16, b"half"
    data = schema.BufferT()
    data.data = model.buffers[tensor.buffer].data.view(np.float32).astype(np.float16).view(np.uint8)
    empty = schema.BufferT()
    model.buffers += [data, empty]
    half.buffer, tensor.buffer = len(model.buffers) - 2, len(model.buffers) - 1
    graph.tensors.append(half)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.DEQUANTIZE
    code.version = 3
    model.operatorCodes.append(code)
    widen = schema.OperatorT()
    widen.opcodeIndex = len(model.operatorCodes) - 1
    widen.inputs, widen.outputs = [len(graph.tensors) - 1], [graph.tensors.index(tensor)]
    graph.operators.insert(0, widen)


def with_operator(name: bytes) -> Callable[[Any], None]:
    def edit(model: Any) -> None:
        code = model.operatorCodes[0]
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode = name

    return edit


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (as_integers, "already quantized: 1 of its weights are integers"),
        (with_operator(b"FlexTensorListReserve"), "TensorFlow's own operators (FlexTensorListReserve)"),
        (with_operator(b"Sparkle"), "the custom operators Sparkle"),
    ],
)
def test_a_tflite_model_with_what_cannot_be_used_is_refused(tmp_path: Path, edit: Any, words: str) -> None:
    assert words in refusal(edited(tmp_path, edit))


def test_weights_stored_as_halves_come_out_as_plain_float32_with_the_same_answers(tmp_path: Path) -> None:
    path = edited(tmp_path, as_halves)
    assert accepted(path) is SourceFormat.TFLITE
    widened = read_ready_made(path, Format.TFLITE)
    inputs, _ = dense_rows(50, 1)
    np.testing.assert_allclose(
        answers(Format.TFLITE, widened, inputs), answers(Format.TFLITE, path.read_bytes(), inputs), atol=1e-6
    )
    graph = parse_tflite(widened).subgraphs[0]
    assert len(graph.operators) == len(parse_tflite(path.read_bytes()).subgraphs[0].operators) - 1


def test_a_plain_tflite_model_comes_out_byte_for_byte() -> None:
    path = MODELS / "tiny_dense.tflite"
    assert read_ready_made(path, Format.TFLITE) == path.read_bytes()
    assert write_tflite(parse_tflite(path.read_bytes()))


# --- onnx ---


def net(op: str = "MatMul", domain: str = "", opset: int = 17, dtype: int = TensorProto.FLOAT, ir: int = 8) -> Any:
    table = numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")
    ends = [helper.make_tensor_value_info("x", dtype, ["n", 4]), helper.make_tensor_value_info("y", 1, ["n", 3])]
    graph = helper.make_graph(
        [helper.make_node(op, ["x", "w"], ["y"], domain=domain)], "g", ends[:1], ends[1:], [table]
    )
    domains = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=domains, ir_version=ir)


def written(folder: Path, model: Any) -> Path:
    path = folder / "net.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (net("Swirl", "shop.example"), "of the domain 'shop.example'"),
        (net("MatMulInteger"), "already quantized (it holds MatMulInteger)"),
        (net("QLinearMatMul"), "already quantized"),
        (net("DequantizeLinear"), "already quantized"),
        (net(dtype=TensorProto.STRING), "'x' is text"),
    ],
)
def test_an_onnx_model_with_what_cannot_be_used_is_refused(tmp_path: Path, model: Any, words: str) -> None:
    assert words in refusal(written(tmp_path, model))


def test_half_weights_of_an_onnx_model_are_refused(tmp_path: Path) -> None:
    model = net()
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((4, 3), np.float16), "w"))
    assert "1 of its tensors are float16" in refusal(written(tmp_path, model))


def with_weights_beside(folder: Path, location: str = "w.bin") -> Path:
    folder.mkdir()
    onnx.save(net(), folder / "net.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "net.onnx"


def test_weights_beside_an_onnx_model_are_taken_into_it(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path / "m")
    assert accepted(path) is SourceFormat.ONNX
    x = np.eye(4, dtype=np.float32)
    found = open_session(Format.ONNX, read_ready_made(path, Format.ONNX)).run({"x": x})["y"]
    np.testing.assert_array_equal(found, np.arange(12, dtype=np.float32).reshape(4, 3))


@pytest.mark.parametrize("location", ["../w.bin", "/etc/hostname", "a/../../w.bin", ""])
def test_weights_outside_the_models_folder_are_never_read(tmp_path: Path, location: str) -> None:
    path = with_weights_beside(tmp_path / "m")
    (tmp_path / "w.bin").write_bytes(bytes(48))
    model = onnx.load(path, load_external_data=False)
    next(item for item in model.graph.initializer[0].external_data if item.key == "location").value = location
    path.write_bytes(model.SerializeToString())
    assert "outside its own folder" in refusal(path)


def test_weights_behind_a_link_out_of_the_folder_are_never_read(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path / "m")
    (tmp_path / "m" / "w.bin").rename(tmp_path / "w.bin")
    (tmp_path / "m" / "w.bin").symlink_to(tmp_path / "w.bin")
    assert "outside its own folder" in refusal(path)


def test_weights_that_are_missing_or_too_short_are_refused(tmp_path: Path) -> None:
    path = with_weights_beside(tmp_path / "m")
    beside = tmp_path / "m" / "w.bin"
    beside.write_bytes(beside.read_bytes()[:20])
    assert "shorter" in refusal(path)
    beside.unlink()
    assert "does not exist" in refusal(path)


def test_more_weights_than_one_file_holds_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_source, "_BYTES_MAX", 10)
    assert "2 GB" in refusal(with_weights_beside(tmp_path / "m"))


def test_an_old_opset_is_upgraded_with_the_same_answers(tmp_path: Path) -> None:
    old = net("Gemm", opset=9, ir=3)
    old.graph.node[0].input.append("b")
    old.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "b"))
    for item in old.graph.initializer:  # as writers had to before IR 4
        old.graph.input.append(helper.make_tensor_value_info(item.name, 1, item.dims))
    path = written(tmp_path, old)
    accepted(path)
    data = read_ready_made(path, Format.ONNX)
    assert onnx.load_from_string(data).opset_import[0].version == onnx_source.OPSET
    x = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
    wanted = open_session(Format.ONNX, path.read_bytes()).run({"x": x})["y"]
    np.testing.assert_array_equal(open_session(Format.ONNX, data).run({"x": x})["y"], wanted)


def test_a_plain_onnx_model_comes_out_byte_for_byte() -> None:
    path = MODELS / "tiny_dense.onnx"
    assert read_ready_made(path, Format.ONNX) == path.read_bytes()
