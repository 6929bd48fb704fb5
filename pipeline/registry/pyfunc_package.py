"""A bundle as an MLflow pyfunc model: models-from-code, no pickle, the node's own packages and code inside."""

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema
from mlflow.types import TensorSpec as MlflowTensor

import pipeline
from pipeline.engines.base import TensorSpec
from pipeline.registry.store import VersionDraft

NODE_PACKAGES = ("ai-edge-litert", "cryptography", "numpy", "onnxruntime", "pyyaml")
_PIPELINE = Path(pipeline.__file__).parent
_NODE_ROOMS = ("core", "engines", "bundle")


def save_pyfunc(path: Path, draft: VersionDraft, logged: Any) -> Path:
    """Write an MLflow model folder for ``logged`` (MLflow's LoggedModel) at ``path`` and return it."""
    # Recorded, not shown: MLflow recommends an input example, which would run the model; the schema is from io.json.
    with tempfile.TemporaryDirectory(prefix="hotspare-") as folder, warnings.catch_warnings(record=True):
        code = _copy_node_code(Path(folder) / "pipeline")
        mlflow.pyfunc.save_model(
            path=str(path),
            mlflow_model=Model(
                artifact_path=logged.artifact_location,
                model_id=logged.model_id,
                model_uuid=logged.model_id,
                run_id=draft.run_id,
            ),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"bundle": str(draft.bundle), "trust": str(draft.trust)},
            code_paths=[str(code)],
            signature=ModelSignature(_schema(draft.inputs), _schema(draft.outputs)),
            pip_requirements=list(NODE_PACKAGES),
            metadata={"bundle_id": draft.bundle_id},
        )
    return path


def _schema(specs: tuple[TensorSpec, ...]) -> Schema:
    return Schema([MlflowTensor(np.dtype(spec.dtype), spec.shape, spec.name) for spec in specs])


def _copy_node_code(to: Path) -> Path:
    to.mkdir()
    shutil.copy2(_PIPELINE / "__init__.py", to)
    for room in _NODE_ROOMS:
        shutil.copytree(_PIPELINE / room, to / room, ignore=shutil.ignore_patterns("__pycache__"))
    return to
