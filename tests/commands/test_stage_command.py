"""``hotspare stage`` on the command line."""

import json
import shlex
from pathlib import Path

import pytest
from depots import Signer

from pipeline.bundle.public_key import public_pem
from pipeline.cli import main
from pipeline.commands.build.publishing import publish_release
from pipeline.core.errors import FileAccess, SignatureInvalid, Unreachable, UsageError


@pytest.fixture
def published(tmp_path: Path) -> tuple[str, Path]:
    """A depot with a release of the model tiny, and a policy that trusts its signer."""
    signer = Signer(tmp_path / "signer")
    release = signer.release(3, b"some model")
    publish_release(str(tmp_path / "depot"), release.channel_sig, release.bundles, signer.key, signer.policy())
    return f"{tmp_path}/depot/channels/tiny", _policy(tmp_path / "trust.yaml", signer)


def _policy(path: Path, signer: Signer) -> Path:
    pem = "".join(f"      {line}\n" for line in public_pem(signer.key.public_key()).splitlines())
    path.write_text(
        "schema_version: 1\nmodels: [tiny]\nstate_dir: state\n"
        f"keys:\n  one:\n    uses: [bundle, channel]\n    public_key: |\n{pem}"
    )
    return path


def test_it_says_what_is_staged_and_what_was_moved(
    published: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, trust = published
    told = []
    for _ in range(2):
        assert main(["stage", address, "--trust", str(trust), "--to", str(tmp_path / "node")]) == 0
        told.append(capsys.readouterr().out)
    assert "tiny, epoch 0, seq 3, issued 2026-05-31T12:00:00Z; new" in told[0]
    assert "; in place already" in told[1]
    assert f"--primary {tmp_path}/node/tiny/primary --standby {tmp_path}/node/tiny/backup" in told[0]


def test_the_line_that_serves_can_be_pasted_whatever_the_folders_are_called(
    published: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, trust = published
    place = tmp_path / "the node's"
    assert main(["stage", address, "--trust", str(trust), "--to", str(place)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert shlex.split(line)[2:] == [
        "hotspare", "serve", "--primary", f"{place}/tiny/primary", "--standby", f"{place}/tiny/backup",
        "--channel", f"{place}/tiny", "--trust", str(trust),
    ]  # fmt: skip


def test_machines_get_json(published: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    address, trust = published
    assert main(["stage", address, "--trust", str(trust), "--to", str(tmp_path / "node"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {
        "epoch", "seq", "bytes_total", "bytes_moved", "chunks_moved", "was_current", "issued_at",
    }  # fmt: skip
    assert (found["epoch"], found["seq"], found["was_current"]) == (0, 3, False)


def test_errors_are_one_sentence_with_their_exit_code(
    published: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, trust = published
    stranger = _policy(tmp_path / "other.yaml", Signer(tmp_path))
    cases = [
        (address, stranger, SignatureInvalid),
        (f"{tmp_path}/nothing/channels/tiny", trust, FileAccess),
        (f"{tmp_path}/depot", trust, UsageError),
        ("https://user:word@host/channels/tiny", trust, UsageError),
        ("http://a..b/channels/tiny", trust, UsageError),
        ("ftp://127.0.0.1:1/channels/tiny", trust, Unreachable),  # a store that is connected to right away
    ]
    for place, policy, error in cases:
        assert main(["stage", place, "--trust", str(policy), "--to", str(tmp_path / "node")]) == error.exit_code
        said = capsys.readouterr().err
        assert said.startswith("hotspare stage: ") and said.count("\n") == 1
        assert "word" not in said.replace("password", "")
    assert not (tmp_path / "node/tiny").exists()
