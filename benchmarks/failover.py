"""Faults under load, ours beside HAProxy: ``python benchmarks/failover.py --primary B --backup B --trust T --rows R``.

Each run starts a system, loads it with an open loop of 100 requests a second (deadline 1 s, every answer judged against
the same bundle run offline), does one fault at a moment drawn by the seed, and keeps what happened as one line of JSON.
A second call goes on where the first ended, as long as code, bundles, questions, load and machine are the same. Prints
a table against the targets and writes it as Markdown.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from balanced import Balanced
from failover_table import markdown, show
from faults import CASES, Case, Scene
from runs import Run, in_words, known_runs

from pipeline.bundle.golden import read_golden
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.clock import utc_now
from pipeline.core.errors import InternalError, SurroundingsError
from pipeline.core.files import write_atomic
from pipeline.core.names import Role
from pipeline.core.schema import plain
from pipeline.drill.campaign import code_sha256
from pipeline.drill.corruption import Corruption, corrupted
from pipeline.drill.live.generating import generating
from pipeline.drill.live.judging import Questions, ask_offline, judge_all, poison_body, tally
from pipeline.drill.live.launching import Hotspare, PairFiles, Seen, System
from pipeline.drill.live.plan import Extra, Plan, read_record
from pipeline.drill.live.resources import Dependency, memory_group, tiny_disk
from pipeline.drill.machine import machine_facts

HERE = Path(__file__).parent
QUESTIONS = 200
INJECT_S = 0.8, 1.6
REDUNDANCY_S = 3.0
STEADY_AFTER_S = 0.4


@dataclass(frozen=True)
class Campaign:
    """What all runs share."""

    files: PairFiles
    questions: Questions
    rate: float
    seconds: float
    made_of: str


def run_once(campaign: Campaign, case: Case, system_name: str, seed: int) -> Run:
    """Start a system, load it, do the fault, end it."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hotspare-failover-")))
        files = campaign.files.copied(folder)
        group = stack.enter_context(memory_group(folder.name)) if "memory" in case.needs else None
        if "disk" in case.needs:
            stack.enter_context(tiny_disk(folder / "state"))
        dependency = Dependency() if "dependency" in case.needs else None
        system = _system(system_name, files, folder, case, dependency)
        stack.callback(system.stop)
        draw = np.random.default_rng(seed)
        found = _corruption(campaign, seed) if case.name.startswith("corrupt") else None
        if found is not None:
            (folder / "corrupt").write_bytes(found.model)
        system.start()
        scene = Scene(system, campaign.questions, folder, draw, found and folder / "corrupt", group)
        if case.prepare is not None:
            case.prepare(scene)
        at_s = float(draw.uniform(*INJECT_S))
        with generating(_plan(campaign, system, case, seed, at_s), folder) as began_s:
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            injected_s = time.monotonic()
            case.inject(scene)
            asked = _taken_away(dependency) if dependency else None
            time.sleep(STEADY_AFTER_S)
            hedged, steady_ms = _hedges(system), 1000 * (time.monotonic() - began_s)
        record = read_record(folder / "record.json")
        verdicts = judge_all(record.exchanges, campaign.questions)
        return _told(
            system, injected_s, Run(
                campaign.made_of, system_name, case.name, seed, round(1000 * (injected_s - began_s), 1),
                tally(record.exchanges, verdicts), changed_ratio=found and round(found.changed_ratio, 4),
                registry_asked=asked, steady_hedges=-hedged,
                steady_sent=sum(one.scheduled_ms >= steady_ms for one in record.exchanges),
            )
        )  # fmt: skip


def _system(name: str, files: PairFiles, folder: Path, case: Case, dependency: Dependency | None) -> System:
    if name == "haproxy":
        return Balanced(files, folder)
    environment = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{dependency.port}"} if dependency else {}
    return Hotspare(files, folder, case.options, environment)


def _taken_away(dependency: Dependency) -> int:
    """Take a dependency away and return how often it was asked."""
    dependency.go_away()
    return dependency.asked


def _corruption(campaign: Campaign, seed: int) -> Corruption:
    """Flip weights of the primary until real rows prove it."""
    bundle = verify_bundle(campaign.files.primary, load_policy(campaign.files.trust), utc_now())
    entry = bundle.manifest.entrypoint
    tolerances = read_golden(bundle.files).tolerances.absolute
    return corrupted(entry.format, bundle.files[entry.path], campaign.questions.rows, tolerances, seed)


def _plan(campaign: Campaign, system: System, case: Case, seed: int, at_s: float) -> Plan:
    times = (at_s + 0.1 * (1 + number) for number in range(case.poison_requests))
    extras = tuple(Extra(when, poison_body(campaign.questions)) for when in times)
    path = f"/v2/models/{campaign.questions.model}/infer"
    return Plan(system.port, path, campaign.questions.bodies, campaign.rate, campaign.seconds, seed, extras=extras)


def _told(system: System, injected_s: float, run: Run) -> Run:
    """Add what the system itself saw: after the fault, and before it, where everything is a false alarm."""
    evictions = [at_s for at_s in system.evictions() if at_s >= injected_s]
    facts = {"evicted_ms": round(1000 * (evictions[0] - injected_s), 1) if evictions else None}
    if not isinstance(system, Hotspare):
        early = len(system.evictions()) - len(evictions)
        return replace(run, **facts, evictions=len(evictions), failovers=len(evictions), false_alarms=early)
    back_ms = _redundancy_ms(system, injected_s)
    told = list(system.seen)
    seen = [one for one in told if one.at_s >= injected_s]
    diagnosed = [one.facts for one in seen if "component" in one.facts]
    return Run(
        **{
            **vars(run),
            **facts,
            "evictions": len(evictions),
            "components": tuple(dict.fromkeys(str(facts["component"]) for facts in diagnosed)),
            "faults": tuple(dict.fromkeys(str(facts["fault"]) for facts in diagnosed)),
            "false_alarms": sum(_is_alarm(one) for one in told if one.at_s < injected_s),
            "failovers": sum(_is_failover(one) for one in seen),
            "redundancy_ms": back_ms,
            "tracebacks": (system.folder / "server.log").read_text().count("Traceback"),
            "steady_hedges": _hedges(system) + run.steady_hedges,
        }
    )


def _is_failover(seen: Seen) -> bool:
    return "takes over" in str(seen.facts.get("event"))


def _is_alarm(seen: Seen) -> bool:
    return "component" in seen.facts or _is_failover(seen)


def _hedges(system: System) -> int:
    """Return how many requests were hedged so far."""
    status = system.status() if isinstance(system, Hotspare) else {}
    return int(status.get("counters", {}).get("hedges", 0))


def _redundancy_ms(system: Hotspare, injected_s: float) -> float | None:
    """Return when a standby was ready again; waits a little for it. None: it was never away, or never came back."""
    end_s = time.monotonic() + REDUNDANCY_S
    while True:
        said = [(one.at_s, str(one.facts.get("event"))) for one in system.seen if one.at_s >= injected_s]
        lost = any("no standby" in text for _, text in said)
        back = [at_s for at_s, text in said if "a standby is ready" in text]
        if back or not lost or time.monotonic() > end_s:
            return round(1000 * (back[-1] - injected_s), 1) if back else None
        time.sleep(0.02)


def made_of(questions: Questions, rate: float, seconds: float) -> str:
    """Return a digest of all that runs follow from beside case and seed: code, bundles, questions, load, machine."""
    code = {file.name: sha256_hex(file.read_bytes()) for file in (*HERE.glob("*.py"), *HERE.glob("*.cfg"))}
    asked = [*questions.references, *questions.bodies]
    return sha256_hex(canonical_json([code_sha256(), code, asked, rate, seconds, machine_facts()]))[:16]


def wanted(cases: Sequence[Case], seeds: int | None, systems: Sequence[str]) -> Iterator[tuple[int, Case, str]]:
    """Yield every run to do; systems and cases take turns, so that drift of the machine touches all alike."""
    for seed in range(seeds or max(case.seeds for case in cases)):
        for case in cases:
            for system in systems:
                if seed < (seeds or case.seeds) and (case.is_comparable or system == "hotspare"):
                    yield seed, case, system


def campaign_runs(
    campaign: Campaign, todo: Iterator[tuple[int, Case, str]], path: Path, say: Callable[[str], None]
) -> list[Run]:
    """Do every run that is not known yet, and keep each as it ends."""
    runs = known_runs(path, campaign.made_of)
    done = {(run.seed, run.case, run.system) for run in runs}
    for seed, case, system in todo:
        if (seed, case.name, system) in done:
            continue
        try:
            run = run_once(campaign, case, system, seed)
        except SurroundingsError as error:
            run = Run(campaign.made_of, system, case.name, seed, 0.0, tally((), ()), skipped=str(error))
        except InternalError as error:
            run = Run(campaign.made_of, system, case.name, seed, 0.0, tally((), ()), broken=str(error))
        runs.append(run)
        with path.open("a") as stream:
            stream.write(f"\n{json.dumps(plain(run))}")  # in front: half a line of a killed run stays alone
        say(in_words(run))
    return runs


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--primary", type=Path, default=Path("artifacts/bundles/credit-primary"))
    parser.add_argument("--backup", type=Path, default=Path("artifacts/bundles/credit-backup"))
    parser.add_argument("--trust", type=Path, default=Path("artifacts/trust.yaml"))
    parser.add_argument("--rows", type=Path, default=Path("artifacts/trained/credit/test.npz"))
    parser.add_argument("--out", type=Path, default=Path("artifacts/benchmarks/failover"))
    parser.add_argument("--seeds", type=int, help="runs of each fault (default: 30 or 10, by the fault)")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], metavar="CASE")
    parser.add_argument("--alone", action="store_true", help="without HAProxy")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    """Run what is missing, print and write the table; 1 when a target is missed."""
    args = parse(arguments)
    if args.fresh:
        shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True, exist_ok=True)
    files = PairFiles(args.primary, args.backup, args.trust)
    roles = {Role.PRIMARY: args.primary, Role.BACKUP: args.backup}
    questions = ask_offline(roles, args.trust, args.rows, QUESTIONS)
    campaign = Campaign(files, questions, args.rate, args.seconds, made_of(questions, args.rate, args.seconds))
    cases = [case for case in CASES if args.cases is None or case.name in (*args.cases, "control")]
    todo = wanted(cases, args.seeds, ("hotspare",) if args.alone else ("hotspare", "haproxy"))
    runs = campaign_runs(campaign, todo, args.out / "runs.jsonl", lambda text: print(text, file=sys.stderr, flush=True))
    write_atomic(args.out / "table.md", markdown(cases, runs).encode())
    return show(cases, runs)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
