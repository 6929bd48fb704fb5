"""A model file that names TensorFlow's own file operators could write anywhere when it is called."""

from pathlib import Path

import pytest

from pipeline.compress.sources.keras_source import require_config
from pipeline.core.errors import ModelError

ATTACKS = [
    ("TFOpLambda", {"name": "a", "function": "io.write_file"}),
    ("TFOpLambda", {"name": "a", "function": "raw_ops.WriteFile"}),
    ("TensorFlowOpLayer", {"name": "a", "node_def": '{"op": "WriteFile"}'}),
    ("IntegerLookup", {"name": "a", "vocabulary": "/etc/passwd"}),
]


def config(kind: str, inner: dict) -> dict:
    return {"class_name": "Functional", "config": {"layers": [{"class_name": kind, "config": inner}]}}


@pytest.mark.parametrize("names_modules", [True, False])
@pytest.mark.parametrize(("kind", "inner"), ATTACKS)
def test_a_layer_that_opens_files_is_refused(kind: str, inner: dict, names_modules: bool) -> None:
    with pytest.raises(ModelError, match="reads or writes files"):
        require_config(Path("m.keras"), config(kind, inner), names_modules)


def test_plain_operators_are_let_through() -> None:
    require_config(Path("m.h5"), config("TFOpLambda", {"name": "a", "function": "math.add"}), names_modules=False)
