"""The order of the questions, and the error that it keeps."""

import itertools
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from points import chain, family, point, task

from pipeline.compress.search.certifying import CHAIN_MOST, Candidacy, certify, chain_of, shares
from pipeline.compress.search.pool import Point, front_of
from pipeline.compress.search.trial import Build, Figures
from pipeline.core.names import Format, Scheme
from pipeline.score.scorecard import TaskScore

BUDGET = 0.01


def cost(figures: Figures) -> float:
    return figures.bytes


class Judge:
    """Answers from a table of losses by size; remembers what it was asked."""

    def __init__(self, losses: dict[int, float]) -> None:
        self.losses = losses
        self.asked: list[int] = []
        self.levels: list[float] = []

    def __call__(self, _: Any, point: Point, confidence: float) -> TaskScore | str:
        self.asked.append(point.figures.bytes)
        self.levels.append(confidence)
        return task(self.losses.get(point.figures.bytes, 0.0), 0.001, confidence)


def run(chains: list[Any], judge: Any, confidence: float = 0.9) -> Any:
    return certify([Candidacy(*item) for item in chains], judge, BUDGET, confidence, cost, lambda: True)


def whole(size: int, scheme: Scheme) -> Point:
    return Point(Build(scheme), Figures(size, sha256=f"sha{size}", divergence=1.0))


def sizes(certificate: Any) -> list[int]:
    return [item.figures.bytes for item in certificate.certified]


def test_questions_go_from_safe_to_risky_and_stop_at_the_first_failure() -> None:
    judge = Judge({60: 0.02})
    (done,) = run([(family(), chain(100, 80, 60, 40))], judge)
    assert judge.asked == [100, 80, 60]
    assert sizes(done) == [100, 80]
    assert judge.levels == pytest.approx([0.9] * 3)


def test_a_point_behind_a_failure_is_never_certified_however_good() -> None:
    (done,) = run([(family(), chain(100, 80, 60))], Judge({80: 0.0095, 60: -1.0}))
    assert sizes(done) == [100]


def test_family_whose_float_export_fails_is_left_out_with_a_sentence() -> None:
    (done,) = run([(family("p50"), chain(100, 80))], Judge({100: 0.5}))
    assert not done.certified
    assert "its own float export is over the budget" in done.words


def test_families_share_the_error_and_the_most_promising_is_asked_about_first() -> None:
    judge = Judge({40: 0.5, 50: 0.5})
    large, small = (family("p50"), chain(100, 50)), (family(), chain(90, 40))
    done = run([large, small], judge)
    assert judge.asked == [90, 40, 100, 50]
    # Two thirds of the error, without what whole files have of it, would be below the recipe's own level.
    assert judge.levels == pytest.approx([0.9, 0.9, *[1 - 2 * 0.1 / 3 / 1.25] * 2])
    assert [one.family for one in done] == [small[0], large[0]]


@pytest.mark.parametrize("families", range(1, 9))
def test_shares_of_the_error_add_up_to_it(families: int) -> None:
    found = shares(families, 0.1)
    assert sum(front + files for front, files in found) == pytest.approx(0.1)
    assert list(found) == sorted(found, reverse=True)


def test_of_families_that_are_alike_in_size_the_dense_one_is_asked_about_first() -> None:
    judge = Judge({})
    run([(family("p50"), chain(100, 49)), (family(), chain(101, 50))], judge)
    assert judge.asked[:2] == [101, 50]


def test_a_family_that_passed_wholly_hands_its_share_to_the_next() -> None:
    judge = Judge({50: 0.5})
    run([(family(), chain(90, 40)), (family("p50", Format.ONNX), chain(100, 50))], judge)
    assert judge.levels == pytest.approx([0.9] * 4)


def test_a_family_that_cannot_win_is_not_asked_about_unless_it_brings_another_engine() -> None:
    judge = Judge({})
    first, same, other = family(), family("p50"), family("dense", Format.ONNX)
    done = run([(first, chain(90, 40)), (same, chain(95, 50)), (other, chain(99, 60))], judge)
    assert judge.asked == [90, 40, 99, 60]
    assert "could beat" in done[1].words
    # What is not asked about proved nothing: its share, and what it was handed, is not handed on.
    assert judge.levels[-1] == pytest.approx(1 - 2 * shares(3, 0.1)[2][0])


def test_an_unlucky_mix_does_not_hide_a_whole_file_scheme() -> None:
    judge = Judge({80: 0.5})
    files = (whole(70, Scheme.W8), whole(60, Scheme.W4))
    (done,) = run([(family(), chain(100, 80, 50), files)], judge)
    assert judge.asked == [100, 80, 70, 60]
    assert min(sizes(done)) == 60


def test_whole_files_are_a_sequence_of_their_own_that_stops_at_the_first_failure() -> None:
    judge = Judge({80: 0.5, 70: 0.5})
    (done,) = run([(family(), chain(100, 80), (whole(70, Scheme.W8), whole(60, Scheme.W4)))], judge)
    assert sizes(done) == [100]
    assert 60 not in judge.asked


def test_nothing_chosen_is_larger_than_a_certified_whole_file() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        judge = Judge({size: float(rng.choice([0.0, 0.02])) for size in (80, 70, 60, 50, 40)})
        (done,) = run([(family(), chain(100, 80, 60, 40), (whole(70, Scheme.W8), whole(50, Scheme.W4)))], judge)
        files = [one.figures.bytes for one in done.certified if one.build.uniform is not None]
        assert not files or min(sizes(done)) <= min(files)


def test_a_file_that_cannot_be_judged_ends_the_sequence_with_its_reason() -> None:
    (done,) = run([(family(), chain(100, 80, 60))], lambda *_: "it does not load")
    assert [item.why for item in done.verdicts] == ["it does not load"]


def test_when_the_time_is_over_nothing_more_is_asked() -> None:
    answers = iter([True, True, False])
    done = certify([Candidacy(family(), chain(100, 80, 60))], Judge({}), BUDGET, 0.9, cost, lambda: next(answers))
    assert sizes(done[0]) == [100, 80]


def test_chance_that_any_certified_file_is_over_the_budget_stays_below_the_error() -> None:
    """Many files just over the budget, noisy figures: taking the smallest that passes would nearly always err."""
    rng = np.random.default_rng(7)
    confidence, runs, noise = 0.9, 1500, 0.004
    front = chain(*range(1000, 0, -50))
    files = (whole(700, Scheme.W8), whole(400, Scheme.W4))
    true_loss = {item.figures.bytes: 0.0101 if place > 3 else 0.0 for place, item in enumerate(front)}
    wrong = greedy_wrong = 0
    for _ in range(runs):
        seen = {size: loss + rng.normal(0, noise) for size, loss in true_loss.items()}

        def judge(family: Any, point: Point, level: float, seen: dict[int, float] = seen) -> TaskScore:
            return task(seen[point.figures.bytes], NormalDist().inv_cdf(1 - (1 - level) / 2) * noise, level)

        done = run([(family(), front, files), (family("p50", Format.ONNX), front, files)], judge, confidence)
        certified = [size for one in done for size in sizes(one)]
        wrong += any(true_loss[size] > BUDGET for size in certified)
        margin = NormalDist().inv_cdf(0.95) * noise
        greedy_wrong += any(loss > BUDGET and seen[size] + margin <= BUDGET for size, loss in true_loss.items())
    assert wrong / runs <= 0.1 + 3 * (0.1 * 0.9 / runs) ** 0.5
    assert greedy_wrong / runs > 0.2


def test_sequence_begins_with_the_float_file_and_leaves_out_points_that_hardly_save() -> None:
    whole, near, far = point(1000, 0.0), point(995, 0.1), point(500, 0.2)
    assert chain_of((near, far), whole, cost) == (whole, far)


def test_of_a_long_front_the_ends_and_the_widest_steps_are_kept() -> None:
    front = tuple(point(round(100_000 * 0.97**place), float(place)) for place in range(1, 90))
    kept = chain_of(front, point(100_000, 0.0), cost)
    assert len(kept) == CHAIN_MOST
    assert kept[-1] == front[-1]
    steps = [a.figures.bytes / b.figures.bytes for a, b in itertools.pairwise(kept)]
    assert max(steps[-8:]) < 1.15


def test_a_file_of_one_scheme_stays_in_the_sequence_however_little_it_saves() -> None:
    front = (point(500, 0.1), whole(495, Scheme.W8), point(200, 0.3))
    assert [item.figures.bytes for item in chain_of(front, point(1000, 0.0), cost)] == [1000, 500, 495, 200]


def test_front_keeps_what_nothing_beats_and_prefers_the_simpler_of_equal_files() -> None:
    uniform, same = Build(Scheme.W8), Build(None, (("g", Scheme.W8),))
    figures = Figures(50, "sha", 0.1)
    points = [Point(same, figures), Point(uniform, figures), point(100, 0.0), point(60, 0.2)]
    assert [item.build for item in front_of(points, cost)] == [Build(), uniform]
    refused = Point(uniform, Figures(refused="no"))
    assert front_of([refused], cost) == ()
