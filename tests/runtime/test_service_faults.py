"""The service under clients, while an engine does wrong: nobody's request is lost, nothing bad is released."""

from pathlib import Path

import numpy as np
import pytest
from sealed import MODELS, tiny_rows
from serving import ADDRESSES, POISON, ROWS, Clients, Service, Starter, expected

from pipeline.core.names import Format, Role
from pipeline.drill.corruption import corrupted
from pipeline.drill.orders import EVERYBODY, Order, OrderBook, OrderKind, process_address
from pipeline.engines.open import open_session
from pipeline.runtime.pair_nouns import other

pytestmark = pytest.mark.slow

MODEL = (MODELS / "tiny_dense.onnx").read_bytes()
POISONED = np.array([[POISON, *range(7)]], np.float32)


def orders(served: Service) -> OrderBook:
    assert served.orders is not None
    return served.orders


@pytest.mark.parametrize(
    ("fault", "kinds"),
    [
        ("hang", [OrderKind.HANG, OrderKind.HANG_SLEEP]),
        ("errors", [OrderKind.ERRORS]),
        ("bad_output", [OrderKind.NAN, OrderKind.MALFORMED, OrderKind.WRONG_DTYPE]),
        ("crash", [OrderKind.CRASH, OrderKind.EXIT]),
    ],
)
def test_what_whoever_serves_does_wrong_costs_no_request_and_is_named(
    service: Starter, fault: str, kinds: list[OrderKind]
) -> None:
    served = service("--failback", "manual", "--deadline-ms", "8000", faulty=True)
    serving = Role(served.until_whole()["serving"])
    with Clients(served) as clients:
        for kind in kinds:
            address = process_address(served.pid(serving))
            orders(served).give(address, Order(kind))
            serving = other(serving)
            served.until(lambda pair, to=serving: pair["serving"] == to)
            orders(served).withdraw(address)
            served.until_whole(serving)
        clients.more()
    clients.assert_nothing_lost()
    told = [(one["fault"], one["component"]) for one in served.diagnoses()]
    assert told.count((fault, "engine")) >= len(kinds)
    assert {component for _, component in told} == {"engine"}


@pytest.fixture(scope="module")
def spoiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The primary's model with flipped weights: well-formed answers, many of them wrong."""
    outputs = [spec.name for spec in open_session(Format.ONNX, MODEL).outputs]
    found = corrupted(Format.ONNX, MODEL, tiny_rows(200), dict.fromkeys(outputs, 0.05), seed=1)
    place = tmp_path_factory.mktemp("spoiled") / "model.onnx"
    place.write_bytes(found.model)
    return place


def test_weights_that_are_corrupted_in_memory_are_found_by_canaries(service: Starter, spoiled: Path) -> None:
    served = service("--probe-every-ms", "20", faulty=True)
    served.until_whole()
    address = process_address(served.pid(Role.PRIMARY))
    orders(served).give(address, Order(OrderKind.CORRUPT_WEIGHTS, model=str(spoiled)))
    served.until(lambda pair: pair["counters"]["restarts"])
    told = [one for one in served.diagnoses() if one["seat"] and one["seat"]["role"] == "primary"]
    assert [(one["fault"], one["component"]) for one in told] == [("wrong_answer", "weights in memory")]
    served.until_whole()
    assert served.infer().status == 200


@pytest.mark.parametrize("kind", [OrderKind.CRASH, OrderKind.HANG, OrderKind.ERRORS])
def test_a_poison_request_fails_alone_and_is_not_tried_again(service: Starter, kind: OrderKind) -> None:
    served = service("--deadline-ms", "8000", faulty=True)
    served.until_whole()
    orders(served).give(EVERYBODY, Order(kind, poison=POISON))
    with Clients(served) as clients:
        refused = served.infer(POISONED)
        assert refused.status == (400 if kind is OrderKind.ERRORS else 422), refused.body
        served.until(lambda pair: all(m["state"] == "ready" for m in pair["members"]))
        before = served.status()
        again = served.infer(POISONED)
        assert again.status == refused.status
        clients.more()
        after = served.status()
    clients.assert_nothing_lost()
    assert after["counters"]["restarts"] == before["counters"]["restarts"] <= 2  # who was hedged to, ends too
    assert len(served.of_title("hotspare worker")) <= 3  # the pair, and the taster for a few seconds
    if kind is not OrderKind.ERRORS:
        assert [one["component"] for one in served.diagnoses() if one["fault"] == "poison"] == ["poison request"]
    if kind is OrderKind.HANG:
        assert {one["component"] for one in served.diagnoses()} == {"poison request"}


@pytest.mark.parametrize("kind", [OrderKind.CRASH, OrderKind.HANG])
@pytest.mark.parametrize("batch_rows", ["0", "64"])
def test_poison_whose_client_has_no_patience_ends_each_side_once_and_sees_only_tasters_then(
    service: Starter, kind: OrderKind, batch_rows: str
) -> None:
    served = service("--batch-rows", batch_rows, faulty=True)
    served.until_whole()
    orders(served).give(EVERYBODY, Order(kind, poison=POISON))
    refused = []
    for _ in range(5):
        refused.append(served.infer(POISONED, hotspare_timeout_ms="30").status)
        served.until(lambda pair: all(m["state"] == "ready" for m in pair["members"]))
    assert set(refused) <= {422, 504}
    assert served.infer(POISONED, hotspare_timeout_ms="8000").status == 422
    assert served.status()["counters"]["restarts"] <= 2
    assert served.infer().status == 200


def test_requests_that_its_engine_cannot_answer_do_not_end_the_only_side_that_is_up(service: Starter) -> None:
    served = service(faulty=True, admin=True)
    served.until_whole()
    assert served.admin("hold", seat="backup-0").status == 200
    orders(served).give(EVERYBODY, Order(OrderKind.ERRORS, poison=POISON))
    assert {served.infer(POISONED, hotspare_timeout_ms="50").status for _ in range(8)} == {504}
    after = served.status()
    assert (after["serving"], after["counters"]["restarts"], after["counters"]["failovers"]) == ("primary", 0, 0)
    assert served.infer().status == 200


def test_a_batch_is_answered_as_its_requests_would_be_and_a_poison_request_in_it_fails_alone(service: Starter) -> None:
    served = service("--batch-rows", "64", "--batch-wait-ms", "20", "--deadline-ms", "8000", faulty=True)
    served.until_whole()
    with Clients(served, 8) as clients:
        clients.more(80)
    clients.assert_nothing_lost()
    assert served.ask("POST", "/v2/models/tiny/infer", {"inputs": []}).status == 400
    orders(served).give(EVERYBODY, Order(OrderKind.CRASH, poison=POISON))
    with Clients(served, 8) as clients:
        assert served.infer(POISONED).status == 422
        before = served.status()["counters"]["restarts"]
        assert served.infer(POISONED).status == 422
        clients.more()
        assert served.status()["counters"]["restarts"] == before <= 2
    clients.assert_nothing_lost()


def test_in_verify_mode_nothing_wrong_is_released_and_what_is_withheld_is_counted(
    service: Starter, spoiled: Path
) -> None:
    served = service("--verify", "pair", "--probe-every-ms", "60000", faulty=True)
    served.until_whole()
    with Clients(served) as clients:
        clients.more(40)
    assert clients.lost == []
    orders(served).give(ADDRESSES[Role.PRIMARY], Order(OrderKind.CORRUPT_WEIGHTS, model=str(spoiled)))
    with Clients(served) as clients:
        clients.more(60)
    assert clients.wrong(0.05) == []
    withheld = [one.headers["hotspare-refused"] for one in clients.replies if one.status != 200]
    assert set(withheld) == {"abstained"}
    assert served.status()["counters"]["refused"] == {"abstained": len(withheld)}


def test_with_three_replicas_the_vote_goes_against_the_one_that_is_wrong(service: Starter) -> None:
    served = service(
        "--verify", "replicas", "--replicas", "2", "--probe-every-ms", "60000", "--deadline-ms", "8000", faulty=True
    )
    served.until_whole()
    orders(served).give(process_address(served.pid(Role.PRIMARY, 1)), Order(OrderKind.WRONG_ANSWERS, bias=0.3))
    replies = [served.infer(ROWS[row : row + 1]) for row in range(12)]
    released = [one for one in replies if one.status == 200]
    assert {one.status for one in replies} <= {200, 503}
    for row, one in enumerate(replies):
        if one.status == 200:
            np.testing.assert_allclose(one.outputs, expected(ROWS[row : row + 1]), atol=1e-4)
    assert served.status()["counters"]["refused"].get("abstained", 0) == len(replies) - len(released)


def test_what_does_not_fit_the_queue_is_refused_at_once_and_told_when_to_come_back(service: Starter) -> None:
    served = service("--queue", "2", "--deadline-ms", "8000", faulty=True)
    served.until_whole()
    orders(served).give(EVERYBODY, Order(OrderKind.SLOW, ms=60))
    with Clients(served, 8) as clients:
        clients.more(16)
    refused = [one for one in clients.replies if one.status == 429]
    assert refused
    assert {one.headers["retry-after"] for one in refused} == {"1"}
    assert {one.status for one in clients.replies} == {200, 429}
    assert clients.wrong() == []
