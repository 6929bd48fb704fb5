"""``register`` and ``promote`` end to end, on bundles that ``pack`` really signed."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from attested import attest
from toy_project import toy_card, toy_record

from pipeline.bundle.attestation import ATTESTATION_FILE, Drilled
from pipeline.bundle.channel import CHANNEL_FILE, CHANNEL_SIGNATURE
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.cli import main
from pipeline.commands.build import mending, promotion_effects, register
from pipeline.commands.build import project as project_of_commands
from pipeline.core import layout
from pipeline.core.canonical import sha256_hex
from pipeline.core.clock import utc_now
from pipeline.core.errors import KeyFileError, MissingStageError, PromotionRefused
from pipeline.core.names import Format, Role, Scheme
from pipeline.core.recipe import Objectives
from pipeline.core.records import CANDIDATES_FILE, Candidates, write_record
from pipeline.core.tensors import encode_npz
from pipeline.drill.results import due_scripts
from pipeline.drill.script import load_script, parse_script
from pipeline.engines.open import open_session
from pipeline.registry import access
from pipeline.registry.memory import MemoryRegistry
from pipeline.registry.registering import register_build
from pipeline.score.scorecard import Scorecard, Scored
from pipeline.score.selection import SELECTION_FILE, Selected, Verdict
from pipeline.score.store import write_scored
from pipeline.seal.keys import load_private_key

RECIPE = """
model: toy
about: {title: A toy, intended_use: Tests., limits: Not for use., data_source: drawn, licence: MIT}
source: {path: model.keras, format: keras}
data: {train: rows.npz, calibration: rows.npz, validation: rows.npz, test: rows.npz}
metric: auc
budgets: {loss_max_abs: 0.01}
variants: {dense: {}, p50: {epochs: 2}}
schemes: {tflite: [f32, w8]}
select: {backup: {diverse: [scheme]}}
"""
PRIMARY, BACKUP = "dense.f32", "p50.w8"
LONG_SECONDS = 300


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory, fixture_models: Path) -> Path:
    """A project up to and with ``pack``, to copy from."""
    root = tmp_path_factory.mktemp("packed")
    model = (fixture_models / "tiny_dense.tflite").read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        Path("recipes/models").mkdir(parents=True)
        Path("recipes/models/toy.yaml").write_text(RECIPE)
        Path("mlflow").mkdir()
        shutil.copy(fixture_models.parents[2] / "mlflow" / "promotion.yaml", "mlflow")
        Path("dvc.lock").write_text("schema: '2.0'\n")
        rows = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
        Path("rows.npz").write_bytes(encode_npz({"x": rows, "y": np.arange(64) % 2}))
        assert main(["keys", "new", "artifacts/keys", "--trust", "artifacts/trust.yaml"]) == 0
        _stages(model, {})
        _pack_and_drill()
    return root


@pytest.fixture
def project(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A packed project as the working folder."""
    root = tmp_path / "project"
    shutil.copytree(packed, root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOTSPARE_PERSON", "ada@example.org")
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)
    return root


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> MemoryRegistry:
    """An empty registry in memory, which both commands use."""
    made = MemoryRegistry()
    monkeypatch.setattr(register, "open_registry", lambda _: made)
    monkeypatch.setattr(project_of_commands, "open_registry", lambda _: made)
    return made


def _stages(model: bytes, losses: dict[str, float]) -> None:
    """Write what ``quantize``, ``score``, ``select`` and ``report`` leave; ``losses`` by candidate."""
    records = [toy_record(variant, scheme, model) for variant in ("dense", "p50") for scheme in (Scheme.F32, Scheme.W8)]
    for record in records:
        layout.candidates_dir("toy").mkdir(parents=True, exist_ok=True)
        (layout.candidates_dir("toy") / record.file).write_bytes(model)
    write_record(layout.candidates_dir("toy") / CANDIDATES_FILE, Candidates("toy", tuple(records), ()))
    cards = [toy_card("toy", record, losses.get(str(record.name), 0.001)) for record in records]
    write_scored(layout.scorecards_dir("toy"), Scored("toy", PRIMARY, tuple(c.candidate for c in cards), ()), cards)
    _select(PRIMARY, BACKUP, cards)
    layout.report_dir("toy").mkdir(parents=True, exist_ok=True)
    (layout.report_dir("toy") / "index.html").write_text("<!doctype html><title>toy</title>")


def _select(primary: str, backup: str, cards: list[Scorecard]) -> None:
    verdicts = tuple(Verdict(card.candidate, True, ("within every budget",), {}) for card in cards)
    locked = dict.fromkeys(Role, replace(cards[0].task, split="test"))
    write_record(layout.selection_dir("toy") / SELECTION_FILE, Selected("toy", primary, backup, verdicts, locked))


def _pack_and_drill(**changes: object) -> None:
    """Pack, then leave what a drill of the packed pair leaves; ``changes`` are of what it attests."""
    assert main(["pack", "toy"]) == 0
    _drill(_bundle_ids(), **changes)


def _drill(bundle_ids: dict[str, str], **changes: object) -> None:
    folder = layout.drill_dir("toy")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.html").write_text("<!doctype html><title>drill</title>")
    (folder / "metrics.json").write_text(json.dumps({"rto_ms_p95": 31.5, "kill-primary": {"lost": 0}}))
    (folder / "drill.json").write_text(json.dumps({"schema_version": 1}))
    digest = sha256_hex((folder / "drill.json").read_bytes())
    ids = {Role(role): bundle_id for role, bundle_id in bundle_ids.items()}
    signed = attest("toy", ids, load_private_key(), layout.TRUST_POLICY, **{"report_sha256": digest, **changes})
    (folder / ATTESTATION_FILE).write_bytes(signed)


def _swap_roles() -> None:
    """Select the other way round and pack anew, as a changed recipe would."""
    cards = [
        toy_card("toy", toy_record(variant, scheme, b""))
        for variant, scheme in (("dense", Scheme.F32), ("p50", Scheme.W8))
    ]
    _select(BACKUP, PRIMARY, cards)
    _pack_and_drill()


def _bundle_ids() -> dict[str, str]:
    policy, now = load_policy(layout.TRUST_POLICY), utc_now()
    return {str(role): verify_bundle(layout.bundle_dir("toy", role), policy, now).bundle_id for role in Role}


def _channel() -> dict[str, object]:
    loaded = load_channel(layout.channel_dir("toy"), load_policy(layout.TRUST_POLICY), utc_now())
    channel = loaded.channel
    return {"seq": channel.seq, "primary": channel.primary.bundle_id, "backup": channel.backup.bundle_id}


def _aliased(registry: MemoryRegistry) -> dict[str, str]:
    versions = {version.number: version.bundle_id for version in registry.versions("toy")}
    return {alias: versions[number] for alias, number in registry.aliases("toy").items()}


def _policy(**changes: object) -> None:
    path = Path("mlflow/promotion.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_registering_promotes_the_pair_and_nodes_accept_its_channel(project: Path, registry: MemoryRegistry) -> None:
    assert main(["register"]) == 0
    assert _channel() == {"seq": 1, **_bundle_ids()}
    assert _aliased(registry) == _bundle_ids()
    channel = load_channel(layout.channel_dir("toy"), load_policy(layout.TRUST_POLICY), utc_now())
    for role in Role:
        now = utc_now()
        policy = load_policy(layout.TRUST_POLICY)
        assert verify_bundle(layout.bundle_dir("toy", role), policy, now, channel, role).role is role


def test_registering_again_changes_nothing(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["register"])
    runs, before = len(registry.runs), (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes()
    capsys.readouterr()
    assert main(["register", "--json"]) == 0
    assert {line["happened"] for line in json.loads(capsys.readouterr().out)} == {"known; channel seq 1"}
    assert len(registry.runs) == runs
    assert len(registry.versions("toy")) == 2
    assert (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes() == before


def test_repacking_the_same_payload_is_the_same_pair(project: Path, registry: MemoryRegistry) -> None:
    main(["register"])
    _pack_and_drill()
    assert main(["register"]) == 0
    assert len(registry.versions("toy")) == 2
    assert _channel()["seq"] == 1


def test_a_swapped_pair_is_a_new_channel_with_the_next_number(project: Path, registry: MemoryRegistry) -> None:
    main(["register"])
    _swap_roles()
    assert main(["register"]) == 0
    assert _channel() == {"seq": 2, **_bundle_ids()}
    was_backup = _bundle_ids()["backup"]
    assert _aliased(registry) == {**_bundle_ids(), "previous_primary": was_backup}
    assert len(registry.versions("toy")) == 2


def test_a_failing_gate_registers_but_leaves_the_pair_in_force(
    project: Path, registry: MemoryRegistry, fixture_models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["register"])
    before = _channel()
    _stages((fixture_models / "tiny_dense.tflite").read_bytes(), {BACKUP: 0.5})
    _pack_and_drill()
    assert main(["register"]) == PromotionRefused.exit_code
    assert "backup loss" in capsys.readouterr().err
    assert _channel() == before
    assert len(registry.versions("toy")) == 3


def test_manual_mode_waits_for_promote(project: Path, registry: MemoryRegistry) -> None:
    _policy(mode="manual")
    assert main(["register"]) == 0
    assert not layout.channel_dir("toy").exists()
    assert _aliased(registry) == {"candidate": _bundle_ids()["primary"]}
    assert main(["promote", "toy", "--dry-run"]) == 0
    assert not layout.channel_dir("toy").exists()
    assert main(["promote", "toy"]) == 0
    assert _channel() == {"seq": 1, **_bundle_ids()}
    assert _aliased(registry) == _bundle_ids()
    assert main(["register"]) == 0
    assert _channel()["seq"] == 1


def test_promote_lists_every_failing_gate(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    _policy(mode="manual", gates={"loss_high_max_ratio_of_budget": 0.1, "latency_p50_max_ratio": 0.5})
    main(["register"])
    assert main(["promote", "toy"]) == PromotionRefused.exit_code
    told = capsys.readouterr().err
    for gate in ("primary loss", "backup loss", "primary latency", "backup latency"):
        assert gate in told


def test_promote_before_register_says_so(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["promote", "toy"]) == MissingStageError.exit_code
    assert "hotspare register" in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"])
def test_a_dvc_experiment_is_logged_and_promotes_nothing(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "brave-fox")
    assert main(["register"]) == 0
    assert len(registry.runs) == 6
    assert (registry.versions("toy"), registry.aliases("toy")) == ((), {})
    assert not layout.channel_dir("toy").exists()
    assert main(["promote", "toy"]) != 0
    assert not layout.channel_dir("toy").exists()


def test_a_build_first_seen_in_an_experiment_is_promoted_by_the_next_plain_run(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DVC_EXP_NAME", "brave-fox")
        main(["register"])
    runs = len(registry.runs)
    assert main(["register"]) == 0
    assert len(registry.runs) == runs
    assert _channel()["seq"] == 1


def test_a_process_killed_before_the_channel_never_uses_its_number_again(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(mending, "write_folder", _die)
        main(["register"])
    assert not layout.channel_dir("toy").exists()
    assert main(["register"]) == 0
    assert _channel()["seq"] == 2


def test_a_process_killed_after_the_channel_leaves_aliases_that_are_put_right(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["register"])
    _swap_roles()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(promotion_effects, "_settled", _die)
        main(["register"])
    assert _channel() == {"seq": 2, **_bundle_ids()}
    assert _aliased(registry)["primary"] != _bundle_ids()["primary"]
    assert main(["register"]) == 0
    assert _aliased(registry) == {**_bundle_ids(), "previous_primary": _bundle_ids()["backup"]}
    assert _channel()["seq"] == 2


def _die(*arguments: object, **more: object) -> None:
    raise RuntimeError("killed here")


def test_a_lost_channel_is_recovered_from_the_registry(project: Path, registry: MemoryRegistry) -> None:
    main(["register"])
    before = (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes()
    shutil.rmtree(layout.channel_dir("toy"))
    assert main(["register"]) == 0
    assert (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes() == before


def test_a_lost_registry_goes_on_above_the_channel(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["register"])
    _swap_roles()
    registry.models.clear()
    registry.runs.clear()
    assert main(["register"]) == 0
    assert _channel()["seq"] == 2
    assert _aliased(registry) == {**_bundle_ids(), "previous_primary": _bundle_ids()["backup"]}


def test_a_channel_file_that_its_signature_does_not_cover_is_written_anew(
    project: Path, registry: MemoryRegistry
) -> None:
    main(["register"])
    good = (layout.channel_dir("toy") / CHANNEL_FILE).read_bytes()
    (layout.channel_dir("toy") / CHANNEL_FILE).write_bytes(good.replace(b'"seq":1', b'"seq":9'))
    assert main(["register"]) == 0
    assert (layout.channel_dir("toy") / CHANNEL_FILE).read_bytes() == good


def test_a_channel_of_a_foreign_key_is_not_followed(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["register"])
    layout.KEYS.rename("keys-before")
    layout.TRUST_POLICY.unlink()
    main(["keys", "new", "artifacts/keys", "--trust", "artifacts/trust.yaml"])
    _pack_and_drill()
    assert main(["register"]) == PromotionRefused.exit_code
    assert "artifacts/channels/toy" in capsys.readouterr().err
    shutil.rmtree(layout.channel_dir("toy"))
    assert main(["register"]) == PromotionRefused.exit_code, "what it revoked would be forgotten"
    assert "pin that key once more" in " ".join(capsys.readouterr().err.split())
    assert main(["keys", "pin", "keys-before", "--trust", "artifacts/trust.yaml", "--name", "before"]) == 0
    assert main(["register"]) == 0
    assert _channel()["seq"] == 1
    assert main(["promote", "toy", "--renew"]) == 0
    assert _channel()["seq"] == 2


def test_a_foreign_channel_of_one_model_does_not_keep_the_others_from_being_registered(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(register, "packed_models", lambda: ("toy", "toy"))
    monkeypatch.setattr(register, "register_build", lambda r, b: seen.append(b.model) or register_build(r, b))
    main(["register"])
    (layout.channel_dir("toy") / "channel.sig").write_bytes(b"{}")
    seen.clear()
    assert main(["register"]) == PromotionRefused.exit_code
    assert seen == ["toy", "toy"]


def test_without_the_private_key_nothing_is_begun(project: Path, registry: MemoryRegistry) -> None:
    (layout.KEYS / "signing.pem").unlink()
    assert main(["register"]) == KeyFileError.exit_code
    assert set(registry.model_tags("toy")) == {"latest_build"}
    assert not layout.channel_dir("toy").exists()


def test_a_key_that_may_not_sign_channels_is_told(project: Path, registry: MemoryRegistry) -> None:
    policy = yaml.safe_load(layout.TRUST_POLICY.read_text())
    policy["keys"]["main"]["uses"] = ["bundle", "drill"]
    layout.TRUST_POLICY.write_text(yaml.safe_dump(policy))
    assert main(["register"]) == KeyFileError.exit_code
    assert set(registry.model_tags("toy")) == {"latest_build"}


def test_a_damaged_bundle_is_refused_before_anything_is_logged(project: Path, registry: MemoryRegistry) -> None:
    model = next((layout.bundle_dir("toy", "backup") / "payload" / "model").iterdir())
    model.write_bytes(model.read_bytes()[:-1] + b"\x00\x01")
    assert main(["register"]) == 30
    assert registry.runs == {}


def test_bundles_of_another_selection_are_not_registered(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    cards = [toy_card("toy", toy_record("p50", Scheme.F32, b""))]
    _select("p50.f32", BACKUP, cards)
    assert main(["register"]) == MissingStageError.exit_code
    assert "hotspare pack toy" in capsys.readouterr().err
    assert registry.runs == {}


def test_a_project_without_bundles_says_what_to_run(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree("artifacts/bundles")
    assert main(["register"]) == MissingStageError.exit_code
    assert "hotspare pack" in capsys.readouterr().err


def test_the_channel_folder_is_there_at_every_moment_of_a_promotion(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["register"])
    _swap_roles()
    seen = []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in ("os.rename", "shutil.rmtree") and watching:
            seen.append((layout.channel_dir("toy") / CHANNEL_SIGNATURE).exists())

    watching = [True]
    sys.addaudithook(watch)
    assert main(["register"]) == 0
    watching.clear()
    assert seen
    assert all(seen)


def _versions(registry: MemoryRegistry) -> list[dict[str, str]]:
    return [dict(version.tags) for version in registry.versions("toy")]


def test_the_drill_of_a_pair_is_logged_beside_its_versions(project: Path, registry: MemoryRegistry) -> None:
    assert main(["register"]) == 0
    runs = {run_id: run for run_id, run in registry.runs.items() if run.draft.tags["kind"] == "drill"}
    ((run_id, run),) = runs.items()
    assert run.finished
    assert registry.runs[run.parent].draft.tags["kind"] == "build"
    assert run.draft.metrics == {"rto_ms_p95": 31.5, "kill-primary.lost": 0.0}
    assert run.draft.files == (("drill", layout.drill_dir("toy")),)
    for tags in _versions(registry):
        assert (tags["drill_verdict"], tags["drill_rto_ms_p95"], tags["drill_run_id"]) == ("passed", "31.5", run_id)


def test_another_drill_of_the_same_pair_is_another_run_and_the_versions_name_the_latest(
    project: Path, registry: MemoryRegistry
) -> None:
    main(["register"])
    runs = len(registry.runs)
    drilled = replace(Drilled("kill-primary", "ab" * 32, 1, True, 300, 0, 0, 44.0))
    _drill(_bundle_ids(), rto_ms_p95=44.0, drills=(drilled,))
    assert main(["register"]) == 0
    assert len(registry.runs) == runs + 1
    assert {tags["drill_rto_ms_p95"] for tags in _versions(registry)} == {"44"}
    assert _channel()["seq"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"started_at": "2020-01-01T00:00:00Z", "ended_at": "2020-01-01T00:00:00Z"}, "drill age"),
        ({"rto_ms_p95": 90_000.0}, "drill RTO"),
        ({"world": "simulated"}, "simulated world alone"),
        ({"passed": False, "drills": (Drilled("a", "ab" * 32, 1, False, 9, 1, 0, 3.0),)}, "missed its objectives"),
    ],
)
def test_a_drill_that_does_not_suffice_registers_and_promotes_nothing(
    project: Path,
    registry: MemoryRegistry,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    words: str,
) -> None:
    _drill(_bundle_ids(), **changes)
    assert main(["register"]) == PromotionRefused.exit_code
    assert words in capsys.readouterr().err
    assert not layout.channel_dir("toy").exists()
    assert len(registry.versions("toy")) == 2


def test_a_drill_of_a_weaker_script_under_a_listed_name_promotes_nothing_until_the_real_one_is_held(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipes/models/toy.yaml").write_text(f"{RECIPE}drills: [kill]\nobjectives: {{rto_ms_max: 50}}\n")
    Path("recipes/drills").mkdir()
    place = Path("recipes/drills/kill.drill")
    place.write_text("# A rule.\nload poisson 100/s for 3s\nat 500ms kill primary\n")
    due = due_scripts([load_script(place)], Objectives(rto_ms_max=50.0))["kill"]
    calm = due_scripts([parse_script("# A rule.\nload poisson 100/s for 3s\n", "kill")], Objectives())["kill"]
    _drill(_bundle_ids(), drills=(Drilled("kill", calm, 1, True, 300, 0, 0, 31.5),))
    assert main(["register"]) == PromotionRefused.exit_code
    assert main(["promote", "toy"]) == PromotionRefused.exit_code
    assert capsys.readouterr().err.count("by other scripts than those of now (kill)") == 2
    _drill(_bundle_ids(), drills=(Drilled("kill", due, 1, True, 300, 0, 0, 31.5),))
    assert main(["register"]) == 0


def test_the_drill_of_an_older_pair_opens_no_gate_and_marks_no_version(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = _bundle_ids()
    _drill({"primary": ids["backup"], "backup": ids["primary"]})
    assert main(["register"]) == PromotionRefused.exit_code
    assert "another pair" in capsys.readouterr().err
    assert all("drill_verdict" not in tags for tags in _versions(registry))


def test_without_a_drill_the_gate_says_what_to_run(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(layout.drill_dir("toy"))
    assert main(["register"]) == PromotionRefused.exit_code
    assert "hotspare drill toy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "data", "code"),
    [
        ("drill.json", b'{"schema_version":2}', 30),
        (ATTESTATION_FILE, b"{}", 32),
        ("metrics.json", b'{"lost":1e999}', 30),
        ("metrics.json", b'{"lost":NaN}', 30),
        ("metrics.json", b'{"lost":%s}' % (b"9" * 400), 30),
    ],
)
def test_a_forged_drill_is_an_error_before_anything_is_logged(
    project: Path, registry: MemoryRegistry, file: str, data: bytes, code: int
) -> None:
    (layout.drill_dir("toy") / file).write_bytes(data)
    assert main(["register"]) == code
    assert registry.runs == {}


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "http://user:secret@127.0.0.1:9/x"])
def test_an_mlflow_that_is_down_is_one_sentence_and_no_secret(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert main(["register"]) == 40
    told = capsys.readouterr().err
    assert "127.0.0.1:9" in told
    assert "secret" not in told
    assert len(told.strip().splitlines()) == 1
    assert not layout.channel_dir("toy").exists()


def test_a_folder_as_tracking_address_is_a_usage_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    assert main(["register"]) == 2


def _hotspare(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=LONG_SECONDS, env={**os.environ, **environment}, check=False
    )


@pytest.mark.slow
def test_mlflow_serves_the_promoted_backup_as_the_bare_engine_does(
    project: Path, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(store, "mlflow/store")
    assert main(["register"]) == 0
    capsys.readouterr()
    assert main(["register", "--json"]) == 0
    assert {line["happened"] for line in json.loads(capsys.readouterr().out)} == {"known; channel seq 1"}

    rows = np.random.default_rng(1).normal(size=(32, 8)).astype(np.float32)
    np.save("rows_in.npy", rows, allow_pickle=False)
    script = (
        "import mlflow, numpy as np, sys\n"
        "mlflow.set_tracking_uri('sqlite:///mlflow/store/mlflow.db')\n"
        "model = mlflow.pyfunc.load_model('models:/toy@backup')\n"
        "np.save('rows_out.npy', model.predict({'features': np.load('rows_in.npy')})['probability'])\n"
        "print(sys.modules['pipeline.engines.open'].__file__)\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=LONG_SECONDS, check=False
    )
    assert loaded.returncode == 0, loaded.stderr
    assert "/mlflow/store/artifacts/" in loaded.stdout, "the model must bring its own loading code"
    bundle = verify_bundle(layout.bundle_dir("toy", "backup"), load_policy(layout.TRUST_POLICY), utc_now())
    bare = open_session(Format.TFLITE, bundle.files[bundle.manifest.entrypoint.path])
    np.testing.assert_array_equal(np.load("rows_out.npy"), bare.run({"features": rows})["probability"])


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["log_artifact", "create_model_version", "set_registered_model_alias"])
def test_a_register_killed_at_any_moment_is_completed_by_the_next(
    project: Path, store: Path, moment: str, counts: Callable[[], dict[str, int]]
) -> None:
    shutil.copytree(store, "mlflow/store")
    killer = (
        "import os, signal, sys\n"
        "from mlflow import MlflowClient\n"
        f"MlflowClient.{moment} = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pipeline.cli import main\n"
        "sys.exit(main(['register']))\n"
    )
    killed = subprocess.run([sys.executable, "-c", killer], capture_output=True, timeout=LONG_SECONDS, check=False)
    assert killed.returncode == -9, killed.stderr
    assert main(["register"]) == 0
    assert counts() == {"runs": 6, "finished": 6, "versions": 2}
    channel = _channel()
    assert {role: channel[role] for role in ("primary", "backup")} == _bundle_ids()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store that was just created, which takes 5 to 11 seconds, to copy from."""
    root = tmp_path_factory.mktemp("store")
    access.open_registry(root)
    return root / access.STORE


@pytest.mark.slow
def test_a_register_killed_while_it_creates_the_store_leaves_nothing_in_the_way(project: Path) -> None:
    killer = (
        "import os, signal, sys\n"
        "from alembic.operations import Operations\n"
        "Operations.create_table = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from pipeline.cli import main\n"
        "sys.exit(main(['register']))\n"
    )
    killed = subprocess.run([sys.executable, "-c", killer], capture_output=True, timeout=LONG_SECONDS, check=False)
    assert killed.returncode == -9, killed.stderr
    assert not Path("mlflow/store/mlflow.db").exists()
    completed = _hotspare("register")
    assert (completed.returncode, completed.stderr) == (0, "")
    assert sorted(path.name for path in Path("mlflow/store").iterdir()) == [".lock", "artifacts", "mlflow.db"]


@pytest.fixture
def counts() -> Callable[[], dict[str, int]]:
    """What MLflow holds, counted in its database."""

    def count() -> dict[str, int]:
        with sqlite3.connect("mlflow/store/mlflow.db") as store:
            query = {
                "runs": "select count(*) from runs where lifecycle_stage = 'active'",
                "finished": "select count(*) from runs where status = 'FINISHED'",
                "versions": "select count(*) from model_versions",
            }
            return {name: store.execute(text).fetchone()[0] for name, text in query.items()}

    return count
