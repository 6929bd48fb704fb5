from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.core.errors import ModelError
from pipeline.core.names import Format
from pipeline.engines.open import open_session


def with_weights_beside(folder: Path) -> bytes:
    """Return an onnx model whose one weight lies in a file of ``folder``."""
    weight = numpy_helper.from_array(np.arange(1024, dtype=np.float32), "w")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1024]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    place = folder / "model.onnx"
    onnx.save(model, place, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return place.read_bytes()


def test_weights_that_nobody_hashed_are_not_read_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_weights_beside(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_session(Format.ONNX, model)
