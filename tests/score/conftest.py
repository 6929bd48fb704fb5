import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from pipeline.core.canonical import sha256_hex
from pipeline.core.files import write_atomic
from pipeline.core.layout import candidates_dir
from pipeline.core.names import CandidateName
from pipeline.core.recipe import Metric, parse_recipe
from pipeline.core.records import CandidateRecord, Candidates, RefusedCandidate, write_record
from pipeline.core.tensors import encode_npz
from pipeline.score.scorecard import Decision, Fidelity, Scorecard, Size, TaskScore, Timings

RECIPE = """
model: credit
about: {title: t, intended_use: u, limits: l, data_source: d, licence: MIT}
source: {path: model.keras, format: keras}
data: {train: train.npz, calibration: calibration.npz, validation: validation.npz, test: test.npz}
metric: auc
budgets: {loss_max_abs: 0.01}
variants: {dense: {}, p50: {}}
schemes: {tflite: [f32, f16, w8d], onnx: [f32]}
"""


@pytest.fixture(scope="session")
def recipe():
    return parse_recipe(RECIPE, "credit.yaml")


@pytest.fixture(scope="session")
def recipe_with(recipe):
    """A recipe with other budgets or selection rules."""

    def make(**changes):
        return dataclasses.replace(recipe, **changes)

    return make


@pytest.fixture(scope="session")
def make_card():
    """A scorecard with the figures that selection reads; the rest is plausible."""

    def make(
        candidate, value=0.78, loss=0.0, width=0.0, size=1000, zstd=900, p50=0.1, p95=0.2, rss=60.0, metric=Metric.AUC
    ):
        name = CandidateName.parse(candidate)
        return Scorecard(
            model="credit",
            candidate=candidate,
            variant=name.variant,
            scheme=name.scheme,
            format=name.format,
            file=name.file_name,
            sha256="0" * 64,
            made_by="test",
            size=Size(size, zstd, 32.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0),
            task=TaskScore(metric, "validation", 100, value, 0.78, loss, loss - width, loss + width, 0.9, None),
            decision=Decision(),
            fidelity=Fidelity("top1_agreement", 1.0),
            timings=Timings(1.0, p50, p95, p50 / 0.1, rss, 1, 1),
        )

    return make


@dataclass(frozen=True)
class Project:
    """A project in a folder of its own, whose candidates are the tiny models of tests/fixtures."""

    root: Path

    def split(self, name: str, keep=slice(None), **changes) -> None:
        """Write ``<name>.npz`` with rows of the rule that tiny_dense learnt; a change to None leaves a key out."""
        x = np.random.default_rng(len(name)).normal(size=(400, 8)).astype(np.float32)
        rows = {"features": x, "y": (x[:, 0] * x[:, 1] + x[:, 2] > 0).astype(np.int32)}
        kept = {key: value[keep if keep != "negatives" else rows["y"] == 0] for key, value in rows.items()} | changes
        write_atomic(self.root / f"{name}.npz", encode_npz({k: v for k, v in kept.items() if v is not None}))

    def candidates(self, files: dict[str, bytes]) -> None:
        """Write candidate files and their record, with one candidate refused."""
        folder = self.root / candidates_dir("credit")
        records = []
        for text, data in files.items():
            name = CandidateName.parse(text)
            write_atomic(folder / name.file_name, data)
            where = (name.variant, name.scheme, name.format, name.file_name)
            records.append(CandidateRecord(*where, sha256_hex(data), "0" * 64, "test", 784, 32.0, 0.0, 0.0))
        refused = (RefusedCandidate("p50.w8d", "misses 90 % of the weights"),)
        write_record(folder / "candidates.json", Candidates("credit", tuple(records), refused))

    def edit_recipe(self, old: str, new: str) -> None:
        """Replace text in the recipe."""
        path = self.root / "recipes/models/credit.yaml"
        text = path.read_text().replace(old, new)
        assert new in text
        path.write_text(text)


@pytest.fixture
def project(tmp_path, monkeypatch, tiny_files):
    """Two good candidates, one that decides badly, one that answers NaN."""
    monkeypatch.chdir(tmp_path)
    write_atomic(tmp_path / "recipes/models/credit.yaml", RECIPE.replace("auc", "accuracy").encode())
    project = Project(tmp_path)
    for split in ("train", "calibration", "validation", "test"):
        project.split(split)
    project.candidates(tiny_files)
    return project


@pytest.fixture(scope="session")
def tiny_files(fixture_models):
    tflite, plain_onnx = fixture_models / "tiny_dense.tflite", fixture_models / "tiny_dense.onnx"
    return {
        "dense.f32": tflite.read_bytes(),
        "dense.f32.onnx": plain_onnx.read_bytes(),
        "p50.f32.onnx": bent_onnx(plain_onnx, lambda bias: bias + 4),
        "dense.w8d.onnx": bent_onnx(plain_onnx, lambda bias: bias * np.nan),
    }


def bent_onnx(path, bend):
    """Return the onnx model with its last bias, one number before the sigmoid, changed by ``bend``."""
    model = onnx.load(path)
    weights = {item.name: item for item in model.graph.initializer}
    used = [name for node in reversed(model.graph.node) for name in node.input if name in weights]
    bias = next(weights[name] for name in used if np.prod(weights[name].dims) == 1)
    bias.CopyFrom(numpy_helper.from_array(np.float32(bend(numpy_helper.to_array(bias))), bias.name))
    return model.SerializeToString()
