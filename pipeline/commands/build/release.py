"""``hotspare release``: pack, verify, attest and archive pairs for delivery, then promote them.

Archives come first and promotion last, so that no channel names a bundle that cannot be delivered; the folder takes
its place when both are through. A process killed in between leaves no folder; the same command again finds what it
promoted and writes it.
"""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType

from cryptography.hazmat.primitives.asymmetric import ec

from pipeline import __version__
from pipeline.bundle.channel import DEFAULT_CHANNEL, Channel
from pipeline.bundle.policy import KeyUse, TrustPolicy, load_policy
from pipeline.bundle.provenance import LOCK, ProvenanceStatement
from pipeline.commands.build import drill, promote, register
from pipeline.commands.build.channel_folder import current_channel
from pipeline.commands.build.console import show_json, show_table
from pipeline.commands.build.pins import stale_stages, uncommitted
from pipeline.commands.build.release_folder import (
    NOTE_FILE,
    SUMS_FILE,
    Archived,
    archive_channel,
    archive_pair,
    finish,
    names_pair,
    note_of,
)
from pipeline.commands.build.release_pair import ReadyPair, Signer, ready_pair
from pipeline.core import layout
from pipeline.core.canonical import sha256_file
from pipeline.core.checks import Finding, Word
from pipeline.core.clock import utc_now
from pipeline.core.environment import SIGNING_KEY
from pipeline.core.errors import ReleaseRefused, UsageError
from pipeline.core.files import replacing_dir
from pipeline.core.names import Role
from pipeline.core.recipe import RECIPES, Recipe, load_recipe
from pipeline.registry.loading import experiment_name, read_lineage
from pipeline.seal.attestation import require_use
from pipeline.seal.keys import PRIVATE_KEY, load_private_key
from pipeline.seal.origin import Inputs, origin_of, run_of

EXAMPLE = "hotspare release --to release --dry-run"


@dataclass(frozen=True)
class _Plan:
    """What is released, under which key, and what was found out about the project before anything was packed."""

    recipes: tuple[Recipe, ...]
    signer: Signer
    findings: Mapping[str, tuple[Finding, ...]]
    git_commit: str | None
    started_at: datetime
    dry: bool
    promotes: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models of recipes/models/; by default all")
    parser.add_argument("--to", type=Path, metavar="DIR", help="the release's folder, replaced as a whole")
    parser.add_argument(
        "--dry-run", action="store_true",
        help="do everything but promote; without a configured key sign with one made for the moment",
    )  # fmt: skip
    parser.add_argument("--drill", action="store_true", help="drill every pair that no drill is attested of")
    parser.add_argument(
        "--no-promote",
        action="store_true",
        help="stop at the archives, for publishing them before the channel names them",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, for machines")


def run(args: argparse.Namespace) -> int:
    """Check, archive, promote; a release that may not be made leaves no folder and promotes nothing."""
    plan = _plan(args)
    with tempfile.TemporaryDirectory(prefix="hotspare-release-") as scratch, _target(args.to, Path(scratch)) as folder:
        pairs = [ready_pair(recipe, plan.signer, Path(scratch), plan.started_at) for recipe in plan.recipes]
        _refuse_failed(args, plan, _told(plan, pairs))
        if args.drill:
            pairs = [_drilled(pair) for pair in pairs]
        told = _told(plan, pairs)
        archived = _write(plan, pairs, folder, Path(scratch))
    _show(args, plan, told, archived)
    return 0


def _refuse_failed(args: argparse.Namespace, plan: _Plan, told: Sequence[tuple[str, Finding]]) -> None:
    reasons = [f"{model}: {one.what}: {one.text}" for model, one in told if one.word is Word.FAIL]
    if reasons:
        _show(args, plan, told, ())
        raise ReleaseRefused("Nothing is released; what was released before stays.", reasons)


def _plan(args: argparse.Namespace) -> _Plan:
    experiment = experiment_name(os.environ)
    if experiment:
        raise UsageError(f"This runs inside the dvc experiment {experiment}, which releases nothing; apply it first.")
    if args.to is None and not args.dry_run:
        raise UsageError("Say where the release goes with --to DIR, or rehearse it with --dry-run.")
    if args.to is not None and args.to.exists() and not (args.to / SUMS_FILE).is_file() and any(args.to.iterdir()):
        raise UsageError(f"--to {args.to} holds other things than a release, and would be replaced; name a new folder.")
    models = tuple(args.models) or tuple(sorted(path.stem for path in RECIPES.glob("*.yaml")))
    if not models:
        raise UsageError(f"{RECIPES} holds no recipe; run this at the root of a project.")
    recipes, signer = tuple(map(load_recipe, models)), _signer(models, args.dry_run)
    if args.drill and signer.is_ephemeral:
        raise UsageError("--drill attests with the configured key, and none is; make one with `hotspare keys new`.")
    started_at, stale, changed = utc_now(), stale_stages(models), uncommitted()
    findings = {model: (_pinned(stale[model]), _committed(changed, args.dry_run)) for model in models}
    promotes = not (args.dry_run or args.no_promote)
    return _Plan(recipes, signer, findings, read_lineage(None).git_commit, started_at, args.dry_run, promotes)


def _signer(models: tuple[str, ...], dry: bool) -> Signer:
    is_configured = SIGNING_KEY in os.environ or (layout.KEYS / PRIVATE_KEY).exists()
    if dry and not is_configured:
        key = ec.generate_private_key(ec.SECP256R1())
        pinned = ((key.public_key(), tuple(KeyUse)),)
        return Signer(key, TrustPolicy(pinned, models, Path(os.devnull), None, DEFAULT_CHANNEL), is_ephemeral=True)
    key, trust = load_private_key(), load_policy(layout.TRUST_POLICY)
    for use in (KeyUse.BUNDLE, KeyUse.PROVENANCE):
        require_use(key, trust, use)
    return Signer(key, trust, is_ephemeral=False)


def _pinned(stale: Sequence[str]) -> Finding:
    if stale:
        return Finding("measurements", Word.FAIL, f"not what {LOCK} pins ({'; '.join(stale)}); run `dvc repro pack`")
    return Finding("measurements", Word.PASS, f"{LOCK} pins every stage up to pack")


def _committed(changed: tuple[str, ...] | None, dry: bool) -> Finding:
    if changed is None:
        return Finding("commit", Word.NOTE, "git does not know this project; the provenance names no commit")
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        text = f"{', '.join(changed[:3])}{more} differ from the commit that the provenance names; commit them"
        return Finding("commit", Word.NOTE if dry else Word.FAIL, text)
    return Finding("commit", Word.PASS, "the provenance's commit holds every tracked file as it is here")


@contextmanager
def _target(to: Path | None, scratch: Path) -> Iterator[Path]:
    """Yield the folder to fill; what a rehearsal without ``--to`` fills goes with it."""
    if to is not None:
        with replacing_dir(to) as aside:
            yield aside
    else:
        folder = scratch / "release"
        folder.mkdir()
        yield folder


def _drilled(pair: ReadyPair) -> ReadyPair:
    if pair.drill is not None:
        return pair
    _run(drill, pair.recipe.model)
    return pair.drilled()


def _run(command: ModuleType, *arguments: str) -> None:
    """Run another command as a person would; what it prints is told beside, for ``--json`` stays JSON."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    with redirect_stdout(sys.stderr):
        command.run(parser.parse_args(arguments))


def _told(plan: _Plan, pairs: Sequence[ReadyPair]) -> list[tuple[str, Finding]]:
    """Return every finding with its model, of the project first, then of the pair, then of its channel."""
    return [
        (pair.recipe.model, finding)
        for pair in pairs
        for finding in (*plan.findings[pair.recipe.model], *pair.findings, _channel_finding(plan, pair))
    ]


def _channel_finding(plan: _Plan, pair: ReadyPair) -> Finding:
    channel = _channel(plan, pair.recipe.model)
    verb = "will be" if plan.promotes else "would be"
    if channel is None:
        return Finding("channel", Word.NOTE, f"none yet; the first {verb} signed by promotion")
    if names_pair(channel, pair):
        return Finding("channel", Word.PASS, f"seq {channel.seq} names this pair until {channel.not_after}")
    text = f"seq {channel.seq} names another pair; seq {channel.seq + 1} or above {verb} signed by promotion"
    return Finding("channel", Word.NOTE, text)


def _channel(plan: _Plan, model: str) -> Channel | None:
    return None if plan.signer.is_ephemeral else current_channel(model, plan.signer.trust)


def _write(plan: _Plan, pairs: Sequence[ReadyPair], folder: Path, scratch: Path) -> list[Archived]:
    origins = {pair.recipe.model: _origins(plan, pair) for pair in pairs}
    archived = {
        pair.recipe.model: archive_pair(pair, origins[pair.recipe.model], plan.signer, folder, scratch)
        for pair in pairs
    }
    if plan.promotes:
        _run(register, *origins)
        for model in origins:
            _run(promote, model)
    notes = []
    for pair in pairs:
        model, channel = pair.recipe.model, _channel(plan, pair.recipe.model)
        if names_pair(channel, pair):
            archive_channel(model, folder, scratch)
        notes.append(note_of(pair, archived[model], origins[model], channel))
    finish(folder, notes, _rehearsal(plan))
    return [one for many in archived.values() for one in many]


def _origins(plan: _Plan, pair: ReadyPair) -> dict[Role, ProvenanceStatement]:
    versions = {"hotspare": __version__, "python": platform.python_version()}
    happened = run_of(os.environ, versions, plan.started_at, utc_now())
    inputs = Inputs(plan.git_commit, sha256_file(Path(LOCK)), pair.inputs)
    return {
        role: origin_of(bundle.manifest, role, bundle.bundle_id, inputs, happened)
        for role, bundle in pair.bundles.items()
    }


def _rehearsal(plan: _Plan) -> str | None:
    if not plan.dry:
        return None
    return "its signatures are of a key that is gone" if plan.signer.is_ephemeral else "nothing was promoted"


def _show(
    args: argparse.Namespace,
    plan: _Plan,
    told: Sequence[tuple[str, Finding]],
    archived: Sequence[Archived],
) -> None:
    if args.json:
        show_json(
            {
                "dry_run": plan.dry,
                "ephemeral_key": plan.signer.is_ephemeral,
                "git_commit": plan.git_commit,
                "findings": [{"model": model, **vars(finding)} for model, finding in told],
                "archives": list(archived),
                "to": None if args.to is None or not archived else str(args.to),
            }
        )
        return
    show_table("Checks", ["model", "check", "", "finding"], [(m, f.what, f.word, f.text) for m, f in told])
    if plan.signer.is_ephemeral:
        print("No key is configured: all was signed by one made for this rehearsal and forgotten.")
    if archived:
        rows = [(one.file, f"{one.bytes:,}", one.sha256) for one in archived]
        show_table("Archives", ["archive", "bytes", "sha256"], rows)
        print("Nothing was kept." if args.to is None else str(args.to / NOTE_FILE))
