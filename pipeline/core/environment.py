"""What processes that are started here inherit."""

import os
from collections.abc import Collection, Mapping

SIGNING_KEY = "HOTSPARE_SIGNING_KEY"
SIGNING_PIN = "HOTSPARE_SIGNING_PIN"
TOKEN = "HOTSPARE_TOKEN"  # noqa: S105 - the name of a variable
PERSON = "HOTSPARE_PERSON"
WEBHOOK_SECRET = "HOTSPARE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
REGISTRIES = "DOCKER_AUTH_CONFIG"  # passwords of OCI registries, as build services give them
SIGNING = frozenset({SIGNING_KEY, SIGNING_PIN})
STORE = frozenset({"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"})  # none of them is of use alone
_MODEL_REGISTRY = frozenset({"MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"})
SECRETS = SIGNING | STORE | _MODEL_REGISTRY | {TOKEN, WEBHOOK_SECRET, REGISTRIES}


def for_children(ours: Mapping[str, str] = os.environ, given: Collection[str] = ()) -> dict[str, str]:
    """Return the environment without secrets but those ``given``: children run code of many libraries, and of models.

    Nor does their ``python -m`` take modules of the folder one stands in, such as a downloaded model's, for libraries.
    """
    kept = {name: value for name, value in ours.items() if name not in SECRETS or name in given}
    return {**kept, "PYTHONSAFEPATH": "1"}
