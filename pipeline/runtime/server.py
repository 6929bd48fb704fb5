"""The server process: its pairs, behind the port that the HTTP front sees."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass

from pipeline.core.errors import HotspareError, KeyFileError, Refusal, SurroundingsError, Untrusted
from pipeline.core.names import Role
from pipeline.core.tensors import Array
from pipeline.runtime.disk import Disk
from pipeline.runtime.journal import Journal
from pipeline.runtime.machine import Machine
from pipeline.runtime.members import Seat
from pipeline.runtime.release import Places, Release
from pipeline.runtime.service import Answer, NotAnswered, PairStatus, RefusalKind, ServedModel
from pipeline.runtime.settings import Settings
from pipeline.runtime.supervisor import Pair

READY_S = 30.0
DRAIN_S = 10.0


@dataclass(frozen=True)
class Serving:
    """What a server is started with."""

    places: tuple[Places, ...]
    settings: Settings


class Server:
    """Several pairs, each of another model."""

    def __init__(
        self, serving: Serving, machine: Machine, disk: Disk, journal_of: Callable[[str], Journal] = Journal,
        renew_tls: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """``renew_tls`` has the front read its TLS files again; it raises KeyFileError when they cannot be used."""
        self._serving = serving
        self._machine = machine
        self._disk = disk
        self._journal_of = journal_of
        self._renew_tls = renew_tls
        self._pairs: dict[str, Pair] = {}
        self._leaving: list[Pair] = []
        self._swaps: dict[str, asyncio.Lock] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False

    def open(self, strict: bool) -> None:
        """Verify all bundles and start their workers; with ``strict`` false one side of a pair may be refused.

        May be called again after a SurroundingsError. Raises the Untrusted error that fits, TrustPolicyError,
        FileAccess, OutOfSpace; Refusal when a model stands twice.
        """
        releases = self._releases(strict)
        names = [release.model for release in releases]
        if len(set(names)) != len(names):
            raise Refusal("A model is named twice; serve one pair of each.", sorted(names))
        self._machine.on_exit = self._exited
        for release in releases:
            if release.model not in self._pairs:
                self._open_pair(release)

    def _releases(self, strict: bool) -> list[Release]:
        """Open all releases; with ``strict`` false one of several may be refused: the others are served."""
        opened: list[Release] = []
        refused: dict[Places, Untrusted] = {}
        for places in self._serving.places:
            try:
                opened.append(self._disk.open_release(places, strict))
            except Untrusted as error:
                if strict:
                    raise
                refused[places] = error
        if not opened:
            raise next(iter(refused.values()))
        for places, why in refused.items():
            self._journal_of(places.primary.name).note(f"Not served, both bundles are refused: {why}")
        return opened

    def _open_pair(self, release: Release) -> None:
        model = release.model
        pair = self._new_pair(release, self._journal_of(model))
        for role, sentence in release.refused.items():
            pair.journal.note(f"The {role}'s bundle is refused: {sentence}")
        self._swaps[model] = asyncio.Lock()
        self._pairs[model] = pair
        pair.start(lambda: self._do(self._swap_noted(model)))

    def _new_pair(self, release: Release, journal: Journal) -> Pair:
        return Pair(release, self._serving.settings, self._machine, self._disk, journal)

    def _exited(self, pid: int, status: int | None) -> None:
        for pair in (*self._pairs.values(), *self._leaving):
            pair.exited(pid, status)

    # The port.

    def models(self) -> tuple[ServedModel, ...]:
        """Return what is served, by name."""
        return tuple(self._pairs[name].served for name in sorted(self._pairs))

    async def infer(
        self, model: str, version: str | None, inputs: Mapping[str, Array], deadline_ms: float
    ) -> Answer | NotAnswered:
        """Answer one request."""
        pair = self._pairs.get(model)
        if pair is None or version not in (None, "", pair.release.version):
            return NotAnswered(RefusalKind.UNKNOWN, f"There is no model {model!r} of version {version!r} here.")
        return await pair.infer(inputs, deadline_ms)

    def status(self) -> tuple[PairStatus, ...]:
        """Return every pair's state."""
        return tuple(self._pairs[name].status() for name in sorted(self._pairs))

    async def switch(self, model: str, to: Role) -> str:
        """Make a role serve."""
        return self._pair(model).switch(to)

    async def hold(self, model: str, seat: Seat) -> str:
        """Stop a member for maintenance."""
        return self._pair(model).hold(seat)

    async def release(self, model: str, seat: Seat) -> str:
        """Bring a held or quarantined member back."""
        return self._pair(model).release_seat(seat)

    def draining(self) -> bool:
        """Tell whether the server is ending."""
        return self._is_draining

    def _pair(self, model: str) -> Pair:
        if model not in self._pairs:
            raise Refusal(f"There is no model {model!r} here; there is {', '.join(sorted(self._pairs))}.")
        return self._pairs[model]

    # Swap and end.

    async def swap(self, model: str) -> str:
        """Read the TLS files again, and move to what the model's bundles are now; returns what came of both."""
        self._pair(model)
        renewed = self._tls_renewed()
        return " ".join([await self._swap(model), *renewed])

    def _tls_renewed(self) -> tuple[str, ...]:
        """Renew the front's certificate, if it has one; every model's timeline tells what came of it."""
        if self._renew_tls is None:
            return ()
        try:
            self._renew_tls()
        except KeyFileError as error:
            told = f"New connections still get the old certificate: {error}"
        else:
            told = "New connections get what the TLS files hold now."
        for pair in self._pairs.values():
            pair.journal.note(told)
        return (told,)

    async def _swap(self, model: str) -> str:
        """Verify the model's bundles again and move to them: new workers beside the old, then one step over.

        What the old release accepted it answers. The same bundles under a renewed channel need no new workers, unless
        one of the old is missing. Raises the Untrusted error that fits, Refusal, SurroundingsError when the new workers
        do not get ready; the old release then goes on.
        """
        old = self._pair(model)
        async with self._swaps[model]:
            # Hashing a large model would hold every request up; another thread does it.
            release = await asyncio.to_thread(self._disk.open_release, old.release.places, strict=True)
            if release.model != model:
                raise Refusal(f"The folders now hold bundles of {release.model}, not of {model}; serve it on its own.")
            old = self._pair(model)
            if release.has_same_bundles_as(old.release) and (told := _renewed(old, release)):
                return told
            new = await self._ready_pair(release, old.journal)
            self._pairs[model] = new
            self._leaving[self._leaving.index(new)] = old
            new.journal.note(f"Swapped from {old.release.version} to {release.version}.")
            await self._retire(old)
        return f"{model} serves {release.version}."

    async def _ready_pair(self, release: Release, journal: Journal) -> Pair:
        """Start a pair beside the one that serves; it is in ``_leaving`` until it takes over, and gone if it cannot."""
        new = self._new_pair(release, journal)
        self._leaving.append(new)
        is_ready = False
        try:
            new.start(lambda: self._do(self._swap_noted(release.model)))
            is_ready = await new.complete(READY_S) and not self._is_draining
        finally:
            if not is_ready:
                new.close()
                self._leaving.remove(new)
        if not is_ready:
            why = "the server is ending" if self._is_draining else "its new workers did not get ready"
            raise SurroundingsError(f"{release.model} goes on with its old release: {why}.")
        return new

    async def _retire(self, pair: Pair) -> None:
        """Let a pair answer what it accepted, then end it; whoever asked for the swap may go away meanwhile."""
        try:
            pair.drain()
            await pair.finished(DRAIN_S)
        finally:
            pair.close()
            self._leaving.remove(pair)

    def swap_soon(self) -> None:
        """Read the TLS files again, and swap every model in the background (SIGHUP)."""
        self._tls_renewed()
        self._do(self._swap_all())

    def _do(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _swap_all(self) -> None:
        for model in sorted(self._pairs):
            await self._swap_noted(model)

    async def _swap_noted(self, model: str) -> None:
        """Swap a model; what goes wrong is noted and leaves the old release in place."""
        try:
            await self._swap(model)
        except HotspareError as error:
            self._pairs[model].journal.note(f"Not swapped: {error}")

    async def end(self) -> None:
        """Refuse what is new from now on."""
        self._is_draining = True
        for pair in self._pairs.values():
            pair.drain()

    def close(self) -> None:
        """End every worker."""
        for pair in (*self._pairs.values(), *self._leaving):
            pair.close()


def _renewed(pair: Pair, release: Release) -> str | None:
    """Take in a renewed channel, or a changed policy, of what a pair serves; None where it needs new workers too."""
    if release.has_same_channel_as(pair.release):
        pair.renew(release)  # the policy may say something else by now
        return f"{release.model} already serves {release.version}."
    if release.channel is None or not pair.can_be_renewed:
        return None
    pair.renew(release)
    return f"{release.model} serves {release.version} under its renewed channel (seq {release.channel.channel.seq})."
