"""Hours of load: ``python benchmarks/soak.py --minutes 30 --stress 2`` (clean) or ``--minutes 60 --fault-every 60``.

Open-loop load in segments. Clean: nothing is done to the pair, other processes take the processors away; not one
failover may happen. With faults: one a segment, drawn by the seed, at a drawn moment, done to a drawn member; each has
to be noticed, and nothing may be lost or wrong. Either way, memory and descriptors of the server may not grow, and a
bystander that only naps tells when the machine itself stood still. Corrupted weights are left out (canaries let some
wrong answers pass before they see it), and so is the server's own death; ``failover.py`` has both.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from failover import QUESTIONS
from faults import CASES, Case, Scene

from pipeline.commands.build.console import show_json
from pipeline.core.canonical import readable_json
from pipeline.core.errors import InternalError
from pipeline.core.files import write_atomic
from pipeline.core.names import Role
from pipeline.core.schema import plain
from pipeline.drill.live.generating import generating
from pipeline.drill.live.judging import Questions, Tally, ask_offline, judge_all, poison_body, tally
from pipeline.drill.live.launching import Hotspare, PairFiles
from pipeline.drill.live.plan import Extra, Plan, read_record
from pipeline.drill.orders import EVERYBODY

DRAWN = ("kill", "stop", "hang", "errors", "slow", "nan", "shape", "dtype", "resume", "poison")
GROWTH_MB_MAX = 8.0
DESCRIPTORS_MORE_MAX = 4
NAP_S = 0.02
SETTLE_S = 60.0  # on a machine that does much else beside


@dataclass(frozen=True)
class Segment:
    """One stretch of load, and how the server stood at its end."""

    fault: str
    role: str
    tally: Tally
    failovers: int
    diagnosed: tuple[str, ...]
    server_mb: float
    server_descriptors: int
    workers_mb: float
    stall_ms: float = 0.0  # the longest that a bystander, which only sleeps, was kept from waking up


@dataclass(frozen=True)
class Soak:
    """What is run, for how long."""

    files: PairFiles
    questions: Questions
    seconds: float
    segment_s: float
    rate: float
    seed: int
    has_faults: bool
    stress: int
    deadline_ms: float = 1000.0


def segments(soak: Soak) -> Iterator[Segment]:
    """Run a soak; yields each segment as it ends."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotspare-soak-")))
        system = Hotspare(soak.files.copied(folder), folder, ("--deadline-ms", f"{soak.deadline_ms:.0f}"))
        stack.callback(system.stop)
        system.start()
        stack.enter_context(stressed(soak.stress))
        draw = np.random.default_rng(soak.seed)
        for number in range(max(1, round(soak.seconds / soak.segment_s))):
            yield _segment(soak, system, folder, draw, number)


def _segment(soak: Soak, system: Hotspare, folder: Path, draw: np.random.Generator, number: int) -> Segment:
    case = _drawn(draw) if soak.has_faults else _named("control")
    role = Role(str(draw.choice([*Role])))
    at_s = float(draw.uniform(0.2, 0.5)) * soak.segment_s
    scene = Scene(system, soak.questions, folder, draw, role=role)
    began_seen = len(system.seen)
    system.book.withdraw(EVERYBODY)
    if case.prepare is not None:
        case.prepare(scene)
    plan = _plan(soak, system.port, case, at_s, number)
    with bystander() as stalls_ms, generating(plan, folder) as began_s:
        time.sleep(max(0.0, began_s + at_s - time.monotonic()))
        case.inject(scene)
    settled(system)
    record = read_record(folder / "record.json")
    said = [seen.facts for seen in system.seen[began_seen:]]
    megabytes, descriptors = footprint(system.answering_pid())
    return Segment(
        fault=case.name,
        role=role,
        tally=tally(record.exchanges, judge_all(record.exchanges, soak.questions)),
        failovers=sum("takes over" in str(facts.get("event")) for facts in said),
        diagnosed=tuple(str(facts["fault"]) for facts in said if "fault" in facts),
        server_mb=megabytes,
        server_descriptors=descriptors,
        workers_mb=round(sum(footprint(int(member["pid"]))[0] for member in system.members() if member["pid"]), 1),
        stall_ms=round(max(stalls_ms), 1),
    )


def _drawn(draw: np.random.Generator) -> Case:
    return _named(str(draw.choice(DRAWN)))


def _named(name: str) -> Case:
    return next(case for case in CASES if case.name == name)


def _plan(soak: Soak, port: int, case: Case, at_s: float, number: int) -> Plan:
    poison = poison_body(soak.questions, number)
    extras = tuple(Extra(at_s + 0.1 * n, poison) for n in range(1, case.poison_requests + 1))
    path = f"/v2/models/{soak.questions.model}/infer"
    seed = 1000 * soak.seed + number
    bodies = soak.questions.bodies
    return Plan(port, path, bodies, soak.rate, soak.segment_s, seed, deadline_ms=soak.deadline_ms, extras=extras)


def settled(system: Hotspare) -> None:
    """Wait until both members are ready again; raises InternalError when they do not get ready."""
    end_s = time.monotonic() + SETTLE_S
    while system.ready_members() < len(system.members()) or not system.members():
        if time.monotonic() > end_s:
            raise InternalError(f"The pair is not whole {SETTLE_S:g} s after its fault; read its timeline.")
        time.sleep(0.05)


def footprint(pid: int) -> tuple[float, int]:
    """Return (resident megabytes, open descriptors) of a process; zeros when it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        descriptors = len([*Path(f"/proc/{pid}/fd").iterdir()])
    except OSError:
        return 0.0, 0
    line = next((line for line in status.splitlines() if line.startswith("VmRSS")), "VmRSS: 0 kB")
    return round(int(line.split()[1]) / 1024, 1), descriptors


@contextmanager
def bystander() -> Iterator[list[float]]:
    """Nap again and again; yields by how many ms each nap was too long: what the machine did to everybody."""
    over_ms, is_done = [0.0], threading.Event()

    def nap() -> None:
        while not is_done.is_set():
            began = time.monotonic()
            time.sleep(NAP_S)
            over_ms.append(1000 * (time.monotonic() - began - NAP_S))

    thread = threading.Thread(target=nap, daemon=True)
    thread.start()
    try:
        yield over_ms
    finally:
        is_done.set()
        thread.join()


@contextmanager
def stressed(processes: int) -> Iterator[None]:
    """Keep so many processes busy beside the pair."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def misses(found: Sequence[Segment], has_faults: bool) -> Iterator[str]:
    """Yield what does not hold."""
    for what in ("lost", "wrong", "stale"):
        total = sum(getattr(segment.tally, what) for segment in found)
        if total:
            yield f"{total} {what}"
    if not has_faults:
        failovers = sum(segment.failovers for segment in found)
        alarms = sorted({name for segment in found for name in segment.diagnosed})
        if failovers or alarms:
            yield f"{failovers} failovers without a fault ({', '.join(alarms)})"
    unnoticed = sorted({f"{one.fault} {one.role}" for one in found if has_faults and not _is_traced(one)})
    if unnoticed:
        yield f"faults that nobody noticed: {', '.join(unnoticed)}"
    yield from _growth(found)


def _is_traced(segment: Segment) -> bool:
    """Tell whether a fault left a trace; a backup that goes on before anybody asked it something was not at fault."""
    return bool(segment.diagnosed) or (segment.fault == "resume" and segment.role == Role.BACKUP)


def _growth(found: Sequence[Segment]) -> Iterator[str]:
    """Compare the last third with the first third, the first segment apart: it fills caches."""
    rest = found[1:]
    third = max(1, len(rest) // 3)
    if len(rest) < 2:
        return
    for name in ("server_mb", "workers_mb"):
        first, last = (statistics.median(getattr(one, name) for one in part) for part in (rest[:third], rest[-third:]))
        if last - first > GROWTH_MB_MAX:
            yield f"{name} grew from {first:.1f} to {last:.1f}"
    first_fds, last_fds = rest[0].server_descriptors, max(one.server_descriptors for one in rest[-third:])
    if last_fds - first_fds > DESCRIPTORS_MORE_MAX:
        yield f"descriptors grew from {first_fds} to {last_fds}"


def in_words(number: int, segment: Segment) -> str:
    """Tell a segment in a line."""
    seen = segment.tally
    diagnosed = ", ".join(segment.diagnosed) or "nothing diagnosed"
    return (
        f"{number}: {segment.fault} {segment.role}: lost {seen.lost}/{seen.sent} wrong {seen.wrong} worst "
        f"{seen.worst_ms:.0f} ms, failovers {segment.failovers}, {diagnosed}; "
        f"server {segment.server_mb} MB {segment.server_descriptors} descriptors, workers {segment.workers_mb} MB; "
        f"the machine stood still for {segment.stall_ms:.0f} ms at most"
    )


def run_soak(soak: Soak, out: Path, say: Callable[[str], None]) -> list[str]:
    """Run all segments, keep them, and return what does not hold."""
    found: list[Segment] = []
    for segment in segments(soak):
        found.append(segment)
        say(in_words(len(found), segment))
        write_atomic(out, readable_json([plain(one) for one in found]))
    return list(misses(found, soak.has_faults))


def main(arguments: Sequence[str]) -> int:
    """Soak a pair; 1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--primary", type=Path, default=Path("artifacts/bundles/credit-primary"))
    parser.add_argument("--backup", type=Path, default=Path("artifacts/bundles/credit-backup"))
    parser.add_argument("--trust", type=Path, default=Path("artifacts/trust.yaml"))
    parser.add_argument("--rows", type=Path, default=Path("artifacts/trained/credit/test.npz"))
    parser.add_argument("--out", type=Path, default=Path("artifacts/benchmarks/soak.json"))
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--fault-every", type=float, help="seconds; without it nothing is done to the pair")
    parser.add_argument("--stress", type=int, default=0, help="busy processes beside the pair")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    files = PairFiles(args.primary, args.backup, args.trust)
    questions = ask_offline({role: files.bundle(role) for role in Role}, files.trust, args.rows, QUESTIONS)
    soak = Soak(
        files, questions, 60 * args.minutes, args.fault_every or min(60.0, 60 * args.minutes), args.rate, args.seed,
        args.fault_every is not None, args.stress,
    )  # fmt: skip
    missed = run_soak(soak, args.out, lambda text: print(text, file=sys.stderr, flush=True))
    show_json({"minutes": args.minutes, "misses": missed})
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
