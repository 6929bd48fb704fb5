from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sealed import EVERY_USE, NOW, Sealed, reference, tiny_channel, write_channel

from pipeline.bundle.channel import BundleRef, Channel, Revocations, check_floor
from pipeline.bundle.floor import Floor, floor_path, raise_floor, read_floor
from pipeline.bundle.policy import TrustPolicy, load_policy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.verify import load_channel, read_channel, verify_bundle
from pipeline.commands.build.keys import policy_text
from pipeline.core.errors import (
    Expired,
    FileAccess,
    Malformed,
    NotAccepted,
    Revoked,
    RolledBack,
    SignatureInvalid,
    Tampered,
    Untrusted,
)
from pipeline.core.names import Format, Role


def publish(pair: Sealed, **changes: object) -> Channel:
    channel = tiny_channel(**changes)
    write_channel(pair.channel, channel, pair.key)
    return channel


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (datetime(2036, 2, 1, 0, 0, 0, tzinfo=UTC), None),
        (datetime(2036, 2, 1, 0, 0, 1, tzinfo=UTC), Expired),
    ],
)
def test_a_channel_ends_after_its_last_second(pair: Sealed, policy: TrustPolicy, now: datetime, kind) -> None:
    if kind is None:
        assert "renewed" in load_channel(pair.channel, policy, now).warnings[0]
    else:
        with pytest.raises(kind):
            load_channel(pair.channel, policy, now)


def test_a_channel_that_ends_after_it_was_loaded_still_refuses(pair: Sealed, policy: TrustPolicy) -> None:
    channel = load_channel(pair.channel, policy, NOW)
    with pytest.raises(Expired):
        verify_bundle(pair.backup, policy, datetime(2037, 1, 1, tzinfo=UTC), channel)


def test_a_clock_that_is_behind_is_a_warning(pair: Sealed, policy: TrustPolicy) -> None:
    assert "clock" in load_channel(pair.channel, policy, datetime(2026, 1, 1, tzinfo=UTC)).warnings[0]


def test_either_file_or_the_folder_names_a_channel(pair: Sealed, policy: TrustPolicy) -> None:
    places = [pair.channel, pair.channel / "channel.json", pair.channel / "channel.sig"]
    assert len({load_channel(place, policy, NOW).channel for place in places}) == 1


def test_a_bundle_in_another_role_is_refused(pair: Sealed, policy: TrustPolicy) -> None:
    channel = load_channel(pair.channel, policy, NOW)
    assert verify_bundle(pair.backup, policy, NOW, channel, Role.BACKUP).role is Role.BACKUP
    with pytest.raises(NotAccepted, match="as its backup"):
        verify_bundle(pair.backup, policy, NOW, channel, Role.PRIMARY)


def test_a_role_without_a_channel_is_refused(pair: Sealed, policy: TrustPolicy) -> None:
    with pytest.raises(NotAccepted):
        verify_bundle(pair.backup, policy, NOW, None, Role.BACKUP)


def test_a_bundle_that_the_channel_does_not_name_is_refused(pair: Sealed, policy: TrustPolicy) -> None:
    publish(pair, backup=BundleRef("c" * 64, 10))
    with pytest.raises(NotAccepted, match="does not name"):
        verify_bundle(pair.backup, policy, NOW, load_channel(pair.channel, policy, NOW))


def test_a_channel_with_another_size_refuses_before_reading(pair: Sealed, policy: TrustPolicy) -> None:
    publish(pair, backup=BundleRef(reference(Format.TFLITE).bundle_id, 10))
    with pytest.raises(Tampered, match="the channel says 10"):
        verify_bundle(pair.backup, policy, NOW, load_channel(pair.channel, policy, NOW))


def test_a_revoked_bundle_is_refused(pair: Sealed, policy: TrustPolicy) -> None:
    publish(pair, revoked=Revocations(bundles=(reference(Format.TFLITE).bundle_id,)))
    channel = load_channel(pair.channel, policy, NOW)
    with pytest.raises(Revoked, match="bundle"):
        verify_bundle(pair.backup, policy, NOW, channel)
    assert verify_bundle(pair.primary, policy, NOW, channel).role is Role.PRIMARY


def test_a_channel_that_revokes_its_own_signer_is_refused(pair: Sealed, policy: TrustPolicy) -> None:
    publish(pair, revoked=Revocations(keys=(key_hint(pair.key.public_key()),)))
    with pytest.raises(Revoked, match="key"):
        load_channel(pair.channel, policy, NOW)


def test_a_bundle_signed_by_a_revoked_key_is_refused(pair: Sealed) -> None:
    signer = ec.generate_private_key(ec.SECP256R1())
    bundles_only = policy_text(pair.key.public_key(), ("tiny",)).replace(EVERY_USE, "[bundle]")
    second = policy_text(signer.public_key(), ("tiny",)).split("keys:\n")[1].split("models:")[0]
    pair.trust.write_text(bundles_only.replace("models:", f"{second.replace('main', 'second')}models:"))
    policy = load_policy(pair.trust)
    write_channel(pair.channel, tiny_channel(revoked=Revocations((key_hint(pair.key.public_key()),))), signer)
    with pytest.raises(Revoked, match="key"):
        verify_bundle(pair.backup, policy, NOW, load_channel(pair.channel, policy, NOW))


@pytest.mark.parametrize(("changes", "said"), [({"model": "other"}, "for other"), ({"channel": "canary"}, "canary")])
def test_a_channel_for_somebody_else_is_refused(pair: Sealed, policy: TrustPolicy, changes, said: str) -> None:
    publish(pair, **changes)
    with pytest.raises(NotAccepted, match=said):
        load_channel(pair.channel, policy, NOW)


def test_a_channel_signed_by_another_key_is_refused(pair: Sealed, policy: TrustPolicy) -> None:
    write_channel(pair.channel, tiny_channel(), ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(SignatureInvalid):
        load_channel(pair.channel, policy, NOW)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_byte_of_a_channel_is_free(pair: Sealed, policy: TrustPolicy, data: st.DataObject) -> None:
    path = pair.channel / data.draw(st.sampled_from(["channel.json", "channel.sig"]))
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(changed)
    try:
        with pytest.raises((Tampered, Malformed, SignatureInvalid)):
            load_channel(pair.channel, policy, NOW)
    finally:
        path.write_bytes(whole)


def test_a_half_written_promotion_can_still_be_read_by_whoever_renews_it(pair: Sealed, policy: TrustPolicy) -> None:
    (pair.channel / "channel.json").write_bytes(tiny_channel(seq=8).to_bytes())
    with pytest.raises(Tampered):
        load_channel(pair.channel, policy, NOW)
    assert read_channel((pair.channel / "channel.sig").read_bytes(), policy)[0] == tiny_channel()


def test_a_missing_channel_is_not_a_forgery(pair: Sealed, policy: TrustPolicy) -> None:
    with pytest.raises(FileAccess):
        load_channel(pair.folder / "nowhere" / "channel.json", policy, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"backup": reference(Format.ONNX)},
        {"not_after": "2026-01-01T00:00:00Z"},
        {"issued_at": "2026-13-01T00:00:00Z"},
        {"seq": 0},
        {"rollback_of": 7},
        {"model": "../x"},
    ],
)
def test_a_signed_channel_that_makes_no_sense_is_malformed(pair: Sealed, policy: TrustPolicy, changes) -> None:
    publish(pair, **changes)
    with pytest.raises(Malformed):
        load_channel(pair.channel, policy, NOW)


ORDER = st.tuples(st.integers(0, 3), st.integers(1, 5))


@given(kept=ORDER, offered=ORDER, fork=st.booleans())
def test_the_floor_lets_in_only_what_is_newer_or_the_same(kept, offered, fork: bool) -> None:
    channel = tiny_channel(epoch=offered[0], seq=offered[1])
    digest = channel.digest if kept == offered and not fork else "f" * 64
    refused = offered < kept or (offered == kept and fork)
    try:
        check_floor(channel, Floor(*kept, digest))
    except RolledBack:
        assert refused
    else:
        assert not refused


def test_an_older_channel_than_the_floor_is_refused_on_disk_too(pair: Sealed, policy: TrustPolicy) -> None:
    path = floor_path(policy.state_dir, "tiny")
    raise_floor(path, tiny_channel(seq=8).floor)
    with pytest.raises(RolledBack, match="seq 8"):
        load_channel(pair.channel, policy, NOW)


def test_a_fork_of_the_floors_channel_is_refused(pair: Sealed, policy: TrustPolicy) -> None:
    raise_floor(floor_path(policy.state_dir, "tiny"), tiny_channel().floor)
    load_channel(pair.channel, policy, NOW)
    publish(pair, not_after="2036-02-02T00:00:00Z")
    with pytest.raises(RolledBack, match="differs"):
        load_channel(pair.channel, policy, NOW)


def test_a_floor_is_never_lowered(tmp_path) -> None:
    path = floor_path(tmp_path, "tiny")
    assert read_floor(path) is None
    for epoch, seq in [(0, 3), (0, 3), (1, 1), (1, 1)]:
        raise_floor(path, Floor(epoch, seq, "a" * 64))
    for epoch, seq in [(0, 9), (1, 0), (0, 3)]:
        with pytest.raises(RolledBack, match="already accepted epoch 1, seq 1"):
            raise_floor(path, Floor(epoch, seq, "a" * 64))
    assert read_floor(path) == Floor(1, 1, "a" * 64)


def test_of_two_runs_with_forks_of_one_channel_only_the_first_becomes_ready(pair: Sealed, policy: TrustPolicy) -> None:
    path = floor_path(policy.state_dir, "tiny")
    first = load_channel(pair.channel, policy, NOW).channel
    publish(pair, not_after="2036-02-02T00:00:00Z")
    second = load_channel(pair.channel, policy, NOW).channel
    raise_floor(path, first.floor)
    with pytest.raises(RolledBack, match="differs"):
        raise_floor(path, second.floor)
    assert read_floor(path) == first.floor


def test_a_link_laid_where_the_floor_is_locked_empties_nothing(tmp_path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "tiny.floor.lock").symlink_to(tmp_path / "precious")
    raise_floor(floor_path(tmp_path, "tiny"), Floor(0, 1, "a" * 64))
    assert (tmp_path / "precious").read_text() == "precious"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"epoch": 0, "seq": 0, "digest": "x"}', b"\xff"])
def test_a_damaged_floor_is_not_forgotten(pair: Sealed, policy: TrustPolicy, damage: bytes) -> None:
    path = floor_path(policy.state_dir, "tiny")
    path.parent.mkdir(parents=True)
    path.write_bytes(damage)
    with pytest.raises(FileAccess, match="guards against rollback"):
        load_channel(pair.channel, policy, NOW)


@given(noise=st.one_of(st.binary(max_size=200), st.text(alphabet='[]{}":,0a', max_size=200).map(str.encode)))
def test_a_channel_signature_of_anything_else_is_refused(template: Sealed, noise: bytes) -> None:
    with pytest.raises(Untrusted):
        read_channel(noise, load_policy(template.trust))
