"""How MLflow is asked, in this process: at which address, in silence, and what it raises told in our words."""

import contextlib
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from urllib.parse import urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from pipeline.core.errors import OutOfSpace, Unreachable

# Whoever registers a version says where it lies: fetching it may need a package that is not here.
_FAULTS = (MlflowException, SQLAlchemyError, OSError, ImportError)
_BUCKET_FAULTS = {
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "google.api_core.exceptions": ("GoogleAPIError",),
    "google.auth.exceptions": ("GoogleAuthError",),
    "azure.core.exceptions": ("AzureError",),
}
_DISK_FULL = ("database or disk is full", "No space left on device")  # SQLite's words, and the system's


@contextlib.contextmanager
def asking(uri: str, place: str, doing: str) -> Iterator[None]:
    """Have the process's MLflow ask at ``uri``, which people are told as ``place``; ``doing`` is in the sentences.

    Raises Unreachable or OutOfSpace for what MLflow raises.
    """
    _set_address(uri)  # another store may have been opened in this process since
    try:
        yield
    except (*_FAULTS, *_faults_of_buckets()) as error:
        userinfo = urlsplit(uri).netloc.rpartition("@")[0]
        text = str(error).replace(f"{userinfo}@", "") if userinfo else str(error)
        first_line = text.strip().partition("\n")[0][:300]
        if any(words in text for words in _DISK_FULL):
            raise OutOfSpace(
                f"No space is left for MLflow at {place}; free some and run the same command again."
            ) from error
        raise Unreachable(
            f"MLflow at {place} did not {doing} ({first_line}); check that it runs, then run the same command again."
        ) from error


def _set_address(uri: str) -> None:
    """Set MLflow's process-wide address, through which it resolves models:/ whatever address a client has.

    MLflow also writes it to the environment, where it would turn this project's next look at that variable.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def _faults_of_buckets() -> tuple[type[Exception], ...]:
    """Return what the libraries of buckets raise; looked for only when something went wrong."""
    found = []
    for module, names in _BUCKET_FAULTS.items():
        with contextlib.suppress(ImportError):
            found += [getattr(importlib.import_module(module), name) for name in names]
    return tuple(found)


def silence() -> None:
    """Keep MLflow and its migrations from telling what concerns nobody here."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="mlflow")
