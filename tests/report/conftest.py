import pytest

from pipeline.core.findings import FamilyFinding, Findings, FrontPoint, GroupFinding, SchemeCost
from pipeline.core.names import CandidateName, Format, Role, Scheme
from pipeline.core.recipe import Metric, Minimize, parse_recipe
from pipeline.core.records import RefusedCandidate, StoredOperator
from pipeline.report.page import Facts
from pipeline.score.diagnosis import Changes, Diagnosis, SliceScore, TensorNoise, Tensors
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


def found_group(index):
    costs = ((Scheme.F32, 0.0), (Scheme.W8, 2e-5 * (index + 1)), (Scheme.W4, 3e-2 / (index + 1)))
    schemes = tuple(SchemeCost(scheme, 200_000 - index, divergence) for scheme, divergence in costs)
    return GroupFinding(f"net/dense_{index}/<MatMul>;net/add", "FULLY_CONNECTED", 4000, 16_000, schemes)


def found_family(variant, model_format):
    groups = tuple(found_group(index) for index in range(4))
    assignment = {group.name: Scheme.W4 for group in groups}
    kept = "dense.mixed-1" if (variant, model_format) == ("dense", Format.TFLITE) else None
    front = (
        FrontPoint(assignment, 60_000, 50_000, 2e-3, 3e-3, True, 0.001, 0.004, 0.9, kept, "certified: the smallest"),
        FrontPoint({}, 232_000, 214_000, 0.0, 0.0),
    )
    ranges = {"net/relu_0/Relu": (0.0, 3.5), "net/logits": (-12.25, 9.0)}
    return FamilyFinding(variant, model_format, 232_000, "kl", groups, front, ranges)


def findings():
    families = (found_family("p50", Format.ONNX), found_family("dense", Format.TFLITE))
    why = ("dense.mixed-1 is the smallest whose loss is certified.", "A smaller one needs about 7,400 rows.")
    return Findings("credit", Minimize.BYTES, 0.01, 0.9, 0, families, why, True, "dense.mixed-1")


def diagnosis(candidate):
    tensors = tuple(TensorNoise(f"net/dense_{i}/MatMul", "FULLY_CONNECTED", 18.25 + i, 0.012) for i in range(8))
    groups = tuple(SliceScore("age", group, 900, 0.78, 0.785, 0.005) for group in ("21 to 34", "34 to 79"))
    changes = Changes(73, 4500, tuple(range(3, 23)), 41, 32)
    return Diagnosis("credit", candidate, Tensors(tensors, 8, 64), changes, groups, groups[0])


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
    diagnoses = {name: diagnosis(name) for name in FIGURES}
    operators = {
        name: (
            StoredOperator("EMBEDDING_LOOKUP", "net/table/<Gather>", "int8", 30_000),
            StoredOperator("FULLY_CONNECTED", "net/dense/MatMul;net/add", "int4 in blocks", 10_000),
        )
        for name in FIGURES
    }
    return Facts(recipe, scored, cards, selected, diagnoses, findings(), operators)
