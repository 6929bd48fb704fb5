"""What the pair costs: ``python benchmarks/pair_cost.py --primary B --backup B --trust T --rows R``.

Side by side in one run, in turns: the bare engine call, our pair without and with dynamic batching, our HTTP front over
a session in its own process, and MLServer 1.7.1 with the same model and engine (in an environment of its own, made
below ``--out`` when it is missing), and the processor time that an answer costs our processes. Then the standby's
processor time while nobody asks, and the time from start to ready.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path

from closed_loop import Pace
from host import machine

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.commands.build.console import show_table
from pipeline.core.canonical import readable_json
from pipeline.core.clock import to_text, utc_now
from pipeline.core.errors import InternalError
from pipeline.core.files import write_atomic
from pipeline.core.names import Role
from pipeline.core.schema import plain, read
from pipeline.drill.live.judging import Questions, ask_offline
from pipeline.drill.live.launching import Hotspare, PairFiles
from pipeline.drill.live.plan import Plan
from pipeline.drill.live.processes import free_port, get, until
from pipeline.runtime.loading import load_ready
from pipeline.runtime.procfs import sample

HERE = Path(__file__).parent
# The engine is our own; without httptools its web server reads HTTP in Python.
MLSERVER_PACKAGES = ("mlserver==1.7.1", f"ai-edge-litert=={version('ai-edge-litert')}", "httptools")
QUESTIONS = 64
BARE_CALLS = 1500
CONNECTIONS = 8
IDLE_S = 5.0
BATCHING = ("--batch-rows", str(CONNECTIONS))


@dataclass
class Figures:
    """All rounds of one run."""

    bare_p50_ms: list[float] = field(default_factory=list)
    one: dict[str, list[Pace]] = field(default_factory=dict)  # one connection
    many: dict[str, list[Pace]] = field(default_factory=dict)
    standby_cpu_ratio: list[float] = field(default_factory=list)
    ready_s: list[float] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    answer_cpu_us: dict[str, list[float]] = field(default_factory=dict)  # of a process, on many connections


@contextmanager
def serving_in_process(files: PairFiles) -> Iterator[tuple[int, int]]:
    """Run our front over a session in its own process; yields the port and the process."""
    port = free_port()
    script = str(HERE / "in_process.py")
    command = [sys.executable, script, str(files.primary), "--trust", str(files.trust), "--port", str(port)]
    with ended(subprocess.Popen(command, stderr=subprocess.DEVNULL)) as process:
        until("The start in one process", lambda: get(port, "/v2/health/ready")[0] == 200)
        yield port, process.pid


@contextmanager
def serving_by_mlserver(python: Path, files: PairFiles, model: str, folder: Path) -> Iterator[int]:
    """Run MLServer over the primary's model; yields the port."""
    port = free_port()
    script = str(HERE / "mlserver" / "tflite_model.py")
    payload = str(files.primary / "payload")
    subprocess.run([str(python), script, payload, str(folder), model, str(port)], check=True, capture_output=True)
    command = [str(python.parent / "mlserver"), "start", str(folder)]
    log = (folder / "log").open("wb")
    with ended(subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)):
        until("The start of MLServer", lambda: get(port, f"/v2/models/{model}/ready")[0] == 200, 60.0)
        yield port


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """End a process at the end of a block."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def mlserver_python(folder: Path) -> Path | None:
    """Return an interpreter that has these packages, made when it is missing; None when they cannot be installed."""
    python, ready, holds = folder / "bin" / "python", folder / "ready", "\n".join(MLSERVER_PACKAGES)
    if ready.exists() and ready.read_text() == holds:
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    make = [uv, "venv", "--clear", str(folder)] if uv else [sys.executable, "-m", "venv", "--clear", str(folder)]
    pip = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    for command in (make, [*pip, *MLSERVER_PACKAGES]):
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            return None
    ready.write_text(holds)
    return python


def paced(port: int, questions: Questions, connections: int, seconds: float, folder: Path) -> Pace:
    """Drive a server by a client process of its own."""
    path = f"/v2/models/{questions.model}/infer"
    plan = Plan(port, path, questions.bodies, rate=1.0, seconds=seconds, connections=connections)
    write_atomic(folder / "plan.json", readable_json(plain(plan)))
    command = [sys.executable, str(HERE / "closed_loop.py"), str(folder / "plan.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise InternalError(f"The client failed: {done.stderr.strip().splitlines()[-1:]}; read the server's log.")
    found = read(Pace, json.loads(done.stdout))
    if found.bad:
        raise InternalError(f"{found.bad} answers of the server on port {port} were errors; read its log.")
    return found


def bare_p50_ms(files: PairFiles, questions: Questions) -> float:
    """Time the engine alone, one row a call."""
    session = load_ready(verify_bundle(files.primary, load_policy(files.trust), utc_now()))
    rows = [{name: array[n : n + 1] for name, array in questions.rows.items()} for n in range(QUESTIONS)]
    times = []
    for call in range(BARE_CALLS):
        began = time.perf_counter()
        session.run(rows[call % QUESTIONS])
        times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def measure(files: PairFiles, questions: Questions, rounds: int, seconds: float, mlserver: Path | None) -> Figures:
    """Start all, measure them in turns."""
    figures = Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotspare-serving-")))
        pair = Hotspare(files.copied(folder), folder, takes_orders=False)
        stack.callback(pair.stop)
        pair.start()
        batching = Hotspare(files.copied(folder / "batching"), folder / "batching", BATCHING, takes_orders=False)
        stack.callback(batching.stop)
        batching.start()
        ports = {"hotspare": pair.port, "hotspare, batching": batching.port}
        ports["in one process"], alone = stack.enter_context(serving_in_process(files))
        server, worker = pair.answering_pid(), pair.pid(Role.PRIMARY)
        watched = {"hotspare": {"the server": server, "its worker": worker}, "in one process": {"one process": alone}}
        if mlserver is not None:
            model = questions.model
            ports["MLServer"] = stack.enter_context(serving_by_mlserver(mlserver, files, model, folder / "mlserver"))
        else:
            figures.left_out.append("MLServer was left out.")
        for _ in range(rounds):
            figures.bare_p50_ms.append(bare_p50_ms(files, questions))
            for name, port in ports.items():
                figures.one.setdefault(name, []).append(paced(port, questions, 1, seconds, folder))
                ask = partial(paced, port, questions, CONNECTIONS, seconds, folder)
                pace, costs = costing(watched.get(name, {}), ask, seconds)
                figures.many.setdefault(name, []).append(pace)
                for process, cost in costs.items():
                    figures.answer_cpu_us.setdefault(process, []).append(cost)
            figures.standby_cpu_ratio.append(cpu_ratio(pair.pid(Role.BACKUP)))
    for _ in range(rounds):
        figures.ready_s.append(started_s(files))
    return figures


def costing(pids: Mapping[str, int], ask: Callable[[], Pace], seconds: float) -> tuple[Pace, dict[str, float]]:
    """Ask for so many seconds; return the pace, and the µs of processor time that an answer cost each process."""
    before = {name: cpu_ms(pid) for name, pid in pids.items()}
    pace = ask()
    answers = pace.per_second * seconds
    return pace, {name: 1000 * (cpu_ms(pid) - before[name]) / answers for name, pid in pids.items()}


def cpu_ratio(pid: int) -> float:
    """Return the share of one processor that a process takes while nobody asks."""
    before, began = cpu_ms(pid), time.monotonic()
    time.sleep(IDLE_S)
    return (cpu_ms(pid) - before) / (1000 * (time.monotonic() - began))


def cpu_ms(pid: int) -> float:
    """Return the processor time of a process so far."""
    found = sample(pid)
    if found is None:
        raise InternalError("A server's process has ended while it was measured; read the timeline.")
    return found.cpu_ms


def started_s(files: PairFiles) -> float:
    """Return the seconds from the command to the first 200 of its readiness."""
    with tempfile.TemporaryDirectory(prefix="hotspare-serving-") as name:
        pair = Hotspare(files.copied(Path(name)), Path(name), takes_orders=False)
        try:
            pair.start()
        finally:
            pair.stop()
        return pair.ready_s


def rows(figures: Figures) -> list[tuple[str, str, str, str]]:
    """Return (what, figure, target, verdict) of every line."""
    over = [pace.p50_ms - bare for pace, bare in zip(figures.one["hotspare"], figures.bare_p50_ms, strict=True)]
    made = [
        _row("p50 over the bare engine call, ms", statistics.median(over), 1.0, at_most=True),
        _row("throughput × in one process", _times(figures.many, "in one process"), 0.7, at_most=False),
        _row(
            f"the same with {' '.join(BATCHING)}",
            _times(figures.many, "in one process", "hotspare, batching"),
            0.7,
            at_most=False,
        ),
    ]
    if "MLServer" in figures.many:
        made.append(_row("throughput × MLServer 1.7.1", _times(figures.many, "MLServer"), 2.0, at_most=False))
    made.append(_row("idle standby, share of a processor", statistics.median(figures.standby_cpu_ratio), 0.02, True))
    made.append(_row("start to ready, s", statistics.median(figures.ready_s), 1.0, at_most=True))
    made.append(("bare engine call, p50 ms", f"{statistics.median(figures.bare_p50_ms):.4f}", "", ""))
    for name, paces in figures.many.items():
        made.append((f"{name}: answers a second", f"{statistics.median(p.per_second for p in paces):.0f}", "", ""))
        one = statistics.median(pace.p50_ms for pace in figures.one[name])
        made.append((f"{name}: p50 ms of one connection", f"{one:.3f}", "", ""))
    for name, costs in figures.answer_cpu_us.items():
        made.append((f"processor time an answer, {name}, µs", f"{statistics.median(costs):.0f}", "", ""))
    return made


def _times(many: Mapping[str, Sequence[Pace]], other: str, one: str = "hotspare") -> float:
    pairs = zip(many[one], many[other], strict=True)
    return statistics.median(ours.per_second / theirs.per_second for ours, theirs in pairs)


def _row(what: str, figure: float, target: float, at_most: bool) -> tuple[str, str, str, str]:
    holds = figure <= target if at_most else figure >= target
    return what, f"{figure:.3f}", f"{'≤' if at_most else '≥'} {target:g}", "holds" if holds else "missed"


def markdown(figures: Figures) -> str:
    """Return the table as docs/runtime.md shows it."""
    lines = [f"| {' | '.join(row)} |" for row in rows(figures)]
    head = f"Measured on {machine()}, {to_text(utc_now())[:10]}; medians of {len(figures.ready_s)} rounds in turns."
    table = ["| what | measured | target | verdict |", "|---|---:|---:|---|", *lines]
    return "\n".join([head, "", *table, "", *figures.left_out, ""])


def main(arguments: Sequence[str]) -> int:
    """Measure, print, write; 1 when a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--primary", type=Path, default=Path("artifacts/bundles/credit-primary"))
    parser.add_argument("--backup", type=Path, default=Path("artifacts/bundles/credit-backup"))
    parser.add_argument("--trust", type=Path, default=Path("artifacts/trust.yaml"))
    parser.add_argument("--rows", type=Path, default=Path("artifacts/trained/credit/test.npz"))
    parser.add_argument("--out", type=Path, default=Path("artifacts/benchmarks/pair_cost"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--no-mlserver", action="store_true")
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    files = PairFiles(args.primary, args.backup, args.trust)
    questions = ask_offline({role: files.bundle(role) for role in Role}, files.trust, args.rows, QUESTIONS)
    mlserver = None if args.no_mlserver else mlserver_python(args.out / "mlserver-env")
    figures = measure(files, questions, args.rounds, args.seconds, mlserver)
    write_atomic(args.out / "figures.json", readable_json(plain(figures)))
    write_atomic(args.out / "table.md", markdown(figures).encode())
    show_table("Serving", ("what", "measured", "target", "verdict"), rows(figures))
    return int(any(row[3] == "missed" for row in rows(figures)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
