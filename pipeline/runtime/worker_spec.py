"""What a worker is told when it is forked, and what it tells when it is ready: plain values that travel as JSON."""

from dataclasses import dataclass

from pipeline.runtime.members import Seat


@dataclass(frozen=True)
class WorkerSpec:
    """One worker to start.

    ``bundle``, ``trust`` and ``channel`` are paths; without a channel the policy's own is taken, if it has one.
    ``bundle_id`` names the one bundle that may be loaded from there, where it is known: another may lie there by now.
    ``threads`` overrides what the bundle says; ``memory_mb`` is what the worker may take on top of the interpreter and
    its libraries. ``model`` is for the process title. With ``then_load`` it gets ready at once, else it waits, staged.
    """

    bundle: str
    trust: str
    seat: Seat
    incarnation: int
    term: int
    then_load: bool
    model: str
    channel: str | None = None
    threads: int | None = None
    memory_mb: int | None = None
    bundle_id: str | None = None

    def title(self, term: int) -> str:
        """Return the process title in a term."""
        return f"hotspare worker {self.model} {self.seat.role} term={term}"


@dataclass(frozen=True)
class ReadyFacts:
    """What a ready worker loaded and how it does: baseline of one-row answers in the engine, resident memory.

    ``reshaped_ms`` is what one took right after another number of rows.
    """

    bundle_id: str
    candidate: str
    model: str
    load_ms: float
    p50_ms: float
    p99_ms: float
    reshaped_ms: float
    rss_bytes: int
    pid: int
