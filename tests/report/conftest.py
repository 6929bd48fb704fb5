import pytest

from pipeline.core.names import CandidateName, Role
from pipeline.core.recipe import Metric, parse_recipe
from pipeline.core.records import RefusedCandidate
from pipeline.report.page import Facts
from pipeline.score.scorecard import Decision, Fidelity, Scorecard, Scored, Size, TaskScore, Timings
from pipeline.score.selection import Selected, select

RECIPE = """
model: credit
about:
  title: Credit default <within a month>
  intended_use: Ranks card holders by their risk of default.
  limits: Not for decisions without a person.
  data_source: UCI 350.
  licence: MIT
source: {path: model.keras, format: keras}
data: {train: a.npz, calibration: b.npz, validation: c.npz, test: d.npz}
metric: auc
budgets: {loss_max_abs: 0.01}
variants: {dense: {}, p50: {epochs: 3}}
schemes: {tflite: [f32, f16, w8, w8d, w8a8], onnx: [f32, w8d]}
select: {primary: {prefer: accuracy}, backup: {prefer: bytes_zstd, diverse: [scheme]}}
"""
# candidate: value, loss low, loss, loss high, kB, kB compressed, bits, zeros, p50 ms, ratio
FIGURES = {
    "dense.f32": (0.7853, 0, 0, 0, 232, 214, 32, 0.0, 0.0061, 1.0),
    "dense.f16": (0.7853, -0.0001, 0, 0.0001, 120, 108, 16, 0.0, 0.0066, 1.08),
    "dense.w8": (0.7849, -0.0002, 0.0004, 0.0011, 66, 58, 8, 0.0, 0.0072, 1.2),
    "dense.w8d": (0.7846, -0.0003, 0.0007, 0.0017, 66, 58, 8, 0.0, 0.0043, 0.7),
    "dense.w8a8": (0.7431, 0.031, 0.0422, 0.053, 67, 58, 8, 0.0, 0.0041, 0.68),
    "p50.f32": (0.7861, -0.003, -0.0008, 0.0013, 232, 131, 32, 0.5, 0.0062, 1.01),
    "p50.w8d": (0.7844, -0.0017, 0.0009, 0.0034, 66, 38, 8, 0.5, 0.0043, 0.7),
    "p50.w8a8": (0.7779, 0.004, 0.0074, 0.0104, 67, 39, 8, 0.5, 0.0041, 0.67),
    "dense.f32.onnx": (0.7853, 0, 0, 0, 231, 213, 32, 0.0, 0.0112, 1.84),
    "dense.w8d.onnx": (0.7841, 0.0002, 0.0012, 0.0023, 65, 57, 8, 0.0, 0.0183, 3.0),
}


def card(candidate, value, low, loss, high, kb, kb_zstd, bits, zeros, p50, ratio):
    name = CandidateName.parse(candidate)
    volume, precision = kb / 232, bits / 32
    efficiency = volume * precision
    sizes = (kb * 1000, kb_zstd * 1000, float(bits), 0.97 if bits == 8 else 0.0, zeros)
    return Scorecard(
        model="credit",
        candidate=candidate,
        variant=name.variant,
        scheme=name.scheme,
        format=name.format,
        file=name.file_name,
        sha256="0" * 64,
        made_by="test",
        size=Size(*sizes, volume, precision, efficiency, 1 - efficiency),
        task=TaskScore(Metric.AUC, "validation", 4500, value, 0.7853, loss, low, high, 0.9, loss / 0.7853),
        decision=Decision(0.012, 0.011, 0.01),
        fidelity=Fidelity("top1_agreement", 0.988),
        timings=Timings(1.5, p50, p50 * 1.4, ratio, 58.3, 1, 1),
    )


@pytest.fixture(scope="session")
def facts():
    recipe = parse_recipe(RECIPE, "credit.yaml")
    cards = tuple(card(name, *figures) for name, figures in FIGURES.items())
    refused = (RefusedCandidate("p50.w8d.onnx", "unusable: answers 3 of 4500 rows with NaN or infinity"),)
    choice = select(cards, refused, recipe)
    locked = {Role.PRIMARY: choice.primary.task, Role.BACKUP: choice.backup.task}
    pair = (choice.primary.candidate, choice.backup.candidate)
    selected = Selected("credit", *pair, choice.verdicts, locked, ("The backup loses more than it should.",))
    scored = Scored("credit", "dense.f32", tuple(FIGURES), refused)
    return Facts(recipe, scored, cards, selected)
