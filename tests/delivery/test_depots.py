"""What every transport promises, asked of each of them; and what address leads to which."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from depots import NOW, Signer
from oci_registry import REPOSITORY, DebianRegistry, FakeRegistry

from pipeline.commands.build.publishing import publish
from pipeline.core.canonical import sha256_hex
from pipeline.core.errors import FileAccess, Malformed, MissingExtra, UsageError
from pipeline.delivery.depot import Depot, WritableDepot, bundle_path, channel_path, chunk_path, split_channel
from pipeline.delivery.retiring import plan_removal, remove
from pipeline.delivery.staging import stage
from pipeline.delivery.transports import opening
from pipeline.delivery.transports.folder import FolderDepot
from pipeline.delivery.transports.memory import MemoryDepot
from pipeline.delivery.transports.opening import open_depot, open_writable

PATH = channel_path("tiny")
NOISE = np.random.default_rng(0).bytes(40_000)

# A transport is a depot to write to, and what opens the same place to read.
Transport = tuple[WritableDepot, Callable[[], Depot]]


def _reopened(address: str) -> Depot:
    with open_depot(address) as depot:
        return depot  # the ones with connections open them again


_SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("s3", "debian")]


_REMOVING = ["memory", "folder", "file", "fsspec", "oci", *_SLOW]


@pytest.fixture(params=["http", *_REMOVING])
def transport(request: pytest.FixtureRequest, tmp_path: Path) -> Transport:
    if request.param == "memory":
        depot = MemoryDepot()
        return depot, lambda: depot
    if request.param == "http":
        folder, address = request.getfixturevalue("served")
        return FolderDepot(folder), functools.partial(_reopened, address)
    addresses = {"folder": str(tmp_path / "depot"), "file": f"file://{tmp_path}/depot", "fsspec": f"memory://{uuid4()}"}
    addresses |= {"oci": "registry_depot", "s3": "bucket", "debian": "debian_depot"}
    address = addresses[request.param]
    if address.isidentifier():
        address = request.getfixturevalue(address)
    with open_writable(address) as depot:
        return depot, functools.partial(_reopened, address)


@pytest.fixture
def registry_depot(registry: FakeRegistry) -> str:
    return registry.address


@pytest.fixture(scope="module")
def debian_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with DebianRegistry(tmp_path_factory.mktemp("debian")).running() as server:
        yield server


@pytest.fixture
def debian_depot(debian_server: str) -> str:
    return f"oci://{debian_server}/{REPOSITORY}/{uuid4()}"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    import boto3

    told = {"AWS_ENDPOINT_URL": s3_server, "AWS_DEFAULT_REGION": "us-east-1"}
    told |= {"AWS_ACCESS_KEY_ID": "tested", "AWS_SECRET_ACCESS_KEY": "tested"}
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    name = f"depot-{uuid4()}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/models"


def test_what_is_written_is_read_and_its_size_told(transport: Transport) -> None:
    depot, reopened = transport
    for path in (PATH, chunk_path(sha256_hex(b"first"))):
        depot.write(path, b"first")
        assert reopened().read(path, 5) == b"first"
        assert depot.size(path) == 5


def test_what_is_not_there_is_none(transport: Transport) -> None:
    depot, reopened = transport
    for path in (PATH, chunk_path("ab" * 32)):
        assert depot.size(path) is None
        assert depot.read(path, 100) is None
        assert reopened().read(path, 100) is None


def test_a_file_is_written_over(transport: Transport) -> None:
    depot, reopened = transport
    reading = reopened()
    depot.write(PATH, b"first")
    assert reading.read(PATH, 100) == b"first"
    depot.write(PATH, b"the second one")
    assert reading.read(PATH, 100) == b"the second one"
    assert depot.size(PATH) == 14


def test_a_larger_file_than_allowed_is_refused(transport: Transport) -> None:
    depot, reopened = transport
    for path in (PATH, chunk_path(sha256_hex(bytes(100_001)))):
        depot.write(path, bytes(100_001))
        assert reopened().read(path, 100_001) == bytes(100_001)
        with pytest.raises(Malformed, match="larger than 100000 bytes"):
            reopened().read(path, 100_000)


def test_a_refused_file_does_not_spoil_the_next_one(transport: Transport) -> None:
    depot, reopened = transport
    large = chunk_path(sha256_hex(bytes(300_000)))
    depot.write(large, bytes(300_000))
    depot.write(PATH, b"signed")
    reading = reopened()
    for _ in range(3):
        with pytest.raises(Malformed):
            reading.read(large, 10)
        assert reading.read(PATH, 10) == b"signed"
        assert reading.read("channels/other/channel.sig", 10) is None


def test_a_release_travels_over_it(transport: Transport, signer: Signer, tmp_path: Path) -> None:
    depot, reopened = transport
    for seq, model in ((1, NOISE), (2, NOISE[:20_000] + b"new" + NOISE[20_000:])):
        release = signer.release(seq, model)
        publish(depot, release.channel_sig, release.bundles, signer.key, signer.policy())
        staged = stage(reopened(), "tiny", signer.policy(), tmp_path / "node", NOW)
    assert (staged.seq, staged.chunks_moved < 5) == (2, True)
    assert (tmp_path / "node/tiny/primary/payload/model/model.onnx").read_bytes() == model


@pytest.mark.parametrize("transport", _REMOVING, indirect=True)
def test_what_is_removed_is_gone_and_bundles_are_listed(transport: Transport) -> None:
    depot, reopened = transport
    one, other = "a" * 64, "b" * 64
    assert depot.bundle_ids() == frozenset()
    depot.remove(bundle_path(one, "bundle.sig"))
    for bundle_id in (one, other):
        depot.write(bundle_path(bundle_id, "bundle.sig"), b"signed")
        depot.write(bundle_path(bundle_id, "drill.json"), b"drilled")
    depot.write(PATH, b"a channel")
    assert depot.bundle_ids() == {one, other}
    depot.remove(bundle_path(one, "drill.json"))
    assert depot.bundle_ids() == {one, other}
    depot.remove(bundle_path(one, "bundle.sig"))
    assert depot.bundle_ids() == {other}
    assert depot.size(bundle_path(one, "bundle.sig")) is None
    assert depot.read(bundle_path(other, "bundle.sig"), 10) == b"signed"
    assert reopened().read(PATH, 10) == b"a channel"


@pytest.mark.parametrize("transport", _REMOVING, indirect=True)
def test_a_removed_release_is_gone_and_the_other_one_travels(
    transport: Transport, signer: Signer, tmp_path: Path
) -> None:
    depot, reopened = transport
    old, new = signer.release(1, NOISE), signer.release(2, NOISE[:20_000] + b"new" + NOISE[20_000:], b"another")
    for release in (old, new):
        publish(depot, release.channel_sig, release.bundles, signer.key, signer.policy())
    gone = plan_removal(depot, depot.bundle_ids(), old.channel.bundle_ids.values())
    remove(depot, gone)
    assert depot.bundle_ids() == set(new.channel.bundle_ids.values())
    assert 1 <= sum(len(one.chunks) for one in gone) <= 6
    for path in (chunk_path(chunk) for one in gone for chunk in one.chunks):
        assert (depot.size(path) is None) == (depot.frees_later is None)
    assert stage(reopened(), "tiny", signer.policy(), tmp_path / "node", NOW).seq == 2


def test_a_link_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "depot" / PATH).parent.mkdir(parents=True)
    (tmp_path / "depot" / PATH).symlink_to(tmp_path / "secret")
    with pytest.raises(FileAccess):
        FolderDepot(tmp_path / "depot").read(PATH, 100)


def test_a_pipe_in_a_folder_keeps_nobody_waiting(tmp_path: Path) -> None:
    import os

    (tmp_path / PATH).parent.mkdir(parents=True)
    os.mkfifo(tmp_path / PATH)
    with pytest.raises(FileAccess, match="not a regular file"):
        FolderDepot(tmp_path).read(PATH, 100)


def test_a_folder_in_the_place_of_a_file_is_refused_and_costs_no_descriptor(tmp_path: Path) -> None:
    """Who follows a depot asks for weeks: each look kept a descriptor open, until none was left."""
    (tmp_path / PATH).mkdir(parents=True)
    before = sorted(Path("/proc/self/fd").iterdir())
    with pytest.raises(FileAccess, match="not a regular file"):
        FolderDepot(tmp_path).read(PATH, 100)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch) -> None:
    depot = FolderDepot(tmp_path)
    depot.write("a", b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pipeline.delivery.transports.folder.os.fsync", full)
    with pytest.raises(Exception, match="No space is left"):
        depot.write("a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert depot.read("a", 10) == b"old"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/srv/depot/channels/credit", ("/srv/depot", "credit")),
        ("depot/channels/credit/", ("depot", "credit")),
        ("https://a.example/x/channels/credit", ("https://a.example/x", "credit")),
        ("s3://bucket/channels/a/channels/credit", ("s3://bucket/channels/a", "credit")),
    ],
)
def test_a_channels_address_names_the_depot_and_the_model(address: str, expected: tuple[str, str]) -> None:
    assert split_channel(address) == expected


@pytest.mark.parametrize(
    "address",
    ["", "/srv/depot", "/channels/credit", "x/channels/../y", "x/channels/a/b", "x/channels/A", "x/channels/"],
)
def test_another_address_is_no_channel(address: str) -> None:
    with pytest.raises(UsageError):
        split_channel(address)


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://user:word@host/depot",
        "https://host/depot?token=1",
        "http://host/a b",
        "http://host:no/",
        "http://user:word@host:no/",
        "http://user:word℀@host/",
        "http://a..b/depot",
        "http://.example/depot",
        f"http://{'a' * 64}.example/depot",
        "nosuch://x",
        "oci://host",
        "oci://host/UPPER",
        "oci://host/a:tag",
        "oci://host/a/../b",
        "oci://user:word@host/depot",
        "oci://host:no/depot",
        "oci://a..b/depot",
        f"oci://{'a' * 64}.example/depot",
    ],
)
def test_an_address_that_leaks_or_leads_nowhere_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as caught, open_depot(address):
        pass
    assert "word" not in str(caught.value).split("password")[0]


def test_nothing_is_published_over_http() -> None:
    with pytest.raises(UsageError, match="can only be read"), open_writable("https://models.example.org/depot"):
        pass


def test_without_fsspec_an_object_store_asks_for_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match=r"hotspare\[delivery\]"), open_writable("s3://bucket/depot"):
        pass
