"""A faulty session answers as the real one until it is told otherwise, and then does exactly the ordered wrong."""

import multiprocessing
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from sealed import MODELS, tiny_rows

from pipeline.core.errors import ModelError, UsageError
from pipeline.core.names import Format
from pipeline.drill.corruption import corrupted
from pipeline.drill.faulty_session import faulty
from pipeline.drill.orders import EVERYBODY, Order, OrderBook, OrderKind, OrderReader, model_address, process_address
from pipeline.engines.open import open_session

MODEL = (MODELS / "tiny_dense.tflite").read_bytes()
ROWS = tiny_rows(4)


@pytest.fixture
def book(tmp_path: Path) -> OrderBook:
    return OrderBook(tmp_path / "orders")


@pytest.fixture
def session(tmp_path: Path, book: OrderBook):
    return faulty(tmp_path / "orders")(Format.TFLITE, MODEL, 1)


@pytest.fixture
def right() -> np.ndarray:
    return next(iter(open_session(Format.TFLITE, MODEL).run(ROWS).values()))


def only(answers: dict[str, np.ndarray]) -> np.ndarray:
    (array,) = answers.values()
    return array


def test_without_orders_it_answers_as_the_session_that_it_wraps(session, right):
    np.testing.assert_array_equal(only(session.run(ROWS)), right)
    assert [spec.name for spec in session.inputs] == ["features"]


@pytest.mark.parametrize(
    ("kind", "spoiled"),
    [
        (OrderKind.NAN, lambda right: np.full_like(right, np.nan)),
        (OrderKind.MALFORMED, lambda right: np.concatenate([right, right], axis=-1)),
        (OrderKind.WRONG_DTYPE, lambda right: right.astype(np.float64)),
        (OrderKind.WRONG_ANSWERS, lambda right: right + np.float32(0.2)),
    ],
)
def test_spoiled_answers_are_spoiled_as_ordered_and_right_again_when_withdrawn(session, book, right, kind, spoiled):
    book.give(EVERYBODY, Order(kind))
    given = only(session.run(ROWS))
    np.testing.assert_array_equal(given, spoiled(right))
    assert given.dtype == spoiled(right).dtype
    book.withdraw(EVERYBODY)
    np.testing.assert_array_equal(only(session.run(ROWS)), right)


def test_errors_are_the_engines_own(session, book):
    book.give(EVERYBODY, Order(OrderKind.ERRORS))
    with pytest.raises(ModelError, match="drill"):
        session.run(ROWS)


@pytest.mark.parametrize("kind", [OrderKind.HANG, OrderKind.HANG_SLEEP, OrderKind.SLOW])
def test_a_late_answer_is_late_by_what_was_ordered_and_right(session, book, right, kind):
    ms = 1000 if kind is OrderKind.HANG_SLEEP else 60
    book.give(EVERYBODY, Order(kind, ms=ms))
    began = time.monotonic()
    np.testing.assert_array_equal(only(session.run(ROWS)), right)
    assert time.monotonic() - began >= ms / 1000


def test_slowness_ramps_up_run_by_run(session, book):
    book.give(EVERYBODY, Order(OrderKind.SLOW, ramp_ms=40))
    times = []
    for _ in range(3):
        began = time.monotonic()
        session.run(ROWS)
        times.append(time.monotonic() - began)
    assert times[1] >= 0.04
    assert times[2] >= 0.08


def test_the_nearest_address_wins_and_others_are_not_meant(session, book, right):
    book.give(process_address(1), Order(OrderKind.ERRORS))
    book.give(model_address(b"another model"), Order(OrderKind.ERRORS))
    np.testing.assert_array_equal(only(session.run(ROWS)), right)
    book.give(EVERYBODY, Order(OrderKind.ERRORS))
    book.give(model_address(MODEL), Order(OrderKind.NAN))
    assert np.isnan(only(session.run(ROWS))).all()


def test_poison_touches_only_the_request_that_holds_it(session, book, right):
    book.give(EVERYBODY, Order(OrderKind.ERRORS, poison=-7777.0))
    np.testing.assert_array_equal(only(session.run(ROWS)), right)
    poisoned = {"features": ROWS["features"].copy()}
    poisoned["features"][2, 3] = -7777.0
    with pytest.raises(ModelError):
        session.run(poisoned)


@pytest.mark.parametrize(("kind", "status"), [(OrderKind.CRASH, -signal.SIGSEGV), (OrderKind.EXIT, 3)])
def test_a_process_ends_as_ordered(session, book, kind, status):
    book.give(EVERYBODY, Order(kind))
    child = multiprocessing.get_context("fork").Process(target=session.run, args=(ROWS,))
    child.start()
    child.join(20)
    assert child.exitcode == status


def test_orders_cost_less_than_five_microseconds_a_run_while_there_are_none(tmp_path, book):
    reader = OrderReader(tmp_path / "orders", MODEL)
    runs = 2000
    best = min(_seconds(reader, runs) for _ in range(5))
    assert best / runs < 5e-6


def _seconds(reader: OrderReader, runs: int) -> float:
    began = time.perf_counter()
    for _ in range(runs):
        reader.current()
    return time.perf_counter() - began


def test_a_folder_without_a_book_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no folder of orders"):
        OrderReader(tmp_path, MODEL)


def test_a_new_book_withdraws_what_an_earlier_one_ordered(tmp_path, book, session, right):
    book.give(EVERYBODY, Order(OrderKind.ERRORS))
    OrderBook(tmp_path / "orders")
    np.testing.assert_array_equal(only(session.run(ROWS)), right)


@pytest.mark.parametrize("model_format", [Format.TFLITE, Format.ONNX])
def test_corrupt_weights_answer_wrongly_with_finite_numbers_in_the_right_form(tmp_path, book, model_format):
    model = (MODELS / f"tiny_dense.{model_format}").read_bytes()
    real = open_session(model_format, model)
    tolerances = {spec.name: 1e-5 for spec in real.outputs}
    rows = tiny_rows(200, seed=3)
    found = corrupted(model_format, model, rows, tolerances, seed=1)
    (tmp_path / "corrupt").write_bytes(found.model)
    session = faulty(tmp_path / "orders")(model_format, model, 1)
    book.give(EVERYBODY, Order(OrderKind.CORRUPT_WEIGHTS, model=str(tmp_path / "corrupt")))
    given, right = only(session.run(rows)), only(real.run(rows))
    assert given.shape == right.shape
    assert np.isfinite(given).all()
    assert np.mean(np.abs(given - right) > 1e-5) >= 0.05
    assert found.changed_ratio >= 0.05
    assert len(found.model) == len(model)
