"""What docs/operations.md says of a node without a network, and of a lost one, comes out as it says."""

import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from depots import Signer

from pipeline.bundle.floor import floor_path, raise_floor, read_floor
from pipeline.bundle.policy import KeyUse, load_policy
from pipeline.bundle.public_key import public_pem
from pipeline.cli import main
from pipeline.commands.build.publishing import publish_release
from pipeline.core.clock import to_text, utc_now
from pipeline.core.errors import Expired, RolledBack

HOUR = timedelta(hours=1)


def policy(signer: Signer, node: Path, more: str = "") -> Path:
    """Write a node's trust policy, as whoever runs the fleet hands it out."""
    node.mkdir(exist_ok=True)
    pem = "".join(f"      {line}\n" for line in public_pem(signer.key.public_key()).splitlines())
    text = f"schema_version: 1\nkeys:\n  main:\n    uses: [{', '.join(KeyUse)}]\n    public_key: |\n{pem}"
    (node / "trust.yaml").write_text(f"{text}models: [tiny]\nstate_dir: state\n{more}")
    return node / "trust.yaml"


@pytest.fixture
def publish(signer: Signer, tmp_path: Path) -> Callable[..., Path]:
    """Publish a release that ends so much later than now."""

    def published(seq: int, ends_in: timedelta = HOUR, depot: str = "depot") -> Path:
        now = utc_now()
        dates = {
            "issued_at": to_text(min(now, now + ends_in) - HOUR),
            "refresh_by": to_text(now + ends_in),
            "not_after": to_text(now + ends_in),
        }
        release = signer.release(seq, b"one model, whatever its channel" * 500, **dates)
        publish_release(str(tmp_path / depot), release.channel_sig, release.bundles, signer.key, signer.policy())
        return tmp_path / depot

    return published


def stage(depot: Path, trust: Path) -> int:
    return main(["stage", f"{depot}/channels/tiny", "--trust", str(trust), "--to", str(trust.parent / "staged")])


def test_a_release_is_carried_by_hand_and_no_chunk_moves_where_only_the_channel_was_renewed(
    signer: Signer, publish: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = policy(signer, tmp_path / "node")
    assert stage(publish(7), trust) == 0
    capsys.readouterr()
    depot = publish(8)
    stick = shutil.copytree(depot, tmp_path / "stick" / "depot")
    shutil.rmtree(depot)
    assert stage(stick, trust) == 0
    told = capsys.readouterr().out
    assert "seq 8" in told
    assert re.search(r"moved .*, 0 chunks", told)


def test_past_the_end_the_policy_decides_for_staging_too(
    signer: Signer, publish: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depot = publish(7, ends_in=-HOUR)
    assert stage(depot, policy(signer, tmp_path / "node")) == Expired.exit_code
    assert "fetch a renewed one" in capsys.readouterr().err
    assert stage(depot, policy(signer, tmp_path / "node", "expired: serve-and-alarm\n")) == 0


def test_a_new_node_needs_the_policy_and_the_depot_alone(
    signer: Signer, publish: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trust = policy(signer, tmp_path / "new")
    assert stage(publish(9), trust) == 0
    assert "epoch 0, seq 9" in capsys.readouterr().out  # what is to be compared with what was promoted
    assert read_floor(floor_path(load_policy(trust).state_dir, "tiny")) is None


def test_with_the_old_nodes_floor_a_depot_that_is_kept_back_is_refused(
    signer: Signer, publish: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (load_policy(policy(signer, tmp_path / name)) for name in ("old", "new"))
    kept_back = publish(7, depot="kept-back")
    channel = signer.release(9, b"newer").channel
    raise_floor(floor_path(old.state_dir, "tiny"), channel.floor)  # what serving seq 9 left there
    assert stage(kept_back, tmp_path / "new" / "trust.yaml") == 0
    shutil.rmtree(tmp_path / "new" / "staged")
    new.state_dir.mkdir(parents=True)
    shutil.copy(floor_path(old.state_dir, "tiny"), new.state_dir / "tiny.floor.json")
    assert stage(kept_back, tmp_path / "new" / "trust.yaml") == RolledBack.exit_code
    assert "already accepted epoch 0, seq 9" in capsys.readouterr().err
