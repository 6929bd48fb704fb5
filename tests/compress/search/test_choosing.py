from points import chain, family

from pipeline.compress.search.certifying import Certificate, Verdict
from pipeline.compress.search.choosing import keep
from pipeline.compress.search.families import Family
from pipeline.compress.search.trial import Figures
from pipeline.core.names import CandidateName, Format


def cost(figures: Figures) -> float:
    return figures.bytes


def certificate(who: Family, sizes: tuple[int, ...]) -> Certificate:
    points = chain(*sizes)
    return Certificate(who, points, tuple(Verdict(item, True, None) for item in points), 0.9)


def test_best_comes_first_then_other_engines_and_variants_then_the_next_best() -> None:
    made = [
        certificate(family(), (100, 60, 50, 40)),
        certificate(family("dense", Format.ONNX), (110, 70)),
        certificate(family("p50"), (100, 80)),
    ]
    kept = keep(made, 5, cost, {})
    assert [(str(one.name), one.point.figures.bytes) for one in kept] == [
        ("dense.mixed-1", 40), ("dense.mixed-2.onnx", 70), ("p50.mixed-3", 80), ("dense.mixed-4", 50),
        ("dense.mixed-5", 60),
    ]  # fmt: skip
    assert [one.point.figures.bytes for one in keep(made, 2, cost, {})] == [40, 70]


def test_a_file_that_is_a_candidate_already_keeps_its_name_and_takes_no_number() -> None:
    made = [certificate(family(), (100, 50, 40))]
    kept = keep(made, 2, cost, {"sha40": CandidateName("dense", "w8d")})
    assert [(str(one.name), one.is_new) for one in kept] == [("dense.w8d", False), ("dense.mixed-1", True)]


def test_float_files_and_what_another_budget_forbids_are_not_kept() -> None:
    made = [certificate(family(), (100, 50, 40))]
    kept = keep(made, 5, cost, {}, lambda point: point.figures.bytes < 45)
    assert [one.point.figures.bytes for one in kept] == [40]
    assert keep([certificate(family(), (100,))], 5, cost, {}) == ()
