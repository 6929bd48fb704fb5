"""One member as a process: what it hears becomes events, and what ``leading.py`` decides of them is carried out.

In order, each thing on disk before the next. All of it happens in one event loop; only checkpoints, and what a
shortened log starts from, are made in threads beside it (``upkeep.py``).
"""

import asyncio
import time

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.verify import VerifiedBundle
from pipeline.core.errors import DataError, Malformed, SurroundingsError
from pipeline.core.tensors import decode_npz, encode_npz
from pipeline.online import leading
from pipeline.online import leading_nouns as nouns
from pipeline.online.leading_nouns import Stand, Terms
from pipeline.online.learner import admit
from pipeline.online.links import Links, Peer
from pipeline.online.place import Keeping, Place, keep_epoch, read_epoch
from pipeline.online.records import Checked, common_seq
from pipeline.online.replica import Replica
from pipeline.online.shipping import Shipping
from pipeline.online.starts import Start, borrow, lend, state_digest
from pipeline.online.trunk import Trunk
from pipeline.online.upkeep import Upkeep
from pipeline.online.voice import Voice
from pipeline.online.waiting import Waiting, refuse
from pipeline.online.wire import (
    AnswerHead,
    ConfirmHead,
    Frame,
    GreetHead,
    HeldHead,
    Kind,
    LendHead,
    OfferHead,
    ShipHead,
    StatusHead,
    WelcomeHead,
    pack,
)

_TICK_S = 0.02
_BACKLOG_MAX = 4096
_ENDS_MAX = 2048


class Member:
    """A leader or follower of one base bundle's updates."""

    def __init__(
        self,
        place: Place,
        terms: Terms,
        base: VerifiedBundle,
        policy: TrustPolicy,
        key: ec.EllipticCurvePrivateKey,
        keeping: Keeping,
    ) -> None:
        self._place, self._window, self._voice = place, keeping.window, Voice(base.model, place.seat)
        self._trunk = Trunk(base.model_file)
        self._replica = Replica(place, base, policy, keeping, self._voice)
        log = self._replica.log
        epoch = max(read_epoch(place.folder), log.tip.epoch)
        self._state = leading.start(place.seat, terms, epoch, log.tip.seq, time.monotonic(), log.start.seq)
        self._upkeep = Upkeep(place, self._replica, key, keeping, self._voice)
        self._replica.resume(self._upkeep.resumed())
        self._links = Links(place, self, self._voice)
        self._shipping = Shipping(log, self._links)
        self._offers: list[tuple[str, bytes, Peer]] = []
        self._batch: list[bytes] = []
        self._shipped: Checked | None = None
        self._lent: Start | None = None
        self._waiting = Waiting()

    async def run(self) -> None:
        """Serve until cancelled; raises what the disk or the log raise."""
        async with await self._links.open(), asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._upkeep.keep_checkpoint(self._tell_held))
            tasks.create_task(self._upkeep.keep_log_short(lambda: self._state, self._happened))
            if self._place.seat == 1:
                tasks.create_task(self._links.dial())

    async def _tick(self) -> None:
        while True:
            self._happened(nouns.Ticked(time.monotonic()))
            await asyncio.sleep(_TICK_S)

    # What is heard.

    def heard(self, frame: Frame, peer: Peer) -> None:
        """Take a message; raises Untrusted or DataError for one that ends its connection."""
        match frame.head:
            case OfferHead():
                self._offered(frame.head, frame.body, peer)
            case StatusHead():
                peer.send(pack(Kind.STATUS, self._status()))
            case GreetHead():
                self._greeted(frame.head, peer)
            case _ if frame.kind is Kind.ASK:
                self._asked(frame.body, peer)
            case _ if peer is not self._links.other:
                raise Malformed("Somebody who is not the other member spoke as if it were.")
            case _:
                self._told(frame)

    def linked(self) -> None:
        """Learn that the other member can be talked to, from now on and not before."""
        self._upkeep.theirs = None
        self._happened(nouns.Linked(time.monotonic()))
        self._tell_held()

    def unlinked(self) -> None:
        """Learn that it cannot be talked to any more."""
        self._upkeep.theirs = None
        self._happened(nouns.Unlinked(time.monotonic()))

    def left(self, peer: Peer) -> None:
        """Learn that somebody hung up."""
        self._waiting.forget(peer)

    def _told(self, frame: Frame) -> None:
        now = time.monotonic()
        match frame.head:
            case WelcomeHead(epoch, common, record, sent_at):
                self._happened(nouns.Welcomed(now, epoch, common, self._replica.has(common, record), sent_at))
            case ConfirmHead(epoch, seq, sent_at):
                self._happened(nouns.Confirmed(now, epoch, seq, sent_at))
                if self._state.stand is Stand.LEADS and self._state.joined:
                    self._shipping.go_on(self._state.epoch, now)
            case HeldHead():
                self._upkeep.heard(frame.head)
            case LendHead(epoch, sent_at):
                with self._replica.parsing:
                    self._lent = borrow(frame.body, self._replica.base, self._replica.policy)
                self._happened(nouns.Lent(now, epoch, self._lent.tip.seq, sent_at))
            case ShipHead(epoch, first, sent_at):
                tip = self._replica.log.tip.seq
                goes_on = self._state.joined and epoch == self._state.epoch and first == tip + 1
                self._shipped = self._replica.check(frame.body) if goes_on else None
                count = len(self._shipped.records) if self._shipped else 0
                self._happened(nouns.Shipped(now, epoch, first, count, sent_at))

    def _greeted(self, head: GreetHead, peer: Peer) -> None:
        if not self._goes_together(head):
            raise Malformed(
                "The other member has not the same settings, and the other seat; mend them, start it again."
            )
        if peer is not self._links.other:
            self._links.link(peer)
        common = common_seq(self._replica.log.ends(), dict(head.ends))
        self._happened(nouns.Greeted(time.monotonic(), head.epoch, head.leads, common))

    def _goes_together(self, head: GreetHead) -> bool:
        """Tell whether both learn on one base, keep the same promises, and cannot lead in one epoch."""
        mine = self._greeting(nouns.Greet(0, leads=False))
        return head.seat != mine.seat and (head.base, head.terms, head.window) == (mine.base, mine.terms, mine.window)

    # Updates.

    def _offered(self, head: OfferHead, body: bytes, peer: Peer) -> None:
        state, seqs = self._state, self._replica.seqs
        if head.id in seqs and state.stand is Stand.LEADS:  # sent again: it counts once
            self._waiting.add(seqs[head.id], peer, head.id)
            self._acknowledge()
            return
        if state.last - state.shared >= state.terms.ahead_max + _BACKLOG_MAX:
            refuse(peer, head.id, "too many updates wait for the follower", again=True)
            return
        try:
            payload = self._admitted(head, body)
        except DataError as error:
            refuse(peer, head.id, str(error), again=False)
            return
        if not self._offers:
            asyncio.get_running_loop().call_soon(self._take_offers)
        self._offers.append((head.id, payload, peer))

    def _admitted(self, head: OfferHead, body: bytes) -> bytes:
        with self._replica.parsing:
            rows = decode_npz(body, "the update's row", DataError)
        return admit(bytes.fromhex(head.id), head.label, self._trunk(rows).reshape(-1), self._replica.learning)

    def _take_offers(self) -> None:
        """Log all updates that came together with one write."""
        (offers, self._offers), seqs = (self._offers, []), self._replica.seqs
        if self._state.stand is not Stand.LEADS:
            for identity, _, peer in offers:
                refuse(peer, identity, "this member does not lead", again=True)
            return
        self._batch = list({identity: payload for identity, payload, _ in offers if identity not in seqs}.values())
        if self._batch:
            self._happened(nouns.Offered(time.monotonic(), len(self._batch)))
        for identity, _, peer in offers:
            self._waiting.add(seqs[identity], peer, identity)
        self._acknowledge()

    def _acknowledge(self) -> None:
        self._waiting.acknowledge(leading.acknowledgeable(self._state, time.monotonic()), self._state.epoch)

    # Carrying out.

    def _happened(self, event: nouns.Event) -> None:
        before = self._state
        self._state, actions = leading.step(before, event)
        with self._voice.stopping(SurroundingsError):  # what was decided is not on disk
            for action in actions:
                self._do(action)
        if (self._state.stand, self._state.epoch) != (before.stand, before.epoch):
            self._voice.say(f"{self._state.stand} in epoch {self._state.epoch}", last=self._state.last)
            self._replica.due.set()
        self._acknowledge()

    def _do(self, action: nouns.Action) -> None:
        match action:
            case nouns.KeepEpoch(epoch):
                keep_epoch(self._place.folder, epoch)
            case nouns.Append(epoch):
                self._replica.append(epoch, self._batch)
            case nouns.Store() if self._shipped is not None:
                self._replica.store(self._shipped)
            case nouns.Cut(seq):
                self._replica.cut(seq)
            case nouns.Install() if self._lent is not None:
                self._replica.install(self._lent)
            case nouns.Refuse():
                self._waiting.refuse()
            case nouns.Part():
                self._links.part()
            case _:
                self._tell(action)

    def _tell(self, action: nouns.Action) -> None:
        if self._links.other is None:
            return
        match action:
            case nouns.Greet():
                self._links.tell(pack(Kind.GREET, self._greeting(action)))
            case nouns.Welcome(epoch, common, sent_at):
                record = self._replica.log.digest_at(common)
                self._links.tell(pack(Kind.WELCOME, WelcomeHead(epoch, common, record, sent_at)))
                self._shipping.begin(common)
            case nouns.Lend(epoch, sent_at):
                start = self._replica.start
                self._voice.say("lent the checkpoint that the log starts from", seq=start.tip.seq)
                self._links.tell(pack(Kind.LEND, LendHead(epoch, sent_at), lend(start)))
                self._shipping.begin(start.tip.seq)
            case nouns.Confirm(epoch, seq, sent_at):
                self._links.tell(pack(Kind.CONFIRM, ConfirmHead(epoch, seq, sent_at)))
            case nouns.Ship(epoch, _, sent_at):
                self._shipping.ship(epoch, sent_at)

    def _greeting(self, greet: nouns.Greet) -> GreetHead:
        ends = () if greet.is_bare else tuple(sorted(self._replica.log.ends().items())[-_ENDS_MAX:])
        base, state = self._replica.base.bundle_id, self._state
        return GreetHead(base, state.seat, state.terms, self._window, greet.epoch, greet.leads, ends)

    def _tell_held(self) -> None:
        held = self._replica.held()
        if held is not None:
            self._links.tell(pack(Kind.HELD, held))

    # What is told to people and programs.

    def _asked(self, body: bytes, peer: Peer) -> None:
        loaded = self._replica.loaded
        if loaded is None:
            refuse(peer, "", "the checkpoint is being made", again=True)
            return
        with self._replica.parsing:
            rows = decode_npz(body, "the rows", DataError)
        answers = loaded.session.run(rows)
        leads = self._state.stand is Stand.LEADS
        head = AnswerHead(loaded.bundle.bundle_id, loaded.checkpoint.seq, self._state.epoch, leads)
        peer.send(pack(Kind.ANSWER, head, encode_npz(answers)))

    def _status(self) -> StatusHead:
        state, loaded = self._state, self._replica.loaded
        return StatusHead(
            stand=state.stand,
            epoch=state.epoch,
            start=state.start,
            last=state.last,
            shared=state.shared,
            joined=state.joined,
            checkpoint_seq=None if loaded is None else loaded.checkpoint.seq,
            checkpoint_id=None if loaded is None else loaded.bundle.bundle_id,
            head_sha256=state_digest(self._replica.head),
        )
