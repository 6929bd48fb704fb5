"""What a transfer costs: of a bundle that changed a little, and of one that was killed; real processes and servers."""

import contextlib
import functools
import hashlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from depots import NOW, Release, Signer, payload, reference, trust_file
from serving import until

from pipeline.commands.build.publishing import publish_release
from pipeline.core.names import Role
from pipeline.delivery.contents import read_contents
from pipeline.delivery.staging import stage
from pipeline.delivery.transports.http import HttpDepot
from pipeline.delivery.transports.opening import open_depot

ROOT = Path(__file__).parents[2]


def network(changed: frozenset[int] = frozenset()) -> tuple[bytes, int]:
    """Return an ONNX model of 37 MB with 72 weights and biases, and how many bytes the changed ones have."""
    import onnx
    from onnx import helper, numpy_helper

    rng, weights, nodes, width, bytes_changed = np.random.default_rng(3), [], [], 64, 0
    for layer in range(36):
        wide = (128, 256, 512, 1024, 512)[layer % 5]
        for name, shape in ((f"w{layer}", (width, wide)), (f"b{layer}", (wide,))):
            value = rng.standard_normal(shape).astype(np.float32)
            if len(weights) in changed:
                value, bytes_changed = value * np.float32(1.001), bytes_changed + value.nbytes
            weights.append(numpy_helper.from_array(value, name))
        nodes.append(helper.make_node("Gemm", [f"x{layer}", f"w{layer}", f"b{layer}"], [f"x{layer + 1}"]))
        width = wide
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [None, w]) for n, w in (("x0", 64), ("x36", width))
    ]
    graph = helper.make_graph(nodes, "deep", ends[:1], ends[1:], weights)
    return helper.make_model(graph).SerializeToString(), bytes_changed


def sealed_release(signer: Signer, seq: int, model: bytes) -> Release:
    """A release whose bundles the signing library itself sealed."""
    from pipeline.seal.signing import seal_bundle

    made = signer.release(seq, b"placeholder")
    bundles = {role: signer.folder / f"sealed-{seq}-{role}" for role in Role}
    seal_bundle(bundles[Role.PRIMARY], payload("primary", model), signer.key)
    seal_bundle(bundles[Role.BACKUP], payload("backup", model[: len(model) // 4]), signer.key)
    refs = {"primary": reference(bundles[Role.PRIMARY]), "backup": reference(bundles[Role.BACKUP])}
    return signer.signed(replace(made.channel, **refs), bundles)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({20, *range(1, 72, 2)}, marks=pytest.mark.slow, id="a weight and every bias"),
        pytest.param({10, 12}, marks=pytest.mark.long, id="two weights"),
        pytest.param({1, 7, 12, 15, 23, 29, 32, 37, 43, 51, 57, 65, 71}, marks=pytest.mark.long, id="both"),
    ],
)
def test_where_tensors_of_one_percent_changed_at_most_five_percent_move(
    tmp_path: Path, served: tuple[Path, str], changed: set[int]
) -> None:
    folder, address = served
    signer = Signer(tmp_path / "signer")
    (old, _), (new, bytes_changed) = network(), network(frozenset(changed))
    assert 20e6 < len(new) < 50e6
    assert 0.005 < bytes_changed / len(new) <= 0.0125
    for seq, model in ((1, old), (2, new)):
        release = sealed_release(signer, seq, model)
        publish_release(str(folder), release.channel_sig, release.bundles, signer.key, signer.policy())
        with open_depot(address) as depot:
            staged = stage(depot, "tiny", signer.policy(), tmp_path / "node", NOW)
    print(f"{len(changed)} tensors, {bytes_changed / len(new):.2%} of the model: {staged}")
    assert staged.bytes_moved <= 0.05 * staged.bytes_total
    assert (tmp_path / "node/tiny/primary/payload/model/model.onnx").read_bytes() == new


@dataclass
class Watched:
    """A web server of a depot: notes which chunks were asked for, takes its time, kills who asks at the nth."""

    folder: Path
    asked: list[str] = field(default_factory=list)
    kill_at: int | None = None
    victim: subprocess.Popen[bytes] | None = None
    takes_s: float = 0.0
    under_way: int = 0
    at_once_max: int = 0
    waits_for: int = 0  # nobody is answered before so many have asked at once
    connections: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, path: str) -> None:
        if "/chunks/" not in path:
            return
        with self.lock:
            self.asked.append(path.rsplit("/", 1)[1])
            self.under_way += 1
            self.at_once_max = max(self.at_once_max, self.under_way)
            if len(self.asked) == self.kill_at and self.victim is not None:
                self.victim.send_signal(signal.SIGKILL)
        time.sleep(self.takes_s)
        until(lambda: self.at_once_max >= self.waits_for)
        with self.lock:
            self.under_way -= 1


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[tuple[Watched, str]]:
    state = Watched(tmp_path / "depot")

    class Handler(SimpleHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # as every server of static files has it

        def setup(self) -> None:
            with state.lock:
                state.connections += 1
            super().setup()

        def finish(self) -> None:
            with contextlib.suppress(ConnectionError):
                super().finish()
            with state.lock:
                state.connections -= 1

        def do_GET(self) -> None:
            state.note(self.path)
            try:
                super().do_GET()
            except ConnectionError:
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 16  # eight connect at once

        def handle_error(self, *_: object) -> None:
            pass  # clients that are killed reset their connections

    server = Server(("127.0.0.1", 0), functools.partial(Handler, directory=str(tmp_path)))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_port}/depot"
    server.shutdown()
    server.server_close()
    thread.join()


def _chunks(signer: Signer, release: Release, depot: Path) -> dict[str, list[tuple[Path, int, int]]]:
    """Every chunk of the release, with the places (file below a bundle's folder, offset, size) where it belongs."""
    found: dict[str, list[tuple[Path, int, int]]] = {}
    for role in Role:
        bundle_id = release.channel.ref(role).bundle_id
        contents, _ = read_contents((depot / "bundles" / bundle_id / "contents.sig").read_bytes(), signer.policy(), "")
        for file in contents.files:
            for piece in file.pieces:
                place = (Path(bundle_id) / "payload" / file.path, piece.offset, piece.size)
                found.setdefault(piece.sha256, []).append(place)
    return found


def _landed(chunks: dict[str, list[tuple[Path, int, int]]], incoming: Path) -> set[str]:
    """The chunks that partial files hold, wherever they belong."""
    landed = set()
    for digest, places in chunks.items():
        datas = []
        for path, offset, size in places:
            if not (incoming / path).exists():
                break
            with (incoming / path).open("rb") as stream:
                stream.seek(offset)
                datas.append(hashlib.sha256(stream.read(size)).hexdigest())
        if datas == [digest] * len(places):
            landed.add(digest)
    return landed


def _peak_memory_bytes(command: list[str]) -> int:
    """Run a command, which must succeed, from a small process: what is told would count the memory of this one too."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    run = subprocess.run([sys.executable, "-c", script, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    return 1024 * int(run.stdout)


@pytest.mark.parametrize(
    "size", [pytest.param(8_000_000, marks=pytest.mark.slow), pytest.param(1_000_000_000, marks=pytest.mark.long)]
)
def test_killed_in_the_middle_the_next_run_moves_only_what_is_lacking(
    tmp_path: Path, watched: tuple[Watched, str], size: int
) -> None:
    server, address = watched
    signer = Signer(tmp_path / "signer")
    release = signer.release(1, np.random.default_rng(1).bytes(size))
    publish_release(str(server.folder), release.channel_sig, release.bundles, signer.key, signer.policy())
    chunks = _chunks(signer, release, server.folder)
    to = tmp_path / "node"
    command = [sys.executable, "-m", "pipeline.cli", "stage", f"{address}/channels/tiny", "--json"]
    command += ["--trust", str(trust_file(signer)), "--to", str(to)]

    server.kill_at = len(chunks) // 2
    with server.lock:
        first = subprocess.Popen(command, cwd=ROOT)
        server.victim = first
    assert first.wait() == -signal.SIGKILL
    until(lambda: server.connections == 0)  # what it had asked before it died is noted by now
    assert not (to / "tiny").exists()
    landed = _landed(chunks, to / ".incoming/tiny")
    asked_first = len(server.asked)
    assert len(landed) > 0.4 * len(chunks)

    server.victim = None
    memory_bytes = _peak_memory_bytes(command)
    asked = server.asked[asked_first:]
    assert sorted(asked) == sorted(chunks.keys() - landed)
    moved = sum(chunks[digest][0][2] for digest in asked)
    print(f"{size:,} bytes: {len(landed)} of {len(chunks)} chunks had landed; {moved:,} bytes moved after the kill,")
    print(f"{memory_bytes / 1e6:.0f} MB of memory at most")
    model = to / "tiny/primary/payload/model/model.onnx"
    assert model.read_bytes() == (release.bundles[Role.PRIMARY] / "payload/model/model.onnx").read_bytes()
    # The bundle once, for its verification, and what Python and its libraries take.
    assert memory_bytes < size + 200e6


@pytest.mark.parametrize(
    ("lanes", "size"),
    [
        pytest.param(4, 200_000, marks=pytest.mark.slow),
        *(pytest.param(lanes, 6_000_000, marks=pytest.mark.long) for lanes in (1, 4, 8)),
    ],
)
def test_several_answers_of_a_slow_server_are_waited_for_at_once(
    tmp_path: Path, watched: tuple[Watched, str], lanes: int, size: int
) -> None:
    server, address = watched
    server.takes_s, server.waits_for = 0.02, lanes
    signer = Signer(tmp_path / "signer")
    release = signer.release(1, np.random.default_rng(1).bytes(size))
    publish_release(str(server.folder), release.channel_sig, release.bundles, signer.key, signer.policy())
    with open_depot(address) as depot:
        assert isinstance(depot, HttpDepot)
        assert depot.lanes == 4
        began = time.perf_counter()
        staged = stage(replace(depot, lanes=lanes), "tiny", signer.policy(), tmp_path / "node", NOW)
    print(f"{staged.chunks_moved:,} chunks, {lanes} at once: {time.perf_counter() - began:.1f} s")
    assert staged.chunks_moved == len(server.asked)
    assert server.at_once_max == lanes
