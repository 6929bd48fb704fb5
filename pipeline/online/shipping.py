"""Records on their way to the follower: in pieces, and the next one when the link has taken what was sent before.

A follower that was away may lack more than a connection can hold; it confirms each piece, and is then sent more.
"""

from pipeline.online.links import Links
from pipeline.online.update_log import UpdateLog
from pipeline.online.wire import SHIP_BYTES_MAX, Kind, ShipHead, pack

_UNSENT_BYTES_MAX = 1 << 20


class Shipping:
    """What of a leader's log was sent over the present link."""

    def __init__(self, log: UpdateLog, links: Links) -> None:
        self._log, self._links = log, links
        self._next = 1

    def begin(self, common: int) -> None:
        """Go on after record ``common``, which the follower has."""
        self._next = common + 1

    def ship(self, epoch: int, sent_at: float) -> None:
        """Send what was not sent yet, as far as the link takes it; a heartbeat where all was."""
        if self._next > self._log.tip.seq:
            self._links.tell(pack(Kind.SHIP, ShipHead(epoch, self._next, sent_at)))
        else:
            self.go_on(epoch, sent_at)

    def go_on(self, epoch: int, sent_at: float) -> None:
        """Send more of what was not sent yet."""
        while self._next <= self._log.tip.seq and self._links.unsent_bytes < _UNSENT_BYTES_MAX:
            last = self._log.fitting(self._next, SHIP_BYTES_MAX)
            records = self._log.encoded(self._next, last)
            self._links.tell(pack(Kind.SHIP, ShipHead(epoch, self._next, sent_at), records))
            self._next = last + 1
