"""The procedures of docs/operations.md about promotion and nodes, as they stand: real bundles and servers, a registry
in memory."""

import json
import os
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from sealed import Sealed
from serving import Service, starting, until
from toy_project import make_releases

from pipeline.bundle.policy import load_policy
from pipeline.bundle.public_key import key_hint
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.cli import main
from pipeline.commands.build import project as project_of_commands
from pipeline.commands.build import register
from pipeline.commands.build import status as status_command
from pipeline.core import layout
from pipeline.core.clock import utc_now
from pipeline.core.errors import NotAccepted, Revoked
from pipeline.core.names import Role
from pipeline.registry.memory import MemoryRegistry
from pipeline.seal.keys import load_private_key, load_public_key

pytestmark = pytest.mark.slow
PAGE = Path(__file__).parent.parent.parent / "docs/operations.md"


def _blocks(heading: str) -> list[str]:
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert found, heading
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", found[1], re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(block) for block in blocks]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    make_releases(root, "credit", 3)
    return root


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> MemoryRegistry:
    made = MemoryRegistry()
    for module in (register, project_of_commands, status_command):
        monkeypatch.setattr(module, "open_registry", lambda _: made)
    return made


@pytest.fixture(autouse=True)
def project(packed: Path, registry: MemoryRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose three releases were promoted one after the other, as the working folder."""
    root = tmp_path / "project"
    shutil.copytree(packed / "0", root)
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOTSPARE_PERSON", "ada@example.org")
    Path("mlflow/store").mkdir(exist_ok=True)
    Path("mlflow/store/mlflow.db").touch()
    for number in range(3):
        for part in ("artifacts/bundles", "artifacts/selections", "artifacts/scorecards", "recipes"):
            shutil.rmtree(part)
            shutil.copytree(packed / str(number) / part, part)
        assert main(["register"]) == 0
    return root


def _run(heading: str, registry: MemoryRegistry | None = None) -> None:
    """Run every command of a section, in order."""
    for block in _blocks(heading):
        _run_block(block, registry)


def _run_block(block: str, registry: MemoryRegistry | None = None) -> None:
    for line in block.splitlines():
        program, *words = shlex.split(os.path.expandvars(line))
        if program == "hotspare":
            assert main(words) == 0, line
            continue
        subprocess.run(["sh", "-euc", line], check=True)
        if [program, words[-1]] == ["rm", "mlflow/store"] and registry is not None:
            registry.models.clear()
            registry.runs.clear()


def _seq() -> int:
    return load_channel(layout.channel_dir("credit"), load_policy(layout.TRUST_POLICY), utc_now()).channel.seq


def _in_force() -> str:
    """Verify what a node would load, and return the primary's id."""
    policy, now = load_policy(layout.TRUST_POLICY), utc_now()
    channel = load_channel(layout.channel_dir("credit"), policy, now)
    for role in Role:
        verify_bundle(layout.bundle_dir("credit", role), policy, now, channel, role)
    return channel.channel.primary.bundle_id


def test_before_anything_fails_the_doctor_finds_a_project_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    variants = {f"credit-{one}": {"model": "credit", "variant": one} for one in ("dense", "p50")}
    Path("params.yaml").write_text(yaml.safe_dump({"models": ["credit"], "variants": variants}))
    Path(".dvc").mkdir()
    _run("Before anything fails")
    assert "pass  channel credit" in capsys.readouterr().out


def test_see_where_things_stand(capsys: pytest.CaptureFixture[str]) -> None:
    _run("See where things stand")
    assert "previous_primary" in capsys.readouterr().out


def test_promote_in_the_mlflow_ui(registry: MemoryRegistry) -> None:
    before = _in_force()
    registry.set_alias("credit", "primary", registry.aliases("credit")["previous_primary"])
    _run("Promote in the MLflow UI")
    assert _seq() == 4
    now = load_channel(layout.channel_dir("credit"), load_policy(layout.TRUST_POLICY), utc_now()).channel
    assert now.primary.bundle_id != before


def test_promote(monkeypatch: pytest.MonkeyPatch) -> None:
    main(["rollback", "credit"])
    path = Path("mlflow/promotion.yaml")
    gates = {"separate_duties": True, "provenance": []}
    path.write_text(yaml.safe_dump({"mode": "manual", "gates": gates}))
    monkeypatch.setenv("HOTSPARE_PERSON", "bob@example.org")
    _run("Promote")
    assert _seq() == 5
    assert _in_force()


def test_roll_back() -> None:
    _run("Roll back")
    assert _seq() == 5


def test_reconcile(registry: MemoryRegistry) -> None:
    registry.set_alias("credit", "primary", 1)
    _run("Reconcile")
    assert registry.aliases("credit")["primary"] == 5


def test_a_lost_channel_folder() -> None:
    before = {path.name: path.read_bytes() for path in layout.channel_dir("credit").iterdir()}
    _run("A lost channel folder")
    assert {path.name: path.read_bytes() for path in layout.channel_dir("credit").iterdir()} == before


def test_a_lost_registry(registry: MemoryRegistry) -> None:
    _run("A lost registry", registry)
    assert (_seq(), len(registry.versions("credit"))) == (3, 2)
    assert _in_force()


def test_revoke_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUNDLE", _in_force())
    _run("Revoke a bundle")
    assert _seq() == 5
    with pytest.raises((Revoked, NotAccepted)):
        _in_force()


def test_rotate_and_then_revoke_the_signing_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLD_KEY", key_hint(load_public_key()))
    before = _in_force()
    _run("Rotate the signing key")
    assert (_seq(), _in_force()) == (4, before)
    _run("A stolen signing key")
    assert (_seq(), _in_force()) == (5, before)
    channel = load_channel(layout.channel_dir("credit"), load_policy(layout.TRUST_POLICY), utc_now())
    assert channel.key_hint == key_hint(load_public_key())


@dataclass(frozen=True)
class Node(Sealed):
    """What is on a node: its policy and tokens, and what was staged."""

    @property
    def trust(self) -> Path:
        return self.folder / "etc" / "trust.yaml"

    @property
    def primary(self) -> Path:
        return self.channel / Role.PRIMARY

    @property
    def backup(self) -> Path:
        return self.channel / Role.BACKUP

    @property
    def channel(self) -> Path:
        return self.folder / "staged" / "credit"


@pytest.fixture
def node(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    """A node to be, and what the page calls its parts; the project publishes to a depot."""
    path = Path("mlflow/promotion.yaml")
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "depot": str(tmp_path / "depot")}))
    assert main(["promote", "credit", "--renew"]) == 0
    made = Node(tmp_path / "node", load_private_key())
    made.trust.parent.mkdir(parents=True)
    (tmp_path / "stick").mkdir()
    for name, value in {"CONFIG": made.trust.parent, "STAGED": made.folder / "staged"}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("depot", "stick"):
        monkeypatch.setenv(name.upper(), str(tmp_path / name))
    return made


@pytest.fixture
def serve(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Service]]:
    """Start the node's server over what is staged."""
    (tmp_path / "services").mkdir()
    services = starting(node, tmp_path / "services")
    starter = next(services)

    def served() -> Service:
        made = starter("--channel", str(node.channel), admin=True, files=node)
        (node.trust.parent / "admin.token").write_text(made.token)
        monkeypatch.setenv("NODE", f"http://127.0.0.1:{made.port}")
        until(lambda: {member["state"] for member in _pair(made)["members"]} == {"ready"})
        return made

    yield served
    next(services, None)


def _pair(service: Service) -> Any:
    (pair,) = service.ask("GET", "/status.json").json["pairs"]
    return pair


def test_a_stolen_key_is_revoked_while_both_are_pinned_then_unpinned_and_a_node_stages_what_is_left(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLD_KEY", key_hint(load_public_key()))
    before = _in_force()
    _run("Rotate the signing key")
    _run("A stolen signing key")
    policy = yaml.safe_load(layout.TRUST_POLICY.read_text())
    del policy["keys"]["main"]
    for place in (layout.TRUST_POLICY, node.trust):
        place.write_text(yaml.safe_dump(policy))
    depot = f"{os.environ['DEPOT']}/channels/credit"
    assert main(["stage", depot, "--trust", str(node.trust), "--to", str(node.folder / "staged")]) == 0
    assert main(["reconcile"]) == 0
    assert main(["promote", "credit", "--renew"]) == 0
    assert (_seq(), _in_force()) == (7, before)


def test_a_node_without_a_network(
    node: Node, serve: Callable[[], Service], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(layout.TRUST_POLICY, node.trust)
    staging = ["--trust", str(node.trust), "--to", str(node.folder / "staged")]
    assert main(["stage", f"{tmp_path}/depot/channels/credit", *staging]) == 0
    service = serve()
    workers = {member["pid"] for member in _pair(service)["members"]}
    assert main(["promote", "credit", "--renew"]) == 0
    capfd.readouterr()
    _run("A node without a network")
    told = capfd.readouterr().out
    assert json.JSONDecoder().raw_decode(told)[0]["seq"] == 4  # what the node had before
    assert re.search(r"moved .*, 0 chunks", told)
    assert _pair(service)["channel"]["seq"] == _seq() == 5
    assert {member["pid"] for member in _pair(service)["members"]} == workers


def test_a_lost_node(node: Node, serve: Callable[[], Service], capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copy(layout.TRUST_POLICY, "trust.yaml")
    setting_up, checking = _blocks("A lost node")
    _run_block(setting_up)
    assert "seq 4" in capfd.readouterr().out
    service = serve()
    assert _pair(service)["channel"]["seq"] == _seq() == 4
    _run_block(checking)
    (row,) = [line for line in capfd.readouterr().out.splitlines() if os.environ["NODE"] in line]
    assert [cell.strip() for cell in row.split("│")][4:6] == ["4", "no"]


def test_every_section_of_promotion_is_run_here() -> None:
    mine = {
        "See where things stand", "Promote", "Roll back", "Reconcile", "A lost channel folder", "A lost registry",
        "Revoke a bundle", "Rotate the signing key", "A stolen signing key", "A node without a network", "A lost node",
    }  # fmt: skip
    assert all(_blocks(heading) for heading in mine)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", PAGE.read_text()):
        assert target.startswith("http") or (PAGE.parent / target).exists(), target
