"""Which registry a project uses, and a quick look whether it answers before MLflow's slow import."""

import http.client
import os
import ssl
import urllib.error
import urllib.request
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from pipeline.core.errors import Unreachable, UsageError
from pipeline.core.files import disk_errors
from pipeline.registry.store import Registry

STORE = Path("mlflow/store")
_PROBE_SECONDS = 3.0
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # a server passes a file on to its bucket before it answers
    "MLFLOW_RECORD_ENV_VARS_IN_MODEL_LOGGING": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


@dataclass(frozen=True)
class Address:
    """Where the registry is; ``artifacts`` is None where a server keeps the files.

    ``own_database`` is the project's own SQLite file, which hotspare creates.
    """

    uri: str
    artifacts: Path | None
    own_database: Path | None = None

    @property
    def place(self) -> str:
        """Return the address without user and password."""
        parts = urlsplit(self.uri)
        if parts.hostname is None:
            return self.uri
        host = parts.hostname if parts.port is None else f"{parts.hostname}:{parts.port}"
        return urlunsplit((parts.scheme, host, parts.path, "", ""))


def address(root: Path, tracking_uri: str) -> Address:
    """Return the registry that a project below ``root`` uses; an empty ``tracking_uri`` means the project's own."""
    _require_address(tracking_uri)
    store = (root / STORE).resolve()
    if not tracking_uri:
        database = store / "mlflow.db"
        return Address(f"sqlite:///{database}", store / "artifacts", database)
    scheme = urlsplit(tracking_uri).scheme
    if scheme in ("", "file"):
        raise UsageError(
            f"MLFLOW_TRACKING_URI={tracking_uri} names a folder, which holds no model registry; "
            "give a database (sqlite:///path/mlflow.db) or a server (http://host:5000), or unset it."
        )
    served = scheme in ("http", "https") or scheme.startswith("databricks")
    return Address(tracking_uri, None if served else store / "artifacts")


def _require_address(tracking_uri: str) -> None:
    try:
        _ = urlsplit(tracking_uri).port
    except ValueError:
        # Neither the address nor the reason is told: what stands where the port belongs may be a password.
        raise UsageError("MLFLOW_TRACKING_URI is no address; give one such as http://host:5000, or unset it.") from None


def open_registry(root: Path, environ: MutableMapping[str, str] = os.environ) -> Registry:
    """Open the registry that ``MLFLOW_TRACKING_URI`` names, else the project's ``mlflow/store``.

    Raises UsageError for an address that cannot hold a registry, Unreachable when it does not answer.
    """
    place = address(root, environ.get("MLFLOW_TRACKING_URI", ""))
    if urlsplit(place.uri).scheme in ("http", "https"):
        _probe(place)
    elif place.artifacts is not None:
        with disk_errors(place.artifacts):
            place.artifacts.mkdir(parents=True, exist_ok=True)
    for name, value in _SETTINGS.items():
        environ.setdefault(name, value)
    # Here and not at the top: the import takes 7 s and reads these settings.
    from pipeline.registry.mlflow_store import MlflowRegistry, create_database

    if place.own_database is not None and not place.own_database.exists():
        create_database(place.own_database)
    return MlflowRegistry(place.uri, place.place, place.artifacts)


def _probe(place: Address) -> None:
    try:
        # Without user and password, which urllib takes for a part of the host and tells in its errors.
        urllib.request.urlopen(f"{place.place.rstrip('/')}/health", timeout=_PROBE_SECONDS).close()  # noqa: S310
    except urllib.error.HTTPError:
        return  # It answers; whether it likes us, MLflow will say.
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLError):
            return
        raise Unreachable(
            f"MLflow at {place.place} does not answer ({reason}); "
            "start it, or unset MLFLOW_TRACKING_URI to use mlflow/store."
        ) from error
