"""Whether learning survives its leader: ``python benchmarks/online.py --bundle B --rows R.npz --out DIR``.

Two members as real processes, a sender that streams real rows, and the leader killed (-9) at a random moment, again and
again: in synchronous mode, in asynchronous mode, killed with its disk replaced by an empty one, and then stopped and
woken up (SIGSTOP, SIGCONT) instead of killed. The log's window is small, so that old records are dropped all the time.
Counts acknowledged updates that the survivor does not have, the time to the survivor's first verified answer, and
whether the replayed state is, to the last bit, what an offline replay of the acknowledged updates gives. Every trial is
a line in a folder of DIR that is named for code, bundle, rows and machine; run again, it goes on where it was stopped.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import signal
import statistics
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np

from pipeline.bundle.learning import read_learning
from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.bundle.reading import PAYLOAD, SIGNATURE_FILE
from pipeline.bundle.verify import VerifiedBundle, verify_bundle, verify_checkpoint
from pipeline.cli import main as hotspare
from pipeline.commands.build.console import show_table
from pipeline.commands.build.keys import policy_text
from pipeline.core.canonical import canonical_json, readable_json, sha256_hex
from pipeline.core.clock import utc_now
from pipeline.core.errors import DataError, HotspareError, InternalError, Unreachable, Untrusted
from pipeline.core.files import read_bytes, write_atomic
from pipeline.core.schema import plain, read
from pipeline.core.tensors import Array, Tensors, encode_npz, map_npz
from pipeline.drill.campaign import code_sha256
from pipeline.drill.machine import machine_facts
from pipeline.online.checkpoints import learnable
from pipeline.online.learner import ID_BYTES, Update, learn, read_head
from pipeline.online.place import CHECKPOINT, LOG, SOCKET
from pipeline.online.records import Record
from pipeline.online.sending import Acknowledged, Sender, ask, status
from pipeline.online.trunk import Trunk, what_learns
from pipeline.online.update_log import read_log
from pipeline.online.wire import DoneHead, Frame, Kind, OfferHead, StatusHead, pack, read_frame
from pipeline.seal.keys import load_private_key, new_key
from pipeline.seal.signing import seal_bundle

MODES = ("sync", "async", "replaced-sync", "stopped-sync", "stopped-async")
_KEEPING = {"checkpoint_every": 50, "window": 50}
_WINDOW = 32  # updates that wait for an acknowledgement at once
_PATIENCE_S = 60.0
_TRIALS_A_PAIR = 10
_SERVER = multiprocessing.get_context("forkserver")
# A forked member imports this file again: everything that it imports in turn is there already.
_SERVER.set_forkserver_preload(
    [
        "pipeline.commands.build.learn",
        "pipeline.seal.signing",
        "pipeline.commands.build.keys",
        "pipeline.online.sending",
    ]
)


@dataclass(frozen=True)
class Trial:
    """One leader killed or stopped."""

    mode: str
    seed: int
    acknowledged: int
    lost: int
    acknowledged_by_the_deposed: int
    takeover_s: float
    first_update_s: float
    log_records: int
    dropped_records: int
    same_state: bool
    checkpoint_verified: bool


@dataclass(frozen=True)
class World:
    """The signed base, its trust policy and keys, in one folder."""

    folder: Path

    @property
    def base(self) -> Path:
        """Return the base bundle."""
        return self.folder / "base"

    @property
    def trust(self) -> Path:
        """Return the trust policy."""
        return self.folder / "trust.yaml"

    def policy(self) -> TrustPolicy:
        """Return the trust policy in force."""
        return load_policy(self.trust)

    def verified(self) -> VerifiedBundle:
        """Return the base, verified."""
        return verify_bundle(self.base, self.policy(), utc_now())


def make_world(folder: Path, bundle: Path, rate: float) -> World:
    """Seal a base that may learn from a bundle's payload, with two keys of its own: for bundles, and for updates."""
    world = World(folder)
    if world.trust.exists():
        return world
    payload = {
        str(path.relative_to(bundle / PAYLOAD)): path.read_bytes()
        for path in sorted((bundle / PAYLOAD).rglob("*"))
        if path.is_file()
    }
    manifest = json.loads(payload["bundle.json"])
    learning = what_learns(payload[manifest["entrypoint"]["path"]], rate, 1e-5, 100.0)
    public = new_key(folder / "keys")
    new_key(folder / "update-keys")
    pinned = (folder / "update-keys" / "signing.pub").read_text()
    indented = "".join(f"      {line}\n" for line in pinned.splitlines())
    updates = f"updates:\n  learner:\n    models: [{manifest['model']}]\n    public_key: |\n{indented}"
    seal_bundle(world.base, learnable(payload, learning), load_private_key(folder / "keys", {}))
    write_atomic(world.trust, (policy_text(public, (manifest["model"],)) + updates).encode())
    return world


def run_logged(folder: str) -> None:
    """Run the member whose ``settings.json`` is in ``folder``, its stderr to a file beside it."""
    log = os.open(Path(folder) / "stderr.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stderr.fileno())
    sys.exit(hotspare(["learn", str(Path(folder) / "settings.json")]))


class Pair:
    """Two members, started and killed here."""

    def __init__(self, world: World, folder: Path, ahead_max: int) -> None:
        self.folders = [folder / "a", folder / "b"]
        self._processes: dict[int, BaseProcess] = {}
        for seat in (0, 1):
            self.folders[seat].mkdir(parents=True, exist_ok=True)
            settings = {
                "seat": seat,
                "folder": str(self.folders[seat]),
                "other": str(self.folders[1 - seat]),
                "base": str(world.base),
                "trust": str(world.trust),
                "keys": str(world.folder / "update-keys"),
                "ahead_max": ahead_max,
                **_KEEPING,
            }
            (self.folders[seat] / "settings.json").write_bytes(readable_json(settings))

    def start(self, seat: int) -> None:
        """Start a member: a process of its own, forked from one that has imported what members need."""
        process = _SERVER.Process(target=run_logged, args=(str(self.folders[seat]),))
        process.start()
        self._processes[seat] = process

    def replace_disk(self, seat: int) -> None:
        """Leave a member nothing but its settings."""
        settings = (self.folders[seat] / "settings.json").read_bytes()
        shutil.rmtree(self.folders[seat])
        self.folders[seat].mkdir()
        (self.folders[seat] / "settings.json").write_bytes(settings)

    def signal(self, seat: int, number: int) -> None:
        """Send a member a signal; after SIGKILL it is gone when this returns."""
        process = self._processes[seat]
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, number)
        if number == signal.SIGKILL:
            process.join()

    def stop(self) -> None:
        """Kill both."""
        for seat in self._processes:
            self.signal(seat, signal.SIGKILL)

    async def where(self, seat: int) -> StatusHead | None:
        """Return where a member stands, or None when it does not answer."""
        if not self._processes[seat].is_alive():
            raise InternalError(f"Member {seat} ended; see {self.folders[seat]}/stderr.log.")
        with suppress(Unreachable):
            return await status(self.folders[seat])
        return None

    async def settled(self) -> int:
        """Wait until one member leads and the other one follows it, with the same log; return who leads."""
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline:
            both = [await self.where(seat) for seat in (0, 1)]
            for seat, other in ((0, 1), (1, 0)):
                one, two = both[seat], both[other]
                if (
                    one is not None and two is not None and one.stand == "leads" and two.stand == "follows"
                    and one.joined and two.joined and one.epoch == two.epoch and one.last == two.last == one.shared
                ):  # fmt: skip
                    return seat
            await asyncio.sleep(0.02)
        raise InternalError(f"The two members did not agree within {_PATIENCE_S:g} s; see {self.folders[0].parent}.")


@dataclass(frozen=True)
class Offer:
    """One row as an update."""

    id: str
    label: float
    row: Tensors

    def frame(self) -> bytes:
        """Return it as a sender sends it."""
        return pack(Kind.OFFER, OfferHead(self.id, self.label), encode_npz(self.row))


class Stream:
    """Rows as updates, with what is known of each: the offline side."""

    def __init__(self, base: VerifiedBundle, rows: Tensors, labels: Array) -> None:
        self.base = base
        self.learning = read_learning(base.files)
        self._rows, self._labels = rows, labels
        self._trunk = Trunk(base.model_file)
        self.offered: dict[str, int] = {}
        self.acknowledged: dict[str, Acknowledged] = {}
        self.settled: list[str] = []  # what both logs held after the last trial
        self._next = 0
        self._done: list[str] = []
        self._head = read_head(base.model_file, self.learning)

    def told(self, acknowledged: Acknowledged) -> None:
        """Remember an acknowledgement."""
        self.acknowledged[acknowledged.id] = acknowledged

    def latest(self) -> list[Acknowledged]:
        """Return the last acknowledgements."""
        return [self.acknowledged[identity] for identity in list(reversed(self.acknowledged))[:_WINDOW]]

    def whole_log(self, kept: list[Record]) -> list[str]:
        """Return all updates of a log in their order; of those that were dropped, what their senders were told.

        Where two leaders said of two updates that they came at one place, the later leader counts.
        """
        first = kept[0].seq
        places = {item.seq: item.id for item in sorted(self.acknowledged.values(), key=lambda item: item.epoch)}
        dropped = [*self.settled, *(places.get(seq, "") for seq in range(len(self.settled) + 1, first))]
        return dropped[: first - 1] + [record.payload[:ID_BYTES].hex() for record in kept]

    def next_offer(self) -> Offer:
        """Return the next row as an update."""
        row = self._next % len(self._labels)
        identity = f"{self._next:032x}"
        self._next += 1
        self.offered[identity] = row
        return Offer(identity, float(self._labels[row]), self.row(row))

    def row(self, row: int) -> dict[str, Array]:
        """Return one row of inputs."""
        return {name: np.ascontiguousarray(array[row : row + 1]) for name, array in self._rows.items()}

    def replayed(self, identities: list[str]) -> str:
        """Return the digest of the state after these updates, replayed here from the sender's own rows."""
        if identities[: len(self._done)] != self._done:
            self._done, self._head = [], read_head(self.base.model_file, self.learning)
        for identity in identities[len(self._done) :]:
            row = self.offered[identity]
            activations = self._trunk(self.row(row)).reshape(-1)
            update = Update(bytes.fromhex(identity), float(self._labels[row]), activations)
            self._head = learn(self._head, update, self.learning)
        self._done = identities
        return sha256_hex(self._head.weights + self._head.bias)


async def feed(stream: Stream, sender: Sender, until: asyncio.Event) -> None:
    """Offer rows as fast as they are acknowledged, a window at a time."""
    while not until.is_set():
        if sender.pending < _WINDOW:
            offer = stream.next_offer()
            sender.offer(offer.id, offer.label, offer.row)
        await asyncio.sleep(0 if sender.pending < _WINDOW else 0.002)


async def first_answer(pair: Pair, survivor: int, rows: Tensors) -> float:
    """Wait until the survivor leads and answers from a checkpoint of all that both had before; return when."""
    wanted: int | None = None
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(Unreachable):
            if wanted is None:
                seen = await pair.where(survivor)
                wanted = seen.shared if seen is not None and seen.stand == "leads" else None
            else:
                head, _ = await ask(pair.folders[survivor], rows)
                if head.leads and head.seq >= wanted:
                    return time.monotonic()
        await asyncio.sleep(0.01)
    raise InternalError(f"Nobody took over within {_PATIENCE_S:g} s.")


class Straggler:
    """A sender that stays with a leader that is stopped: it sees what that one acknowledges on waking up."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._frames: list[Frame] = []

    async def __aenter__(self) -> "Straggler":
        self._reader, self._writer = await asyncio.open_unix_connection(self._folder / SOCKET)
        self._task = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        self._writer.close()

    async def _read(self) -> None:
        while (frame := await read_frame(self._reader)) is not None:
            self._frames.append(frame)

    def offer(self, frame: bytes) -> None:
        """Send an update."""
        self._writer.write(frame)

    @property
    def done(self) -> list[DoneHead]:
        """Return all acknowledgements so far."""
        return [frame.head for frame in self._frames if isinstance(frame.head, DoneHead)]

    async def answered(self, count: int) -> None:
        """Wait until so many updates are refused or acknowledged, or the member hung up."""
        while len(self._frames) < count and not self._task.done():
            await asyncio.sleep(0.01)


async def kill_once(pair: Pair, leader: int, rows: Tensors, replaced: bool) -> tuple[float, int]:
    """Kill the leader, await the first answer of the other one, start the killed one again, or one on an empty disk."""
    began = time.monotonic()
    pair.signal(leader, signal.SIGKILL)
    answered = await first_answer(pair, 1 - leader, rows)
    if replaced:
        pair.replace_disk(leader)
    pair.start(leader)
    return answered - began, 0


async def stop_once(pair: Pair, leader: int, rows: Tensors, stream: Stream, sender: Sender) -> tuple[float, int]:
    """Stop the leader, await the first answer of the other one, wake it up; count what it then acknowledges."""
    async with Straggler(pair.folders[leader]) as straggler:
        offers = [stream.next_offer() for _ in range(16)]
        for offer in offers[:8]:
            straggler.offer(offer.frame())
        await asyncio.sleep(0)
        began = time.monotonic()
        pair.signal(leader, signal.SIGSTOP)
        for offer in offers[8:]:
            straggler.offer(offer.frame())
        answered = await first_answer(pair, 1 - leader, rows)
        before = list(straggler.done)
        pair.signal(leader, signal.SIGCONT)
        await asyncio.wait_for(straggler.answered(len(offers)), _PATIENCE_S)
        for done in before:
            stream.told(Acknowledged(done.id, done.seq, done.epoch, began))
        for offer in offers:
            if offer.id not in stream.acknowledged:
                sender.offer(offer.id, offer.label, offer.row)
        return answered - began, len(straggler.done) - len(before)


async def one_trial(mode: str, seed: int, pair: Pair, world: World, stream: Stream) -> Trial:
    """Stream updates, take the leader away at a random moment, let the other one go on, and compare."""
    await pair.settled()
    count_before = len(stream.acknowledged)
    sender = Sender(pair.folders, stream.told)
    enough = asyncio.Event()
    tasks = [asyncio.create_task(sender.run()), asyncio.create_task(feed(stream, sender, enough))]
    await asyncio.sleep(random.Random(seed).uniform(0.2, 1.0))  # noqa: S311 - the same moments for the same seed
    leader, epoch = await leading(pair)
    began = time.monotonic()
    strike = (
        stop_once(pair, leader, stream.row(0), stream, sender)
        if mode.startswith("stopped")
        else kill_once(pair, leader, stream.row(0), replaced=mode.startswith("replaced"))
    )
    takeover_s, by_deposed = await strike
    first = await first_update(stream, epoch)
    enough.set()
    await asyncio.wait_for(sender.idle.wait(), _PATIENCE_S)
    for task in tasks:
        task.cancel()
    await pair.settled()
    log = read_log(pair.folders[1 - leader] / LOG, stream.base.bundle_id)
    identities = stream.settled = stream.whole_log(log)
    lost = stream.acknowledged.keys() - set(identities)
    for identity in lost:
        del stream.acknowledged[identity]  # told once; later trials count their own
    same = set(identities) == stream.acknowledged.keys()
    states = [await pair.where(seat) for seat in (0, 1)]
    same &= {state.head_sha256 for state in states if state} == {stream.replayed(identities)}
    return Trial(
        mode, seed, len(stream.acknowledged) - count_before + len(lost), len(lost), by_deposed,
        takeover_s, first - began, len(log), log[0].seq - 1, same, await verified(pair, 1 - leader, world, stream),
    )  # fmt: skip


async def leading(pair: Pair) -> tuple[int, int]:
    """Return who leads, and its epoch: on a busy machine another may by now, and it may take a while to say so."""
    while True:
        for seat in (0, 1):
            seen = await pair.where(seat)
            if seen is not None and seen.stand == "leads" and seen.epoch is not None:
                return seat, seen.epoch
        await asyncio.sleep(0.01)


async def first_update(stream: Stream, epoch: int) -> float:
    """Wait for the first acknowledgement of a higher epoch, and return when it came."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        later = [item.at for item in stream.latest() if item.epoch > epoch]
        if later:
            return min(later)
        await asyncio.sleep(0.01)
    raise InternalError(f"No update was acknowledged within {_PATIENCE_S:g} s after the takeover.")


async def verified(pair: Pair, seat: int, world: World, stream: Stream) -> bool:
    """Tell whether the checkpoint that answers is on disk, and verifies as a checkpoint of the base."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:  # one may be on disk that is not loaded yet, or be replaced while it is read
        seen = await pair.where(seat)
        with suppress(Untrusted):
            found = verify_checkpoint(pair.folders[seat] / CHECKPOINT, stream.base, world.policy(), utc_now())
            if seen is not None and seen.checkpoint_id == found.bundle_id:
                return True
        await asyncio.sleep(0.01)
    return False


async def campaign(
    mode: str, seeds: list[int], world: World, rows: Tensors, labels: Array, out: Path, ahead: int
) -> None:
    """Run trials of a mode, a few with each pair of members, each told in a line."""
    for start in range(0, len(seeds), _TRIALS_A_PAIR):
        folder = out / f"members-{mode}"
        shutil.rmtree(folder, ignore_errors=True)
        pair = Pair(world, folder, 0 if mode.endswith("sync") and not mode.endswith("async") else ahead)
        stream = Stream(world.verified(), rows, labels)
        try:
            pair.start(0)
            pair.start(1)
            for seed in seeds[start : start + _TRIALS_A_PAIR]:
                trial = await one_trial(mode, seed, pair, world, stream)
                with (out / f"{mode}.jsonl").open("ab") as lines:
                    lines.write(canonical_json(plain(trial)) + b"\n")
                print(canonical_json(plain(trial)).decode(), file=sys.stderr, flush=True)
        finally:
            pair.stop()


def trials_of(out: Path, mode: str) -> list[Trial]:
    """Return the trials of a mode that are on disk."""
    path = out / f"{mode}.jsonl"
    return [read(Trial, json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


def summary(mode: str, trials: list[Trial], ahead: int) -> dict[str, object]:
    """Return a mode's figures."""
    takeovers = sorted(trial.takeover_s for trial in trials)
    return {
        "mode": mode,
        "trials": len(trials),
        "may_lose_each": 0 if "async" not in mode else ahead,
        "acknowledged": sum(trial.acknowledged for trial in trials),
        "lost": sum(trial.lost for trial in trials),
        "dropped_records_max": max(trial.dropped_records for trial in trials),
        "lost_most": max(trial.lost for trial in trials),
        "by_the_deposed": sum(trial.acknowledged_by_the_deposed for trial in trials),
        "same_state": sum(trial.same_state for trial in trials),
        "checkpoints_verified": sum(trial.checkpoint_verified for trial in trials),
        "takeover_p50_s": round(statistics.median(takeovers), 3),
        "takeover_max_s": round(takeovers[-1], 3),
        "first_update_p50_s": round(statistics.median(trial.first_update_s for trial in trials), 3),
    }


def held(figures: dict[str, object]) -> bool:
    """Tell whether a mode kept what it promises."""
    return (
        figures["lost_most"] <= figures["may_lose_each"]  # type: ignore[operator]
        and figures["by_the_deposed"] == 0
        and figures["same_state"] == figures["checkpoints_verified"] == figures["trials"]
    )


def made_of(args: argparse.Namespace) -> str:
    """Return a digest of all that trials follow from beside mode and seed."""
    given = (Path(__file__), args.bundle / SIGNATURE_FILE, args.rows)
    digests = [sha256_hex(read_bytes(file, DataError)) for file in given]
    return sha256_hex(canonical_json([code_sha256(), *digests, args.ahead, machine_facts()]))[:8]


def main() -> int:
    """Run what is missing and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=Path("artifacts/bundles/credit-primary"), help="a tflite bundle")
    parser.add_argument(
        "--rows", type=Path, default=Path("artifacts/trained/credit/train.npz"), help="rows, labels in y"
    )
    parser.add_argument("--out", type=Path, default=Path("artifacts/benchmarks/online"))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--trials", type=int, default=100, help="of each mode")
    parser.add_argument("--ahead", type=int, default=64, help="how many updates an asynchronous leader may be ahead")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    out = args.out / made_of(args)
    world = make_world(out / "world", args.bundle, rate=0.01)
    rows = dict(map_npz(args.rows, DataError))
    labels = rows.pop("y")
    found = []
    for mode in args.modes:
        done = {trial.seed for trial in trials_of(out, mode)}
        missing = [seed for seed in range(args.trials) if seed not in done]
        asyncio.run(campaign(mode, missing, world, rows, labels, out, args.ahead))
        found.append(summary(mode, trials_of(out, mode), args.ahead))
    if args.json:
        print(json.dumps(found, indent=2))
    else:
        show_table(
            "Learning through the loss of its leader", list(found[0]), [list(map(str, one.values())) for one in found]
        )
    return 0 if all(map(held, found)) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except HotspareError as error:
        sys.exit(str(error))
