"""A message of MLflow's server is believed only when it is signed, fresh and whole."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.registry.webhook import AGE_SECONDS_MAX, AliasEvent, Denied, OtherEvent, judge_delivery, signature

SECRET = "a secret of more than sixteen"
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
MOVED = NOW - timedelta(seconds=2, milliseconds=250)
DELIVERY = "7b0ce19c-5a3f-4a2f-a3f2-6f5a0f1a6a43"


def _body(**changes: object) -> bytes:
    data = {"name": "credit", "alias": "primary", "version": "7"}
    message = {"entity": "model_version_alias", "action": "created", "timestamp": MOVED.isoformat(), "data": data}
    return json.dumps({**message, **changes}).encode()


def _headers(body: bytes, secret: str = SECRET, sent: datetime = NOW, delivery: str = DELIVERY) -> dict[str, str]:
    seconds = str(int(sent.timestamp()))
    return {
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": seconds,
        "x-mlflow-signature": signature(secret, delivery, seconds, body),
    }


def _judge(body: bytes, headers: dict[str, str]) -> AliasEvent | OtherEvent | Denied:
    return judge_delivery(headers, body, SECRET, NOW)


def test_a_signed_and_fresh_message_tells_who_was_moved_and_when() -> None:
    body = _body()
    assert _judge(body, _headers(body)) == AliasEvent("credit", "primary", 7, MOVED)


def test_an_alias_that_was_taken_away_has_no_version() -> None:
    body = _body(action="deleted", data={"name": "credit", "alias": "primary"})
    assert _judge(body, _headers(body)) == AliasEvent("credit", "primary", None, MOVED)


def test_the_signature_is_a_keyed_digest_of_id_time_and_body() -> None:
    # printf 'id.1.{}' | openssl dgst -sha256 -hmac key -binary | base64
    assert signature("key", "id", "1", b"{}") == "v1,5PVmP2AfJGwnp9flV+flrzfukNWA9zyUdqvI+IQalVs="


@pytest.mark.parametrize("changed", ["x-mlflow-delivery-id", "x-mlflow-timestamp", "x-mlflow-signature"])
@pytest.mark.parametrize("attack", ["missing", "empty", "other", "not ascii"])
def test_a_header_that_is_not_what_was_signed_is_refused(changed: str, attack: str) -> None:
    body = _body()
    headers = _headers(body)
    values = {"empty": "", "other": headers[changed][:-2] + "zz", "not ascii": headers[changed] + "é\udc80"}
    if attack == "missing":
        del headers[changed]
    else:
        headers[changed] = values[attack]
    found = _judge(body, headers)
    assert isinstance(found, Denied)
    assert found.status == 401


@given(position=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_body_of_which_one_bit_was_changed_is_refused(position: int, bit: int) -> None:
    body = _body()
    headers = _headers(body)
    changed = bytearray(body)
    changed[position % len(body)] ^= 1 << bit
    assert isinstance(_judge(bytes(changed), headers), Denied)


def test_another_secret_is_refused() -> None:
    body = _body()
    assert isinstance(_judge(body, _headers(body, secret="another secret of the same kind")), Denied)


@pytest.mark.parametrize(
    ("seconds", "fresh"),
    [
        (0, True),
        (-AGE_SECONDS_MAX, True),
        (AGE_SECONDS_MAX, True),
        (-AGE_SECONDS_MAX - 1, False),
        (AGE_SECONDS_MAX + 1, False),
    ],
)
def test_a_message_recorded_earlier_is_refused(seconds: int, fresh: bool) -> None:
    body = _body()
    found = _judge(body, _headers(body, sent=NOW + timedelta(seconds=seconds)))
    assert isinstance(found, AliasEvent) is fresh


@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b'{"data":[]}', b"[" * 50_000, b"\xff\xfe"])
def test_a_signed_message_of_another_form_is_refused_in_words(body: bytes) -> None:
    found = _judge(body, _headers(body))
    assert isinstance(found, Denied)
    assert found.status == 400


@pytest.mark.parametrize("entity", ["registered_model", "prompt_alias", None, 3])
def test_a_message_about_other_things_is_no_news_of_an_alias(entity: object) -> None:
    body = _body(entity=entity)
    assert _judge(body, _headers(body)) == OtherEvent()


@pytest.mark.parametrize("told", [None, 5, "yesterday", "2026-11-22T11:59:58", "1970-01-01T00:00:00+00:00", "9" * 99])
def test_an_odd_time_of_the_event_is_replaced_by_the_time_of_sending(told: object) -> None:
    body = _body(timestamp=told)
    found = _judge(body, _headers(body))
    assert isinstance(found, AliasEvent)
    assert found.at == NOW


@given(st.binary(max_size=200), st.dictionaries(st.text(max_size=30), st.text(max_size=60), max_size=4))
def test_whatever_arrives_unsigned_is_refused_and_nothing_breaks(body: bytes, headers: dict[str, str]) -> None:
    assert isinstance(_judge(body, headers), Denied)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    )
)
def test_whatever_arrives_signed_is_read_or_refused(value: object) -> None:
    for message in (
        value,
        {"entity": "model_version_alias", "timestamp": value, "data": {"name": "a", "alias": "b", "version": value}},
    ):
        body = json.dumps(message).encode()
        _judge(body, _headers(body))
