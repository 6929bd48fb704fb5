"""``hotspare stage --watch``: what is wrong with its command line ends it before it begins to follow."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.cli import main
from pipeline.commands.build.keys import policy_text
from pipeline.core.errors import HotspareError, KeyFileError, TrustPolicyError, UsageError


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    (tmp_path / "trust.yaml").write_text(policy_text(key, ("tiny",)))
    return tmp_path / "trust.yaml"


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        (["--swap", "http://127.0.0.1:1"], UsageError, "--swap goes with --watch"),
        (["--watch", "--every", "0"], UsageError, "--every is a number of seconds"),
        (["--watch", "--every", "nan"], UsageError, "--every is a number of seconds"),
        (["--watch", "--every", "inf"], UsageError, "--every is a number of seconds"),
        (["--watch", "--swap", "http://127.0.0.1:1"], KeyFileError, "admin token"),
        (["--watch", "--swap", "127.0.0.1:1", "--token-file", "token"], UsageError, "no http or https address"),
    ],
)
def test_a_wrong_command_line_is_refused(
    trust: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    more: list[str], error: type[HotspareError], said: str,
) -> None:  # fmt: skip
    monkeypatch.delenv("HOTSPARE_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    Path("token").write_text("secret")
    place = ["stage", "depot/channels/tiny", "--trust", str(trust), "--to", "staged"]
    assert main([*place, *more]) == error.exit_code
    told = capsys.readouterr()
    assert said in told.err
    assert "secret" not in told.err + told.out


def test_a_policy_that_is_not_there_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["stage", "depot/channels/tiny", "--trust", str(tmp_path / "none.yaml"), "--to", str(tmp_path)]
    assert main([*place, "--watch"]) == TrustPolicyError.exit_code
    assert "none.yaml" in capsys.readouterr().err
