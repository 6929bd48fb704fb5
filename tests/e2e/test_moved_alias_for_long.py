"""An alias moved by hand in a real MLflow: gated, signed, published, swapped in on a loaded node; or refused."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet
from following import StagedFiles
from registry_server import await_answer, free_port
from sealed import Sealed
from serving import Clients, Service, Starter, starting, until
from toy_project import make_project

from pipeline.seal.keys import load_private_key

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]
PATIENCE_S = 180.0
SECRET_TEXT = "what both sides of the webhook know"


@dataclass
class Process:
    """A command that goes on, and its JSON lines."""

    command: list[str]
    log: Path
    cwd: Path
    environment: dict[str, str]
    process: "subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.cwd, env=self.environment, stdout=log, stderr=log)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def told(self, event: str) -> list[dict[str, Any]]:
        found = []
        for line in self.log.read_text().splitlines():
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return [one for one in found if one["event"] == event]

    def until_told(self, event: str, count: int = 1) -> dict[str, Any]:
        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            return len(self.told(event)) >= count

        until(look, PATIENCE_S)
        return self.told(event)[-1]


@dataclass
class Shop:
    """A project that promoted one build and registered another, its depot, and how it reaches MLflow."""

    folder: Path
    uri: str
    processes: list[Process] = field(default_factory=list)

    @property
    def root(self) -> Path:
        return self.folder / "project"

    @property
    def depot(self) -> Path:
        return self.folder / "depot"

    @property
    def environment(self) -> dict[str, str]:
        ours = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
        return {**ours, "MLFLOW_TRACKING_URI": self.uri, "HOTSPARE_WEBHOOK_SECRET": SECRET_TEXT}

    def hotspare(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def mlflow(self, code: str) -> str:
        """Do as a person or a script does, with MLflow's own client."""
        script = f"from mlflow import MlflowClient\nclient = MlflowClient({self.uri!r}, {self.uri!r})\n{code}\n"
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            check=False, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def move(self, alias: str, version: int) -> None:
        self.mlflow(f"client.set_registered_model_alias('tiny', {alias!r}, '{version}')")

    def aliases(self) -> dict[str, int]:
        told = self.mlflow("import json; print(json.dumps(client.get_registered_model('tiny').aliases))")
        return {alias: int(number) for alias, number in json.loads(told).items()}

    def policy(self, **changes: object) -> None:
        path = self.root / "mlflow/promotion.yaml"
        path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))

    def run(self, *arguments: str) -> Process:
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        made = Process(command, self.folder / f"{arguments[0]}.log", self.root, self.environment)
        self.processes.append(made)
        return made

    def channels(self) -> tuple[bytes, bytes]:
        """Return the channel in the project's folder and in the depot."""
        place = "channels/tiny/channel.sig"
        return (self.root / "artifacts" / place).read_bytes(), (self.depot / place).read_bytes()


@contextlib.contextmanager
def shop(folder: Path, uri: str) -> Iterator[Shop]:
    made = Shop(folder, uri)
    made.root.mkdir()
    make_project(made.root, {"tiny": 1})
    made.policy(depot=str(made.depot))
    made.hotspare("register", "tiny")
    make_project(made.root, {"tiny": 2})
    made.policy(depot=str(made.depot), mode="manual")
    made.hotspare("register", "tiny")
    assert made.aliases() == {"primary": 1, "backup": 2, "candidate": 3}
    try:
        yield made
    finally:
        for process in made.processes:
            process.kill()


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Shop]:
    """On MLflow's own SQLite store."""
    with shop(tmp_path, f"sqlite:///{tmp_path}/mlflow.db") as made:
        yield made


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Shop]:
    """On an MLflow server over HTTP, which sends webhooks to this machine."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", f"{tmp_path}/art"]
    settings = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_WEBHOOK_CACHE_TTL": "1",
        "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": Fernet.generate_key().decode(),
    }
    log = tmp_path / "server.log"
    with log.open("wb") as stream:
        server = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, **settings}, stdout=stream, stderr=stream, start_new_session=True
        )
    try:
        await_answer(f"http://127.0.0.1:{port}/health", server, log)
        with shop(tmp_path, f"http://127.0.0.1:{port}") as made:
            yield made
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Starter]:
    folder = tmp_path / "services"
    folder.mkdir()
    yield from starting(Sealed(folder, None), folder)  # type: ignore[arg-type]


def _node(made: Shop, starter: Starter) -> Service:
    """Stage what is published, serve it, and have a follower swap each new release in."""
    node = made.folder / "node"
    node.mkdir()
    (node / "trust.yaml").write_bytes((made.root / "artifacts/trust.yaml").read_bytes())
    files = StagedFiles(node, load_private_key(made.root / "artifacts/keys", {}))
    where = [f"{made.depot}/channels/tiny", "--trust", str(files.trust), "--to", str(node / "staged")]
    made.hotspare("stage", *where)
    service = starter("--channel", str(files.channel), admin=True, files=files)
    service.until_whole()
    (made.folder / "token").write_text(service.token)
    swap = ["--swap", f"http://127.0.0.1:{service.port}", "--token-file", str(made.folder / "token")]
    made.run("stage", *where, "--watch", "--every", "0.2", *swap)
    return service


def test_a_moved_alias_reaches_a_loaded_node_without_a_lost_answer_and_a_refused_one_changes_nothing(
    local: Shop, starter: Starter
) -> None:
    service = _node(local, starter)
    node = f"http://127.0.0.1:{service.port}"
    follow = local.run("follow", "tiny", "--every", "0.5", "--json", "--node", node)
    follow.until_told("following")
    with Clients(service) as clients:
        local.move("primary", 3)
        ready = follow.until_told("node ready")
        service.until_whole()
        clients.more(200)
        assert local.aliases() == {"primary": 3, "backup": 4, "previous_primary": 1}

        local.policy(gates={"loss_high_max_ratio_of_budget": 0.1, "latency_p50_max_ratio": 0.5})
        before = local.channels()
        local.move("primary", 1)
        refused = follow.until_told("refused")
        clients.more(200)
        assert local.channels() == before
        assert local.aliases() == {"primary": 1, "backup": 4, "previous_primary": 1}
        assert service.status()["channel"]["seq"] == 2
    clients.assert_nothing_lost()
    assert {reason.split(":")[0] for reason in refused["reasons"]} == {
        "primary loss", "backup loss", "primary latency", "backup latency",
    }  # fmt: skip
    promoted = follow.told("promoted")[-1]
    print(f"channel signed {promoted['lag_s']} s after the alias was seen moved, node ready after {ready['lag_s']} s")
    print(f"{len(clients.answers)} answers, 0 lost; swap: {clients_swap(local)}")


def clients_swap(made: Shop) -> list[object]:
    stage = next(process for process in made.processes if "stage" in process.command)
    return [{key: one[key] for key in ("lag_s", "took_s")} for one in stage.told("swapped")]


def test_a_webhook_wakes_the_follower_long_before_its_next_look(served: Shop, starter: Starter) -> None:
    service = _node(served, starter)
    node = f"http://127.0.0.1:{service.port}"
    follow = served.run("follow", "tiny", "--every", "3600", "--json", "--webhook", ":0", "--node", node)
    door = follow.until_told("following")["webhook"]
    served.mlflow(
        f"client.create_webhook('hotspare', 'http://{door}/', ['model_version_alias.created'], secret={SECRET_TEXT!r})"
    )
    with Clients(service) as clients:
        served.move("primary", 3)
        promoted, ready = follow.until_told("promoted"), follow.until_told("node ready")
        clients.more(200)
    clients.assert_nothing_lost()
    assert served.aliases() == {"primary": 3, "backup": 4, "previous_primary": 1}
    assert served.channels()[0] == served.channels()[1]
    print(f"channel signed {promoted['lag_s']} s after the move by MLflow's clock, node ready after {ready['lag_s']} s")

    served.mlflow("client.update_webhook(client.list_webhooks()[0].webhook_id, secret='a secret that was guessed')")
    served.move("primary", 1)
    assert "no signature" in follow.until_told("webhook refused")["reasons"][0]
    assert len(follow.told("promoted")) == 1
