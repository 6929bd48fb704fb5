"""Administration: closed without a token, absent without any, orders carried out or refused with the reason."""

import pytest
from fake_service import BACKUP, PRIMARY

from pipeline.core.errors import NotAccepted
from pipeline.core.names import Role
from pipeline.runtime.http.tokens import TokenUse

ORDERS = {"switch": {"to": "backup"}, "hold": {"seat": "backup-0"}, "release": {"seat": "backup-0"}, "swap": {}}


def url(order, model="tiny"):
    return f"/admin/models/{model}/{order}"


@pytest.mark.parametrize("order", ORDERS)
def test_without_a_configured_token_there_is_no_administration(client, service, order):
    assert client.ask("POST", url(order), ORDERS[order], {"authorization": "Bearer x"}).status == 404
    assert service.done == []


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic eDp5", "Bearer é", "inference"]
)
def test_wrong_tokens_do_nothing(guarded, service, order, value):
    headers = {} if value is None else {"authorization": value}
    if value == "inference":
        headers = guarded.bearer[TokenUse.INFERENCE]
    for model in ("tiny", "nope"):  # nor do they tell which models there are
        reply = guarded.ask("POST", url(order, model), ORDERS[order], headers)
        assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert service.done == []


def test_a_token_in_the_query_or_a_cookie_is_none(guarded, service):
    token = guarded.bearer[TokenUse.ADMIN]["authorization"].removeprefix("Bearer ")
    reply = guarded.ask("POST", url("swap"), {}, {"cookie": f"token={token}", "x-token": token})
    assert reply.status == 401 and service.done == []


def test_orders_are_carried_out(guarded, service):
    for order, body in ORDERS.items():
        reply = guarded.ask("POST", url(order), body, guarded.bearer[TokenUse.ADMIN])
        assert reply.status == 200 and reply.json["done"].startswith(order)
    assert service.done == [
        ("switch", "tiny", Role.BACKUP),
        ("hold", "tiny", BACKUP),
        ("release", "tiny", BACKUP),
        ("swap", "tiny"),
    ]
    assert guarded.ask("POST", url("swap"), b"", guarded.bearer[TokenUse.ADMIN]).status == 200


def test_an_order_that_would_end_the_service_is_refused_with_its_reason(guarded):
    reply = guarded.ask("POST", url("hold"), {"seat": str(PRIMARY)}, guarded.bearer[TokenUse.ADMIN])
    assert (reply.status, reply.json) == (409, {"error": "primary-0 is the last that serves; switch first."})


def test_bundles_that_are_not_trusted_are_a_conflict(guarded, service):
    async def swap(_):
        raise NotAccepted("The bundle is of another model.")

    service.swap = swap
    assert guarded.ask("POST", url("swap"), {}, guarded.bearer[TokenUse.ADMIN]).status == 409


@pytest.mark.parametrize(
    ("order", "body", "told"),
    [
        ("switch", b"{", "not JSON"),
        ("switch", b"[]", "expected a mapping"),
        ("switch", {}, "to: missing"),
        ("switch", {"to": "third"}, "primary, backup"),
        ("hold", {"seat": "backup"}, "form"),
        ("hold", {"seat": "backup-7"}, "has no member backup-7"),
        ("hold", {"seat": 1}, "expected text"),
        ("swap", {"bundle": "/etc"}, "unknown key"),
        ("swap", b" " * 5000, "longer than 4096"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(guarded, service, order, body, told):
    reply = guarded.ask("POST", url(order), body, guarded.bearer[TokenUse.ADMIN])
    assert reply.status == 400 and told in reply.json["error"]
    assert service.done == []


def test_an_unknown_model_or_order_is_not_found(guarded):
    assert guarded.ask("POST", url("swap", "nope"), {}, guarded.bearer[TokenUse.ADMIN]).status == 404
    assert guarded.ask("POST", url("burn"), {}, guarded.bearer[TokenUse.ADMIN]).status == 404
    assert guarded.ask("GET", url("swap")).status == 405
