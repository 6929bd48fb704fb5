import dataclasses

import pytest

from pipeline.core.names import CandidateName
from pipeline.core.recipe import Metric, parse_recipe
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
            timings=Timings(1.0, p50, p95, 1.0, rss, 1, 1),
        )

    return make
