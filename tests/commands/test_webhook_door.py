"""The door for MLflow's webhook, knocked at over real sockets."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest

from pipeline.commands.build import webhook
from pipeline.commands.build.webhook import Door, listening, parse_door, require_secret
from pipeline.core.errors import Unreachable, UsageError
from pipeline.registry.webhook import BODY_BYTES_MAX, AliasEvent, signature

SECRET_TEXT = "the same secret as in MLflow"


@dataclass
class Heard:
    """What came through the door."""

    door: Door = field(default_factory=lambda: Door("", 0))
    moved: list[AliasEvent] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


@pytest.fixture
def heard() -> Iterator[Heard]:
    found = Heard()
    with listening(Door("127.0.0.1", 0), SECRET_TEXT, found.moved.append, found.refused.append) as door:
        found.door = door
        yield found


def _body(alias: str = "primary") -> bytes:
    data = {"name": "credit", "alias": alias, "version": "3"}
    return json.dumps({"entity": "model_version_alias", "action": "created", "data": data}).encode()


def _post(door: Door, body: bytes, secret: str = SECRET_TEXT, **headers: str) -> int:
    sent = str(int(datetime.now(UTC).timestamp()))
    signed = {
        "X-MLflow-Delivery-Id": "1",
        "X-MLflow-Timestamp": sent,
        "X-MLflow-Signature": signature(secret, "1", sent, body),
    }
    connection = http.client.HTTPConnection(door.host, door.port, timeout=20)
    connection.request("POST", "/", body, {**signed, **headers})
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_signed_message_is_heard(heard: Heard) -> None:
    assert _post(heard.door, _body()) == 204
    assert [(one.model, one.alias, one.version) for one in heard.moved] == [("credit", "primary", 3)]


def test_a_forged_message_is_not_heard_and_the_answer_says_nothing(heard: Heard) -> None:
    assert _post(heard.door, _body(), secret="guessed") == 401
    assert heard.moved == []
    assert heard.refused == ["127.0.0.1: no signature made with the webhook's secret"]


def test_those_who_knock_for_ever_cannot_fill_the_log(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {_post(heard.door, _body(), secret="guessed") for _ in range(12)} == {401}
    assert heard.refused == ["127.0.0.1: no signature made with the webhook's secret"]
    monkeypatch.setattr(webhook, "_TOLD_EVERY_SECONDS", 0.0)  # a minute later
    assert _post(heard.door, _body(), secret="guessed") == 401
    assert _post(heard.door, b"{", secret=SECRET_TEXT) == 400
    assert heard.refused[1:] == [
        "127.0.0.1: no signature made with the webhook's secret (and 11 others since the last one told)",
        "127.0.0.1: signed, but no JSON",
    ]
    assert _post(heard.door, _body()) == 204


def test_a_body_that_is_too_long_is_refused_before_it_is_read(heard: Heard) -> None:
    assert _post(heard.door, b"", **{"Content-Length": str(BODY_BYTES_MAX + 1)}) == 413
    assert _post(heard.door, b"", **{"Content-Length": "9" * 5000}) == 413
    assert heard.moved == []


@pytest.mark.parametrize("length", ["-1", "ten", "1_0", "²"])
def test_a_length_that_is_none_is_refused(heard: Heard, length: str) -> None:
    with socket.create_connection((heard.door.host, heard.door.port), timeout=20) as peer:
        peer.sendall(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        assert b" 411 " in peer.recv(1000)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_nothing_is_shown(heard: Heard, method: str) -> None:
    connection = http.client.HTTPConnection(heard.door.host, heard.door.port, timeout=20)
    connection.request(method, "/")
    assert connection.getresponse().status == 501
    connection.close()


def test_those_who_say_nothing_are_cut_off_so_that_a_message_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_SECONDS_MAX", 0.05)
    monkeypatch.setattr(webhook, "_CONNECTIONS_MAX", 2)
    found = Heard()
    with listening(Door("127.0.0.1", 0), SECRET_TEXT, found.moved.append, found.refused.append) as door:
        silent = [socket.create_connection((door.host, door.port), timeout=20) for _ in range(2)]
        assert [peer.recv(10) for peer in silent] == [b"", b""]
        monkeypatch.setattr(webhook, "_SECONDS_MAX", 20.0)
        assert _sent_again_until_heard(door) == 204
        for peer in silent:
            peer.close()


def _sent_again_until_heard(door: Door) -> int:
    """Send as MLflow does, which sends again: who was cut off may not have left its place yet."""
    until = time.monotonic() + 20
    while True:
        try:
            return _post(door, _body())
        except (ConnectionError, http.client.HTTPException):
            assert time.monotonic() < until


def test_a_connection_more_than_allowed_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "_CONNECTIONS_MAX", 1)
    found = Heard()
    with listening(Door("127.0.0.1", 0), SECRET_TEXT, found.moved.append, found.refused.append) as door:
        with socket.create_connection((door.host, door.port), timeout=20) as silent:
            with pytest.raises((ConnectionError, http.client.HTTPException)):
                _post(door, _body())
            silent.close()
        assert found.moved == []


def test_two_cannot_listen_at_one_port(heard: Heard) -> None:
    with pytest.raises(Unreachable), listening(heard.door, SECRET_TEXT, heard.moved.append, heard.refused.append):
        pass


def test_an_address_without_a_host_is_loopback() -> None:
    assert parse_door(":8090") == Door("127.0.0.1", 8090)
    assert parse_door("0.0.0.0:0") == Door("0.0.0.0", 0)  # noqa: S104 - only where a person says so
    assert parse_door("[::1]:80") == Door("::1", 80)


@pytest.mark.parametrize("text", ["", "8090x", "host", "host:", "host:-1", "host:65536", "host:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_door(text)


@pytest.mark.parametrize("secret", [None, "", "short"])
def test_a_webhook_without_a_real_secret_is_refused(secret: str | None) -> None:
    with pytest.raises(UsageError, match="HOTSPARE_WEBHOOK_SECRET"):
        require_secret(secret)
