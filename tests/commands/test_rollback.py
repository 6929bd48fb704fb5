"""``rollback``, ``revoke``, ``reconcile``, ``status`` on bundles that ``pack`` really signed; a registry in memory."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from toy_project import make_releases

from pipeline.bundle.channel import CHANNEL_SIGNATURE
from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.cli import main
from pipeline.commands.build import project as project_of_commands
from pipeline.commands.build import register
from pipeline.commands.build import status as status_command
from pipeline.commands.build.reissuing import require_sound
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.errors import KeyFileError, NotAccepted, PromotionRefused, Unreachable, UsageError
from pipeline.core.names import Role
from pipeline.registry.memory import MemoryRegistry
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import load_private_key

pytestmark = pytest.mark.slow
RELEASES = 3


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project per release, all of one key; the first is a whole one."""
    root = tmp_path_factory.mktemp("packed")
    make_releases(root, "toy", RELEASES)
    return root


@pytest.fixture
def project(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a packed project."""
    root = tmp_path / "project"
    shutil.copytree(packed / "0", root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOTSPARE_PERSON", "ada@example.org")
    Path("mlflow/store").mkdir(exist_ok=True)
    Path("mlflow/store/mlflow.db").touch()
    return root


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> MemoryRegistry:
    made = MemoryRegistry()
    for module in (register, project_of_commands, status_command):
        monkeypatch.setattr(module, "open_registry", lambda _: made)
    return made


@pytest.fixture
def promoted(project: Path, registry: MemoryRegistry, packed: Path) -> MemoryRegistry:
    """Releases 0, 1 and 2, registered and promoted one after the other as seqs 1, 2 and 3."""
    for number in range(RELEASES):
        _build(packed, number)
        assert main(["register"]) == 0
    return registry


def _build(packed: Path, number: int) -> None:
    """Let the working folder hold the build of a release."""
    for part in ("artifacts/bundles", "artifacts/selections", "artifacts/scorecards", "recipes"):
        shutil.rmtree(part)
        shutil.copytree(packed / str(number) / part, part)


def _ids(packed: Path, number: int) -> dict[str, str]:
    policy = load_policy(layout.TRUST_POLICY)
    place = packed / str(number)
    return {
        str(role): verify_bundle(place / layout.bundle_dir("toy", role), policy, utc_now()).bundle_id for role in Role
    }


def _channel() -> Any:
    return load_channel(layout.channel_dir("toy"), load_policy(layout.TRUST_POLICY), utc_now()).channel


def _named() -> tuple[int, dict[str, str]]:
    channel = _channel()
    return channel.seq, {str(role): channel.ref(role).bundle_id for role in Role}


def _aliased(registry: MemoryRegistry) -> dict[str, str]:
    versions = {version.number: version.bundle_id for version in registry.versions("toy")}
    return {alias: versions[number] for alias, number in registry.aliases("toy").items()}


def _json(capsys: pytest.CaptureFixture[str], *command: str) -> Any:
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def _policy(**changes: object) -> None:
    path = Path("mlflow/promotion.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_rolling_back_signs_a_higher_number_for_the_pair_before(promoted: MemoryRegistry, packed: Path) -> None:
    assert main(["rollback", "toy"]) == 0
    assert _named() == (4, _ids(packed, 1))
    assert _channel().rollback_of == 3
    newest, before = _ids(packed, 2)["primary"], _ids(packed, 1)
    assert _aliased(promoted) == {**before, "previous_primary": newest, "candidate": newest}


def test_rolling_back_twice_goes_on_to_the_one_before_that(promoted: MemoryRegistry, packed: Path) -> None:
    main(["rollback", "toy"])
    assert main(["rollback", "toy"]) == 0
    assert _named() == (5, _ids(packed, 0))


def test_rolling_back_to_a_number_and_forward_again(promoted: MemoryRegistry, packed: Path) -> None:
    assert main(["rollback", "toy", "--to", "1"]) == 0
    assert _named() == (4, _ids(packed, 0))
    assert main(["rollback", "toy", "--to", "3"]) == 0
    assert _named() == (5, _ids(packed, 2))


def test_what_was_rolled_back_is_not_promoted_again_by_the_next_register_but_by_hand(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["rollback", "toy"])
    told = _json(capsys, "register")
    assert {line["happened"] for line in told} == {"known; was taken back; `hotspare promote toy` brings it again"}
    assert _named() == (4, _ids(packed, 1))
    assert main(["promote", "toy"]) == 0
    assert _named() == (5, _ids(packed, 2))
    assert main(["register"]) == 0
    assert _named() == (5, _ids(packed, 2))


def test_a_number_that_is_not_known_is_refused_with_those_that_are(
    promoted: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "toy", "--to", "9"]) == PromotionRefused.exit_code
    told = capsys.readouterr().err
    assert "no channel seq 9 before the one in force, seq 3" in told
    assert "hotspare rollback toy --to 2" in told
    assert "hotspare rollback toy --to 1" in told


def test_there_is_no_way_back_from_the_first_promotion(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rollback", "toy"]) == PromotionRefused.exit_code
    assert "never promoted" in capsys.readouterr().err
    main(["register"])
    assert main(["rollback", "toy"]) == PromotionRefused.exit_code
    assert "none older is known" in capsys.readouterr().err


def test_a_revoked_bundle_is_not_gone_back_to(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = _ids(packed, 1)["backup"]
    assert main(["revoke", "toy", "--bundle", bad]) == 0
    assert (_channel().seq, _channel().revoked.bundles) == (4, (bad,))
    assert main(["rollback", "toy", "--to", "2"]) == PromotionRefused.exit_code
    assert f"its backup {bad[:12]} is revoked" in capsys.readouterr().err
    assert main(["rollback", "toy"]) == 0
    assert _named() == (5, _ids(packed, 0))
    assert _channel().revoked.bundles == (bad,)


def test_what_is_in_force_is_not_revoked_under_the_nodes_feet(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["revoke", "toy", "--bundle", _ids(packed, 2)["primary"]]) == PromotionRefused.exit_code
    assert "primary in force, seq 3; run `hotspare rollback toy`" in capsys.readouterr().err
    assert main(["revoke", "toy", "--bundle", "abc"]) == UsageError.exit_code
    assert main(["revoke", "toy"]) == UsageError.exit_code
    assert _channel().seq == 3


def test_a_copy_that_was_damaged_in_the_registry_is_not_gone_back_to(promoted: MemoryRegistry, packed: Path) -> None:
    number = next(v.number for v in promoted.versions("toy") if v.bundle_id == _ids(packed, 1)["primary"])
    promoted.models["toy"].bundles[number]["payload/LICENSE"] += b"!"
    assert main(["rollback", "toy"]) == 30
    assert _channel().seq == 3


def test_a_copy_that_was_exchanged_for_another_signed_bundle_is_not_gone_back_to(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted, other = (_number(promoted, _ids(packed, release)["primary"]) for release in (1, 0))
    promoted.models["toy"].bundles[wanted] = promoted.models["toy"].bundles[other]
    assert main(["rollback", "toy"]) == NotAccepted.exit_code
    assert f"Version {wanted} of toy" in capsys.readouterr().err
    assert _channel().seq == 3


def test_an_exchanged_copy_does_not_hide_which_key_signed_what_is_in_force(
    promoted: MemoryRegistry, packed: Path
) -> None:
    in_force, other = (_number(promoted, _ids(packed, release)["primary"]) for release in (2, 0))
    promoted.models["toy"].bundles[in_force] = promoted.models["toy"].bundles[other]
    _build(packed, 1)
    assert main(["revoke", "toy", "--key", "0" * 64]) == NotAccepted.exit_code
    assert _channel().seq == 3


def _number(registry: MemoryRegistry, bundle_id: str) -> int:
    return next(version.number for version in registry.versions("toy") if version.bundle_id == bundle_id)


def test_a_tag_steers_no_terminal(promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    promoted.tag_version("toy", _number(promoted, _ids(packed, 1)["primary"]), "candidate", "\x1b[2J")
    assert main(["rollback", "toy", "--dry-run"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_a_dry_run_shows_the_channel_and_the_aliases_now_and_then_and_changes_nothing(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes(), promoted.model_tags("toy")
    told = _json(capsys, "rollback", "toy", "--dry-run")
    changes = {one["what"]: (one["now"], one["then"]) for one in told["changes"]}
    assert changes["channel seq"] == ("3", "4")
    assert changes["channel rollback_of"] == ("-", "3")
    assert changes["channel primary"][1].startswith(_ids(packed, 1)["primary"][:12])
    assert changes["alias primary"] == ("version 5", "version 3")
    assert changes["alias candidate"] == ("-", "version 5")
    assert ((layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes(), promoted.model_tags("toy")) == before
    assert main(["rollback", "toy", "--dry-run"]) == 0
    assert "would be signed" in capsys.readouterr().out


def test_a_dry_run_of_promote_shows_what_would_change(
    project: Path, registry: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["register"])
    _policy(mode="manual")
    _build(packed, 1)
    main(["register"])
    told = _json(capsys, "promote", "toy", "--dry-run")
    changes = {one["what"]: (one["now"], one["then"]) for one in told["changes"]}
    assert changes["alias candidate"] == ("version 3", "-")
    assert changes["alias previous_primary"] == ("-", "version 1")
    assert (told["seq"], _channel().seq) == (2, 1)
    assert main(["promote", "toy", "--dry-run"]) == 0
    assert "alias candidate" in capsys.readouterr().out


def test_in_a_freeze_nothing_is_promoted_a_rollback_is_and_a_channel_is_renewed(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    always = {"since": "2020-01-01T00:00:00Z", "until": "2990-01-01T00:00:00Z", "why": "for ever"}
    main(["rollback", "toy"])
    _policy(freeze=[always])
    assert main(["promote", "toy"]) == PromotionRefused.exit_code
    assert "freeze: for ever; it ends at 2990-01-01T00:00:00Z" in capsys.readouterr().err
    assert _channel().seq == 4
    assert main(["rollback", "toy"]) == 0
    assert main(["promote", "toy", "--renew"]) == 0
    assert _named() == (6, _ids(packed, 0))


def test_who_built_does_not_promote_where_duties_are_separate(
    project: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _policy(mode="manual", gates={"separate_duties": True})
    assert main(["register"]) == 0
    assert main(["promote", "toy"]) == PromotionRefused.exit_code
    assert "ada@example.org built it, ada@example.org promotes it; have somebody else" in capsys.readouterr().err
    monkeypatch.setenv("HOTSPARE_PERSON", "bob@example.org")
    main(["register"])
    assert main(["promote", "toy"]) == 0, "registering again does not make one a builder"
    assert main(["promote", "toy", "--approver", "Ada@example.org", "--dry-run"]) == PromotionRefused.exit_code


def test_aliases_moved_by_hand_are_told_and_put_right(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    promoted.set_alias("toy", "primary", 1)
    promoted.remove_alias("toy", "backup")
    before = dict(promoted.aliases("toy"))
    told = _json(capsys, "reconcile", "--dry-run")
    assert {line["part"] for line in told["drift"]} == {"alias primary", "alias backup"}
    assert {line["fate"] for line in told["drift"]} == {"would be mended"}
    assert promoted.aliases("toy") == before
    assert main(["reconcile", "toy"]) == 0
    assert "names version 1, it should name version 5 by channel seq 3" in " ".join(capsys.readouterr().out.split())
    assert _aliased(promoted) == {**_ids(packed, 2), "previous_primary": _ids(packed, 1)["primary"]}
    assert main(["reconcile"]) == 0
    assert "agree about toy" in capsys.readouterr().out


def test_a_lost_folder_and_then_a_lost_registry_are_recovered(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes()
    shutil.rmtree("artifacts/channels")
    assert main(["reconcile"]) == 0
    assert (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes() == before
    promoted.models.clear()
    promoted.runs.clear()
    assert main(["register"]) == 0
    assert _named() == (3, _ids(packed, 2))
    assert _aliased(promoted) == _ids(packed, 2)
    assert _json(capsys, "reconcile", "--dry-run")["drift"] == []


def test_a_lost_version_is_told_with_what_to_do(promoted: MemoryRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    promoted.models["toy"].versions.pop()
    assert main(["reconcile"]) == PromotionRefused.exit_code
    assert "no version holds the backup" in capsys.readouterr().err


def test_a_channel_of_a_strange_key_in_the_folder_is_nothing_to_mend_from(
    promoted: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    place = layout.channel_dir("toy") / CHANNEL_SIGNATURE
    place.write_bytes(b"{}")
    assert main(["reconcile"]) == PromotionRefused.exit_code
    assert "move the folder away" in capsys.readouterr().err
    shutil.rmtree(layout.channel_dir("toy"))
    assert main(["reconcile"]) == 0
    assert _channel().seq == 3


def test_a_promotion_is_published_and_what_the_depot_missed_is_published_by_reconcile(
    project: Path, registry: MemoryRegistry, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["register"])
    depot = tmp_path / "depot"
    _policy(depot=str(depot))
    _build(packed, 1)
    assert main(["register"]) == 0
    there = depot / "channels/toy/channel.sig"
    assert there.read_bytes() == (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes()
    there.unlink()
    told = _json(capsys, "reconcile", "toy")
    assert [(line["part"], line["fate"]) for line in told["drift"]] == [("depot", "mended")]
    assert main(["rollback", "toy"]) == 0, "the older bundles come from the registry"
    assert there.read_bytes() == (layout.channel_dir("toy") / CHANNEL_SIGNATURE).read_bytes()
    assert _named() == (3, _ids(packed, 0))


def test_after_folder_and_registry_are_lost_the_depot_knows_the_number(
    project: Path, registry: MemoryRegistry, packed: Path, tmp_path: Path
) -> None:
    _policy(depot=str(tmp_path / "depot"))
    for number in range(RELEASES):
        _build(packed, number)
        main(["register"])
    registry.models.clear()
    registry.runs.clear()
    shutil.rmtree("artifacts/channels")
    _build(packed, 1)
    assert main(["register"]) == 0
    assert _named() == (4, _ids(packed, 1))
    assert main(["reconcile"]) == 0
    assert _named() == (4, _ids(packed, 1))


def test_a_depot_that_cannot_be_written_leaves_the_promotion_in_force_and_says_what_to_run(
    project: Path, registry: MemoryRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "depot").write_text("a file, not a folder")
    _policy(depot=str(tmp_path / "depot"))
    assert main(["register"]) != 0
    assert not layout.channel_dir("toy").exists(), "what cannot be asked cannot be kept in step"
    (tmp_path / "depot").unlink()
    (tmp_path / "depot").mkdir(mode=0o755)
    (tmp_path / "depot" / "chunks").write_text("in the way")
    assert main(["register"]) == Unreachable.exit_code
    assert "hotspare reconcile toy" in capsys.readouterr().err
    assert _channel().seq == 1
    (tmp_path / "depot" / "chunks").unlink()
    assert main(["reconcile", "toy"]) == 0
    assert (tmp_path / "depot/channels/toy/channel.sig").exists()


def _spoil(place: Path, attack: str) -> None:
    """Let whoever may write the depot put something else in the place of its channel."""
    texts = {
        "half of it": place.read_bytes()[:100],
        "more than a channel": b"x" * (2 << 20),
        "of a strange key": sign_channel(_channel(), ec.generate_private_key(ec.SECP256R1()))[1],
        "of another model": sign_channel(replace(_channel(), model="other", seq=99), load_private_key())[1],
    }
    place.write_bytes(texts[attack])


@pytest.mark.parametrize("attack", ["half of it", "more than a channel", "of a strange key", "of another model"])
def test_what_somebody_put_in_place_of_the_depots_channel_keeps_nobody_from_signing(
    promoted: MemoryRegistry, packed: Path, tmp_path: Path, attack: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _policy(depot=str(tmp_path / "depot"))
    main(["reconcile"])
    there = tmp_path / "depot/channels/toy/channel.sig"
    ours = layout.channel_dir("toy") / CHANNEL_SIGNATURE
    is_foreign = attack.startswith("of")
    signing = (
        ["rollback", "toy"], ["revoke", "toy", "--bundle", "0" * 64], ["promote", "toy", "--renew"],
        ["promote", "toy"], ["register"],
    )  # fmt: skip
    for number, command in enumerate(signing):
        _spoil(there, attack)
        capsys.readouterr()
        assert main(command) == (Unreachable.exit_code if is_foreign else 0), command
        assert _channel().seq == min(4 + number, 7)
        if is_foreign:
            assert "hotspare reconcile toy" in capsys.readouterr().err
        else:
            assert there.read_bytes() == ours.read_bytes()
    if is_foreign:
        assert main(["reconcile"]) == PromotionRefused.exit_code
        assert "hotspare reconcile toy --replace-depot" in " ".join(capsys.readouterr().err.split())
        assert there.read_bytes() != ours.read_bytes()
        assert main(["reconcile", "--replace-depot"]) == 0
    assert there.read_bytes() == ours.read_bytes()
    assert main(["reconcile"]) == 0


def test_a_chunk_that_was_damaged_where_it_lies_is_found_by_a_check_and_written_again(
    promoted: MemoryRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _policy(depot=str(tmp_path / "depot"))
    main(["reconcile"])
    chunk = max((tmp_path / "depot/chunks").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    whole = chunk.read_bytes()
    chunk.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert main(["reconcile"]) == 0
    assert chunk.read_bytes() != whole, "who only looks for what is lacking sees sizes"
    capsys.readouterr()
    assert main(["reconcile", "--check-depot", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["drift"]
    assert [(one["part"], one["fate"]) for one in told] == [("depot", "mended")]
    assert chunk.read_bytes() == whole
    assert main(["reconcile", "--check-depot", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["drift"] == []


def test_a_newer_channel_of_ours_in_the_depot_is_replaced_by_nobody(promoted: MemoryRegistry, tmp_path: Path) -> None:
    _policy(depot=str(tmp_path / "depot"))
    main(["reconcile"])
    there = tmp_path / "depot/channels/toy/channel.sig"
    newer = sign_channel(replace(_channel(), seq=9), load_private_key())[1]
    there.write_bytes(newer)
    assert main(["reconcile", "--replace-depot"]) == 0
    assert (there.read_bytes(), _channel().seq) == (newer, 9)


def test_a_key_that_was_unpinned_before_it_was_revoked_is_told_and_pinned_once_more(
    promoted: MemoryRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wrong order after a theft: nothing that the old key revoked is lost, and the sentences lead back."""
    _policy(depot=str(tmp_path / "depot"))
    bad, old = promoted.versions("toy")[0].bundle_id, _channel_key()
    assert main(["revoke", "toy", "--bundle", bad]) == 0
    main(["keys", "new", "artifacts/keys-next"])
    main(["keys", "pin", "artifacts/keys-next", "--trust", str(layout.TRUST_POLICY), "--name", "next"])
    layout.KEYS.rename("artifacts/keys-old")
    Path("artifacts/keys-next").rename(layout.KEYS)
    both = layout.TRUST_POLICY.read_text()
    _unpin("main")
    assert main(["pack", "toy"]) == 0
    shutil.move("artifacts/channels", "old-channels")
    for command in (["revoke", "toy", "--key", old], ["promote", "toy"], ["register"], ["reconcile"]):
        capsys.readouterr()
        assert main(command) == PromotionRefused.exit_code, command
    assert "pin that key once more" in " ".join(capsys.readouterr().err.split())
    assert not Path("artifacts/channels").exists()
    layout.TRUST_POLICY.write_text(both)
    assert main(["reconcile"]) == 0
    assert main(["revoke", "toy", "--key", old]) == 0
    _unpin("main")
    assert main(["promote", "toy", "--renew"]) == 0
    assert (_channel().revoked.bundles, _channel().revoked.keys) == ((bad,), (old,))
    assert main(["reconcile"]) == 0


def _unpin(name: str) -> None:
    policy = yaml.safe_load(layout.TRUST_POLICY.read_text())
    del policy["keys"][name]
    layout.TRUST_POLICY.write_text(yaml.safe_dump(policy))


def test_status_tells_who_has_what_and_an_unreachable_part_is_a_row(
    promoted: MemoryRegistry, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = {
        row["part"]: row
        for row in _json(capsys, "status", "toy", "--depot", str(tmp_path / "depot"), "--node", "http://127.0.0.1:1")
    }
    assert rows["primary"]["holds"] == f"version 5, dense.f32, {_ids(packed, 2)['primary'][:12]}"
    assert rows["previous_primary"]["holds"].startswith("version 3,")
    assert (rows["channel"]["seq"], rows["channel"]["lag_versions"]) == (3, 0)
    assert rows[f"depot {tmp_path / 'depot'}"]["lag_versions"] == 3
    assert rows["node http://127.0.0.1:1"]["reachable"] is False
    assert "agreement" not in rows
    promoted.set_alias("toy", "primary", 1)
    assert main(["status"]) == 0
    assert "1 disagreement(s), first: alias primary" in capsys.readouterr().out


def test_status_without_a_registry_shows_the_channel(
    promoted: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def down(_: Path) -> MemoryRegistry:
        raise Unreachable("MLflow at http://x does not answer.")

    monkeypatch.setattr(status_command, "open_registry", down)
    rows = {row["part"]: row for row in _json(capsys, "status")}
    assert rows["registry"]["reachable"] is False
    assert rows["channel"]["seq"] == 3


def test_status_before_the_first_register_creates_no_store(
    project: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mlflow/store/mlflow.db").unlink()
    (told, channel) = _json(capsys, "status")
    assert (told["part"], told["reachable"]) == ("registry", False)
    assert channel["holds"] == "none in this folder"
    assert not Path("mlflow/store/mlflow.db").exists()


def test_keys_are_rotated_and_the_old_one_revoked(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = _json(capsys, "keys", "new", "artifacts/keys-next")
    policy = yaml.safe_load(layout.TRUST_POLICY.read_text())
    policy["keys"]["next"] = {
        "public_key": Path("artifacts/keys-next/signing.pub").read_text(), "uses": ["bundle", "channel", "drill"]
    }  # fmt: skip
    layout.TRUST_POLICY.write_text(yaml.safe_dump(policy))
    layout.KEYS.rename("artifacts/keys-old")
    Path("artifacts/keys-next").rename(layout.KEYS)
    old = _channel_key()
    assert main(["revoke", "toy", "--key", old]) == PromotionRefused.exit_code
    assert "signed the primary in force" in capsys.readouterr().err
    assert main(["pack", "toy"]) == 0
    assert main(["revoke", "toy", "--key", told["hint"]]) != 0
    assert main(["revoke", "toy", "--key", old]) == 0
    assert (_channel().seq, _channel().revoked.keys, _channel_key()) == (4, (old,), told["hint"])
    assert _named()[1] == _ids(packed, 2), "the same payload is the same bundle, whoever signed it"
    assert main(["rollback", "toy", "--to", "2"]) == PromotionRefused.exit_code
    assert "that signed its primary is revoked" in capsys.readouterr().err
    layout.KEYS.rename("artifacts/keys-next")
    Path("artifacts/keys-old").rename(layout.KEYS)
    assert main(["promote", "toy", "--renew"]) == KeyFileError.exit_code
    assert load_private_key() is not None


def test_a_copy_that_a_revoked_key_signed_is_replaced_as_the_refusal_says(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder that renews need not be the one that packed."""
    old = _channel_key()
    _rotate()
    assert main(["revoke", "toy", "--key", old]) == 0
    shutil.copytree("artifacts/bundles", "packed-anew")
    _build(packed, 1)
    with pytest.raises(PromotionRefused, match=r"pack that build .*delete its version in MLflow, and register it"):
        _require_sound()
    for bundle_id in _ids(packed, 2).values():  # as after deleting them
        promoted.tag_version("toy", _number(promoted, bundle_id), "bundle_id", "")
    _build(packed, 2)
    shutil.rmtree("artifacts/bundles")
    shutil.move("packed-anew", "artifacts/bundles")
    assert main(["register"]) == 0
    _build(packed, 1)
    _require_sound()


def _require_sound() -> None:
    with project_of_commands.opened_project() as project:
        seen = project.look("toy")
        assert seen.in_force is not None
        require_sound(project, seen, seen.in_force, "it is not renewed")


def _rotate() -> None:
    main(["keys", "new", "artifacts/keys-next"])
    main(["keys", "pin", "artifacts/keys-next", "--trust", str(layout.TRUST_POLICY), "--name", "next"])
    shutil.rmtree(layout.KEYS)
    Path("artifacts/keys-next").rename(layout.KEYS)
    assert main(["pack", "toy"]) == 0


def test_bundles_of_a_revoked_key_are_promoted_by_nobody(
    promoted: MemoryRegistry, packed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nodes refuse them: a channel that names them would leave those that start with nothing to load."""
    old = _channel_key()
    _rotate()
    assert main(["revoke", "toy", "--key", old]) == 0
    _build(packed, 1)
    for command in (["promote", "toy"], ["register"]):
        capsys.readouterr()
        assert main(command) == PromotionRefused.exit_code, command
        assert f"the key {old[:12]} that signed it is revoked" in " ".join(capsys.readouterr().err.split())
    for number in (0, 1):
        promoted.set_alias("toy", "primary", _number(promoted, _ids(packed, number)["primary"]))
        assert main(["follow", "toy", "--once"]) == PromotionRefused.exit_code
    assert _named() == (4, _ids(packed, 2))


def _channel_key() -> str:
    policy = load_policy(layout.TRUST_POLICY)
    return load_channel(layout.channel_dir("toy"), policy, utc_now()).key_hint
