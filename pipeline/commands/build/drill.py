"""``hotspare drill MODEL``: rehearse disasters on the packed pair, judge, report, attest."""

import argparse
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import __version__
from pipeline.bundle.attestation import ATTESTATION_FILE
from pipeline.bundle.policy import KeyUse, TrustPolicy, load_policy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.verify import VerifiedBundle, verify_bundle
from pipeline.commands.build.console import progress, show_json, show_table
from pipeline.commands.build.drill_campaign import hold_campaign
from pipeline.core import layout
from pipeline.core.canonical import readable_json, sha256_hex
from pipeline.core.clock import from_text, to_text, utc_now
from pipeline.core.errors import DrillFailed, MissingStageError, RecipeError, Tampered, UsageError
from pipeline.core.files import read_bytes, replacing_dir, write_atomic
from pipeline.core.names import DRILL_NAME, Role
from pipeline.core.printable import printable
from pipeline.core.recipe import Recipe, load_recipe
from pipeline.drill.chaos_journal import journal
from pipeline.drill.chaos_toolkit import parse_experiment
from pipeline.drill.junit import junit_xml
from pipeline.drill.live.launching import PairFiles
from pipeline.drill.live.scoring import scoring
from pipeline.drill.live.world import QUESTIONS
from pipeline.drill.machine import machine_facts
from pipeline.drill.nouns import Observed, Script
from pipeline.drill.play import Subject, World, play
from pipeline.drill.results import (
    JUNIT_FILE,
    METRICS_FILE,
    REPORT_FILE,
    DrillReport,
    DrillResult,
    Play,
    hold,
    metrics,
    statement_of,
)
from pipeline.drill.rewriting import rewrite
from pipeline.drill.script import load_script, load_scripts
from pipeline.drill.script_words import nearest
from pipeline.report.drill_page import Signed, render_drill
from pipeline.report.drill_words import milliseconds
from pipeline.seal.attestation import require_use, sign_attestation
from pipeline.seal.keys import load_private_key

EXAMPLE = "hotspare drill credit --script kill --repeats 3"
SCRIPTS = Path("recipes/drills")
PAGE_FILE = "index.html"
JOURNALS = "journals"
_REPEATS_MAX = 1000


@dataclass(frozen=True)
class _Pair:
    """The packed pair, verified, and the key that attests drills of it (None: nothing is attested)."""

    policy: TrustPolicy
    bundles: dict[Role, VerifiedBundle]
    key: ec.EllipticCurvePrivateKey | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("model", nargs="?", help="a model of recipes/models/ whose pair is packed")
    parser.add_argument(
        "--script",
        action="append",
        metavar="NAME_OR_FILE",
        help="a drill of recipes/drills, a .drill file or a Chaos Toolkit experiment (.json); may be given again; "
        "by default what the recipe lists under `drills`",
    )
    parser.add_argument(
        "--world", choices=[item.value for item in World], default=World.LIVE.value,
        help="live: real processes under load (default) · simulated: virtual time, milliseconds",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="plays of each script, each with new dice")
    parser.add_argument(
        "--campaign", metavar="NAME",
        help="hold a campaign of recipes/campaigns; goes on with an interrupted one; without MODEL, for all its models",
    )  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="forget what an interrupted campaign has played")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the report goes")
    parser.add_argument(
        "--participant", action="append", default=[], metavar="NAME", help="who took part, for the report"
    )
    parser.add_argument("--unsigned", action="store_true", help="do not attest: no signing key is needed")
    parser.add_argument("--list", action="store_true", help="list the scripts of recipes/drills and what they guard")
    parser.add_argument(
        "--rewrite", action="store_true", help="record the transcripts of the scripts anew, in the simulated world"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Hold the drills, write everything, show it; a missed objective is told last, with an exit code of its own."""
    if args.list:
        return _list(args)
    if args.rewrite:
        return _rewrite(args)
    if args.campaign is not None:
        return hold_campaign(
            args, load_scripts(SCRIPTS), _player, lambda model: _pair(model, is_attested=False).bundles
        )
    if args.fresh:
        raise UsageError("--fresh forgets an interrupted campaign; name it with --campaign.")
    if args.model is None:
        raise UsageError("Name a model to drill, e.g. `hotspare drill credit`, or ask for --list.")
    if not 1 <= args.repeats <= _REPEATS_MAX:
        raise UsageError(f"--repeats {args.repeats}: give a number from 1 to {_REPEATS_MAX}.")
    recipe, world = load_recipe(args.model), World(args.world)
    scripts = _scripts(args.script or recipe.drills, recipe)
    is_stage = world is World.LIVE and not args.script
    usual = layout.drill_dir(recipe.model) if is_stage else layout.tried_drill_dir(recipe.model)
    folder = usual if args.out is None else _replaceable(args.out)
    pair = _pair(recipe.model, is_attested=world is World.LIVE and not args.unsigned)
    report = _hold(recipe, scripts, world, args, pair)
    _write(folder, report, pair)
    _show(args, report, folder)
    if not report.passed:
        raise DrillFailed(f"A drill of {report.model} missed an objective; see {folder / PAGE_FILE}.", report.misses)
    return 0


def _replaceable(folder: Path) -> Path:
    """Return a folder that a report may take the place of; what else lies there is not ours to remove."""
    folder = folder.resolve()
    if folder.exists() and not (folder / REPORT_FILE).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"--out {folder} holds other things than a drill, and would be replaced; name a new folder.")
    return folder


def _scripts(names: Sequence[str], recipe: Recipe) -> list[Script]:
    if not names:
        raise UsageError(
            f"The recipe of {recipe.model} lists no drills; name one with --script, or add `drills: [kill]` to it."
        )
    scripts = [_script(name) for name in names]
    twice = sorted({one.name for one in scripts if [other.name for other in scripts].count(one.name) > 1})
    if twice:
        raise UsageError(f"The script {twice[0]} is named twice; use --repeats to play one several times.")
    odd = next((one.name for one in scripts if not re.fullmatch(DRILL_NAME, one.name)), None)
    if odd is not None:
        raise UsageError(
            f"{odd!r} is no name of a drill; name its file in small letters, digits and -, e.g. kill-9.drill."
        )
    return scripts


def _script(name: str) -> Script:
    """Read a script by its name in ``recipes/drills``, or by its path."""
    path = Path(name)
    if path.suffix == ".json":
        return parse_experiment(read_bytes(path, RecipeError), path.stem)
    if path.suffix == ".drill" or len(path.parts) > 1:
        return load_script(path)
    place = SCRIPTS / f"{name}.drill"
    if not place.is_file():
        known = sorted(path.stem for path in SCRIPTS.glob("*.drill"))
        listed = ", ".join(known) or "none"
        raise UsageError(f"There is no drill {name!r} in {SCRIPTS}{nearest(name, known)}; there are {listed}.")
    return load_script(place)


def _pair(model: str, is_attested: bool) -> _Pair:
    """Verify the packed pair, and find the key before minutes of drilling are spent in vain."""
    for role in Role:
        if not layout.bundle_dir(model, role).is_dir():
            raise MissingStageError(
                f"{layout.bundle_dir(model, role)} does not exist; run `hotspare pack {model}` first."
            )
    policy, now = load_policy(layout.TRUST_POLICY), utc_now()
    key = load_private_key() if is_attested else None
    if key is not None:
        require_use(key, policy, KeyUse.DRILL)
    bundles = {role: verify_bundle(layout.bundle_dir(model, role), policy, now) for role in Role}
    return _Pair(policy, bundles, key)


def _hold(
    recipe: Recipe, scripts: Sequence[Script], world: World, args: argparse.Namespace, pair: _Pair
) -> DrillReport:
    started_at = utc_now()
    of_model = dict.fromkeys(recipe.drills, recipe.objectives)
    results = hold(scripts, args.repeats, _of(pair, _player(recipe, world)), of_model, _watch)
    return DrillReport(
        schema_version=1,
        model=recipe.model,
        title=recipe.about.title,
        world=world.value,
        started_at=to_text(started_at),
        ended_at=to_text(utc_now()),
        made_by=f"hotspare {__version__}",
        bundles={role: bundle.bundle_id for role, bundle in pair.bundles.items()},
        candidates={role: bundle.candidate for role, bundle in pair.bundles.items()},
        results=results,
        machine=machine_facts(),
        participants=tuple(map(printable, args.participant)),
    )


def _of(pair: _Pair, once: Play) -> Play:
    """Hold every play to the pair that is attested: a stage that packs anew meanwhile changes what is drilled."""

    def same(script: Script, number: int) -> Observed:
        observed = once(script, number)
        for role, bundle in pair.bundles.items():
            drilled = observed.facts.get(f"{role} bundle") if observed.world == World.LIVE else None
            if drilled not in (None, bundle.bundle_id):
                raise Tampered(
                    f"The {role}'s bundle was exchanged while it was drilled; drill again when it is packed."
                )
        return observed

    return same


def _player(recipe: Recipe, world: World) -> Play:
    subject = _subject(recipe) if world is World.LIVE else None

    def once(script: Script, number: int) -> Observed:
        return play(script, world, number, subject)

    return once


def _subject(recipe: Recipe) -> Subject:
    """Return the pair with rows of its task; the backup's answers are scored where single rows can be."""
    primary, backup = (layout.bundle_dir(recipe.model, role) for role in Role)
    rows = Path(recipe.data.validation)
    if not rows.is_file():
        raise MissingStageError(f"{rows} does not exist, and a drill asks real rows; make it, or mend data.validation.")
    scored = None if recipe.metric.is_ranking else scoring(recipe, rows, QUESTIONS)
    return Subject(PairFiles(primary, backup, layout.TRUST_POLICY), rows, scored)


def _watch(plays: Sequence[Script]) -> Iterable[Script]:
    return progress(plays, "drilling")


def _write(folder: Path, report: DrillReport, pair: _Pair) -> None:
    """Write all files of a drill, all or nothing; a failed drill is attested as failed."""
    files = {
        REPORT_FILE: report.to_bytes(),
        METRICS_FILE: readable_json(metrics(report)),
        JUNIT_FILE: junit_xml(report),
        **{f"{JOURNALS}/{result.name}.json": _journal(report, result) for result in report.results},
    }
    signed = None
    if pair.key is not None:
        files[ATTESTATION_FILE] = sign_attestation(statement_of(report), pair.key, pair.policy)
        signed = Signed(key_hint(pair.key.public_key()), sha256_hex(files[ATTESTATION_FILE]))
    files[PAGE_FILE] = render_drill(report, signed).encode("utf-8")
    with replacing_dir(folder) as aside:
        for name, data in files.items():
            write_atomic(aside / name, data)


def _journal(report: DrillReport, result: DrillResult) -> bytes:
    began_at: datetime = from_text(report.started_at)
    return readable_json(journal(result.script, result.observed, began_at))


def _show(args: argparse.Namespace, report: DrillReport, folder: Path) -> None:
    if args.json:
        told = {"model": report.model, "world": report.world, "passed": report.passed, "misses": report.misses}
        show_json({**told, "metrics": metrics(report), "report": str(folder / PAGE_FILE)})
        return
    headers = ["drill", "verdict", "repeats", "detected", "restored", "redundant", "lost", "wrong", "worst"]
    count = len(report.results)
    title = f"{report.model}: {count} drill{'s' if count > 1 else ''} in the {report.world} world"
    show_table(title, headers, [_cells(result) for result in report.results])
    print(folder / PAGE_FILE)


def _cells(result: DrillResult) -> tuple[str, ...]:
    told = result.shown.measures
    return (
        result.name,
        "passed" if result.passed else "FAILED",
        str(len(result.repeats)),
        milliseconds(told.mttd_ms),
        "never" if told.unrestored else milliseconds(told.rto_ms),
        "never" if told.unredundant else milliseconds(told.redundancy_ms),
        str(told.lost),
        str(told.wrong),
        milliseconds(told.worst_ms),
    )


def _list(args: argparse.Namespace) -> int:
    scripts = load_scripts(SCRIPTS)
    chosen = load_recipe(args.model).drills if args.model else ()
    if args.json:
        show_json([{"name": one.name, "rule": one.rule, "needs": one.needs} for one in scripts])
        return 0
    width = max(len(printable(one.name)) for one in scripts)
    for one in scripts:
        needs = f" (needs {', '.join(one.needs)})" if one.needs else ""
        print(f"{'*' if one.name in chosen else ' '} {printable(one.name):<{width}}  {one.rule}{needs}")
    if args.model:
        print(f"* what `hotspare drill {args.model}` plays")
    return 0


def _rewrite(args: argparse.Namespace) -> int:
    """Record transcripts anew; without --script those of all scripts in ``recipes/drills``."""
    names = args.script or [str(path) for path in sorted(SCRIPTS.glob("*.drill"))]
    places = [Path(name) if Path(name).suffix == ".drill" else SCRIPTS / f"{name}.drill" for name in names]
    if not places:
        raise UsageError(f"There is no drill script in {SCRIPTS}; change into a project's folder, or name one.")
    changed = [place for place in progress(places, "recording") if rewrite(place)]
    if args.json:
        show_json({"scripts": len(places), "changed": [str(place) for place in changed]})
        return 0
    print("\n".join(f"recorded anew: {place}" for place in changed) or "Every transcript is as it was recorded.")
    return 0
