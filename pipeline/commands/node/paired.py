"""``hotspare run --pair``: a primary and its standby in this process, behind one call."""

import argparse
from collections import Counter
from pathlib import Path

from pipeline.bundle.verify import VerifiedBundle
from pipeline.commands.node.admission import Admitted, admit
from pipeline.core.clock import utc_now
from pipeline.core.errors import NotAccepted
from pipeline.core.names import Role
from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.embedded import EmbeddedPair
from pipeline.runtime.members import Seat

_ROLES = (Role.PRIMARY, Role.BACKUP)


class Paired:
    """The pair of one run, and how many rows each role answered."""

    def __init__(self, args: argparse.Namespace, admitted: Admitted) -> None:
        """Verify the standby as the primary was, then load both; raises what either is refused for."""
        self._args = args
        self.standby = self._admit(args.pair)
        roles = (admitted.bundle.role, self.standby.role)
        if None not in roles and roles != _ROLES:
            raise NotAccepted(
                f"The channel names these bundles {roles[0]} and {roles[1]}; give the primary, then its standby."
            )
        self.pair = EmbeddedPair(admitted.bundle, self.standby, verify_again=self._again)
        self.rows: Counter[Role] = Counter()

    def _admit(self, bundle: Path) -> VerifiedBundle:
        return admit(argparse.Namespace(**{**vars(self._args), "bundle": bundle, "role": None}), utc_now()).bundle

    def _again(self, seat: Seat) -> VerifiedBundle:
        return self._admit(self._args.bundle if seat.role is Role.PRIMARY else self._args.pair)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Answer rows by whoever serves."""
        answer = self.pair.predict(inputs)
        self.rows[answer.role] += int(next(iter(inputs.values())).shape[0])
        return dict(answer.outputs)

    def described(self) -> dict[str, object]:
        """Return who answered and what was noticed, as plain data."""
        return {
            "standby": {"bundle_id": self.standby.bundle_id, "candidate": self.standby.candidate},
            "rows": {role.value: self.rows[role] for role in Role},
            "term": self.pair.state.term,
            "faults": [
                {
                    "seat": str(item.seat),
                    "fault": item.fault,
                    "component": item.component,
                    "evidence": list(item.evidence),
                }
                for item in self.pair.diagnoses
            ],
        }

    def told(self) -> list[str]:
        """Return who answered and what was noticed, as lines for people."""
        shares = ", ".join(f"{self.rows[role]:,} by the {role}" for role in Role)
        faults = [f"fault       {item.seat}: {item.fault} ({item.component})" for item in self.pair.diagnoses]
        return [f"pair        {shares}, term {self.pair.state.term}", *faults]
