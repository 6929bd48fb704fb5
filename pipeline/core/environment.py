"""What processes that are started here inherit."""

import os
from collections.abc import Mapping

SIGNING_KEY = "HOTSPARE_SIGNING_KEY"


def for_children(ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without the signing key: children run code of many libraries, and of models.

    Nor does their ``python -m`` take modules of the folder one stands in, such as a downloaded model's, for libraries.
    """
    kept = {name: value for name, value in ours.items() if name != SIGNING_KEY}
    return {**kept, "PYTHONSAFEPATH": "1"}
