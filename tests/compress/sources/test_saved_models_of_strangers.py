"""A SavedModel is a program: what may do more than compute is refused before TensorFlow is started."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.compress.sources.saved_model_operators import CALLS, COMPUTING, MEMORY, NUMERIC, RANDOM, TEXTS
from pipeline.compress.sources.saved_model_source import _message, is_keras_2, require_saved_model
from pipeline.core.errors import ModelError

ATTACKS = {
    "write_file": "WriteFile", "read_file": "ReadFile", "write_in_a_branch": "WriteFile",
    "write_in_a_loop": "WriteFile", "python": "Python code", "save": "SaveV2", "restore": "RestoreV2",
    "debug": "DebugIdentityV2", "mapped_memory": "ImmutableConst", "records": "Dataset", "listing": "MatchingFiles",
    "printed": "PrintV2", "summary": "Summary", "write_when_loaded": "WriteFile",
    "write_in_another_signature": "WriteFile", "table_of_a_file": "InitializeTableFromTextFileV2",
    "tensorflow_1": "a SavedModel of TensorFlow 1",
}  # fmt: skip


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as caught:
        require_saved_model(folder, None)
    said = str(caught.value)
    assert said.endswith(".")
    assert "\n" not in said
    return said


@pytest.mark.slow
def test_real_models_that_reach_beyond_computing_are_refused_and_honest_ones_are_not(tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("strange_models.py"))
    done = subprocess.run([sys.executable, script, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = {name: refusal(tmp_path / name) for name in ATTACKS}
    assert not {name: said[name] for name, words in ATTACKS.items() if words not in said[name]}
    for name in ("keras_2", "keras_3", "tables_and_images"):
        require_saved_model(tmp_path / name, None)
        assert is_keras_2(tmp_path / name) == (name == "keras_2")
    a_lambda_in_one_layers_own_metadata_is_not_given_to_keras(tmp_path / "keras_2")
    allowed_operators_are_known_and_only_a_few_keep_state(json.loads((tmp_path / "operators.json").read_text()))


def a_lambda_in_one_layers_own_metadata_is_not_given_to_keras(folder: Path) -> None:
    file, metadata = folder / "keras_metadata.pb", _message("KerasMetadata")()
    metadata.ParseFromString(file.read_bytes())
    node = next(node for node in metadata.nodes if b'"Dense"' in node.metadata and node.path != b"root")
    code = {"class_name": "Lambda", "config": {"name": "a", "function": ["4wEA", None, None]}}
    node.metadata = json.dumps({**json.loads(node.metadata), **code}).encode()
    file.write_bytes(metadata.SerializeToString())
    assert not is_keras_2(folder)


def allowed_operators_are_known_and_only_a_few_keep_state(listed: list[dict[str, Any]]) -> None:
    known = {item["name"]: item for item in listed}
    assert set(known) >= COMPUTING
    assert not [name for name in NUMERIC | TEXTS if known[name]["is_stateful"]]
    suspicious = ("file", "url", "region", "address")
    named = {attribute for name in COMPUTING for attribute in known[name]["attributes"]}
    assert not [name for name in named if any(word in name for word in suspicious)]


def test_no_allowed_operator_is_in_two_lists() -> None:
    lists = (NUMERIC, CALLS, RANDOM, MEMORY, TEXTS)
    assert sum(map(len, lists)) == len(COMPUTING)


# --- files that TensorFlow itself would not write ---


def strange(folder: Path, op: bytes, edit: Any) -> Path:
    """Write a SavedModel whose signature calls ``inference``; ``hidden`` holds ``op`` and nothing names it."""
    model = _message("SavedModel")()
    graph = model.meta_graphs.add()
    graph.info.tags.append(b"serve")
    signature = graph.signatures.add(key=b"serving_default").value
    for tensors, name in ((signature.inputs, b"row"), (signature.outputs, b"Call")):
        value = tensors.add(key=name).value
        value.name, value.dtype = name + b":0", 1
    graph.graph.nodes.add(name=b"row", op=b"Placeholder")
    call = graph.graph.nodes.add(name=b"Call", op=b"StatefulPartitionedCall", inputs=[b"row"])
    call.attributes.add(key=b"f").value.function.name = b"inference"
    inference, hidden = graph.graph.library.functions.add(), graph.graph.library.functions.add()
    inference.signature.name, hidden.signature.name = b"inference", b"hidden"
    inference.nodes.add(name=b"a", op=b"MatMul")
    hidden.nodes.add(name=b"b", op=op)
    graph.objects.nodes.add().function.names.append(b"inference")
    edit(graph, inference, hidden)
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def nothing(graph: Any, inference: Any, hidden: Any) -> None:
    pass


def called(graph: Any, inference: Any, hidden: Any) -> None:
    inference.nodes.add(name=b"c", op=b"While").attributes.add(key=b"body").value.function.name = b"hidden"


def called_in_a_list(graph: Any, inference: Any, hidden: Any) -> None:
    inference.nodes.add(name=b"c", op=b"Case").attributes.add(key=b"branches").value.items.functions.add(name=b"hidden")


def called_as_an_operator(graph: Any, inference: Any, hidden: Any) -> None:
    inference.nodes.add(name=b"c", op=b"hidden")


def under_an_operators_name(graph: Any, inference: Any, hidden: Any) -> None:
    hidden.signature.name = b"MatMul"


def of_an_object(graph: Any, inference: Any, hidden: Any) -> None:
    graph.objects.nodes.add().function.names.append(b"hidden")


def of_a_bare_object(graph: Any, inference: Any, hidden: Any) -> None:
    graph.objects.nodes.add().bare_function.name = b"hidden"


def as_a_gradient(graph: Any, inference: Any, hidden: Any) -> None:
    graph.graph.library.gradients.add(name=b"hidden")


def as_a_registered_gradient(graph: Any, inference: Any, hidden: Any) -> None:
    graph.graph.library.registered_gradients.add(name=b"hidden")


def in_place_of_another(graph: Any, inference: Any, hidden: Any) -> None:
    hidden.attributes.add(key=b"api_implements")


WAYS = [
    called, called_in_a_list, called_as_an_operator, under_an_operators_name, of_an_object, of_a_bare_object,
    as_a_gradient, as_a_registered_gradient, in_place_of_another,
]  # fmt: skip


def test_the_functions_that_save_and_restore_are_let_be(tmp_path: Path) -> None:
    require_saved_model(strange(tmp_path / "net", b"SaveV2", nothing), None)


@pytest.mark.parametrize("way", WAYS)
def test_a_saving_function_that_anything_can_reach_is_refused(tmp_path: Path, way: Any) -> None:
    assert "SaveV2" in refusal(strange(tmp_path / "net", b"SaveV2", way))


@pytest.mark.parametrize("way", [nothing, *WAYS])
def test_a_writing_operator_is_refused_wherever_it_is(tmp_path: Path, way: Any) -> None:
    assert "WriteFile" in refusal(strange(tmp_path / "net", b"WriteFile", way))


def test_an_operator_unknown_here_is_refused(tmp_path: Path) -> None:
    assert "NewInTheNextRelease" in refusal(strange(tmp_path / "net", b"NewInTheNextRelease", nothing))


def test_a_second_graph_in_the_file_is_refused(tmp_path: Path) -> None:
    folder = strange(tmp_path / "net", b"SaveV2", nothing)
    model = _message("SavedModel")()
    model.ParseFromString((folder / "saved_model.pb").read_bytes())
    model.meta_graphs.add().info.tags.append(b"train")
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    assert "TensorFlow 1" in refusal(folder)
