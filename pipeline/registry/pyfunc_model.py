"""What ``mlflow.pyfunc.load_model`` runs: a bundle, verified and loaded the way a node does it.

MLflow executes this file (models-from-code); nothing is pickled. The keys that were pinned when the bundle was
registered travel with it, so a damaged copy is refused; whether to trust those keys is the loader's decision.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.core.tensors import Array, Tensors
from pipeline.engines.open import open_session


class StandbyModel(PythonModel):  # type: ignore[misc]
    """Predicts through the bundle's own model file."""

    def load_context(self, context: PythonModelContext) -> None:
        """Verify the bundle and open its model.

        Raises the Untrusted error that fits when a byte differs from what was signed.
        """
        policy = load_policy(Path(context.artifacts["trust"]))
        bundle = verify_bundle(Path(context.artifacts["bundle"]), policy, datetime.now(UTC))
        entry = bundle.manifest.entrypoint
        self._session = open_session(entry.format, bundle.files[entry.path], bundle.manifest.runtime.threads)

    def predict(self, context: PythonModelContext, model_input: Tensors, params: Any = None) -> dict[str, Array]:  # noqa: ARG002
        """Predict; ``model_input`` maps input names to arrays whose first axis counts rows."""
        return self._session.run(dict(model_input))


set_model(StandbyModel())
