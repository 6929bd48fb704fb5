"""What MLflow's server sends when somebody moves an alias, pure: who sent it, when, and what of it is to be believed.

MLflow signs ``<delivery id>.<unix seconds>.<body>`` with HMAC-SHA256 under the webhook's secret and sends ``v1,`` and
the base64 of it (mlflow/webhooks/delivery.py; its documentation asks receivers to refuse what is older than 300 s).
"""

import hmac
import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

BODY_BYTES_MAX = 64 * 1024
AGE_SECONDS_MAX = 300
SECRET_LENGTH_MIN = 16
_SIGNATURE, _TIMESTAMP, _DELIVERY = "x-mlflow-signature", "x-mlflow-timestamp", "x-mlflow-delivery-id"
_ENTITY = "model_version_alias"


@dataclass(frozen=True)
class AliasEvent:
    """An alias of a registered model was set, or (``version`` is None) taken away.

    It wakes whoever follows and tells the moment; what is true now is read from the registry.
    """

    model: str
    alias: str
    version: int | None
    at: datetime


@dataclass(frozen=True)
class OtherEvent:
    """A genuine message about something else."""


@dataclass(frozen=True)
class Denied:
    """A message that is not believed: an HTTP status, and why, for the log alone."""

    status: int
    reason: str


def judge_delivery(
    headers: Mapping[str, str], body: bytes, secret: str, now: datetime
) -> AliasEvent | OtherEvent | Denied:
    """Check a message's signature, then its age, and only then read it; header names are in small letters."""
    delivery, sent = headers.get(_DELIVERY, ""), headers.get(_TIMESTAMP, "")
    expected = signature(secret, delivery, sent, body).encode("ascii")
    if not hmac.compare_digest(expected, headers.get(_SIGNATURE, "").encode("utf-8", "replace")):
        return Denied(401, "no signature made with the webhook's secret")
    if not re.fullmatch(r"[0-9]{1,12}", sent, re.ASCII):
        return Denied(401, "no time of sending")
    age = now.timestamp() - int(sent)
    if abs(age) > AGE_SECONDS_MAX:
        return Denied(401, f"sent {age:.0f} s ago by the sender's clock, allowed are {AGE_SECONDS_MAX}")
    return _read(body, datetime.fromtimestamp(int(sent), UTC))


def signature(secret: str, delivery: str, sent: str, body: bytes) -> str:
    """Return what MLflow's signature header holds for a message."""
    signed = b".".join((delivery.encode("utf-8", "replace"), sent.encode("utf-8", "replace"), body))
    return "v1," + b64encode(hmac.new(secret.encode(), signed, sha256).digest()).decode("ascii")


def _read(body: bytes, sent_at: datetime) -> AliasEvent | OtherEvent | Denied:
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        return Denied(400, "signed, but no JSON")
    data = message.get("data") if isinstance(message, dict) else None
    if not isinstance(data, dict):
        return Denied(400, "signed, but no message of MLflow")
    model, alias, version = data.get("name"), data.get("alias"), data.get("version")
    if message.get("entity") != _ENTITY or not isinstance(model, str) or not isinstance(alias, str):
        return OtherEvent()
    number = int(version) if isinstance(version, str) and re.fullmatch(r"[0-9]{1,9}", version, re.ASCII) else None
    return AliasEvent(model, alias, number, _moment(message.get("timestamp"), sent_at))


def _moment(text: object, sent_at: datetime) -> datetime:
    """Return the event's own time, which has fractions of a second; that of sending where it has none or an odd one."""
    try:
        moment = datetime.fromisoformat(text) if isinstance(text, str) else sent_at
        near = moment.tzinfo is not None and abs((sent_at - moment).total_seconds()) <= AGE_SECONDS_MAX
    except (ValueError, OverflowError):
        return sent_at
    return moment.astimezone(UTC) if near else sent_at
