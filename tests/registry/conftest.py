import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from registry_server import await_answer, free_port

from pipeline.bundle.manifest import Parent
from pipeline.core.names import CandidateName, Role
from pipeline.core.recipe import Metric, Recipe, parse_recipe
from pipeline.core.records import write_record
from pipeline.engines.base import TensorSpec
from pipeline.registry.access import open_registry
from pipeline.registry.memory import MemoryRegistry
from pipeline.registry.record import Build, Lineage, Sealed
from pipeline.registry.store import Registry
from pipeline.score.scorecard import Decision, Fidelity, Scorecard, Size, TaskScore, Timings, card_file
from pipeline.score.selection import SELECTION_FILE, Selected, Verdict

RECIPE = """
model: credit
about:
  title: Credit default risk
  intended_use: Ranks card holders by their risk of default next month.
  limits: Trained on one bank in 2005.
  data_source: UCI 350
  licence: CC-BY-4.0
source: {path: model.keras, format: keras}
data: {train: train.npz, calibration: calibration.npz, validation: validation.npz, test: test.npz}
metric: auc
budgets: {loss_max_abs: 0.01}
variants: {dense: {}, p50: {epochs: 2}}
schemes: {tflite: [f32, w8]}
select: {backup: {diverse: [scheme]}}
"""


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return parse_recipe(RECIPE, "credit.yaml")


def make_card(candidate: str, size: int = 1000, loss: float = 0.001) -> Scorecard:
    name = CandidateName.parse(candidate)
    task = TaskScore(Metric.AUC, "validation", 3000, 0.785 - loss, 0.785, loss, loss - 0.002, loss + 0.002, 0.9)
    return Scorecard(
        "credit",
        candidate,
        name.variant,
        name.scheme,
        name.format,
        name.file_name,
        candidate.encode().hex().ljust(64, "0"),
        "test",
        Size(size, size - 100, 32.0, 0.0, 0.0, size / 1000, 1.0, size / 1000, 1 - size / 1000),
        task,
        Decision(flips_ratio=0.01),
        Fidelity("top1_agreement", 0.99),
        Timings(1.0, 0.02, 0.03, 1.1, 60.0, 1, 1),
    )


@pytest.fixture
def build(tmp_path: Path, recipe: Recipe) -> Build:
    """A build on disk as the stages leave it; its bundles hold a model file and no signature."""
    recipe = replace(recipe, model=f"credit-{uuid.uuid4().hex[:8]}")
    cards = tuple(make_card(str(name), 1000 if name.scheme == "f32" else 300) for name in recipe.candidates())
    for card in cards:
        write_record(tmp_path / "scorecards" / card_file(card.candidate), card)
    verdicts = tuple(Verdict(card.candidate, True, ("within every budget",), {}) for card in cards)
    selected = Selected("credit", "dense.f32", "p50.w8", verdicts, {Role.BACKUP: cards[0].task})
    write_record(tmp_path / "selection" / SELECTION_FILE, selected)
    report = tmp_path / "index.html"
    report.write_text("<!doctype html><title>credit</title>")
    trust = tmp_path / "trust.yaml"
    trust.write_text("schema_version: 1\n")
    primary, backup = (_sealed(tmp_path, role, cards) for role in Role)
    lineage = Lineage("c0ffee", None, None)
    return Build(
        recipe,
        cards,
        selected,
        primary,
        backup,
        tmp_path / "scorecards",
        tmp_path / "selection",
        report,
        trust,
        lineage,
        datetime(2026, 11, 1, tzinfo=UTC),
    )


def _sealed(folder: Path, role: Role, cards: tuple[Scorecard, ...]) -> Sealed:
    candidate = {Role.PRIMARY: "dense.f32", Role.BACKUP: "p50.w8"}[role]
    bundle = folder / f"credit-{role}"
    (bundle / "payload" / "model").mkdir(parents=True)
    (bundle / "payload" / "model" / "model.tflite").write_bytes(candidate.encode())
    card = next(card for card in cards if card.candidate == candidate)
    bundle_id = candidate.encode().hex().ljust(64, "b")
    specs = (TensorSpec("x", "float32", (-1, 4)),), (TensorSpec("y", "float32", (-1, 1)),)
    return Sealed(
        role, card, bundle_id, bundle, card.size.bytes, "cc" * 32, *specs, Parent("dense.f32.tflite", "dd" * 32),
        key_hint="ee" * 32,
    )  # fmt: skip


@pytest.fixture
def another(build: Build) -> Callable[[str], Build]:
    """The same build with another backup bundle."""

    def make(mark: str) -> Build:
        return replace(build, backup=replace(build.backup, bundle_id=mark.ljust(64, "0")))

    return make


@pytest.fixture(scope="session")
def store_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store that was just initialized, which takes 5 to 11 seconds, to copy from."""
    root = tmp_path_factory.mktemp("template")
    open_registry(root)
    return root


@pytest.fixture(scope="session")
def mlflow_server(tmp_path_factory: pytest.TempPathFactory, store_template: Path) -> Iterator[str]:
    """A real MLflow server over HTTP on a free loopback port."""
    root = tmp_path_factory.mktemp("server")
    shutil.copytree(store_template, root, dirs_exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{root}/mlflow/store/mlflow.db"]
    command += ["--artifacts-destination", f"{root}/art"]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        await_answer(f"http://127.0.0.1:{port}/health", server, root / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(120)


@pytest.fixture(
    params=[
        "memory",
        pytest.param("sqlite", marks=pytest.mark.slow),
        pytest.param("server", marks=pytest.mark.slow),
    ]
)
def registry(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry of each kind (the server keeps other tests' models)."""
    if request.param == "memory":
        return MemoryRegistry()
    if request.param == "server":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("mlflow_server"))
        return open_registry(tmp_path)
    shutil.copytree(request.getfixturevalue("store_template"), tmp_path / "root")
    return open_registry(tmp_path / "root")
