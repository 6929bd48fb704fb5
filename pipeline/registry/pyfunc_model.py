"""What ``mlflow.pyfunc.load_model`` runs: a bundle, verified and loaded the way a node does it.

MLflow executes this file (models-from-code); nothing is pickled. The keys that were pinned when the bundle was
registered travel with it, so a damaged copy is refused; whether to trust those keys is the loader's decision.
"""

from datetime import UTC, datetime
from pathlib import Path

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.engines.open import open_session


class StandbyModel(PythonModel):  # type: ignore[misc]
    """Predicts through the bundle's own model file."""

    # MLflow would ask for a type hint that is a list; the schema made from io.json already checks what comes in.
    _skip_type_hint_validation = True

    def load_context(self, context: PythonModelContext) -> None:
        """Verify the bundle and open its model.

        Raises the Untrusted error that fits when a byte differs from what was signed.
        """
        policy = load_policy(Path(context.artifacts["trust"]))
        bundle = verify_bundle(Path(context.artifacts["bundle"]), policy, datetime.now(UTC))
        entry = bundle.manifest.entrypoint
        self._session = open_session(entry.format, bundle.files[entry.path], bundle.manifest.runtime.threads)

    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]  # noqa: ARG002
        """Return outputs by name; ``model_input`` maps input names to arrays whose first axis counts rows."""
        return self._session.run(dict(model_input))


set_model(StandbyModel())
