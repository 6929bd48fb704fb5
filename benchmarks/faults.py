"""Every fault of the failover benchmark: how it is done, what is at fault, and what must hold."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.core.names import Role
from pipeline.drill.live.judging import POISON, Questions
from pipeline.drill.live.launching import Hotspare, System
from pipeline.drill.live.resources import fill_disk, limit_memory
from pipeline.drill.orders import EVERYBODY, Order, OrderKind, process_address
from pipeline.runtime.members import Component

_GROW_MB = 32
_MORE_MEMORY_MB = 96
_ENGINE = frozenset({Component.ENGINE})


@dataclass(frozen=True)
class Scene:
    """What an injection may use: the system, what it is asked, a folder of its own, and the run's dice."""

    system: System
    questions: Questions
    folder: Path
    draw: np.random.Generator
    corrupt_model: Path | None = None
    memory_group: Path | None = None
    role: Role = Role.PRIMARY

    @property
    def victim(self) -> int:
        """Return the process that the fault is done to."""
        return self.system.pid(self.role)

    def order(self, order: Order) -> None:
        """Give an order to the victim's process, not to its successor."""
        self.system.book.give(process_address(self.victim), order)


@dataclass(frozen=True)
class Target:
    """What must hold in every run; ``worst_ms`` and ``p99_ms`` plus what a fault-free control shows in the same run."""

    lost_max: int = 0
    wrong_max: int = 0
    refused_max: int = 0
    worst_ms: float | None = None
    p99_ms: float | None = None
    evict_ms: float | None = None
    down_ms: float | None = None
    failovers_max: int = 1  # away from the primary; more is flapping


Inject = Callable[[Scene], None]


@dataclass(frozen=True)
class Case:
    """One fault; ``components`` are what diagnoses must name, all of them and nothing else.

    ``tentative`` ones may be named before the last word: until a request is found guilty, a crash is the engine's.
    """

    name: str
    title: str
    inject: Inject
    components: frozenset[Component]
    target: Target
    seeds: int = 10
    options: tuple[str, ...] = ()
    tentative: frozenset[Component] = frozenset()
    is_comparable: bool = True  # done to HAProxy too
    poison_requests: int = 0
    needs: frozenset[str] = frozenset()  # "disk", "memory", "dependency"
    prepare: Inject | None = None


def _nothing(_scene: Scene) -> None:
    """Leave all as it is: the control."""


def _kill(scene: Scene) -> None:
    os.kill(scene.victim, signal.SIGKILL)


def _stop(scene: Scene) -> None:
    os.kill(scene.victim, signal.SIGSTOP)


def _stop_and_resume(scene: Scene) -> None:
    """Stop a worker and wake it again, before or after it was given up."""
    pid = scene.victim
    os.kill(pid, signal.SIGSTOP)
    time.sleep(float(scene.draw.uniform(0.02, 0.6)))
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return  # it was replaced: nothing is left to resume


def _ordered(kind: OrderKind, ms: float = 0.0) -> Inject:
    def inject(scene: Scene) -> None:
        scene.order(Order(kind, ms=ms))

    return inject


def _corrupt(scene: Scene) -> None:
    scene.order(Order(OrderKind.CORRUPT_WEIGHTS, model=str(scene.corrupt_model)))


def _tamper_and_kill(scene: Scene) -> None:
    """Change one byte of the model on disk, then make the worker load it again."""
    bundle = scene.system.files.bundle(scene.role)
    model = next(path for path in sorted((bundle / "payload" / "model").iterdir()) if path.is_file())
    content = bytearray(model.read_bytes())
    content[int(scene.draw.integers(len(content) // 2, len(content)))] ^= 0x80
    model.write_bytes(content)
    _kill(scene)


def _fill_and_kill(scene: Scene) -> None:
    fill_disk(scene.system.files.trust.parent / "state")
    _kill(scene)


def _run_out_of_memory(scene: Scene) -> None:
    """Let a worker grow in a group whose limit makes the kernel kill it."""
    assert scene.memory_group is not None
    pid = scene.victim
    limit_memory(scene.memory_group, pid, _MORE_MEMORY_MB)
    scene.system.book.give(process_address(pid), Order(OrderKind.GROW, grow_mb=_GROW_MB))


def _poison(scene: Scene) -> None:
    scene.system.book.give(EVERYBODY, Order(OrderKind.CRASH, poison=POISON))


def _kill_server(scene: Scene) -> None:
    """Kill the process that answers requests: the parent, or the child, that is no worker."""
    assert isinstance(scene.system, Hotspare)
    os.kill(scene.system.answering_pid(), signal.SIGKILL)


CASES = (
    Case("control", "no fault", _nothing, frozenset(), Target(failovers_max=0), 30),
    Case("kill", "kill -9", _kill, frozenset({Component.PROCESS}), Target(worst_ms=30), 30),
    Case("stop", "SIGSTOP", _stop, frozenset({Component.PROCESS}), Target(worst_ms=60), 30),
    Case("hang", "hang in code", _ordered(OrderKind.HANG), _ENGINE, Target(evict_ms=250), 30),
    Case("errors", "5xx", _ordered(OrderKind.ERRORS), _ENGINE, Target(evict_ms=100), 30),
    Case("slow", "+500 ms slow", _ordered(OrderKind.SLOW, 500), _ENGINE, Target(p99_ms=150)),
    Case("nan", "NaN", _ordered(OrderKind.NAN), _ENGINE, Target()),
    Case("shape", "wrong shape", _ordered(OrderKind.MALFORMED), _ENGINE, Target(evict_ms=100)),
    Case("dtype", "wrong dtype", _ordered(OrderKind.WRONG_DTYPE), _ENGINE, Target(), is_comparable=False),
    Case("corrupt", "corrupt weights, canaries", _corrupt, frozenset({Component.WEIGHTS}), Target(wrong_max=20)),
    # A pair agrees within what its two bundles differed by at their build, so a smaller error passes until a canary
    # sees it; replicas of one bundle agree within golden tolerance.
    Case(
        "corrupt-pair", "corrupt weights, verify pair", _corrupt, frozenset({Component.WEIGHTS}),
        Target(wrong_max=20), options=("--verify", "pair"), is_comparable=False,
    ),
    Case(
        "corrupt-replicas", "corrupt weights, verify replicas", _corrupt, frozenset({Component.WEIGHTS}), Target(),
        options=("--verify", "replicas", "--replicas", "2"), is_comparable=False,
    ),
    Case(
        "verify", "no fault, verify pair", _nothing, frozenset(), Target(failovers_max=0),
        options=("--verify", "pair"), is_comparable=False,
    ),
    Case(
        "tamper", "bundle tampered on disk", _tamper_and_kill,
        frozenset({Component.PROCESS, Component.ARTIFACT}), Target(), is_comparable=False,
    ),
    Case(
        "disk", "disk full, then kill -9", _fill_and_kill, frozenset({Component.PROCESS, Component.RESOURCE}), Target(),
        is_comparable=False, needs=frozenset({"disk"}),
    ),
    Case(
        "memory", "OOM kill", _run_out_of_memory, frozenset({Component.RESOURCE}), Target(),
        needs=frozenset({"memory"}),
    ),
    Case(
        "registry", "MLflow down", _nothing, frozenset(), Target(failovers_max=0), is_comparable=False,
        needs=frozenset({"dependency"}),
    ),
    Case("resume", "stale primary resumes", _stop_and_resume, frozenset({Component.PROCESS}), Target()),
    Case(
        "poison", "poison request", _nothing, frozenset({Component.REQUEST}), Target(refused_max=2), prepare=_poison,
        poison_requests=2, tentative=_ENGINE,
    ),
    Case(
        "server", "supervisor killed", _kill_server, frozenset(), Target(lost_max=1000, down_ms=1000),
        is_comparable=False,
    ),
)  # fmt: skip
