"""What a pair can be told, each with its unit and its reason."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from pipeline.runtime.members import Tier


class Failback(StrEnum):
    """When a recovered primary serves again."""

    MANUAL = "manual"  # when an operator says so
    AFTER_PROBES = "after-probes"  # after clean probes in a row
    NEVER = "never"  # not before the next swap or restart


class VerifyMode(StrEnum):
    """What must agree before an answer is released."""

    OFF = "off"
    PAIR = "pair"  # primary and backup, within the tolerance measured when they were built
    REPLICAS = "replicas"  # two replicas of one bundle, within golden tolerance; a third opinion settles


@dataclass(frozen=True)
class Settings:
    """One pair's settings; times in milliseconds."""

    deadline_ms: int = 1000  # a request's own deadline when its client names none
    hedge_min_ms: int = 10  # below this, a hedge costs more than it saves
    hedge_max_ms: int = 25  # above this, a stopped worker would be felt: SIGSTOP must stay below 60 ms
    evict_after_ms: int = 150  # no answer for so long, run-queue waits not counted: evicted (hang ≤ 250 ms in all)
    probe_every_ms: int = 100  # canary on every ready member; at 100 requests a second at most 20 wrong answers
    scrub_every_s: int = 60  # hash the engine's bytes, and the bundle on disk
    shadow_ratio: float = 0.01  # share of requests that both sides answer
    errors_in_a_row: int = 3  # one error may be the request's fault
    start_grace_ms: int = 2000  # at the start, wait so long for the primary before the backup serves
    start_max_ms: int = 30000  # a start that takes longer has failed
    backoff_first_ms: int = 50
    backoff_max_ms: int = 10000
    restarts_max: int = 5  # more failures within the window: quarantine
    restarts_window_s: int = 60
    failback: Failback = Failback.AFTER_PROBES
    failback_probes: int = 20  # doubled after each failover within the window: no flapping
    standby: Tier = Tier.HOT
    replicas: int = 1  # workers a role
    verify: VerifyMode = VerifyMode.OFF
    queue_max: int = 256  # requests in flight and waiting, a pair
    batch_rows_max: int = 0  # dynamic batching: 0 is off
    batch_wait_ms: int = 2
    worker_memory_mb: int | None = None  # address space limit of a worker
    memory_growth_mb: int = 256  # above the resident size after warm-up: planned switch and restart

    def problems(self) -> Iterator[str]:
        """Yield what makes no sense by itself, and what does not fit together."""
        for name, least in _LEAST.items():
            if (value := getattr(self, name)) is not None and value < least:
                yield f"{name} must be at least {least}"
        if not 0 < self.hedge_min_ms <= self.hedge_max_ms < self.evict_after_ms < self.deadline_ms:
            yield "hedge_min_ms ≤ hedge_max_ms < evict_after_ms < deadline_ms must hold"
        if self.verify is VerifyMode.REPLICAS and self.replicas < 2:
            yield "verify replicas needs at least 2 replicas"
        if self.verify is VerifyMode.PAIR and self.standby is not Tier.HOT:
            yield "verify pair needs a hot standby"


_LEAST = {
    "replicas": 1, "queue_max": 1, "probe_every_ms": 1, "scrub_every_s": 1, "batch_rows_max": 0, "batch_wait_ms": 0,
    "worker_memory_mb": 1,
}  # fmt: skip
