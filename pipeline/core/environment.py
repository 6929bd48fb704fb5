"""What processes that are started here inherit."""

import os
from collections.abc import Mapping

SIGNING_KEY = "HOTSPARE_SIGNING_KEY"
SIGNING_PIN = "HOTSPARE_SIGNING_PIN"
TOKEN = "HOTSPARE_TOKEN"  # noqa: S105 - the name of a variable
PERSON = "HOTSPARE_PERSON"
WEBHOOK_SECRET = "HOTSPARE_WEBHOOK_SECRET"  # noqa: S105 - the name of a variable
REGISTRIES = "DOCKER_AUTH_CONFIG"  # passwords of OCI registries, as build services give them
SECRETS = frozenset({SIGNING_KEY, SIGNING_PIN, TOKEN, WEBHOOK_SECRET, REGISTRIES})


def for_children(ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without signing key and token: children run code of many libraries, and of models.

    Nor does their ``python -m`` take modules of the folder one stands in, such as a downloaded model's, for libraries.
    """
    kept = {name: value for name, value in ours.items() if name not in SECRETS}
    return {**kept, "PYTHONSAFEPATH": "1"}
