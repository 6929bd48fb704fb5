"""What an MLflow server on PostgreSQL and S3 storage still lacks: one sentence for each, and no secret in any.

``mlflow/server.sh`` asks first: ``python -m pipeline.registry.server_needs`` exits with 2 if anything is missing.
"""

import importlib.util
import ipaddress
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from urllib.parse import urlsplit

AUTH = "HOTSPARE_MLFLOW_AUTH"
_DATABASE = ("PGHOST", "PGDATABASE", "PGUSER")
_SECRET_LENGTH_MIN, _PASSWORD_LENGTH_MIN = 16, 12
_CONNECT_SECONDS = 5
_EXTRA = "pip install 'hotspare[registry-server]'"


def missing_packages(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what must be installed."""
    packages = {"boto3": "boto3", "mlflow": "MLflow", "psycopg2": "psycopg2"}
    users = {"flask_wtf": "Flask-WTF"} if environ.get(AUTH) == "basic" else {}
    for module, name in {**packages, **users}.items():
        found = importlib.util.find_spec(module)
        if found is None or found.origin is None:  # a mere folder of that name, such as a project's mlflow/
            yield f"{name} is not installed; {_EXTRA}."


def missing_settings(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield what the settings do not say or must not say."""
    for name in _DATABASE:
        if not environ.get(name):
            yield f"{name} is not set: which PostgreSQL host, database and user keep runs and versions?"
    place = urlsplit(environ.get("MLFLOW_ARTIFACTS_DESTINATION", ""))
    if place.scheme != "s3" or not place.netloc:
        yield "MLFLOW_ARTIFACTS_DESTINATION names no bucket; set it to s3://BUCKET or s3://BUCKET/PREFIX."
    yield from _missing_for_access(environ)


def _missing_for_access(environ: Mapping[str, str]) -> Iterator[str]:
    auth, loopback = environ.get(AUTH, ""), is_loopback(environ.get("MLFLOW_HOST", "127.0.0.1"))
    if auth not in ("basic", "none"):
        yield f"{AUTH} is {auth or 'not set'}; set it to basic (users and passwords) or none."
    if auth == "none" and not loopback:
        yield f"MLFLOW_HOST={environ['MLFLOW_HOST']} opens the server to other machines; set {AUTH}=basic."
    if auth == "basic" and len(environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY", "")) < _SECRET_LENGTH_MIN:
        yield (
            f"MLFLOW_FLASK_SERVER_SECRET_KEY has fewer than {_SECRET_LENGTH_MIN} characters or is not set; "
            "make it once with `openssl rand -hex 32` and keep it."
        )
    if not loopback and not environ.get("MLFLOW_SERVER_ALLOWED_HOSTS"):
        yield "MLFLOW_SERVER_ALLOWED_HOSTS is not set: by which names and ports do clients call this server?"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach what listens at ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def missing_in_database(environ: Mapping[str, str]) -> Iterator[str]:
    """Connect as the server will; yield why that fails, or that the first admin has no password."""
    import psycopg2

    place = f"{environ['PGDATABASE']} at {environ['PGHOST']}"
    try:
        # As the server does it: everything from the environment.
        with closing(psycopg2.connect("", connect_timeout=_CONNECT_SECONDS)) as connection, connection.cursor() as ask:
            ask.execute("SELECT to_regclass('users') IS NOT NULL")
            has_users = bool(ask.fetchone()[0])
    except psycopg2.Error as error:
        reason = str(error).strip().partition("\n")[0]
        yield f"PostgreSQL does not let {environ['PGUSER']} into {place} ({reason})."
        return
    password = environ.get("MLFLOW_AUTH_ADMIN_PASSWORD", "")
    if environ[AUTH] == "basic" and not has_users and len(password) < _PASSWORD_LENGTH_MIN:
        yield (
            f"{place} has no users yet, and MLFLOW_AUTH_ADMIN_PASSWORD, the first admin's, has fewer than "
            f"{_PASSWORD_LENGTH_MIN} characters or is not set."
        )


def missing_in_store(environ: Mapping[str, str]) -> Iterator[str]:
    """Ask for the bucket as the server will; yield why it cannot be used."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    bucket = urlsplit(environ["MLFLOW_ARTIFACTS_DESTINATION"]).netloc
    endpoint = environ.get("MLFLOW_S3_ENDPOINT_URL") or None
    once = Config(connect_timeout=_CONNECT_SECONDS, read_timeout=_CONNECT_SECONDS, retries={"max_attempts": 0})
    try:
        boto3.client("s3", endpoint_url=endpoint, config=once).head_bucket(Bucket=bucket)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "?"))
        why = {"404": "it does not exist", "403": "the keys do not open it"}.get(code, f"answer {code}")
        yield f"The bucket {bucket} at {endpoint or 'Amazon S3'} cannot be used: {why}."
    except (BotoCoreError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        yield f"The bucket {bucket} at {endpoint or 'Amazon S3'} cannot be used ({reason})."


def missing(environ: Mapping[str, str]) -> list[str]:
    """Return what is missing; database and bucket are asked once all that is needed to ask is there."""
    lacking = [*missing_packages(environ), *missing_settings(environ)]
    return lacking or [*missing_in_database(environ), *missing_in_store(environ)]


if __name__ == "__main__":
    sentences = missing(os.environ)
    for sentence in sentences:
        print(sentence, file=sys.stderr)
    sys.exit(2 if sentences else 0)
