"""Shadow agreement: a share of the requests is answered by the other side too, and the two answers are compared."""

from collections import deque
from collections.abc import Mapping

from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime.canaries import Agreement, own_tolerance, pair_tolerance

_LAST = 20
_DISAGREEING_MAX = 3  # of the last 20: a healthy pair disagrees on at most 0.2 % of rows


class Agreements:
    """When two members of a pair agree: replicas within golden tolerance, both sides as measured at their build."""

    def __init__(self, bundles: Mapping[Role, VerifiedBundle]) -> None:
        both = len(bundles) == len(Role)
        self.of_pair = pair_tolerance(bundles[Role.PRIMARY], bundles[Role.BACKUP]) if both else None
        self._of_role = {role: own_tolerance(bundle) for role, bundle in bundles.items()}

    def between(self, one: Role, other: Role) -> Agreement | None:
        """Return when a member of one role and one of the other agree; None where a side is missing."""
        return self._of_role[one] if one is other else self.of_pair


class Shadowing:
    """Which requests are shadowed, and what the comparisons say."""

    def __init__(self, agreement: Agreement | None, ratio: float) -> None:
        self.compared = 0
        self.disagreed = 0
        self._agreement = agreement
        self._ratio = ratio if agreement is not None else 0.0
        self._credit = 0.0
        self._last: deque[bool] = deque(maxlen=_LAST)

    def is_due(self) -> bool:
        """Tell whether this request is to be shadowed: evenly spread, without a draw."""
        self._credit += self._ratio
        if self._credit < 1:
            return False
        self._credit -= 1
        return True

    def compare(self, released: Mapping[str, Array], shadow: Mapping[str, Array]) -> str | None:
        """Compare two answers to one request; returns a sentence when the sides have come apart."""
        if self._agreement is None:
            return None
        agree = self._agreement.agree(released, shadow)
        self.compared += 1
        self.disagreed += not agree
        self._last.append(agree)
        apart = self._last.count(False)
        if apart < _DISAGREEING_MAX:
            return None
        self._last.clear()
        return f"primary and backup disagreed on {apart} of the last {_LAST} shadowed requests"
