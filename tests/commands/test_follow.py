"""Following aliases with real signed bundles and a registry in memory: gates, refusals, replays, kills at each step."""

import copy
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from toy_project import make_project

from pipeline.bundle.channel import Revocations, Standing
from pipeline.bundle.policy import load_policy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.cli import main
from pipeline.commands.build import (
    channel_folder,
    follow,
    follower,
    follower_memory,
    follower_rebuild,
    follower_renewal,
    mending,
    project,
    promotion_effects,
    register,
    status,
)
from pipeline.commands.build.follower import Follower
from pipeline.commands.build.project import opened_project
from pipeline.commands.build.published import depot_channel
from pipeline.commands.build.replaying import Replayed, Took
from pipeline.core import layout
from pipeline.core.clock import to_text, utc_now
from pipeline.core.errors import DrillFailed, FileAccess, LagExceeded, PromotionRefused, ReplayFailed, Unreachable
from pipeline.core.names import Role
from pipeline.core.recipe import Recipe
from pipeline.registry.following import BUILT_TAG
from pipeline.registry.history import Held, history_tags
from pipeline.registry.lag import MOVED_TAG
from pipeline.registry.memory import MemoryRegistry
from pipeline.registry.webhook import AliasEvent
from pipeline.seal.channel_signing import sign_channel
from pipeline.seal.keys import PRIVATE_KEY, load_private_key

Move = Callable[[str, int], None]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two builds of one model under one key, to copy from."""
    root = tmp_path_factory.mktemp("packed")
    make_project(root / "one", {"toy": 1})
    shutil.copytree(root / "one", root / "two")
    make_project(root / "two", {"toy": 2})
    return root


@pytest.fixture(scope="module")
def promoted(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryRegistry]:
    """A project that promoted its first build and registered its second, which waits for a person, to copy from."""
    root, made = tmp_path_factory.mktemp("promoted") / "project", MemoryRegistry()
    shutil.copytree(packed / "one", root)
    with pytest.MonkeyPatch.context() as patch:
        _enter(patch, root, made)
        _policy(depot="depot")
        assert main(["register"]) == 0
        _policy(mode="manual")
        _pack(packed / "two")
        assert main(["register"]) == 0
        assert _pair_in_force() == _numbers(made, 1, 2)
    return root, made


def _enter(patch: pytest.MonkeyPatch, root: Path, made: MemoryRegistry) -> None:
    patch.chdir(root)
    patch.setattr(project, "open_registry", lambda _: made)
    patch.setattr(register, "open_registry", lambda _: made)
    for name in ("DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "DVC_ROOT"):
        patch.delenv(name, raising=False)


@pytest.fixture
def registry(promoted: tuple[Path, MemoryRegistry]) -> MemoryRegistry:
    return copy.deepcopy(promoted[1])


@pytest.fixture
def folder(
    promoted: tuple[Path, MemoryRegistry], tmp_path: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A copy of that project, as the working folder."""
    root = tmp_path / "project"
    shutil.copytree(promoted[0], root)
    _enter(monkeypatch, root, registry)
    return root


def _pack(build: Path) -> None:
    """Put another build in place of the packed one, as the stages would."""
    for part in ("candidates", "scorecards", "selections", "reports", "bundles"):
        shutil.rmtree(Path("artifacts") / part)
        shutil.copytree(build / "artifacts" / part, Path("artifacts") / part)
    shutil.copy(build / "recipes/models/toy.yaml", "recipes/models/toy.yaml")


def _policy(**changes: object) -> None:
    path = Path("mlflow/promotion.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def _channel() -> Any:
    return load_channel(layout.channel_dir("toy"), load_policy(layout.TRUST_POLICY), utc_now()).channel


def _pair_in_force() -> tuple[str, str]:
    channel = _channel()
    return channel.primary.bundle_id, channel.backup.bundle_id


def _numbers(registry: MemoryRegistry, *numbers: int) -> tuple[str, ...]:
    by_number = {version.number: version.bundle_id for version in registry.versions("toy")}
    return tuple(by_number[number] for number in numbers)


def _published() -> int | None:
    address = yaml.safe_load(Path("mlflow/promotion.yaml").read_text())["depot"]
    held = depot_channel(address, "toy", load_policy(layout.TRUST_POLICY))
    return held.channel.seq if held else None


def _said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def _once(*arguments: str) -> int:
    return main(["follow", "toy", "--once", "--json", *arguments])


def test_a_primary_moved_by_hand_is_gated_signed_and_published_with_its_backup(
    folder: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_alias("toy", "primary", 3)
    assert _once() == 0
    assert _pair_in_force() == _numbers(registry, 3, 4)
    assert registry.aliases("toy") == {"primary": 3, "backup": 4, "previous_primary": 1}
    assert (_channel().seq, _published()) == (2, 2)
    events = {event["event"]: event for event in _said(capsys)}
    assert events["alias moved"]["versions_behind"] == 1
    assert events["promoted"]["seq"] == 2
    assert events["promoted"]["lag_s"] >= 0


def test_following_again_does_nothing(
    folder: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_alias("toy", "primary", 3)
    assert _once() == 0
    before = (layout.channel_dir("toy") / "channel.sig").read_bytes()
    capsys.readouterr()
    assert _once() == 0
    assert (layout.channel_dir("toy") / "channel.sig").read_bytes() == before
    assert [event["event"] for event in _said(capsys)] == ["following"]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["manual", "automatic"])
def test_an_older_pair_is_followed_from_what_the_registry_keeps_of_it_and_stays(
    folder: Path, registry: MemoryRegistry, mode: str
) -> None:
    _policy(mode=mode)
    registry.set_alias("toy", "primary", 3)
    assert _once() == 0
    registry.set_alias("toy", "primary", 1)
    for _ in range(2):
        assert _once() == 0
        assert main(["register"]) == 0
        assert _pair_in_force() == _numbers(registry, 1, 2)
        assert (_channel().seq, _channel().rollback_of, _published()) == (3, 2, 3)


def _state(registry: MemoryRegistry) -> tuple[object, ...]:
    tags = {key: value for key, value in registry.model_tags("toy").items() if not key.startswith(MOVED_TAG)}
    files = {path: path.read_bytes() for path in layout.channel_dir("toy").iterdir()}
    return registry.aliases("toy"), tags, files, _published(), registry.versions("toy")


def test_a_refused_primary_leaves_all_as_it_was_and_every_reason_is_told(
    folder: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_alias("toy", "primary", 3)
    _policy(gates={"loss_high_max_ratio_of_budget": 0.1, "latency_p50_max_ratio": 0.5, "drill_rto_ms_max": 1000})
    before = _state(registry)
    assert _once() == PromotionRefused.exit_code
    assert _state(registry) == before
    (told,) = [event for event in _said(capsys) if event["event"] == "refused"]
    assert (told["alias"], told["version"], told["in_force"], told["restored"]) == ("primary", 3, 1, False)
    for gate in ("primary loss", "backup loss", "primary latency", "backup latency", "drill"):
        assert any(reason.startswith(f"{gate}:") for reason in told["reasons"]), gate


@pytest.mark.slow
def test_a_refused_pair_of_another_folder_is_judged_by_what_the_registry_keeps(
    folder: Path, packed: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    _pack(packed / "one")
    registry.set_alias("toy", "primary", 3)
    _policy(gates={"loss_high_max_ratio_of_budget": 0.1, "latency_p50_max_ratio": 0.5})
    before = _state(registry)
    assert _once() == PromotionRefused.exit_code
    assert _state(registry) == before
    (told,) = [event for event in _said(capsys) if event["event"] == "refused"]
    assert len(told["reasons"]) == 4


@pytest.mark.slow
def test_forged_tags_do_not_hide_what_a_pair_loses(
    folder: Path, packed: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was lost is in the signed bundles, what may be lost in the recipe."""
    _pack(packed / "one")
    for number in (3, 4):
        for key, value in {"loss_high": "0", "loss_max_abs": "1"}.items():
            registry.tag_version("toy", number, key, value)
    _policy(gates={"loss_high_max_ratio_of_budget": 0.1, "latency_p50_max_ratio": 3.0})
    registry.set_alias("toy", "primary", 3)
    assert _once() == PromotionRefused.exit_code
    (told,) = [event for event in _said(capsys) if event["event"] == "refused"]
    assert all("may lose up to 0.002, allowed is 0.001" in reason for reason in told["reasons"])
    assert [reason.partition(":")[0] for reason in told["reasons"]] == ["primary loss", "backup loss"]


def test_a_policy_that_restores_puts_a_refused_alias_back(folder: Path, registry: MemoryRegistry) -> None:
    _policy(gates={"latency_p50_max_ratio": 0.5}, follow={"on_refusal": "restore"})
    registry.set_alias("toy", "primary", 3)
    assert _once() == PromotionRefused.exit_code
    assert (registry.aliases("toy")["primary"], _channel().seq) == (1, 1)
    assert _once() == 0


def test_a_backup_moved_alone_to_another_builds_is_refused(
    folder: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_alias("toy", "backup", 4)
    assert _once() == PromotionRefused.exit_code
    assert "one pair" in capsys.readouterr().out
    assert _channel().seq == 1


@pytest.mark.slow
def test_a_copy_that_was_exchanged_in_the_registry_is_not_promoted(
    folder: Path, packed: Path, registry: MemoryRegistry
) -> None:
    _pack(packed / "one")
    files = registry.models["toy"].bundles[3]
    name = next(name for name in files if name.endswith(".tflite"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    registry.set_alias("toy", "primary", 3)
    assert _once() == 30
    assert _channel().seq == 1


@pytest.mark.parametrize("size", ["0", "-5", "1", "inf"])
def test_a_forged_size_tag_decides_nothing_of_the_channel_that_is_signed(
    folder: Path, packed: Path, registry: MemoryRegistry, size: str
) -> None:
    _pack(packed / "one")
    for key, value in {"payload_bytes": size, "io_contract_sha256": "0" * 64, "format": "x", "scheme": "x"}.items():
        registry.tag_version("toy", 3, key, value)
    registry.set_alias("toy", "primary", 3)
    assert _once() == 0
    policy, now = load_policy(layout.TRUST_POLICY), utc_now()
    channel = load_channel(layout.channel_dir("toy"), policy, now)
    for role in Role:
        assert verify_bundle(packed / "two" / layout.bundle_dir("toy", role), policy, now, channel, role)
    assert main(["rollback", "toy"]) == 0


@pytest.mark.parametrize(("key", "value"), [("bundle_id", "f" * 64), ("latency_ratio_p50", "inf")])
def test_what_anybody_may_put_into_the_registry_does_not_end_a_follower(
    folder: Path, packed: Path, registry: MemoryRegistry, key: str, value: str
) -> None:
    _pack(packed / "one")
    number = registry.add_trained("toy", folder).number if key == "bundle_id" else 3
    for name, text in {**registry.versions("toy")[2].tags, key: value}.items():
        registry.tag_version("toy", number, name, text)
    registry.set_alias("toy", "primary", number)
    events: list[str] = []
    one = Follower("toy", opened_project, follow.replay, lambda _, event, **__: events.append(event))
    for _ in range(2):
        assert follow._guarded(one) is None
    assert (events.count("failed"), _channel().seq) == (1, 1)


@pytest.mark.parametrize("knows_by", ["folder", "depot"])
def test_what_was_revoked_stays_so_when_the_registrys_memory_of_it_is_removed(
    folder: Path, registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, knows_by: str
) -> None:
    """Another folder revoked it. Whoever may write tags takes that channel away, and wishes for the bundle again."""
    _policy(depot=str(tmp_path / "depot"))
    registry.set_alias("toy", "primary", 3)
    assert _once() == 0
    bad = registry.versions("toy")[0].bundle_id
    shutil.copytree(folder, tmp_path / "other")
    with monkeypatch.context() as patch:
        patch.chdir(tmp_path / "other")
        assert main(["revoke", "toy", "--bundle", bad]) == 0
    if knows_by == "folder":
        assert _once() == 0
        shutil.rmtree(tmp_path / "depot")
    _forget(registry, 3)
    for outcome in (0, PromotionRefused.exit_code):
        registry.set_alias("toy", "primary", 1)
        assert _once() == outcome, "first the registry is told again, which puts the alias back"
    assert bad in _channel().revoked.bundles
    assert _pair_in_force() == _numbers(registry, 3, 4)


def _forget(registry: MemoryRegistry, seq: int) -> None:
    for key in registry.model_tags("toy"):
        if key.startswith(f"channel.1.{seq}"):
            registry.untag_model("toy", key)
    registry.tag_model("toy", "channel_seq", str(seq - 1))
    registry.tag_model("toy", "channel_seq_begun.ab", "9")


def test_forged_tags_do_not_hide_that_two_bundles_are_of_one_kind(
    folder: Path, packed: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe asks for another engine; both are of one, which tags alone call another."""
    _pack(packed / "one")
    recipe = Path("recipes/models/toy.yaml")
    recipe.write_text(recipe.read_text().replace("diverse: [scheme]", "diverse: [engine]"))
    for key, value in {"diverse": "", "format": "onnx"}.items():
        registry.tag_version("toy", 3, key, value)
    registry.set_alias("toy", "primary", 3)
    assert _once() == PromotionRefused.exit_code
    assert "they have tflite and tflite" in capsys.readouterr().out


def test_what_was_registered_last_is_promoted_once_the_policy_promotes_by_itself(
    folder: Path, registry: MemoryRegistry
) -> None:
    assert _once() == 0
    assert _channel().seq == 1
    _policy(mode="automatic")
    assert _once() == 0
    assert _pair_in_force() == _numbers(registry, 3, 4)


@pytest.mark.slow
def test_a_lost_publication_is_made_good(
    folder: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(yaml.safe_load(Path("mlflow/promotion.yaml").read_text())["depot"])
    assert _published() is None
    assert _once() == 0
    assert _published() == 1
    assert "published" in [event["event"] for event in _said(capsys)]


@pytest.fixture
def trained(folder: Path, packed: Path, registry: MemoryRegistry) -> int:
    """A retrained model that somebody registered and made the primary; the working folder holds the first build."""
    _pack(packed / "one")
    files = folder / "logged" / "data"
    files.mkdir(parents=True)
    (files / "model.keras").write_bytes(b"retrained")
    version = registry.add_trained("toy", folder / "logged")
    registry.set_alias("toy", "primary", version.number)
    return version.number


@pytest.fixture
def replays(packed: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stages that are quick: they find the second build; what each replay found as its source."""
    sources: list[str] = []

    def replay(recipe: Recipe, on_stage: Callable[[str], None], _: object) -> Replayed:
        sources.append(Path(recipe.source.path).read_text())
        on_stage("prune@toy-dense")
        _pack(packed / "two")
        return Replayed((Took("prune@toy-dense", 2.0),), 2.5)

    monkeypatch.setattr(follow, "replay", replay)
    return sources


def test_a_retrained_primary_gets_a_backup_of_its_own_build(
    trained: int, registry: MemoryRegistry, replays: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _once() == 0
    assert replays == ["retrained"]
    assert _pair_in_force() == _numbers(registry, 3, 4)
    assert registry.aliases("toy")["primary"] == 3
    assert registry.versions("toy")[trained - 1].tags[BUILT_TAG] == _numbers(registry, 3)[0]
    promoted = next(event for event in _said(capsys) if event["event"] == "promoted")
    assert [one["stage"] for one in promoted["steps"]] == ["prune@toy-dense", "register", "promote and publish"]
    assert (promoted["versions"], _published()) == (2, 2)


@pytest.mark.slow
def test_people_see_what_every_step_took(
    trained: int, registry: MemoryRegistry, replays: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["follow", "toy", "--once"]) == 0
    told = capsys.readouterr().out
    assert "toy: what it took" in told
    assert "prune@toy-dense" in told


def test_a_version_without_the_recipes_file_is_refused(
    trained: int, registry: MemoryRegistry, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "logged/data/model.keras").rename(folder / "logged/data/other.keras")
    assert _once() == PromotionRefused.exit_code
    assert "holds 0 files named model.keras" in capsys.readouterr().out
    assert _channel().seq == 1


@pytest.mark.slow
def test_a_trained_model_of_another_digest_than_its_tag_is_refused(
    trained: int, registry: MemoryRegistry, replays: list[str]
) -> None:
    registry.tag_version("toy", trained, "source_sha256", "0" * 64)
    assert _once() == PromotionRefused.exit_code
    assert (replays, _channel().seq) == ([], 1)


@pytest.mark.slow
def test_a_stage_that_fails_is_told_and_not_tried_again_before_something_changes(
    trained: int, registry: MemoryRegistry, folder: Path
) -> None:
    tries: list[int] = []

    def replay(recipe: Recipe, on_stage: object) -> Replayed:
        tries.append(1)
        raise ReplayFailed("The recipe of toy could not be replayed.", ["hotspare drill: it lost 3 requests"])

    events: list[tuple[str, str]] = []
    one = Follower("toy", opened_project, replay, lambda level, event, **_: events.append((level, event)))
    for _ in range(3):
        assert one.follow().refused == ("hotspare drill: it lost 3 requests",)
    assert len(tries) == 1
    assert [event for _, event in events].count("refused") == 1
    recipe = folder / "recipes/models/toy.yaml"
    recipe.write_text(f"{recipe.read_text()}\n# mended\n")
    one.follow()
    assert len(tries) == 2


@pytest.mark.slow
def test_a_refused_pair_is_judged_again_when_something_changes_or_time_has_passed(
    folder: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    _policy(gates={"latency_p50_max_ratio": 0.5})
    registry.set_alias("toy", "primary", 3)
    judged: list[int] = []
    true = follower.judge_pair
    monkeypatch.setattr(follower, "judge_pair", lambda *given: judged.append(1) or true(*given))
    one = Follower("toy", opened_project, follow.replay, lambda *_, **__: None)
    for _ in range(3):
        assert one.follow().refused
    assert len(judged) == 1
    monkeypatch.setattr(follower_memory, "JUDGED_AGAIN_S", -1.0)
    assert one.follow().refused
    assert len(judged) == 2
    monkeypatch.setattr(follower_memory, "JUDGED_AGAIN_S", 3600.0)
    _policy(gates={"latency_p50_max_ratio": 3.0})
    assert one.follow().refused == ()
    assert _channel().seq == 2


@pytest.mark.slow
def test_surroundings_that_fail_are_tried_again(trained: int, registry: MemoryRegistry) -> None:
    def replay(recipe: Recipe, on_stage: object) -> Replayed:
        raise Unreachable("Another dvc is at work in this project.")

    one = Follower("toy", opened_project, replay, lambda *_, **__: None)
    for _ in range(2):
        with pytest.raises(Unreachable):
            one.follow()


class Killed(BaseException):
    """The process ends here."""


# Every place at which something outside the process changes, in the order in which following a retrained primary does.
_PLACES = [
    (follower_rebuild, "place_source"),
    (follow, "replay"),
    (follower_rebuild, "load_build"),
    (follower_rebuild, "register_build"),
    (follower, "judge_pair"),
    (promotion_effects, "_claim"),
    (mending, "write_folder"),
    (promotion_effects, "aligned"),
    (project, "publish"),
]


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(("module", "name"), _PLACES)
def test_a_process_killed_before_or_after_any_step_is_made_good_by_the_next(
    trained: int,
    registry: MemoryRegistry,
    replays: list[str],
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    after: bool,
) -> None:
    true = getattr(module, name)

    def killed(*arguments: Any, **more: Any) -> None:
        if after:
            true(*arguments, **more)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, name, killed)
        _once()
    assert _once() == 0
    assert _pair_in_force() == _numbers(registry, 3, 4)
    assert registry.aliases("toy") == {"primary": 3, "backup": 4, "previous_primary": 1}
    assert _published() == _channel().seq
    assert len(registry.versions("toy")) == 5


@pytest.mark.slow
def test_a_process_killed_again_and_again_one_write_to_the_registry_later_each_time_ends_well(
    trained: int, registry: MemoryRegistry, replays: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = ("tag_model", "untag_model", "tag_version", "set_alias", "remove_alias")
    left = 1
    while left:
        count = [left]
        with monkeypatch.context() as patch:
            for name in writes:
                patch.setattr(registry, name, _dying(getattr(registry, name), count))
            try:
                _once()
                left = 0
            except Killed:
                left += 1
    assert _once() == 0
    assert _pair_in_force() == _numbers(registry, 3, 4)
    assert registry.aliases("toy") == {"primary": 3, "backup": 4, "previous_primary": 1}


def _dying(true: Callable[..., None], count: list[int]) -> Callable[..., None]:
    def write(*arguments: object) -> None:
        true(*arguments)
        count[0] -= 1
        if count[0] == 0:
            raise Killed

    return write


@pytest.mark.slow
def test_the_moment_of_a_move_survives_a_kill(
    trained: int, registry: MemoryRegistry, replays: list[str], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    moved = utc_now() - timedelta(seconds=100)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(project, "utc_now", lambda: moved)
        patch.setattr(follow, "replay", _killed)
        _once()
    capsys.readouterr()
    assert _once() == 0
    promoted = next(event for event in _said(capsys) if event["event"] == "promoted")
    assert promoted["lag_s"] >= 100


def _killed(*_: object) -> None:
    raise Killed


@pytest.mark.slow
def test_a_move_that_a_tag_says_is_still_to_come_is_taken_for_one_of_now(
    trained: int, registry: MemoryRegistry, replays: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    registry.tag_model("toy", f"{MOVED_TAG}.primary", f"{trained} 9999-12-31T23:59:59.000000Z")
    assert _once() == 0
    moved = next(event for event in _said(capsys) if event["event"] == "alias moved")
    assert datetime.fromisoformat(moved["moved_at"]) <= utc_now()


@pytest.mark.slow
def test_the_webhooks_moment_counts_where_it_told_one(folder: Path, registry: MemoryRegistry) -> None:
    registry.set_alias("toy", "primary", 3)
    moved = AliasEvent("toy", "primary", 3, utc_now() - timedelta(seconds=50))
    told: list[dict[str, Any]] = []
    one = Follower(
        "toy", opened_project, follow.replay, lambda _, event, **facts: told.append({"event": event, **facts}),
        moments={("toy", "primary", 3): moved},
    )  # fmt: skip
    one.follow()
    assert next(event for event in told if event["event"] == "promoted")["lag_s"] >= 50


@pytest.mark.slow
@pytest.mark.parametrize("is_followed", [True, False])
def test_the_webhooks_moment_counts_for_one_move_and_not_for_the_next_of_the_same_version(
    folder: Path, registry: MemoryRegistry, is_followed: bool
) -> None:
    promoted: list[dict[str, Any]] = []
    moved = AliasEvent("toy", "primary", 3, utc_now() - timedelta(days=20))
    one = Follower(
        "toy", opened_project, follow.replay,
        lambda _, event, **facts: promoted.append(facts) if event == "promoted" else None,
        moments={("toy", "primary", 3): moved},
    )  # fmt: skip
    if is_followed:
        for number in (3, 1):
            registry.set_alias("toy", "primary", number)
            one.follow()
        assert promoted[0]["lag_s"] > 1e6
    else:
        one.follow()  # it was taken back before anybody looked
    registry.set_alias("toy", "primary", 3)
    one.follow()
    assert promoted[-1]["lag_s"] < 1e6


def test_a_lag_above_the_allowed_is_an_alarm_and_an_exit_code(
    folder: Path, registry: MemoryRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    _policy(follow={"lag_alarm_s": 0})
    registry.set_alias("toy", "primary", 3)
    assert _once() == LagExceeded.exit_code
    assert _channel().seq == 2
    alarms = [event for event in _said(capsys) if event["level"] == "alarm"]
    assert {event["of"] for event in alarms} == {"channel"}


class Node:
    """A server that serves a pair from its n-th answer on."""

    def __init__(self, url: str, after: int, pair: Callable[[], tuple[str, str]]) -> None:
        self.url, self.left, self._pair = url, after, pair

    def pair(self, model: str) -> dict[str, object]:
        self.left -= 1
        if self.left > 2:
            raise Unreachable("It starts.")
        ids = self._pair() if self.left <= 0 else ("0" * 64, "1" * 64)
        members = [
            {"seat": {"role": role, "replica": 0}, "state": "ready", "bundle_id": bundle_id}
            for role, bundle_id in zip(("primary", "backup"), ids, strict=True)
        ]
        return {"model": model, "members": members, "channel": {"seq": 2}}


@pytest.mark.slow
def test_nodes_are_watched_until_they_serve_the_new_pair(folder: Path, registry: MemoryRegistry) -> None:
    told: list[dict[str, Any]] = []
    nodes = [Node("http://one", 1, _pair_in_force), Node("http://two", 5, _pair_in_force)]
    one = Follower(
        "toy", opened_project, follow.replay, lambda _, event, **facts: told.append({"event": event, **facts}),
        nodes,
    )  # fmt: skip
    registry.set_alias("toy", "primary", 3)
    fate = one.follow()
    looks = 1
    while not one.look_at_nodes(fate):
        looks += 1
    assert looks == 5
    ready = [event for event in told if event["event"] == "node ready"]
    assert [event["node"] for event in ready] == ["http://one", "http://two"]
    assert ready[0]["lag_s"] >= 0


@pytest.mark.slow
def test_a_node_that_served_the_pair_before_anybody_followed_is_no_news(folder: Path, registry: MemoryRegistry) -> None:
    told: list[str] = []
    one = Follower(
        "toy", opened_project, follow.replay, lambda _, event, **__: told.append(event),
        [Node("http://one", 1, _pair_in_force)],
    )  # fmt: skip
    assert one.look_at_nodes(one.follow())
    assert told == []


@pytest.mark.slow
def test_a_wish_taken_back_before_it_was_followed_is_no_lag_of_a_later_one(
    folder: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    _policy(gates={"latency_p50_max_ratio": 0.5})
    registry.set_alias("toy", "primary", 3)
    with monkeypatch.context() as patch:
        patch.setattr(project, "utc_now", lambda: utc_now() + timedelta(hours=1))
        assert _once() == PromotionRefused.exit_code
    registry.set_alias("toy", "primary", 1)
    assert _once() == 0
    assert not [key for key in registry.model_tags("toy") if key.startswith(MOVED_TAG)]


@pytest.mark.parametrize(
    "arguments", [["--every", "0"], ["--webhook", "nowhere"], ["--webhook", "127.0.0.1:0"], ["--node", "nowhere"]]
)
def test_what_cannot_be_followed_so_is_a_usage_error(
    folder: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.delenv("HOTSPARE_WEBHOOK_SECRET", raising=False)
    assert _once(*arguments) == 2


@pytest.mark.slow
def test_a_drill_that_is_missing_is_held_by_a_replay(
    folder: Path, registry: MemoryRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def replay(recipe: Recipe, on_stage: object, dvc: object) -> Replayed:
        raise DrillFailed("A drill of toy missed an objective.", ["kill: 3 lost"])

    monkeypatch.setattr(follow, "replay", replay)
    _policy(gates={"drill_rto_ms_max": 1000})
    registry.set_alias("toy", "primary", 3)
    assert _once() == PromotionRefused.exit_code
    assert "kill: 3 lost" in capsys.readouterr().out


# Renewing.

REFRESH, VALID = timedelta(days=30), timedelta(days=90)


@dataclass
class Calendar:
    """The time that a project is opened at."""

    now: datetime

    def go_on(self, **for_: float) -> None:
        self.now += timedelta(**for_)


@pytest.fixture
def calendar(monkeypatch: pytest.MonkeyPatch) -> Calendar:
    made = Calendar(utc_now().replace(microsecond=0))
    monkeypatch.setattr(project, "utc_now", lambda: made.now)
    return made


def _newest() -> Any:
    """Return the channel in the folder, whatever its dates."""
    channel = channel_folder.current_channel("toy", load_policy(layout.TRUST_POLICY))
    assert channel is not None
    return channel


def _record_older(registry: MemoryRegistry, **revoked: tuple[str, ...]) -> None:
    """Keep a channel of an earlier epoch in the registry, which revokes something, as another folder may have."""
    older = replace(_newest(), epoch=0, revoked=Revocations(**revoked))
    for key, text in history_tags(Held(older, sign_channel(older, load_private_key())[1])):
        registry.tag_model("toy", key, text)


def test_a_due_channel_is_renewed_for_the_same_pair_and_published(
    folder: Path, registry: MemoryRegistry, calendar: Calendar, capsys: pytest.CaptureFixture[str]
) -> None:
    before, aliases = _newest(), registry.aliases("toy")
    calendar.go_on(days=29, hours=23)
    assert _once() == 0
    assert _newest() == before
    calendar.go_on(hours=2)
    for _ in range(3):
        assert _once() == 0
    after = _newest()
    assert (after.seq, _published()) == (2, 2)
    assert (after.primary, after.backup, registry.aliases("toy")) == (before.primary, before.backup, aliases)
    assert (after.dates.refresh_by - calendar.now, after.dates.not_after - calendar.now) == (REFRESH, VALID)
    (told,) = [event for event in _said(capsys) if event["event"] == "renewed"]
    assert (told["level"], told["seq"], told["due_since"]) == ("info", 2, before.refresh_by)
    assert (told["refresh_by"], told["not_after"]) == (after.refresh_by, after.not_after)


@pytest.mark.slow
def test_a_follower_that_lives_on_never_lets_its_channel_end(
    folder: Path, registry: MemoryRegistry, calendar: Calendar
) -> None:
    one = Follower("toy", opened_project, follow.replay, lambda *_, **__: None)
    for _ in range(100):
        calendar.go_on(days=1)
        assert one.follow().refused == ()
        assert _newest().dates.standing(calendar.now) is Standing.CURRENT
    assert _newest().seq == 1 + 100 // 30


def test_a_channel_that_ended_while_nobody_followed_is_renewed(
    folder: Path, registry: MemoryRegistry, calendar: Calendar
) -> None:
    calendar.go_on(days=400)
    assert _once() == 0
    assert _newest().dates.standing(calendar.now) is Standing.CURRENT


@pytest.mark.slow
def test_a_renewal_leaves_a_refused_alias_where_the_person_put_it(
    folder: Path, registry: MemoryRegistry, calendar: Calendar
) -> None:
    _policy(gates={"latency_p50_max_ratio": 0.5})
    registry.set_alias("toy", "primary", 3)
    calendar.go_on(days=31)
    for _ in range(2):
        assert _once() == PromotionRefused.exit_code
        assert (registry.aliases("toy")["primary"], _newest().seq) == (3, 2)
        assert (_newest().primary.bundle_id, _newest().backup.bundle_id) == _numbers(registry, 1, 2)


@pytest.mark.slow
def test_an_alias_moved_before_a_renewal_is_followed_after_it(
    folder: Path, registry: MemoryRegistry, calendar: Calendar
) -> None:
    registry.set_alias("toy", "primary", 3)
    calendar.go_on(days=31)
    assert _once() == 0
    assert (_newest().seq, _newest().primary.bundle_id) == (3, _numbers(registry, 3)[0])


def test_in_a_freeze_a_channel_is_renewed_and_the_freeze_is_told(
    folder: Path, registry: MemoryRegistry, calendar: Calendar, capsys: pytest.CaptureFixture[str]
) -> None:
    calendar.go_on(days=31)
    since, until = (to_text(calendar.now + timedelta(days=days)) for days in (-1, 1))
    _policy(freeze=[{"since": since, "until": until, "why": "the end of the year"}])
    assert _once() == 0
    (told,) = [event for event in _said(capsys) if event["event"] == "renewed"]
    assert (told["seq"], told["frozen"]) == (2, ["the end of the year"])


@pytest.mark.parametrize("attack", ["a strange channel", "no answer"])
def test_a_depot_keeps_no_channel_from_being_renewed(
    folder: Path, registry: MemoryRegistry, calendar: Calendar, attack: str
) -> None:
    there = Path("depot/channels/toy")
    before = (there / "channel.sig").read_bytes()
    if attack == "a strange channel":
        (there / "channel.sig").write_bytes(sign_channel(_newest(), ec.generate_private_key(ec.SECP256R1()))[1])
    else:
        shutil.move("depot", "depot-away")
        Path("depot").write_text("in the way")
    calendar.go_on(days=31)
    for _ in range(2):
        assert _once() in (Unreachable.exit_code, FileAccess.exit_code)
        assert _newest().seq == 2
    if attack == "a strange channel":
        (there / "channel.sig").write_bytes(before)
    else:
        Path("depot").unlink()
        shutil.move("depot-away", "depot")
    assert _once() == 0
    assert _published() == 2


@pytest.mark.parametrize("what", ["bundle", "key"])
def test_what_was_revoked_is_not_renewed_and_that_is_told(
    folder: Path, registry: MemoryRegistry, calendar: Calendar, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    backup, key = _newest().backup.bundle_id, key_hint(load_private_key().public_key())
    _record_older(registry, **({"bundles": (backup,)} if what == "bundle" else {"keys": (key,)}))
    calendar.go_on(days=31)
    assert _once() == PromotionRefused.exit_code
    assert _newest().seq == 1
    told = next(event for event in _said(capsys) if event["event"] == "not renewed")
    assert (told["level"], told["seq"], told["has_ended"]) == ("error", 1, False)
    assert "revoked" in told["reasons"][0]


@pytest.mark.slow
def test_a_damaged_copy_is_not_renewed_and_keeps_no_other_pair_from_being_followed(
    folder: Path, registry: MemoryRegistry, calendar: Calendar
) -> None:
    files = registry.models["toy"].bundles[1]
    name = next(name for name in files if name.endswith(".tflite"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    calendar.go_on(days=31)
    assert _once() == PromotionRefused.exit_code
    assert _newest().seq == 1
    registry.set_alias("toy", "primary", 3)
    assert _once() == 0
    assert (_newest().seq, _newest().primary.bundle_id) == (2, _numbers(registry, 3)[0])


@pytest.mark.slow
def test_a_refused_renewal_is_told_once_tried_again_in_a_while_and_alarms_when_the_channel_has_ended(
    folder: Path, registry: MemoryRegistry, calendar: Calendar, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, str]] = []
    tries: list[int] = []
    one = Follower("toy", opened_project, follow.replay, lambda level, event, **_: told.append((level, event)))
    true = follower_renewal.renew
    monkeypatch.setattr(follower_renewal, "renew", lambda *given: tries.append(1) or true(*given))
    monkeypatch.delenv("HOTSPARE_SIGNING_KEY", raising=False)
    away = (layout.KEYS / PRIVATE_KEY).rename("away")
    calendar.go_on(days=31)
    for _ in range(3):
        assert PRIVATE_KEY in one.follow().refused[0]
    assert (len(tries), told) == (1, [("error", "not renewed")])
    calendar.go_on(days=60)
    one.follow()
    assert (len(tries), told[1:]) == (1, [("alarm", "not renewed")])
    monkeypatch.setattr(follower_memory, "JUDGED_AGAIN_S", -1.0)
    away.rename(layout.KEYS / PRIVATE_KEY)
    assert one.follow().refused == ()
    assert told[-1] == ("info", "renewed")


@pytest.mark.slow
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize(
    ("module", "name"),
    [(promotion_effects, "_claim"), (mending, "write_folder"), (promotion_effects, "aligned"), (project, "publish")],
)
def test_a_renewal_killed_at_any_step_is_made_good_by_the_next(
    folder: Path,
    registry: MemoryRegistry,
    calendar: Calendar,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    after: bool,
) -> None:
    true = getattr(module, name)

    def killed(*arguments: Any, **more: Any) -> None:
        if after:
            true(*arguments, **more)
        raise Killed

    calendar.go_on(days=31)
    aliases = registry.aliases("toy")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, name, killed)
        _once()
    assert _once() == 0
    assert (_newest().primary.bundle_id, _newest().backup.bundle_id) == _numbers(registry, 1, 2)
    assert _newest().dates.standing(calendar.now) is Standing.CURRENT
    assert (registry.aliases("toy"), _published()) == (aliases, _newest().seq)


def test_status_says_that_a_channel_was_to_be_renewed(
    folder: Path, registry: MemoryRegistry, calendar: Calendar, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(status, "open_registry", lambda _: registry)
    monkeypatch.setattr(status, "utc_now", lambda: calendar.now)
    Path("mlflow/store").mkdir(exist_ok=True)
    Path("mlflow/store/mlflow.db").touch()

    def told() -> str:
        assert main(["status", "toy", "--json"]) == 0
        return next(row["holds"] for row in json.loads(capsys.readouterr().out) if row["part"] == "channel")

    assert "has passed" not in told()
    calendar.go_on(days=31)
    assert "which has passed: run `hotspare follow toy --once`" in told()
