"""``hotspare run --pair``: a primary and its standby in this process, behind one call."""

import argparse
from collections import Counter
from pathlib import Path

from pipeline.bundle.floor import floor_path, raise_floor
from pipeline.bundle.verify import VerifiedBundle, load_channel
from pipeline.commands.node.admission import Admitted, admit
from pipeline.core.clock import utc_now
from pipeline.core.errors import SurroundingsError, Untrusted
from pipeline.core.names import Role
from pipeline.core.schema import plain
from pipeline.core.tensors import Array, Tensors
from pipeline.runtime.embedded import EmbeddedPair
from pipeline.runtime.embedded_channel import Under
from pipeline.runtime.members import Diagnosis, Seat


class Paired:
    """The pair of one run, and how many rows each role answered."""

    def __init__(self, args: argparse.Namespace, admitted: Admitted) -> None:
        """Verify the standby as the primary was, then load both; raises what either is refused for."""
        self._args, self._policy = args, admitted.policy
        self.standby = self._admit(args.pair)
        found = admitted.channel
        under = None if found is None else Under(found, admitted.policy.expired, utc_now)
        self.pair = EmbeddedPair(admitted.bundle, self.standby, under=under, verify_again=self._again)
        self.rows: Counter[Role] = Counter()

    def _admit(self, bundle: Path) -> VerifiedBundle:
        return admit(argparse.Namespace(**{**vars(self._args), "bundle": bundle, "role": None}), utc_now()).bundle

    def _again(self, seat: Seat) -> VerifiedBundle:
        return self._admit(self._args.bundle if seat.role is Role.PRIMARY else self._args.pair)

    def run(self, inputs: Tensors) -> dict[str, Array]:
        """Answer rows by whoever serves; raises Expired past the channel's end, as the trust policy says."""
        self._renew_if_due()
        answer = self.pair.predict(inputs)
        self.rows[answer.role] += int(next(iter(inputs.values())).shape[0])
        return dict(answer.outputs)

    def _renew_if_due(self) -> None:
        """Take a renewed channel in; with none that may be taken, the one that counts goes on to its end."""
        status, place = self.pair.channel, self._args.channel
        if status is None or not status.is_due:
            return
        if place is None and self._policy.channels is not None:
            place = self._policy.channels / self.standby.model
        try:
            found = load_channel(place, self._policy, utc_now())
            self.pair.renew(found)
            raise_floor(floor_path(self._policy.state_dir, self.standby.model), found.channel.floor)
        except (Untrusted, SurroundingsError):
            return

    def described(self) -> dict[str, object]:
        """Return who answered and what was noticed, as plain data."""
        return {
            "standby": {"bundle_id": self.standby.bundle_id, "candidate": self.standby.candidate},
            "rows": {role.value: self.rows[role] for role in Role},
            "term": self.pair.state.term,
            "channel": None if self.pair.channel is None else plain(self.pair.channel),
            "faults": [
                {
                    "seat": _where(item),
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
        faults = [f"fault       {_where(item)}: {item.fault} ({item.component})" for item in self.pair.diagnoses]
        return [f"pair        {shares}, term {self.pair.state.term}", *faults]


def _where(item: Diagnosis) -> str:
    """Return whose fault it is: a seat's, or nobody's of the pair."""
    return "channel" if item.seat is None else str(item.seat)
