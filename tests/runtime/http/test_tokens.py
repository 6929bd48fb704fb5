"""Tokens: only the right one opens, only its hash is kept, every entry is compared."""

import hmac
import json
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline.core.errors import KeyFileError
from pipeline.runtime.http import tokens
from pipeline.runtime.http.admission import FOR_ADMIN, FOR_INFERENCE, host_admitted
from pipeline.runtime.http.tokens import Tokens, TokenUse, add_token, load_tokens, new_token


def test_a_token_opens_what_it_is_for(tmp_path):
    path = tmp_path / "tokens.json"
    admin = add_token(path, "ops", TokenUse.ADMIN)
    inference = add_token(path, "shop", TokenUse.INFERENCE)
    kept = load_tokens(path)
    opened = [[kept.admit(t.encode(), uses) for uses in (FOR_ADMIN, FOR_INFERENCE)] for t in (admin, inference)]
    assert opened == [[True, True], [False, True]]
    for wrong in (b"", b"x", admin.encode()[:-1], admin.encode() + b"x", kept.tokens[0].sha256.encode(), b"\xff" * 99):
        assert not kept.admit(wrong, FOR_INFERENCE)


def test_the_file_holds_hashes_only_and_is_its_owner_s(tmp_path):
    path = tmp_path / "tokens.json"
    token = add_token(path, "ops", TokenUse.ADMIN)
    text = path.read_text()
    assert token not in text and token.removeprefix("hotspare_admin_") not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(token) >= 43 + len("hotspare_admin_")  # 256 bits


def test_tokens_that_are_added_at_once_are_all_kept(tmp_path):
    path, names = tmp_path / "tokens.json", [f"t{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as together:
        list(together.map(lambda name: add_token(path, name, TokenUse.INFERENCE), names))
    assert sorted(entry.name for entry in load_tokens(path).tokens) == sorted(names)


def test_every_entry_is_compared_even_after_one_that_fits(monkeypatch):
    made = [new_token(f"t{index}", TokenUse.ADMIN) for index in range(5)]
    kept = Tokens(tokens=tuple(entry for _, entry in made))
    compared = []
    monkeypatch.setattr(tokens.hmac, "compare_digest", lambda a, b: compared.append(a) or a == b)
    for token in (made[0][0], made[4][0], "wrong"):
        compared.clear()
        kept.admit(token.encode(), FOR_ADMIN)
        assert compared == [entry.sha256 for _, entry in made]
    assert hmac is tokens.hmac


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"sha256": "0" * 63}, "sha256"),
        ({"sha256": "A" * 64}, "sha256"),
        ({"use": "root"}, "use"),
        ({"token": "plain"}, "unknown key"),
        ({"name": "../x"}, "name"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, change, told):
    path = tmp_path / "tokens.json"
    add_token(path, "ops", TokenUse.ADMIN)
    content = json.loads(path.read_text())
    content["tokens"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(KeyFileError, match=told):
        load_tokens(path)


def test_a_name_stands_once(tmp_path):
    path = tmp_path / "tokens.json"
    add_token(path, "ops", TokenUse.ADMIN)
    with pytest.raises(KeyFileError, match="already has"):
        add_token(path, "ops", TokenUse.INFERENCE)
    with pytest.raises(KeyFileError, match="hotspare token"):
        load_tokens(tmp_path / "none.json")
    with pytest.raises(KeyFileError, match="name"):
        add_token(tmp_path / "new.json", "Ops Team", TokenUse.ADMIN)
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize(
    "host",
    [None, b"localhost", b"LOCALHOST:8000", b"127.0.0.1:8000", b"[::1]:8000", b"[::1]", b"10.0.0.7", b"node.example:1"],
)
def test_own_names_and_addresses_are_admitted(host):
    assert host_admitted(host, frozenset({b"localhost", b"node.example"}))


@pytest.mark.parametrize(
    "host",
    [b"evil.example", b"evil.example:8000", b"localhost.evil.example", b"", b"127.0.0.1.evil.example", b"\xff", b":80"],
)
def test_another_name_that_points_here_is_not(host):
    assert not host_admitted(host, frozenset({b"localhost", b"node.example"}))


def test_a_request_under_another_name_reaches_nothing(client):
    for path in ("/", "/status.json", "/v2/health/live", "/v2/models/tiny/infer"):
        assert client.ask("POST", path, headers={"host": "evil.example"}).status == 421
