"""Who waits for which record to be acknowledged, and what they call it."""

from collections import defaultdict

from pipeline.online.links import Peer
from pipeline.online.wire import DoneHead, Kind, RefusedHead, pack


class Waiting:
    """Senders whose updates are in the log and not acknowledged yet."""

    def __init__(self) -> None:
        self._peers: dict[int, dict[Peer, str]] = defaultdict(dict)

    def __len__(self) -> int:
        """Return how many senders wait, one that waits for several records as often."""
        return sum(map(len, self._peers.values()))

    def add(self, seq: int, peer: Peer, identity: str) -> None:
        """Note that a sender waits for a record."""
        self._peers[seq][peer] = identity

    def forget(self, peer: Peer) -> None:
        """Forget a sender that hung up."""
        for peers in self._peers.values():
            peers.pop(peer, None)

    def acknowledge(self, upto: int, epoch: int) -> None:
        """Tell all who wait for a record up to ``upto`` that it is safe."""
        for seq in sorted(seq for seq in self._peers if seq <= upto):
            for peer, identity in self._peers.pop(seq).items():
                peer.send(pack(Kind.DONE, DoneHead(identity, seq, epoch)))

    def refuse(self) -> None:
        """Tell all who wait that this member does not lead any more."""
        peers, self._peers = self._peers, defaultdict(dict)
        for waiting in peers.values():
            for peer, identity in waiting.items():
                refuse(peer, identity, "this member does not lead", again=True)


def refuse(peer: Peer, identity: str, reason: str, *, again: bool) -> None:
    """Tell a sender that an update, or a question, is not taken; ``again``: by another member, or later, it may be."""
    peer.send(pack(Kind.REFUSED, RefusedHead(identity, reason, again)))
