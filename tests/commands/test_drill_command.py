"""``hotspare drill``: what it plays, what it leaves, what it refuses in one sentence (the live world is not asked)."""

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from drilled import kill
from sealed import sealed

from pipeline.bundle.attestation import ATTESTATION_FILE, verify_attestation
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import verify_bundle
from pipeline.cli import main
from pipeline.commands.build import drill
from pipeline.core import layout
from pipeline.core.canonical import sha256_file
from pipeline.core.clock import utc_now
from pipeline.core.errors import (
    DrillFailed,
    KeyFileError,
    MissingStageError,
    RecipeError,
    Tampered,
    TrustPolicyError,
    UsageError,
)
from pipeline.core.names import Role
from pipeline.core.schema import read
from pipeline.core.tensors import encode_npz
from pipeline.drill.nouns import Observed, Script
from pipeline.drill.play import World
from pipeline.drill.results import DrillReport

RECIPE = """
model: tiny
about: {title: A tiny model, intended_use: Tests., limits: None., data_source: drawn, licence: MIT}
source: {path: model.keras, format: keras}
data: {train: rows.npz, calibration: rows.npz, validation: rows.npz, test: rows.npz}
metric: auc
budgets: {loss_max_abs: 0.01}
variants: {dense: {}}
schemes: {tflite: [f32, w8]}
drills: [kill]
objectives: {rto_ms_max: 1000}
"""
KILL = """# A killed primary costs no answer.
load poisson 100/s for 2s seed 1 deadline 1000ms
at 500ms kill primary
expect lost_max=0 wrong_max=0 rto_ms_max=500
----
"""
Play = Callable[..., Observed]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    made = sealed(root / "made")
    (root / "project/artifacts/bundles").mkdir(parents=True)
    for role, bundle in ((Role.PRIMARY, made.primary), (Role.BACKUP, made.backup)):
        shutil.copytree(bundle, root / "project" / layout.bundle_dir("tiny", role))
    shutil.copytree(made.folder / "keys", root / "project" / layout.KEYS)
    shutil.copyfile(made.trust, root / "project" / layout.TRUST_POLICY)
    return root / "project"


@pytest.fixture
def project(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a packed pair and one drill, as the working folder."""
    root = tmp_path / "project"
    shutil.copytree(packed, root)
    monkeypatch.chdir(root)
    monkeypatch.delenv("HOTSPARE_SIGNING_KEY", raising=False)
    Path("recipes/models").mkdir(parents=True)
    Path("recipes/drills").mkdir()
    Path("recipes/models/tiny.yaml").write_text(RECIPE)
    Path("recipes/drills/kill.drill").write_text(KILL)
    Path("rows.npz").write_bytes(encode_npz({}))
    return root


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, World, int]]:
    """The command with a stand-in for the live world; what was played is listed."""
    played: list[tuple[str, World, int]] = []

    def once(script: Script, world: World, seed: int, subject: object) -> Observed:
        played.append((script.name, world, seed))
        return kill(script)

    monkeypatch.setattr(drill, "play", once)
    monkeypatch.setattr(drill, "scoring", lambda *_: None)
    return played


STAGE = layout.drill_dir("tiny")
TRIED = layout.tried_drill_dir("tiny")


def refused(capsys: pytest.CaptureFixture[str]) -> str:
    told = capsys.readouterr()
    assert told.err.count("\n") == 1, told.err
    return told.err


def test_the_stage_plays_what_the_recipe_lists_and_leaves_every_file(
    project: Path, plays: list[tuple[str, World, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drill", "tiny", "--json"]) == 0
    assert plays == [("kill", World.LIVE, 0)]
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True
    report = read(DrillReport, json.loads((STAGE / "drill.json").read_text()))
    assert report.passed
    assert json.loads((STAGE / "metrics.json").read_text()) == told["metrics"]
    assert ET.parse(STAGE / "junit.xml").getroot().find("testsuite").get("tests") == "1"  # noqa: S314 - our own
    assert json.loads((STAGE / "journals/kill.json").read_text())["status"] == "completed"
    assert "passed" in (STAGE / "index.html").read_text()
    assert not list(project.rglob(".aside-*"))


def test_the_attestation_names_this_pair_and_this_report(project: Path, plays: list[tuple[str, World, int]]) -> None:
    assert main(["drill", "tiny"]) == 0
    policy = load_policy(layout.TRUST_POLICY)
    told = verify_attestation((STAGE / ATTESTATION_FILE).read_bytes(), policy)
    for role in Role:
        bundle = verify_bundle(layout.bundle_dir("tiny", role), policy, utc_now())
        assert told.bundle_id(role) == bundle.bundle_id
    assert told.predicate.report_sha256 == sha256_file(STAGE / "drill.json")
    assert sha256_file(STAGE / ATTESTATION_FILE) in (STAGE / "index.html").read_text()


def test_a_missed_objective_writes_everything_attests_the_failure_and_exits_with_its_own_code(
    project: Path, plays: list[tuple[str, World, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("recipes/models/tiny.yaml").write_text(RECIPE.replace("rto_ms_max: 1000", "redundancy_ms_max: 1"))
    assert main(["drill", "tiny"]) == DrillFailed.exit_code == 24
    told = capsys.readouterr()
    assert "kill: redundancy_ms_max" in told.err
    assert "FAILED" in told.out
    attested = verify_attestation((STAGE / ATTESTATION_FILE).read_bytes(), load_policy(layout.TRUST_POLICY))
    assert not attested.predicate.passed
    assert {path.name for path in STAGE.iterdir()} == {
        "drill.json", "metrics.json", "junit.xml", "journals", "attestation.json", "index.html"
    }  # fmt: skip


def test_repeats_are_played_each_with_its_own_dice(project: Path, plays: list[tuple[str, World, int]]) -> None:
    assert main(["drill", "tiny", "--repeats", "3"]) == 0
    assert [seed for _, _, seed in plays] == [0, 1, 2]


@pytest.mark.parametrize("options", [["--script", "kill"], ["--world", "simulated"]])
def test_what_is_tried_by_hand_leaves_the_stages_output_alone(
    project: Path, plays: list[tuple[str, World, int]], options: list[str]
) -> None:
    assert main(["drill", "tiny", *options]) == 0
    assert not STAGE.exists()
    assert (TRIED / "index.html").is_file()
    assert (TRIED / ATTESTATION_FILE).exists() is ("simulated" not in options)


def test_a_script_is_found_by_name_by_path_and_as_a_chaos_toolkit_experiment(
    project: Path, plays: list[tuple[str, World, int]]
) -> None:
    Path("mine.drill").write_text(KILL)
    assert main(["drill", "tiny", "--world", "simulated", "--script", "kill", "--out", "report"]) == 0
    journal = json.loads(Path("report/journals/kill.json").read_text())
    Path("experiment.json").write_text(json.dumps(journal["experiment"]))
    names = ["--script", "mine.drill", "--script", "experiment.json"]
    assert main(["drill", "tiny", "--world", "simulated", *names, "--out", "report"]) == 0
    assert [name for name, _, _ in plays] == ["kill", "mine", "experiment"]


def test_without_a_key_it_can_be_held_unsigned(project: Path, plays: list[tuple[str, World, int]]) -> None:
    (layout.KEYS / "signing.pem").unlink()
    assert main(["drill", "tiny"]) == KeyFileError.exit_code
    assert plays == []
    assert main(["drill", "tiny", "--unsigned"]) == 0
    assert not (STAGE / ATTESTATION_FILE).exists()


def test_a_key_that_may_not_attest_is_told_before_anything_is_played(
    project: Path, plays: list[tuple[str, World, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    policy = yaml.safe_load(layout.TRUST_POLICY.read_text())
    policy["keys"]["main"]["uses"] = ["bundle", "channel"]
    layout.TRUST_POLICY.write_text(yaml.safe_dump(policy))
    assert main(["drill", "tiny"]) == KeyFileError.exit_code
    assert "`drill`" in refused(capsys)
    assert plays == []


def remove_bundle() -> None:
    shutil.rmtree(layout.bundle_dir("tiny", Role.BACKUP))


def damage_bundle() -> None:
    model = next((layout.bundle_dir("tiny", Role.BACKUP) / "payload/model").iterdir())
    model.write_bytes(model.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize(
    ("spoil", "arguments", "code", "words"),
    [
        (None, ["drill"], UsageError.exit_code, "hotspare drill credit"),
        (None, ["drill", "tiny", "--repeats", "0"], UsageError.exit_code, "--repeats 0"),
        (None, ["drill", "tiny", "--script", "earthquake"], UsageError.exit_code, "there are kill"),
        (None, ["drill", "tiny", "--script", "kill", "--script", "kill"], UsageError.exit_code, "named twice"),
        (None, ["drill", "other"], RecipeError.exit_code, "recipes here: tiny"),
        (None, ["drill", "tiny", "--script", "no/such.drill"], RecipeError.exit_code, "no/such.drill"),
        (None, ["drill", "tiny", "--script", "no/such.json"], RecipeError.exit_code, "no/such.json"),
        (
            lambda: Path("Mine 1.drill").write_text(KILL),
            ["drill", "tiny", "--script", "Mine 1.drill"],
            UsageError.exit_code,
            "'Mine 1' is no name",
        ),
        (remove_bundle, ["drill", "tiny"], MissingStageError.exit_code, "hotspare pack tiny"),
        (damage_bundle, ["drill", "tiny"], 30, "tiny-backup"),
        (lambda: Path("rows.npz").unlink(), ["drill", "tiny"], MissingStageError.exit_code, "rows.npz"),
        (lambda: layout.TRUST_POLICY.unlink(), ["drill", "tiny"], TrustPolicyError.exit_code, "trust.yaml"),
        (
            lambda: Path("recipes/models/tiny.yaml").write_text(RECIPE.replace("drills: [kill]\n", "")),
            ["drill", "tiny"],
            UsageError.exit_code,
            "--script",
        ),
    ],
)
def test_what_cannot_be_drilled_is_one_sentence(
    project: Path,
    plays: list[tuple[str, World, int]],
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[], object] | None,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    if spoil is not None:
        spoil()
    assert main(arguments) == code
    assert words in refused(capsys)
    assert plays == []
    assert not STAGE.exists()


def test_a_report_that_cannot_be_written_leaves_the_last_one(
    project: Path, plays: list[tuple[str, World, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["drill", "tiny"]) == 0
    before = (STAGE / "drill.json").read_bytes()
    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(drill, "render_drill", _die)
        main(["drill", "tiny"])
    assert (STAGE / "drill.json").read_bytes() == before


def test_a_pair_exchanged_while_it_is_drilled_is_not_attested_under_the_ids_of_the_old_one(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exchanged(script: Script, *_: object) -> Observed:
        return replace(kill(script), facts={"primary bundle": "ee" * 32})

    monkeypatch.setattr(drill, "play", exchanged)
    monkeypatch.setattr(drill, "scoring", lambda *_: None)
    assert main(["drill", "tiny"]) == Tampered.exit_code
    assert "exchanged while it was drilled" in refused(capsys)
    assert not STAGE.exists()


@pytest.mark.parametrize("out", [".", "artifacts", "rows.npz"])
def test_a_folder_of_other_things_is_not_replaced_by_a_report(
    project: Path, plays: list[tuple[str, World, int]], capsys: pytest.CaptureFixture[str], out: str
) -> None:
    assert main(["drill", "tiny", "--out", out]) == UsageError.exit_code
    assert "other things than a drill" in refused(capsys)
    assert plays == [] and Path("recipes/models/tiny.yaml").is_file() and Path("rows.npz").is_file()
    Path("empty").mkdir()
    assert main(["drill", "tiny", "--out", "empty"]) == main(["drill", "tiny", "--out", "empty"]) == 0


def test_a_participant_whose_name_is_no_text_does_not_cost_the_report(
    project: Path, plays: list[tuple[str, World, int]]
) -> None:
    assert main(["drill", "tiny", "--participant", "\udcff<b>"]) == 0
    assert r"\udcff&lt;b&gt;" in (STAGE / "index.html").read_text()


def _die(*_: object) -> str:
    raise RuntimeError("killed here")


def test_the_list_names_every_script_with_its_rule(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["drill", "--list"]) == 0
    assert "A killed primary costs no answer." in capsys.readouterr().out
    assert main(["drill", "tiny", "--list"]) == 0
    assert capsys.readouterr().out.startswith("* kill")
    assert main(["drill", "--list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "kill"


def test_rewriting_records_what_the_simulated_world_gives_once(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["drill", "--rewrite"]) == 0
    assert "recipes/drills/kill.drill" in capsys.readouterr().out
    recorded = Path("recipes/drills/kill.drill").read_text()
    assert "serving: primary, backup" in recorded
    assert main(["drill", "--rewrite", "--script", "kill"]) == 0
    assert "as it was" in capsys.readouterr().out
    assert Path("recipes/drills/kill.drill").read_text() == recorded


def test_a_transcript_that_no_longer_holds_fails_the_drill(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipes/drills/kill.drill").write_text(KILL + "serving: primary\n")
    assert main(["drill", "tiny", "--world", "simulated"]) == DrillFailed.exit_code
    assert "kill: transcript: line 1" in capsys.readouterr().err
