"""One member as a process: the log, the link to the other member, senders, and the checkpoint that answers.

What to do is decided in ``leading.py``; here it is carried out, in order, each thing on disk before the next. All of it
happens in one event loop; only checkpoints, and what a shortened log starts from, are made in threads beside it.
"""

import asyncio
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.bundle.learning import read_checkpoint, read_learning
from pipeline.bundle.policy import TrustPolicy
from pipeline.bundle.strict_json import fit, parse_canonical
from pipeline.bundle.verify import VerifiedBundle, verify_checkpoint
from pipeline.core.canonical import canonical_json
from pipeline.core.clock import utc_now
from pipeline.core.errors import DataError, HotspareError, Malformed, SurroundingsError, Untrusted
from pipeline.core.files import read_bytes, write_atomic
from pipeline.core.schema import Rule
from pipeline.core.tensors import decode_npz, encode_npz
from pipeline.online import leading
from pipeline.online import leading_nouns as nouns
from pipeline.online.checkpoints import (
    Loaded,
    checkpoint_payload,
    load_checkpoint,
    seal_checkpoint,
    signature_file,
    tip_of,
)
from pipeline.online.leading import acknowledgeable
from pipeline.online.leading_nouns import Stand, Terms
from pipeline.online.learner import ID_BYTES, Head, admit, decode_update, read_head, replay
from pipeline.online.starts import (
    Start,
    borrow,
    heads_at,
    keep_start,
    lend,
    make_start,
    read_start,
    settle,
    state_digest,
)
from pipeline.online.trunk import Trunk
from pipeline.online.update_log import Checked, Record, Tip, UpdateLog, common_seq
from pipeline.online.wire import (
    SHIP_BYTES_MAX,
    AnswerHead,
    ConfirmHead,
    DoneHead,
    Frame,
    GreetHead,
    HeldHead,
    Kind,
    LendHead,
    OfferHead,
    RefusedHead,
    ShipHead,
    StatusHead,
    WelcomeHead,
    pack,
    read_frame,
)
from pipeline.runtime.journal import log_line

SOCKET = "member.sock"
LOG = "updates.log"
EPOCH = "epoch.json"
CHECKPOINT = "checkpoint"
START = "start"
_TICK_S = 0.02
_DIAL_S = 0.05
_BACKLOG_MAX = 4096
_UNSENT_BYTES_MAX = 8 << 20
_ENDS_MAX = 2048


@dataclass(frozen=True)
class Place:
    """Where a member lives and whom it talks to: its folder, the other one's, and which seat it has."""

    seat: int
    folder: Path
    other: Path


@dataclass(frozen=True)
class Keeping:
    """After how many updates a checkpoint is due, and how many the log reaches back at least."""

    every: int = 500
    window: int = 10_000


@dataclass(eq=False)
class Peer:
    """Somebody on the other end of a connection."""

    writer: asyncio.StreamWriter

    def send(self, frame: bytes) -> None:
        """Send without waiting; who does not read is dropped."""
        if self.writer.is_closing():
            return
        self.writer.write(frame)
        if self.writer.transport.get_write_buffer_size() > _UNSENT_BYTES_MAX:
            self.writer.transport.abort()


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
        self._place, self._base, self._policy, self._key, self._keeping = place, base, policy, key, keeping
        self._learning = read_learning(base.files)
        self._trunk = Trunk(base.model_file)
        self._log = UpdateLog(place.folder / LOG, base.bundle_id)
        self._start = read_start(place.folder / START, base, policy)
        settle(self._log, self._start, place.folder / START)
        self._starting = threading.Lock()  # who changes the start
        epoch = max(_kept_epoch(place.folder / EPOCH), self._log.tip.epoch)
        last, first = self._log.tip.seq, self._log.start.seq
        self._state = leading.start(place.seat, terms, epoch, last, time.monotonic(), first)
        self._seqs: dict[str, int] = {}  # of every update in the log, by its id
        self._head = self._start.head
        # CPython 3.11 dies where two threads parse npz headers at once: "AST constructor recursion depth mismatch".
        self._parsing = threading.Lock()
        self._due = asyncio.Event()
        self._due.set()
        self._held = asyncio.Event()  # one of the members has a checkpoint more
        self._theirs: HeldHead | None = None
        self._loaded = self._resumed()
        self._replay()
        self._link: Peer | None = None
        self._offers: list[tuple[str, bytes, Peer]] = []
        self._batch: list[bytes] = []
        self._shipped: Checked | None = None
        self._lent: Start | None = None
        self._waiting: dict[int, dict[Peer, str]] = defaultdict(dict)  # who awaits a record, and what it calls it

    async def run(self) -> None:
        """Serve until cancelled; raises what the disk or the log raise."""
        socket = self._place.folder / SOCKET
        socket.unlink(missing_ok=True)
        before = os.umask(0o077)  # the socket is its owner's alone
        server = await asyncio.start_unix_server(self._accept, socket)
        os.umask(before)
        async with server, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tick())
            tasks.create_task(self._keep_checkpoint())
            tasks.create_task(self._keep_log_short())
            if self._place.seat == 1:
                tasks.create_task(self._dial())

    # Time and links.

    async def _tick(self) -> None:
        while True:
            self._happened(nouns.Ticked(time.monotonic()))
            await asyncio.sleep(_TICK_S)

    async def _dial(self) -> None:
        while True:
            with suppress(OSError):
                reader, writer = await asyncio.open_unix_connection(self._place.other / SOCKET)
                peer = Peer(writer)
                self._link_up(peer)
                await self._listen(reader, peer)
            await asyncio.sleep(_DIAL_S)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._listen(reader, Peer(writer))

    async def _listen(self, reader: asyncio.StreamReader, peer: Peer) -> None:
        try:
            while (frame := await read_frame(reader)) is not None:
                self._heard(frame, peer)
        except (Untrusted, DataError) as error:
            self._say("dropped a connection", reason=str(error))
        finally:
            peer.writer.close()
            for peers in self._waiting.values():
                peers.pop(peer, None)
            if peer is self._link:
                self._link = self._theirs = None
                self._happened(nouns.Unlinked(time.monotonic()))

    def _link_up(self, peer: Peer) -> None:
        if self._link is not None:
            self._link.writer.transport.abort()
            self._happened(nouns.Unlinked(time.monotonic()))
        self._link, self._theirs = peer, None
        self._happened(nouns.Linked(time.monotonic()))
        self._tell_held()

    # What is heard.

    def _heard(self, frame: Frame, peer: Peer) -> None:
        match frame.head:
            case OfferHead():
                self._offered(frame.head, frame.body, peer)
            case StatusHead():
                peer.send(pack(Kind.STATUS, self._status()))
            case _ if frame.kind is Kind.ASK:
                self._asked(frame.body, peer)
            case _:
                self._told(frame, peer)

    def _told(self, frame: Frame, peer: Peer) -> None:
        now = time.monotonic()
        if isinstance(frame.head, GreetHead):
            self._greeted(frame.head, peer, now)
            return
        if peer is not self._link:
            raise Malformed("Somebody who is not the other member spoke as if it were.")
        match frame.head:
            case WelcomeHead(epoch, common, record, sent_at):
                self._happened(nouns.Welcomed(now, epoch, common, self._has(common, record), sent_at))
            case ConfirmHead(epoch, seq, sent_at):
                self._happened(nouns.Confirmed(now, epoch, seq, sent_at))
            case HeldHead():
                self._theirs = frame.head
                self._held.set()
            case LendHead(epoch, sent_at):
                with self._parsing:
                    self._lent = borrow(frame.body, self._base, self._policy)
                self._happened(nouns.Lent(now, epoch, self._lent.tip.seq, sent_at))
            case ShipHead(epoch, first, sent_at):
                goes_on = self._state.joined and epoch == self._state.epoch and first == self._log.tip.seq + 1
                self._shipped = self._checked(frame.body) if goes_on else None
                count = len(self._shipped.records) if self._shipped else 0
                self._happened(nouns.Shipped(now, epoch, first, count, sent_at))

    def _checked(self, data: bytes) -> Checked:
        """Read shipped records; raises what is wrong with them before one is stored: it could never be replayed."""
        checked = self._log.check(data)
        for record in checked.records:
            decode_update(record.payload, self._learning)
        return checked

    def _has(self, seq: int, record: str) -> bool:
        return self._log.digest_at(seq) == record

    def _greeted(self, head: GreetHead, peer: Peer, now: float) -> None:
        if head.base != self._base.bundle_id or head.ahead_max != self._state.terms.ahead_max:
            raise Malformed("The other member learns on another base, or is as far ahead as other terms allow.")
        if peer is not self._link:
            self._link_up(peer)
        common = common_seq(self._log.ends(), dict(head.ends))
        self._happened(nouns.Greeted(now, head.epoch, head.leads, common))

    # Updates.

    def _offered(self, head: OfferHead, body: bytes, peer: Peer) -> None:
        if head.id in self._seqs and self._state.stand is Stand.LEADS:  # sent again: it counts once
            self._waiting[self._seqs[head.id]][peer] = head.id
            self._acknowledge()
            return
        if self._state.last - self._state.shared >= self._state.terms.ahead_max + _BACKLOG_MAX:
            peer.send(pack(Kind.REFUSED, RefusedHead(head.id, "too many updates wait for the follower", True)))
            return
        try:
            with self._parsing:
                rows = decode_npz(body, "the update's row", DataError)
            payload = admit(bytes.fromhex(head.id), head.label, self._trunk(rows).reshape(-1), self._learning)
        except DataError as error:
            peer.send(pack(Kind.REFUSED, RefusedHead(head.id, str(error), False)))
            return
        if not self._offers:
            asyncio.get_running_loop().call_soon(self._take_offers)
        self._offers.append((head.id, payload, peer))

    def _take_offers(self) -> None:
        """Log all updates that came together with one write."""
        offers, self._offers = self._offers, []
        fresh = {identity: payload for identity, payload, _ in offers if identity not in self._seqs}
        self._batch = list(fresh.values())
        if self._state.stand is not Stand.LEADS:
            for identity, _, peer in offers:
                peer.send(_not_leading(identity))
            return
        if self._batch:
            self._happened(nouns.Offered(time.monotonic(), len(self._batch)))
        for identity, _, peer in offers:
            self._waiting[self._seqs[identity]][peer] = identity
        self._acknowledge()

    def _acknowledge(self) -> None:
        if not self._waiting:
            return
        ready = sorted(seq for seq in self._waiting if seq <= acknowledgeable(self._state, time.monotonic()))
        for seq in ready:
            for peer, identity in self._waiting.pop(seq).items():
                peer.send(pack(Kind.DONE, DoneHead(identity, seq, self._state.epoch)))

    # Carrying out.

    def _happened(self, event: nouns.Event) -> None:
        before = self._state
        self._state, actions = leading.step(before, event)
        with self._stopping(SurroundingsError):  # what was decided is not on disk: nothing more may be said or done
            for action in actions:
                self._do(action)
        if (self._state.stand, self._state.epoch) != (before.stand, before.epoch):
            self._say(f"{self._state.stand} in epoch {self._state.epoch}", last=self._state.last)
            self._due.set()
        self._acknowledge()

    @contextmanager
    def _stopping(self, on: type[HotspareError] = HotspareError) -> Iterator[None]:
        try:
            yield
        except on as error:
            self._say("stopped", reason=str(error))
            raise SystemExit(error.exit_code) from error

    def _do(self, action: nouns.Action) -> None:
        match action:
            case nouns.KeepEpoch(epoch):
                write_atomic(self._place.folder / EPOCH, canonical_json({"epoch": epoch}))
            case nouns.Append() | nouns.Store():
                self._grow(action)
            case nouns.Cut(seq):
                self._cut(seq)
            case nouns.Install():
                self._install()
            case nouns.Refuse():
                self._refuse()
            case nouns.Part():
                self._part()
            case _:
                self._tell(action)

    def _grow(self, action: nouns.Append | nouns.Store) -> None:
        first = self._log.tip.seq + 1
        if isinstance(action, nouns.Append):
            self._log.append(action.epoch, self._batch)
        elif self._shipped is not None:
            self._log.append_checked(self._shipped)
        self._learn_from(first)

    def _tell(self, action: nouns.Action) -> None:
        if self._link is None:
            return
        match action:
            case nouns.Greet(epoch, leads, is_bare):
                ends = () if is_bare else tuple(sorted(self._log.ends().items())[-_ENDS_MAX:])
                head = GreetHead(self._base.bundle_id, self._state.terms.ahead_max, epoch, leads, ends)
                self._link.send(pack(Kind.GREET, head))
            case nouns.Welcome(epoch, common, sent_at):
                record = self._log.digest_at(common)
                self._link.send(pack(Kind.WELCOME, WelcomeHead(epoch, common, record, sent_at)))
            case nouns.Lend(epoch, sent_at):
                self._say("lent the checkpoint that the log starts from", seq=self._start.tip.seq)
                self._link.send(pack(Kind.LEND, LendHead(epoch, sent_at), lend(self._start)))
            case nouns.Confirm(epoch, seq, sent_at):
                self._link.send(pack(Kind.CONFIRM, ConfirmHead(epoch, seq, sent_at)))
            case nouns.Ship(epoch, first, sent_at):
                self._ship(self._link, epoch, first, sent_at)

    def _ship(self, link: Peer, epoch: int, first: int, sent_at: float) -> None:
        if first > self._log.tip.seq:
            link.send(pack(Kind.SHIP, ShipHead(epoch, first, sent_at)))
        while first <= self._log.tip.seq:
            last = self._log.fitting(first, SHIP_BYTES_MAX)
            link.send(pack(Kind.SHIP, ShipHead(epoch, first, sent_at), self._log.encoded(first, last)))
            first = last + 1

    def _refuse(self) -> None:
        waiting, self._waiting = self._waiting, defaultdict(dict)
        for peers in waiting.values():
            for peer, identity in peers.items():
                peer.send(_not_leading(identity))

    def _part(self) -> None:
        if self._link is not None:
            self._link.writer.transport.abort()

    # The state.

    def _learn_from(self, first: int) -> None:
        payloads = [record.payload for record in self._log.records(first)]
        self._head = replay(self._head, payloads, self._learning)
        for seq, payload in enumerate(payloads, first):
            self._seqs[payload[:ID_BYTES].hex()] = seq
        if self._loaded is None or self._log.tip.seq - self._loaded.checkpoint.seq >= self._keeping.every:
            self._due.set()

    def _replay(self) -> None:
        """Set the state anew: the checkpoint's, if it is of this log, else the start's, and what came after it."""
        loaded = self._loaded
        if loaded is not None and not self._holds(loaded):
            loaded = self._loaded = None
        done = self._start.tip.seq if loaded is None else loaded.checkpoint.seq
        self._head = self._start.head if loaded is None else self._head_of(loaded)
        kept = self._log.records(self._start.tip.seq + 1, done)
        self._seqs = {record.payload[:ID_BYTES].hex(): record.seq for record in kept}
        self._learn_from(done + 1)

    def _holds(self, loaded: Loaded) -> bool:
        return self._log.tip_at(loaded.checkpoint.seq) == tip_of(loaded.checkpoint)

    def _head_of(self, loaded: Loaded) -> Head:
        return read_head(loaded.bundle.model_file, self._learning)

    def _cut(self, seq: int) -> None:
        if seq < self._log.tip.seq:
            self._say("cut records that the leader does not have", after=seq, last=self._log.tip.seq)
            self._log.cut(seq)
            self._replay()

    # What the log starts from.

    def _install(self) -> None:
        if self._lent is None:
            return
        with self._starting:
            keep_start(self._place.folder / START, self._lent)
            self._log.begin(self._lent.tip)
            self._start = self._lent
        self._say("began the log anew from a checkpoint that was lent", seq=self._start.tip.seq)
        self._replay()

    def _tell_held(self) -> None:
        """Say which state this member holds for sure: the other one may then drop the records before it."""
        if self._link is not None and self._loaded is not None:
            found, state = self._loaded.checkpoint, state_digest(self._head_of(self._loaded))
            self._link.send(pack(Kind.HELD, HeldHead(found.seq, found.record, state)))

    async def _keep_log_short(self) -> None:
        """Drop old records whenever both members hold the state after them; those of the window stay."""
        while True:
            await self._held.wait()
            self._held.clear()
            loaded, theirs = self._loaded, self._theirs
            if loaded is None or theirs is None or not self._has(theirs.seq, theirs.record):
                continue
            upto = leading.may_go(self._state, loaded.checkpoint.seq, theirs.seq, self._keeping.window)
            if upto is not None:
                await self._shorten(upto, loaded, theirs)

    async def _shorten(self, upto: int, loaded: Loaded, theirs: HeldHead) -> None:
        before, tip = self._start, self._log.tip_at(upto)
        records = self._log.records(before.tip.seq + 1)
        if tip is None:
            return
        with self._stopping():
            made = await asyncio.to_thread(self._start_at, tip, records, loaded, theirs)
            if made is None or self._start is not before:  # another one was lent meanwhile
                return
            self._start = made
            self._log.shorten(upto)
        self._happened(nouns.Shortened(upto))
        for record in records[: upto - before.tip.seq]:
            identity = record.payload[:ID_BYTES].hex()
            if self._seqs.get(identity) == record.seq:
                del self._seqs[identity]
        self._say("dropped old records", upto=upto, last=self._log.tip.seq)

    def _start_at(self, tip: Tip, records: Sequence[Record], loaded: Loaded, theirs: HeldHead) -> Start | None:
        """Make the start of a shorter log, in a thread; None when the members do not hold the same state."""
        before, mine = self._start, loaded.checkpoint.seq
        heads = heads_at(before, records, (tip.seq, mine, theirs.seq), self._learning)
        if state_digest(heads[theirs.seq]) != theirs.state or heads[mine] != self._head_of(loaded):
            self._say("kept all records: the members' checkpoints are not what their logs give", seq=theirs.seq)
            return None
        with self._parsing:
            payload = checkpoint_payload(self._base, heads[tip.seq], tip)
        signature = signature_file(payload, self._key)
        with self._starting:
            if self._start is not before:
                return None
            return make_start(self._place.folder / START, payload, signature, self._base, self._policy)

    # Checkpoints.

    def _resumed(self) -> Loaded | None:
        """Return the checkpoint that is on disk, or None where it is none of this log: then a new one is made."""
        folder = self._place.folder / CHECKPOINT
        if not folder.exists():
            return None
        try:
            found = read_checkpoint(verify_checkpoint(folder, self._base, self._policy, utc_now()).files)
            tip = self._log.tip_at(found.seq)
            return None if tip is None else load_checkpoint(folder, self._base, self._policy, tip)
        except Untrusted as error:
            self._say("made a new checkpoint instead of one that is not trusted", reason=str(error))
            return None

    def _made(self, head: Head, tip: Tip) -> Loaded:
        folder = self._place.folder / CHECKPOINT
        with self._parsing:
            payload = checkpoint_payload(self._base, head, tip)
        seal_checkpoint(folder, payload, self._key)
        with self._parsing:
            return load_checkpoint(folder, self._base, self._policy, tip)

    async def _keep_checkpoint(self) -> None:
        """Make a checkpoint whenever one is due; the one before answers until then."""
        while True:
            await self._due.wait()
            self._due.clear()
            tip, head = self._log.tip, self._head
            if self._loaded is not None and self._loaded.checkpoint.record == tip.digest.hex():
                continue
            with self._stopping():
                made = await asyncio.to_thread(self._made, head, tip)
            if self._holds(made):  # its records were not cut meanwhile
                self._loaded = made
                self._say("checkpoint", seq=tip.seq, bundle_id=made.bundle.bundle_id)
                self._tell_held()
                self._held.set()

    # What is told to people and programs.

    def _asked(self, body: bytes, peer: Peer) -> None:
        if self._loaded is None:
            peer.send(pack(Kind.REFUSED, RefusedHead("", "the checkpoint is being made", True)))
            return
        with self._parsing:
            rows = decode_npz(body, "the rows", DataError)
        answers = self._loaded.session.run(rows)
        checkpoint, leads = self._loaded.checkpoint, self._state.stand is Stand.LEADS
        head = AnswerHead(self._loaded.bundle.bundle_id, checkpoint.seq, self._state.epoch, leads)
        peer.send(pack(Kind.ANSWER, head, encode_npz(answers)))

    def _status(self) -> StatusHead:
        state, loaded = self._state, self._loaded
        return StatusHead(
            stand=state.stand,
            epoch=state.epoch,
            start=state.start,
            last=state.last,
            shared=state.shared,
            joined=state.joined,
            checkpoint_seq=None if loaded is None else loaded.checkpoint.seq,
            checkpoint_id=None if loaded is None else loaded.bundle.bundle_id,
            head_sha256=state_digest(self._head),
        )

    def _say(self, event: str, **about: object) -> None:
        log_line({"model": self._base.model, "seat": self._place.seat, "event": event, **about})


def _not_leading(identity: str) -> bytes:
    return pack(Kind.REFUSED, RefusedHead(identity, "this member does not lead", True))


@dataclass(frozen=True)
class _Epoch:
    epoch: Annotated[int, Rule(minimum=0)]


def _kept_epoch(path: Path) -> int:
    return fit(_Epoch, parse_canonical(read_bytes(path), str(path)), str(path)).epoch if path.exists() else 0
