"""The three examples' splits, on small made-up files of the real form: the real data stay out of the repository."""

import numpy as np
import pytest

from pipeline.core.errors import DataError
from pipeline.examples import credit, diagnosis, recommendation
from pipeline.examples.recommendation import ITEMS, LIST_ROWS, USERS, Picks, prepare, read_picks, seen
from pipeline.examples.tables import Shares

MONTHS = ("0", "2", "3", "4", "5", "6")


def credit_file(rows: int = 200, **constant: str) -> bytes:
    rng = np.random.default_rng(5)
    columns = {
        "ID": range(rows),
        "LIMIT_BAL": rng.integers(1, 50, rows) * 10_000.0,
        "SEX": rng.integers(0, 2, rows),
        "AGE": rng.integers(21, 70, rows),
        **{f"PAY_{month}": rng.integers(-2, 9, rows) for month in MONTHS},
        **{f"BILL_AMT{month}": rng.normal(40_000, 30_000, rows).round() for month in range(1, 7)},
        **{f"PAY_AMT{month}": rng.integers(0, 9_000, rows) for month in range(1, 7)},
        credit.LABEL: rng.integers(0, 2, rows),
        "MARRIAGE_1": rng.integers(0, 2, rows),
        **{name: [value] * rows for name, value in constant.items()},
    }
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return "\n".join(lines).encode()


def diagnosis_file(**constant: str) -> bytes:
    rng = np.random.default_rng(6)
    rows = 200
    columns = {
        **{name: rng.integers(0, 2, rows) for name in diagnosis.LEFT_OUT},
        "age": rng.uniform(20, 90, rows),
        "sex": rng.choice(["male", "female"], rows),
        "dzgroup": rng.choice(diagnosis.LEVELS["dzgroup"], rows),
        "crea": rng.choice(["", "1.2", "3.4"], rows),
        **{name: [value] * rows for name, value in constant.items()},
    }
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    return "\n".join(lines).encode()


@pytest.fixture(autouse=True)
def small_shares(monkeypatch):
    for module in (credit, diagnosis):
        monkeypatch.setattr(module, "SHARES", Shares(calibration=20, validation=40, test=40))


@pytest.mark.parametrize(("module", "made"), [(credit, credit_file), (diagnosis, diagnosis_file)])
def test_tables_become_finite_float32_features_in_four_splits(module, made):
    prepared = module.prepare(made(), 1)
    assert {name: len(split["y"]) for name, split in prepared.splits.items()} == {
        "train": 100,
        "calibration": 20,
        "validation": 40,
        "test": 40,
    }
    for split in prepared.splits.values():
        assert split["features"].dtype == np.float32
        assert split["features"].shape[1] == len(prepared.preparation.columns)
        assert np.isfinite(split["features"]).all()


@pytest.mark.parametrize(
    ("module", "made", "hidden"),
    [(credit, credit_file, name) for name in ("ID", "SEX", "MARRIAGE_1")]
    + [(diagnosis, diagnosis_file, name) for name in diagnosis.LEFT_OUT if name != diagnosis.LABEL],
)
def test_what_is_left_out_does_not_reach_the_features(module, made, hidden):
    before, after = module.prepare(made(), 1), module.prepare(made(**{hidden: "7"}), 1)
    for name in before.splits:
        np.testing.assert_array_equal(before.splits[name]["features"], after.splits[name]["features"])


@pytest.mark.parametrize(("module", "made", "used"), [(credit, credit_file, "AGE"), (diagnosis, diagnosis_file, "age")])
def test_what_is_used_does_reach_them(module, made, used):
    before, after = module.prepare(made(), 1), module.prepare(made(**{used: "7"}), 1)
    assert not np.array_equal(before.splits["test"]["features"], after.splits["test"]["features"])


@pytest.mark.parametrize(
    "leak",
    [
        "hospdead",
        "death",
        "d.time",
        "slos",
        "sfdm2",
        "charges",
        "totcst",
        "totmcst",
        "avtisst",
        "dnr",
        "dnrday",
        "surv2m",
        "surv6m",
        "prg2m",
        "prg6m",
    ],
)
def test_known_leaks_of_the_diagnosis_data_are_left_out(leak):
    assert leak in diagnosis.LEFT_OUT


# Recommendation: 12 picks a user, with ties in time.
def ratings() -> list[tuple[int, int, int]]:
    rng = np.random.default_rng(8)
    rows = [
        (user, int(item), int(rng.integers(0, 1000))) for user in range(USERS) for item in rng.choice(ITEMS, 12, False)
    ]
    return [rows[index] for index in rng.permutation(len(rows))]


def ratings_file(rows) -> bytes:
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
    return "\n".join([header, *(f"{user + 1}\t{item + 1}\t3\t{time}" for user, item, time in rows)]).encode()


@pytest.fixture(scope="module")
def history():
    return ratings()


@pytest.fixture(scope="module")
def splits(history):
    return prepare(ratings_file(history), 4).splits


@pytest.fixture(scope="module")
def by_user(history):
    """Each user's picks by time, ties in the file's order (Python's sort is stable)."""
    picks = {user: [] for user in range(USERS)}
    for user, item, _ in sorted(history, key=lambda row: row[2]):
        picks[user].append(item)
    return picks


@pytest.mark.parametrize("user", [0, 17, USERS - 1])
def test_the_last_pick_is_the_test_and_the_one_before_is_validation(by_user, splits, user):
    past = by_user[user]
    for name, expected in (("test", past[-1]), ("validation", past[-2])):
        split = splits[name]
        picked = (split["user_id"] == user) & (split["y"] == 1)
        assert split["item_id"][picked].tolist() == [expected]


def test_training_and_calibration_hold_only_earlier_picks(by_user, splits):
    for user in (0, 17, USERS - 1):
        found = []
        for name in ("train", "calibration"):
            split = splits[name]
            found += split["item_id"][(split["user_id"] == user) & (split["y"] == 1)].tolist()
        assert sorted(found) == sorted(by_user[user][:-2])


@pytest.mark.parametrize("name", ["validation", "test"])
def test_a_list_is_one_pick_among_99_distinct_films_the_user_never_rated(history, splits, name):
    split = splits[name]
    picks = read_picks(ratings_file(history))
    users, items, labels, groups = (split[key].reshape(-1, LIST_ROWS) for key in ("user_id", "item_id", "y", "group"))
    assert len(users) == USERS
    assert (users == users[:, :1]).all()
    assert (groups == np.arange(USERS)[:, None]).all()
    assert (labels.sum(axis=1) == 1).all()
    assert all(len(set(row)) == LIST_ROWS for row in items.tolist())
    assert not (seen(picks)[users, items] & (labels == 0)).any()


def test_the_pick_stands_anywhere_in_its_list(splits):
    places = splits["test"]["y"].reshape(-1, LIST_ROWS).argmax(axis=1)
    assert len(set(places.tolist())) > LIST_ROWS // 2
    assert 40 < places.mean() < 60


def test_negatives_of_training_do_not_shun_later_picks(by_user, splits):
    """Were held-out films never a user's negatives, the model could learn what comes next by what is missing."""
    later = {(user, item) for user in range(USERS) for item in by_user[user][-2:]}
    train = splits["train"]
    negatives = zip(train["user_id"][train["y"] == 0].tolist(), train["item_id"][train["y"] == 0].tolist(), strict=True)
    assert any(pair in later for pair in negatives)


def test_negatives_of_training_are_no_earlier_picks(by_user, splits):
    train = splits["train"]
    earlier = {(user, item) for user in range(USERS) for item in by_user[user][:-2]}
    negatives = zip(train["user_id"][train["y"] == 0].tolist(), train["item_id"][train["y"] == 0].tolist(), strict=True)
    assert not earlier.intersection(negatives)


def test_new_negatives_keep_the_picks_and_change_the_rest(splits):
    train = splits["train"]
    drawn = recommendation.with_new_negatives(train, np.random.default_rng(1))

    def pairs(rows, label):
        chosen = rows["y"] == label
        return sorted(zip(rows["user_id"][chosen].tolist(), rows["item_id"][chosen].tolist(), strict=True))

    assert pairs(drawn, 1) == pairs(train, 1)
    assert pairs(drawn, 0) != pairs(train, 0)
    assert len(pairs(drawn, 0)) == 4 * len(pairs(drawn, 1))


def test_later_picks_of_a_user_weigh_more_and_the_mean_is_one():
    weights = recommendation.recency_weights(np.array([0, 0, 0, 1, 1]))
    assert (np.diff(weights[:3]) > 0).all()
    assert weights[4] > weights[3]
    assert weights[2] == weights[4]
    assert weights.mean() == pytest.approx(1)


def test_negatives_weigh_one_and_picks_keep_their_weight(splits):
    train = splits["train"]
    drawn = recommendation.with_new_negatives(train, np.random.default_rng(1))
    assert (drawn["weight"][drawn["y"] == 0] == 1).all()

    def weighed(rows):
        picked = rows["y"] == 1
        return sorted(zip(*(rows[name][picked].tolist() for name in ("user_id", "item_id", "weight")), strict=True))

    assert weighed(drawn) == weighed(train)


def test_equal_seeds_give_equal_lists_and_other_seeds_others(history, splits):
    again, other = (prepare(ratings_file(history), seed).splits["test"] for seed in (4, 5))
    np.testing.assert_array_equal(again["item_id"], splits["test"]["item_id"])
    assert not np.array_equal(other["item_id"], splits["test"]["item_id"])


def test_another_header_is_refused():
    with pytest.raises(DataError, match="unknown header"):
        read_picks(b"user,item\n1,2\n")


def test_seen_marks_exactly_the_picks():
    matrix = seen(Picks(np.array([0, 1]), np.array([2, 3])))
    assert matrix.sum() == 2
    assert matrix[0, 2]
    assert matrix[1, 3]
