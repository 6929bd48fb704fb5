"""Selection picks what a dumb search over all pairs picks, and every verdict says why."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.names import Role
from pipeline.core.recipe import BackupRule, Budgets, Diversity, Metric, Preference, PrimaryRule, Selection
from pipeline.core.records import RefusedCandidate
from pipeline.core.schema import plain, read
from pipeline.score.selection import Choice, NoChoice, Selected, Verdict, over_budget, pair_warnings, select

NAMES = ["dense.f32", "dense.f16", "dense.w8d", "dense.w8a8", "p50.f32", "p50.w8d", "dense.f32.onnx", "p50.w8d.onnx"]
FEW = st.integers(1, 3)  # few distinct figures make ties common


@st.composite
def tasks(draw):
    names = draw(st.lists(st.sampled_from(NAMES), max_size=6, unique=True))
    metric = draw(st.sampled_from([Metric.AUC, Metric.RMSE]))
    figures = {
        name: {
            "value": draw(FEW) / 10,
            "loss": draw(FEW) / 100,
            "size": draw(FEW) * 100,
            "zstd": draw(FEW) * 90,
            "p50": draw(FEW) / 10,
            "rss": float(draw(FEW)),
            "metric": metric,
        }
        for name in names
    }
    budgets = Budgets(draw(FEW) / 100, *(draw(st.none() | st.just(value)) for value in (200, 0.25, 2.0)))
    prefer = st.sampled_from(list(Preference))
    diverse = tuple(draw(st.sets(st.sampled_from(list(Diversity)))))
    return figures, metric, budgets, Selection(PrimaryRule(draw(prefer)), BackupRule(draw(prefer), diverse))


def dumb_pair(figures, budgets, rules):
    """Try every ordered pair and keep the least by (primary's key, backup's key)."""

    def fits(name):
        f = figures[name]
        limits = [(f["loss"], budgets.loss_max_abs), (f["size"], budgets.bytes_max), (0.2, budgets.latency_p95_ms_max)]
        return all(most is None or have <= most for have, most in [*limits, (f["rss"], budgets.rss_mb_max)])

    def key(name, prefer):
        f = figures[name]
        first = {
            "accuracy": f["loss"],
            "bytes": f["size"],
            "bytes_zstd": f["zstd"],
            "latency": f["p50"],
            "rss": f["rss"],
        }
        return first[prefer.value], f["size"], name

    def apart(one, other):
        engines = one.endswith(".onnx") != other.endswith(".onnx")
        schemes = one.split(".")[1] != other.split(".")[1]
        wanted = rules.backup.diverse
        return (Diversity.ENGINE not in wanted or engines) and (Diversity.SCHEME not in wanted or schemes)

    able = [name for name in figures if fits(name)]
    by_role = [sorted(able, key=lambda name: key(name, rule.prefer)) for rule in (rules.primary, rules.backup)]
    reserved = by_role[1][:1] if by_role[0] != by_role[1] else []
    pairs = [(a, b) for a in able for b in able if a != b and apart(a, b)]
    return min(
        pairs,
        key=lambda pair: (pair[0] in reserved, key(pair[0], rules.primary.prefer), key(pair[1], rules.backup.prefer)),
        default=None,
    )


@given(tasks())
def test_the_pair_is_what_a_dumb_search_over_all_pairs_finds(recipe_with, make_card, task):
    figures, metric, budgets, rules = task
    cards = [make_card(name, **items) for name, items in figures.items()]
    found = select(cards, [], recipe_with(metric=metric, budgets=budgets, select=rules))
    expected = dumb_pair(figures, budgets, rules)
    if expected is None:
        assert isinstance(found, NoChoice)
    else:
        assert isinstance(found, Choice)
        assert (found.primary.candidate, found.backup.candidate) == expected


@given(tasks(), st.randoms())
def test_the_order_of_the_candidates_decides_nothing(recipe_with, make_card, task, random):
    figures, metric, budgets, rules = task
    recipe = recipe_with(metric=metric, budgets=budgets, select=rules)
    cards = [make_card(name, **items) for name, items in figures.items()]
    shuffled = random.sample(cards, len(cards))
    one, other = select(cards, [], recipe), select(shuffled, [], recipe)
    assert type(one) is type(other)
    assert {v.candidate: v for v in one.verdicts} == {v.candidate: v for v in other.verdicts}


@given(tasks())
def test_every_candidate_gets_a_verdict_with_a_reason(recipe_with, make_card, task):
    figures, metric, budgets, rules = task
    cards = [make_card(name, **items) for name, items in figures.items()]
    refused = [RefusedCandidate("p90.f32", "training collapsed")]
    found = select(cards, refused, recipe_with(metric=metric, budgets=budgets, select=rules))
    assert [item.candidate for item in found.verdicts] == [*figures, "p90.f32"]
    assert all(item.reasons for item in found.verdicts)
    assert {item.role for item in found.verdicts} <= {None, Role.PRIMARY, Role.BACKUP}


def verdict(found, candidate) -> Verdict:
    return next(item for item in found.verdicts if item.candidate == candidate)


def rules(primary=Preference.ACCURACY, backup=Preference.BYTES_ZSTD, diverse=()):
    return Selection(PrimaryRule(primary), BackupRule(backup, diverse))


def test_the_loss_counts_with_the_upper_end_of_its_interval(recipe, make_card):
    unsure = make_card("p50.w8d", loss=0.0042, width=0.01)
    (reason,) = over_budget(unsure, recipe.budgets)
    assert reason.startswith("loss up to 0.0142 exceeds the budget 0.01")
    assert over_budget(make_card("p50.w8d", loss=0.009, width=0.001), recipe.budgets) == ()


def test_a_loss_that_the_rows_cannot_settle_says_how_many_could(make_card):
    (reason,) = over_budget(make_card("p50.w8d", loss=0.004, width=0.009), Budgets(0.01))
    assert reason.endswith("what was measured, 0.004, does not: about 230 rows would settle it (100 now)")
    (reason,) = over_budget(make_card("p50.w8d", loss=0.012, width=0.009), Budgets(0.01))
    assert reason.endswith("so does what was measured, 0.012, though its interval reaches below")
    assert over_budget(make_card("p50.w8d", loss=0.02, width=0.009), Budgets(0.01)) == (
        "loss up to 0.029 exceeds the budget 0.01",
    )


def test_a_larger_and_slower_backup_is_chosen_with_a_word(recipe_with, make_card):
    cards = [
        make_card("dense.f32", size=1000, zstd=900),
        make_card("p50.f32", loss=0.001, size=1200, zstd=500, p50=0.2),
    ]
    choice = select(cards, [], recipe_with(select=rules()))
    assert pair_warnings(choice) == (
        "The backup p50.f32 is larger than the primary dense.f32: 1,200 against 1,000.",
        "The backup p50.f32 is slower than the primary dense.f32: 2.00 × the float model's time against "
        "1.00 × the float model's time.",
    )
    level = [make_card("dense.f32"), make_card("dense.w8d", loss=0.001, size=500, p50=0.105)]
    assert pair_warnings(select(level, [], recipe_with(select=rules()))) == ()


def test_files_of_a_search_count_as_one_scheme(recipe_with, make_card):
    cards = [
        make_card("dense.mixed-1"),
        make_card("p50.mixed-2", loss=0.001, zstd=1),
        make_card("dense.w8d", loss=0.002),
    ]
    found = select(cards, [], recipe_with(select=rules(diverse=(Diversity.SCHEME,))))
    assert (found.primary.candidate, found.backup.candidate) == ("dense.mixed-1", "dense.w8d")
    assert "not backup: same scheme mixed as the primary" in verdict(found, "p50.mixed-2").reasons


def test_the_luckiest_candidate_does_not_beat_the_reference_by_chance(recipe_with, make_card):
    lucky = make_card("dense.w8d", value=0.786, loss=-0.006, width=0.008, size=500)
    better = make_card("p50.f16", value=0.784, loss=-0.004, width=0.002, size=700)
    reference = make_card("dense.f32")
    recipe = recipe_with(select=rules())
    assert select([reference, lucky], [], recipe).primary is reference
    assert select([reference, lucky, better], [], recipe).primary is better


def test_every_exceeded_budget_is_named_not_the_first_alone(make_card):
    card = make_card("dense.f32", loss=0.5, size=12345, p95=2.5, rss=80.5)
    assert over_budget(card, Budgets(0.01, 10000, 1.0, 64.0)) == (
        "loss up to 0.5 exceeds the budget 0.01",
        "12,345 bytes exceed the budget 10,000",
        "latency p95 2.5 ms exceeds the budget 1",
        "80.5 MB of memory exceed the budget 64",
    )


def test_verdicts_say_who_won_with_what_figure(recipe_with, make_card):
    cards = [
        make_card("dense.f32", loss=0.001, zstd=50_000),
        make_card("dense.w8d", loss=0.002, zstd=12_345),
        make_card("p50.w8d", loss=0.003, zstd=10_222),
    ]
    found = select(cards, [], recipe_with(select=rules()))
    assert verdict(found, "dense.f32").reasons == (
        "primary: up to 0.001 auc lost, place 1 of 3 within the budgets by accuracy",
    )
    assert verdict(found, "dense.w8d").reasons == (
        "not primary: may lose more than dense.f32: up to 0.002 against up to 0.001 auc lost",
        "not backup: larger than p50.w8d: 12,345 against 10,222 bytes compressed",
    )
    assert verdict(found, "p50.w8d").role is Role.BACKUP
    assert verdict(found, "p50.w8d").ranks == {Role.PRIMARY: 3, Role.BACKUP: 1}


def test_a_backup_that_shares_what_must_differ_says_so(recipe_with, make_card):
    cards = [
        make_card("dense.w8d"),
        make_card("p50.w8d", loss=0.001, zstd=1),
        make_card("dense.f16", loss=0.001, zstd=500),
        make_card("dense.f32.onnx", loss=0.001, zstd=700),
    ]
    scheme = select(cards, [], recipe_with(select=rules(diverse=(Diversity.SCHEME,))))
    assert scheme.backup.candidate == "dense.f16"
    assert "not backup: same scheme w8d as the primary" in verdict(scheme, "p50.w8d").reasons
    engine = select(cards, [], recipe_with(select=rules(diverse=(Diversity.ENGINE,))))
    assert engine.backup.candidate == "dense.f32.onnx"
    assert "not backup: same engine for tflite files as the primary" in verdict(engine, "dense.f16").reasons


def test_a_best_primary_that_would_have_no_backup_gives_way_and_says_so(recipe_with, make_card):
    recipe = recipe_with(select=rules(diverse=(Diversity.ENGINE, Diversity.SCHEME)))
    cards = [make_card("dense.f32"), make_card("dense.f32.onnx", loss=0.001)]
    assert "no two differ in engine and scheme" in select(cards, [], recipe).summary
    found = select([*cards, make_card("dense.w8d", loss=0.002)], [], recipe)
    assert (found.primary.candidate, found.backup.candidate) == ("dense.f32.onnx", "dense.w8d")
    assert "not primary: no candidate within the budgets could be its backup" in verdict(found, "dense.f32").reasons


def test_a_refusal_lists_every_reason_of_every_candidate(recipe_with, make_card):
    cards = [make_card("dense.f32", size=5000), make_card("dense.w8d", loss=0.5, size=2000), make_card("dense.f16")]
    refused = [RefusedCandidate("p50.w8d", "unusable: answers with NaN")]
    found = select(cards, refused, recipe_with(budgets=Budgets(0.01, 1500)))
    assert isinstance(found, NoChoice)
    assert "1 of 4 candidates within the budgets, two are needed" in found.summary
    assert found.reasons == (
        "dense.f32: 5,000 bytes exceed the budget 1,500",
        "dense.w8d: loss up to 0.5 exceeds the budget 0.01",
        "dense.w8d: 2,000 bytes exceed the budget 1,500",
        "dense.f16: within the budgets, but dense.f16 has no partner there",
        "p50.w8d: unusable: answers with NaN",
    )


def test_a_refused_candidate_is_never_selected(recipe, make_card):
    found = select([make_card("dense.f32")], [RefusedCandidate("dense.w8d", "unusable: NaN")], recipe)
    assert isinstance(found, NoChoice)


@pytest.mark.parametrize("size", [999, 1000])
def test_ties_go_to_the_smaller_file_then_to_the_first_name_and_say_so(recipe_with, make_card, size):
    cards = [make_card("dense.f32", size=1000), make_card("dense.w8d", size=size), make_card("dense.f16", size=1000)]
    found = select(cards, [], recipe_with(select=rules()))
    assert found.primary.candidate == ("dense.w8d" if size == 999 else "dense.f16")
    rule = "the smaller file" if size == 999 else "the first by name"
    assert (
        f"not primary: equal to {found.primary.candidate} at up to 0 auc lost, which is {rule}"
        in verdict(found, "dense.f32").reasons
    )


def test_a_selection_reads_back_as_it_was_written(recipe, make_card):
    cards = [make_card("dense.f32"), make_card("dense.w8d")]
    found = select(cards, [], recipe)
    locked = {Role.PRIMARY: cards[0].task, Role.BACKUP: cards[1].task}
    selected = Selected("credit", found.primary.candidate, found.backup.candidate, found.verdicts, locked, ("look",))
    assert read(Selected, plain(selected)) == selected
