"""``contents.sig`` is read strictly, and only where a key pinned for bundles signed it."""

import base64
from dataclasses import replace
from pathlib import Path

import pytest
from depots import Signer
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bundle.policy import KeyUse
from pipeline.core.canonical import canonical_json
from pipeline.core.errors import Malformed, SignatureInvalid
from pipeline.core.files import is_safe_relative
from pipeline.core.schema import plain
from pipeline.delivery.contents import (
    CONTENTS_BYTES_MAX,
    CONTENTS_TYPE,
    Contents,
    check_contents,
    file_contents,
    read_contents,
)
from pipeline.seal.envelope import sign_envelope

SIGNER = Signer(Path("nowhere"))
ID = "a" * 64

digests = st.binary(min_size=32, max_size=32).map(bytes.hex)
chunk_lists = st.lists(st.tuples(digests, st.integers(1, 1 << 14)), max_size=5)
names = st.text("aZ09._-", min_size=1, max_size=5)
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(is_safe_relative)
all_contents = st.dictionaries(paths, chunk_lists, min_size=1, max_size=5).map(
    lambda files: Contents(1, ID, tuple(file_contents(path, 12, files[path]) for path in sorted(files)))
)
ONE = Contents(1, ID, (file_contents("model/model.onnx", 12, [("b" * 64, 5000), ("c" * 64, 7)]),))


def signed(value: object, kind: str = CONTENTS_TYPE, signer: Signer = SIGNER) -> bytes:
    return sign_envelope(canonical_json(value), kind, signer.key)


@given(all_contents)
def test_contents_come_back_as_they_were_signed(contents: Contents) -> None:
    data = sign_envelope(contents.to_bytes(), CONTENTS_TYPE, SIGNER.key)
    assert read_contents(data, SIGNER.policy(), "contents.sig")[0] == contents


def test_pieces_say_where_each_chunk_belongs() -> None:
    assert [(one.sha256[0], one.offset, one.size) for one in ONE.files[0].pieces] == [("b", 0, 5000), ("c", 5000, 7)]


WHOLE = signed(plain(ONE))  # once: signatures differ in length


@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_refused(at: int, flip: int) -> None:
    bad = WHOLE[:at] + bytes([WHOLE[at] ^ flip]) + WHOLE[at + 1 :]
    with pytest.raises((Malformed, SignatureInvalid)):
        read_contents(bad, SIGNER.policy(), "contents.sig")


def test_a_key_for_other_uses_signs_no_contents() -> None:
    policy = SIGNER.policy(uses=(KeyUse.CHANNEL, KeyUse.DRILL))
    with pytest.raises(SignatureInvalid):
        read_contents(signed(plain(ONE)), policy, "contents.sig")


def test_a_signature_over_something_else_of_the_same_key_is_no_contents() -> None:
    with pytest.raises(Malformed):
        read_contents(signed(plain(ONE), "application/vnd.in-toto+json"), SIGNER.policy(), "contents.sig")


def _file(**changes: object) -> dict[str, object]:
    return {"schema_version": 1, "bundle_id": ID, "files": [{**plain(ONE.files[0]), **changes}]}


DIGEST = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "value",
    [
        _file(path="../../etc/passwd"),
        _file(path="/etc/passwd"),
        _file(path="a//b"),
        _file(path="a\\b"),
        _file(path="\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace")),
        _file(sizes=[5000]),
        _file(sizes=[5000, 0]),
        _file(sizes=[5000, -7]),
        _file(sizes=[5000, 7.0]),
        _file(sizes=[5000, True]),
        _file(sizes=[16385, 7]),
        _file(average_bits=11),
        _file(average_bits=21),
        _file(digests="?"),
        _file(digests=DIGEST),
        _file(extra=1),
        {"schema_version": 2, "bundle_id": ID, "files": [plain(ONE.files[0])]},
        {"schema_version": 1, "bundle_id": "short", "files": [plain(ONE.files[0])]},
        {"schema_version": 1, "bundle_id": ID, "files": []},
        {"schema_version": 1, "bundle_id": ID, "files": [plain(ONE.files[0])] * 2},
        [],
        None,
    ],
)
def test_contents_of_another_form_are_refused_though_signed(value: object) -> None:
    with pytest.raises(Malformed):
        read_contents(signed(value), SIGNER.policy(), "contents.sig")


def test_signed_contents_in_another_byte_form_are_refused() -> None:
    data = sign_envelope(ONE.to_bytes() + b" ", CONTENTS_TYPE, SIGNER.key)
    with pytest.raises(Malformed):
        read_contents(data, SIGNER.policy(), "contents.sig")


@pytest.mark.parametrize(
    ("bundle_id", "files", "size"),
    [
        ("f" * 64, {"model/model.onnx": ""}, 5007),
        (ID, {"model/model.onnx": "", "LICENSE": ""}, 5007),
        (ID, {"model/other.onnx": ""}, 5007),
        (ID, {"model/model.onnx": ""}, 5008),
    ],
)
def test_contents_of_another_bundle_are_refused(bundle_id: str, files: dict[str, str], size: int) -> None:
    with pytest.raises(Malformed):
        check_contents(ONE, bundle_id, files, size, "contents.sig")
    check_contents(ONE, ID, {"model/model.onnx": ""}, 5007, "contents.sig")


def test_the_largest_bundle_fits_the_cap() -> None:
    # 4 GiB at the smallest chunks that its average allows.
    smallest = [("d" * 64, 1 << 18)] * ((4 << 30) >> 18)
    whole = replace(ONE, files=(file_contents("model/model.tflite", 20, smallest),))
    assert len(sign_envelope(whole.to_bytes(), CONTENTS_TYPE, SIGNER.key)) < CONTENTS_BYTES_MAX / 2
