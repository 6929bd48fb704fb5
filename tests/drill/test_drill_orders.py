"""Starts that fail, a clock that is set back, and overrides of settings: what drills order, and no more of it."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import clock
from pipeline.core.errors import ModelError, UsageError
from pipeline.core.names import Format
from pipeline.drill.faulty_clock import clock_of, set_back
from pipeline.drill.faulty_session import faulty
from pipeline.drill.orders import Order, OrderBook, OrderKind, start_address
from pipeline.drill.pair_settings import pair_settings
from pipeline.runtime.members import Tier
from pipeline.runtime.settings import Failback, Settings

MODEL, OTHER = b"a model", b"another"


def opened(folder, model: bytes) -> bool:
    try:
        faulty(folder, lambda *_: None)(Format.ONNX, model, 1)
    except ModelError:
        return False
    return True


def test_as_many_starts_of_one_model_fail_as_were_ordered(tmp_path):
    book = OrderBook(tmp_path)
    assert opened(tmp_path, MODEL)
    book.give(start_address(MODEL), Order(OrderKind.FAIL_START, times=2))
    assert [opened(tmp_path, MODEL) for _ in range(4)] == [False, False, True, True]
    assert opened(tmp_path, OTHER)


def test_a_new_book_begins_to_count_anew_and_a_withdrawn_order_fails_nothing(tmp_path):
    OrderBook(tmp_path).give(start_address(MODEL), Order(OrderKind.FAIL_START))
    assert not opened(tmp_path, MODEL)
    book = OrderBook(tmp_path)
    assert opened(tmp_path, MODEL)
    book.give(start_address(MODEL), Order(OrderKind.FAIL_START))
    book.withdraw(start_address(MODEL))
    assert opened(tmp_path, MODEL)


def test_a_clock_is_set_back_in_this_process_alone_and_only_as_long_as_told(tmp_path):
    before = clock.utc_now()
    with clock_of(tmp_path):
        assert clock.utc_now() >= before
        set_back(tmp_path, 3_600_000)
        assert clock.utc_now() < before - timedelta(minutes=59)
        assert clock.from_text(clock.to_text(clock.utc_now())) < before
        set_back(tmp_path, 0)
        assert clock.utc_now() >= before
        set_back(tmp_path, 3_600_000)
    assert before <= clock.utc_now() <= datetime.now(UTC)


def test_overrides_become_settings_of_their_type():
    made = pair_settings([("standby", "warm"), ("replicas", "2"), ("shadow_ratio", "0.5"), ("worker_memory_mb", "64")])
    assert (made.standby, made.replicas, made.shadow_ratio, made.worker_memory_mb) == (Tier.WARM, 2, 0.5, 64)
    assert pair_settings(()) == Settings()
    assert pair_settings([("failback", "never"), ("failback", "manual")]).failback is Failback.MANUAL


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([("standbye", "warm")], "standbye is no setting"),
        ([("standby", "tepid")], "one of hot, warm, cold"),
        ([("replicas", "two")], "a whole number"),
        ([("shadow_ratio", "x")], "a number"),
        ([("replicas", "0")], "at least 1"),
        ([("verify", "replicas")], "needs at least 2 replicas"),
    ],
)
def test_what_is_no_setting_is_refused_in_words(overrides, said):
    with pytest.raises(UsageError, match=said):
        pair_settings(overrides)


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12)), max_size=3))
def test_no_text_breaks_the_reading_of_settings(overrides):
    try:
        pair_settings(overrides)
    except UsageError as error:
        assert str(error)
