"""A depot in an OCI registry: what moves, what goes on after an interruption, who is let in, and what is refused."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from depots import NOW, Release, Signer, trust_file
from oci_registry import (
    PASSWORD,
    REPOSITORY,
    Asked,
    DebianRegistry,
    FakeRegistry,
    Said,
    docker_auth,
    fake_registry,
)

from pipeline.commands.build.publishing import Published, publish
from pipeline.core.canonical import canonical_json, sha256_hex
from pipeline.core.errors import FileAccess, HotspareError, Malformed, RolledBack, Tampered, Unreachable
from pipeline.core.names import Role
from pipeline.delivery.contents import unverified_contents
from pipeline.delivery.depot import Depot, WritableDepot, bundle_path, channel_path, chunk_path, is_chunk_path
from pipeline.delivery.retiring import plan_removal, remove
from pipeline.delivery.staging import Staged, stage
from pipeline.delivery.transports import oci
from pipeline.delivery.transports.opening import open_depot, open_writable

NOISE = np.random.default_rng(0).bytes(60_000)
LARGE = np.random.default_rng(1).bytes(1_000_000)
CHANNEL = channel_path("tiny")


class Killed(BaseException):
    """Nobody catches it."""


@dataclass
class Watched:
    """A depot that counts what is done to it, and kills whoever writes (or reads a chunk) once too often."""

    depot: WritableDepot
    writes_left: int = 1 << 30
    chunks_left: int = 1 << 30
    written: list[str] = field(default_factory=list)
    address: str = "watched"
    lanes: int = 1

    def read(self, path: str, bytes_max: int) -> bytes | None:
        if is_chunk_path(path):
            self.chunks_left -= 1
            if self.chunks_left < 0:
                raise Killed
        return self.depot.read(path, bytes_max)

    def size(self, path: str) -> int | None:
        return self.depot.size(path)

    def write(self, path: str, data: bytes) -> None:
        self.writes_left -= 1
        if self.writes_left < 0:
            raise Killed
        self.written.append(path)
        self.depot.write(path, data)


@pytest.fixture(params=["fake", pytest.param("debian", marks=pytest.mark.slow)])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A registry that a contract test is held against: the fake one, and a real one."""
    if request.param == "fake":
        yield request.getfixturevalue("registry").address
        return
    with DebianRegistry(tmp_path / "debian").running() as server:
        yield f"oci://{server}/{REPOSITORY}"


def put(depot: WritableDepot, signer: Signer, release: Release) -> Published:
    return publish(depot, release.channel_sig, release.bundles, signer.key, signer.policy())


def publish_at(address: str, signer: Signer, release: Release) -> Published:
    with open_writable(address) as depot:
        return put(depot, signer, release)


def stage_from(address: str, signer: Signer, to: Path) -> Staged:
    with open_depot(address) as depot:
        return stage(depot, "tiny", signer.policy(), to, NOW)


def test_the_same_release_again_writes_nothing(address: str, signer: Signer) -> None:
    release = signer.release(1, NOISE)
    with open_writable(address) as depot:
        first, again = put(Watched(depot), signer, release), Watched(depot)
        assert first.chunks_new > 10
        assert put(again, signer, release).bytes_new == 0
    assert again.written == []


def test_a_change_of_one_percent_moves_at_most_five(address: str, signer: Signer, tmp_path: Path) -> None:
    publish_at(address, signer, signer.release(1, LARGE))
    stage_from(address, signer, tmp_path / "node")
    changed = LARGE[:300_000] + bytes(10_000) + LARGE[310_000:]
    done = publish_at(address, signer, signer.release(2, changed))
    staged = stage_from(address, signer, tmp_path / "node")
    print(f"{done.bytes_new / done.bytes_total:.1%} published, {staged.bytes_moved / staged.bytes_total:.1%} staged")
    assert done.bytes_new <= 0.05 * done.bytes_total
    assert staged.bytes_moved <= 0.05 * staged.bytes_total
    assert (tmp_path / "node/tiny/primary/payload/model/model.onnx").read_bytes() == changed


def test_a_publication_that_was_killed_anywhere_goes_on(address: str, signer: Signer, tmp_path: Path) -> None:
    old, new = signer.release(1, NOISE), signer.release(2, NOISE[::-1])
    publish_at(address, signer, old)
    with open_writable(address) as depot:
        written = []
        while True:
            watched = Watched(depot, writes_left=6)
            try:
                put(watched, signer, new)
                break
            except Killed:
                assert depot.read(CHANNEL, 1 << 20) == old.channel_sig
            finally:
                written += watched.written
    chunks = [path for path in written if is_chunk_path(path)]
    assert len(written) > 12
    assert len(chunks) == len(set(chunks))
    assert stage_from(address, signer, tmp_path / "node").seq == 2


def test_staging_that_was_killed_goes_on_where_it_stopped(address: str, signer: Signer, tmp_path: Path) -> None:
    publish_at(address, signer, signer.release(1, NOISE))
    whole = stage_from(address, signer, tmp_path / "another").chunks_moved
    with open_writable(address) as depot:
        with pytest.raises(Killed):
            stage(Watched(depot, chunks_left=7), "tiny", signer.policy(), tmp_path / "node", NOW)
        assert stage(depot, "tiny", signer.policy(), tmp_path / "node", NOW).chunks_moved == whole - 7


def test_an_older_channel_does_not_replace_a_newer_one(address: str, signer: Signer) -> None:
    old, new = signer.release(1, NOISE), signer.release(2, NOISE)
    publish_at(address, signer, new)
    with pytest.raises(RolledBack):
        publish_at(address, signer, old)


@pytest.mark.slow
def test_a_registrys_garbage_collection_keeps_both_of_two_releases(signer: Signer, tmp_path: Path) -> None:
    registry = DebianRegistry(tmp_path / "debian")
    releases = [signer.release(1, NOISE), signer.release(2, NOISE[::-1], b"another backup")]
    with registry.running() as server:
        for release in releases:
            publish_at(f"oci://{server}/{REPOSITORY}", signer, release)
        with open_writable(f"oci://{server}/{REPOSITORY}") as depot:
            depot.write(chunk_path(sha256_hex(b"lost")), b"lost")
    before = registry.digests()
    registry.collect_garbage()
    gone = before - registry.digests()
    assert {sha256_hex(b"lost"), sha256_hex(releases[0].channel_sig)} < gone
    assert len(gone) == 3  # and the manifest that named the old channel
    with registry.running() as server:
        address = f"oci://{server}/{REPOSITORY}"
        assert stage_from(address, signer, tmp_path / "node").seq == 2
        back = signer.signed(signer.release(3, NOISE).channel, releases[0].bundles)
        assert publish_at(address, signer, back).chunks_new == 0
        assert stage_from(address, signer, tmp_path / "node").seq == 3


@pytest.mark.slow
def test_a_registrys_garbage_collection_frees_what_a_removed_release_alone_was_made_of(
    signer: Signer, tmp_path: Path
) -> None:
    registry = DebianRegistry(tmp_path / "debian")
    old, new = signer.release(1, NOISE), signer.release(2, NOISE[:30_000] + b"new" + NOISE[30_000:], b"another")
    with registry.running() as server, open_writable(f"oci://{server}/{REPOSITORY}") as depot:
        put(depot, signer, old)
        put(depot, signer, new)
        gone = plan_removal(depot, depot.bundle_ids(), old.channel.bundle_ids.values())
        remove(depot, gone)
    freed = {chunk for one in gone for chunk in one.chunks}
    assert freed
    assert freed < registry.digests()
    registry.collect_garbage()
    assert freed.isdisjoint(registry.digests())
    with registry.running() as server:
        assert stage_from(f"oci://{server}/{REPOSITORY}", signer, tmp_path / "node").seq == 2


@pytest.mark.slow
def test_a_real_registry_that_asks_for_a_password_gets_it_from_the_docker_configuration(
    signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    with DebianRegistry(tmp_path / "debian", needs_password=True).running() as server:
        with pytest.raises(FileAccess, match=f"docker login {server}"):
            publish_at(f"oci://{server}/{REPOSITORY}", signer, signer.release(1, NOISE))
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker/config.json").write_text(docker_auth(server))
        publish_at(f"oci://{server}/{REPOSITORY}", signer, signer.release(1, NOISE))
        assert stage_from(f"oci://{server}/{REPOSITORY}", signer, tmp_path / "node").seq == 1


def test_every_chunk_is_a_layer_of_a_manifest_that_is_there_before_the_contents(
    registry: FakeRegistry, signer: Signer
) -> None:
    release = signer.release(1, NOISE)
    publish_at(registry.address, signer, release)
    named = set[str]()
    for bundle_id in release.channel.bundle_ids.values():
        manifest = registry.manifest(bundle_path(bundle_id, "chunks"))
        named |= {layer["digest"] for layer in manifest["layers"]}
        contents = registry.blobs[registry.manifest(bundle_path(bundle_id, "contents.sig"))["layers"][0]["digest"]]
        listed = unverified_contents(contents, "").files
        assert {f"sha256:{piece.sha256}" for file in listed for piece in file.pieces} <= named
        puts = [one.path.rpartition("/")[2] for one in registry.asked if one.method == "PUT"]
        assert puts.index(f"bundles.{bundle_id}.chunks") < puts.index(f"bundles.{bundle_id}.contents.sig")
    files = {manifest["layers"][0]["digest"] for manifest in map(json.loads, registry.manifests.values())}
    config = f"sha256:{sha256_hex(b'{}')}"
    assert registry.blobs.keys() == named | files | {config}
    assert puts[-1] == CHANNEL.replace("/", ".")


def test_a_manifest_of_the_largest_bundle_fits_into_what_registries_take() -> None:
    layers = [oci._Blob("application/octet-stream", f"sha256:{'f' * 64}", 1 << 20)] * 16_384
    manifest = oci._Manifest.of(bundle_path("f" * 64, "chunks"), layers)
    assert len(canonical_json(oci.plain(manifest))) < oci._PUT_BYTES_MAX


def test_what_a_registry_lost_or_may_collect_is_put_right(registry: FakeRegistry, signer: Signer) -> None:
    release = signer.release(1, NOISE)
    publish_at(registry.address, signer, release)
    keeper = bundle_path(release.channel.primary.bundle_id, "chunks")
    lost = registry.manifest(keeper)["layers"][0]["digest"]
    del registry.blobs[lost], registry.tags[keeper.replace("/", ".")]
    done = publish_at(registry.address, signer, release)
    assert done.chunks_new == 1
    assert lost in {layer["digest"] for layer in registry.manifest(keeper)["layers"]}
    assert publish_at(registry.address, signer, release).bytes_new == 0


# Who is let in.


@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize("is_inline", [True, False])
def test_a_registry_that_asks_is_told_what_the_docker_configuration_holds_for_it(
    registry: FakeRegistry, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, is_inline: bool
) -> None:
    registry.asks_for = kind
    if is_inline:
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", docker_auth(f"https://{registry.server}/v2/"))
    else:
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", "")  # as a build service does whose secret nobody filled in
        (tmp_path / "docker").mkdir()
        (tmp_path / "docker/config.json").write_text(docker_auth(registry.server))
    publish_at(registry.address, signer, signer.release(1, NOISE))
    assert stage_from(registry.address, signer, tmp_path / "node").seq == 1
    assert "Authorization" not in registry.asked[0].headers
    refused = [one for one in registry.asked if "Authorization" not in one.headers]
    assert len(refused) < 20  # once a depot and lane, not once a request


def test_a_token_of_the_docker_configuration_is_sent_as_it_is(
    registry: FakeRegistry, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.asks_for = "bearer"
    told = {"auths": {registry.server: {"registrytoken": "for-an-hour"}}, "credsStore": "desktop"}
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(told))
    publish_at(registry.address, signer, signer.release(1, NOISE))
    assert not any(one.path.startswith("/token") for one in registry.asked)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize("known", [None, "elsewhere:5000", "wrong password"])
def test_who_is_not_let_in_is_told_what_to_do_and_no_secret(
    registry: FakeRegistry, signer: Signer, monkeypatch: pytest.MonkeyPatch, kind: str, known: str | None
) -> None:
    registry.asks_for = kind
    if known == "wrong password":
        wrong = {"auths": {registry.server: {"auth": "dXNlcjpzZWNyZXQ="}}}  # user:secret
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(wrong))
    elif known is not None:
        monkeypatch.setenv("DOCKER_AUTH_CONFIG", docker_auth(known))
    with pytest.raises(FileAccess, match=f"docker login {registry.server}") as caught:
        publish_at(registry.address, signer, signer.release(1, NOISE))
    assert "secret" not in str(caught.value)
    assert PASSWORD not in str(caught.value)
    sent = [one.headers.get("Authorization", "") for one in registry.asked]
    assert any("dXNlcjpzZWNyZXQ=" in one for one in sent) == (known == "wrong password")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"auths": [1]}',
        '{"auths": {"SERVER": "x"}}',
        '{"auths": {"SERVER": {"auth": "line\\nbreak"}}}',
        '{"auths": {"SERVER": {"auth": "bm8gY29sb24="}}}',
        '{"auths": {"SERVER": {"registrytoken": "secret\\r\\nX: y"}}}',
    ],
)
def test_a_broken_docker_configuration_is_named_and_not_quoted(
    registry: FakeRegistry, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    registry.asks_for = "basic"
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", text.replace("SERVER", registry.server))
    with pytest.raises(FileAccess, match="DOCKER_AUTH_CONFIG is no docker configuration") as caught:
        stage_from(registry.address, signer, tmp_path / "node")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_depot_does_not_show_what_it_was_given(
    registry: FakeRegistry, signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.asks_for = "basic"
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", docker_auth(registry.server))
    with open_writable(registry.address) as depot:
        depot.read(CHANNEL, 100)
        secret = registry.asked[-1].headers["Authorization"].removeprefix("Basic ")
        assert len(secret) > 10
        assert secret not in repr(depot)


def test_a_registry_on_this_machine_alone_is_spoken_to_in_plain_text() -> None:
    for host, root in {
        "127.0.0.1": "http",
        "localhost:5000": "http",
        "[::1]:5000": "http",
        "a.example": "https",
    }.items():
        found = oci.OciDepot.at(f"oci://{host}/depot")
        assert found.root == f"{root}://{host}"
        assert (found.server.tls is None) == (root == "http")


# What a hostile registry may try.

Twist = Callable[[Asked], Said | None]


@pytest.fixture
def published(registry: FakeRegistry, signer: Signer) -> FakeRegistry:
    publish_at(registry.address, signer, signer.release(2, NOISE))
    registry.asked.clear()
    return registry


def _of_chunks(registry: FakeRegistry, said: Callable[[bytes], Said]) -> Twist:
    """Answer like this where a chunk is asked for."""
    chunks = {
        layer["digest"]
        for tag, digest in registry.tags.items()
        if tag.endswith(".chunks")
        for layer in json.loads(registry.manifests[digest])["layers"]
    }

    def twist(asked: Asked) -> Said | None:
        name = asked.path.rpartition("/")[2]
        return said(registry.blobs[name]) if name in chunks else None

    return twist


def _of_manifest(path: str, said: Said) -> Twist:
    return lambda asked: said if asked.path.endswith(f"/manifests/{path.replace('/', '.')}") else None


def _moved(to: str) -> Said:
    return Said(307, headers=(("Location", to),))


ATTACKS: dict[str, tuple[type[HotspareError], Callable[[FakeRegistry], Twist]]] = {
    "wrong bytes": (Tampered, lambda made: _of_chunks(made, lambda data: Said(200, bytes(len(data))))),
    "fewer bytes": (Tampered, lambda made: _of_chunks(made, lambda data: Said(200, data[:-1]))),
    "too many bytes": (Malformed, lambda made: _of_chunks(made, lambda data: Said(200, data + b"x"))),
    "a missing blob": (Tampered, lambda made: _of_chunks(made, lambda _: Said(404))),
    "a chunk of another file": (Malformed, lambda made: _of_chunks(made, lambda _: Said(200, NOISE))),
    "a chunk at a file of this machine": (FileAccess, lambda made: _of_chunks(made, lambda _: _moved("file:///etc/x"))),
    "a chunk at another host in plain text": (
        FileAccess,
        lambda made: _of_chunks(made, lambda _: _moved("http://192.0.2.1/x")),
    ),
    "a chunk at a name that no host can have": (
        FileAccess,
        lambda made: _of_chunks(made, lambda _: _moved("https://a..b/x")),
    ),
    "a chunk at an address that is none": (FileAccess, lambda made: _of_chunks(made, lambda _: _moved("https://[x/y"))),
    "a chunk nowhere": (FileAccess, lambda made: _of_chunks(made, lambda _: Said(307))),
    "a chunk with a password": (
        FileAccess,
        lambda made: _of_chunks(made, lambda _: _moved(f"http://a:b@{made.server}/x")),
    ),
    "chunks moved for ever": (
        FileAccess,
        lambda made: _of_chunks(made, lambda _: _moved(f"http://{made.server}{_loop(made)}")),
    ),
    "a moved channel": (FileAccess, lambda made: _of_manifest(CHANNEL, _moved(f"http://{made.server}/x"))),
    "no channel": (FileAccess, lambda _: _of_manifest(CHANNEL, Said(404))),
    "an endless challenge": (FileAccess, lambda made: lambda _: _challenge(f"http://{made.server}/token")),
    "a challenge that asks for nothing": (FileAccess, lambda _: lambda _: Said(401)),
    "a token from a host in plain text": (FileAccess, lambda _: lambda _: _challenge("http://192.0.2.1/token")),
    "a token from a name that no host can have": (FileAccess, lambda _: lambda _: _challenge("https://a..b/token")),
    "a token from a file": (FileAccess, lambda _: lambda _: _challenge("file:///etc/passwd")),
    "a manifest that is no JSON": (Malformed, lambda _: _of_manifest(CHANNEL, Said(200, b"{"))),
    "a manifest that is an image's": (Malformed, lambda _: _of_manifest(CHANNEL, Said(200, b'{"schemaVersion":2}'))),
    "a manifest that is too large": (Malformed, lambda _: _of_manifest(CHANNEL, Said(200, b" " * 100_000))),
    "a manifest of a digest that is none": (
        Malformed,
        lambda made: _of_manifest(CHANNEL, Said(200, _forged(made, digest="sha256:../../x"))),
    ),
    "a manifest of too large a file": (
        Malformed,
        lambda made: _of_manifest(CHANNEL, Said(200, _forged(made, size=1 << 30))),
    ),
    "a busy registry": (Unreachable, lambda _: lambda _: Said(429)),
}


def _loop(made: FakeRegistry) -> str:
    return f"/v2/{REPOSITORY}/blobs/{next(iter(json.loads(one)['layers'][0]['digest'] for one in _keepers(made)))}"


def _keepers(made: FakeRegistry) -> Iterator[bytes]:
    return (made.manifests[digest] for tag, digest in made.tags.items() if tag.endswith(".chunks"))


def _challenge(realm: str) -> Said:
    return Said(401, headers=(("WWW-Authenticate", f'Bearer realm="{realm}",service="x",scope="y"'),))


def _forged(made: FakeRegistry, **layer: object) -> bytes:
    manifest = made.manifest(CHANNEL)
    return canonical_json({**manifest, "layers": [{**manifest["layers"][0], **layer}]})


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory: pytest.TempPathFactory) -> tuple[Signer, FakeRegistry]:
    """A node on the first release, beside its signer, and a registry that has the second; to copy from."""
    signer = Signer(tmp_path_factory.mktemp("left_behind"))
    with fake_registry() as made:
        publish_at(made.address, signer, signer.release(1, NOISE[::-1], b"an older backup"))
        stage_from(made.address, signer, signer.folder / "node")
        publish_at(made.address, signer, signer.release(2, NOISE))
    return signer, made


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_registry_is_refused_and_what_was_staged_stays(
    registry: FakeRegistry, left_behind: tuple[Signer, FakeRegistry], tmp_path: Path, name: str
) -> None:
    made, before = left_behind
    registry.blobs, registry.tags, registry.manifests = dict(before.blobs), dict(before.tags), dict(before.manifests)
    shutil.copytree(made.folder, tmp_path / "copy")
    signer, node = replace(made, folder=tmp_path / "copy"), tmp_path / "copy/node"
    error, attack = ATTACKS[name]
    registry.twist = attack(registry)
    with pytest.raises(error):
        stage_from(registry.address, signer, node)
    assert len(registry.asked) < 60
    registry.twist = lambda _: None
    assert b'"seq":1' in (node / "tiny/channel.json").read_bytes()
    assert stage_from(registry.address, signer, node).seq == 2


def test_an_old_channel_is_refused(registry: FakeRegistry, signer: Signer, tmp_path: Path) -> None:
    publish_at(registry.address, signer, signer.release(1, NOISE))
    old = registry.tags[CHANNEL.replace("/", ".")]
    publish_at(registry.address, signer, signer.release(2, NOISE))
    stage_from(registry.address, signer, tmp_path / "node")
    registry.tags[CHANNEL.replace("/", ".")] = old
    with pytest.raises(RolledBack):
        stage_from(registry.address, signer, tmp_path / "node")


def test_a_missing_signature_is_refused(published: FakeRegistry, signer: Signer, tmp_path: Path) -> None:
    release = signer.release(2, NOISE)
    del published.tags[bundle_path(release.channel.backup.bundle_id, "bundle.sig").replace("/", ".")]
    with pytest.raises(Tampered, match="is missing"):
        stage_from(published.address, signer, tmp_path / "node")


def test_a_manifest_under_another_name_is_refused(published: FakeRegistry, signer: Signer, tmp_path: Path) -> None:
    one, other = (
        bundle_path(ref.bundle_id, "bundle.sig").replace("/", ".")
        for ref in (signer.release(2, NOISE).channel.ref(role) for role in Role)
    )
    published.tags[one] = published.tags[other]
    with pytest.raises(Malformed, match="something else"):
        stage_from(published.address, signer, tmp_path / "node")


def test_a_blob_that_lies_elsewhere_is_fetched_without_credentials(
    published: FakeRegistry, signer: Signer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the large registries do, whose blobs lie in an object store."""
    published.asks_for = "basic"
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", docker_auth(published.server))
    with fake_registry() as store:
        store.blobs = published.blobs

        def twist(asked: Asked) -> Said | None:
            is_blob = "/blobs/sha256:" in asked.path and "Authorization" in asked.headers
            return _moved(f"http://{store.server}{asked.path}?signed=1") if is_blob else None

        published.twist = twist
        assert stage_from(published.address, signer, tmp_path / "node").chunks_moved > 10
        assert publish_at(published.address, signer, signer.release(2, NOISE)).chunks_new == 0
        assert not any("Authorization" in one.headers for one in store.asked)
        assert {one.method for one in store.asked} == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "to",
    [
        "http://192.0.2.1/upload", "https://127.0.0.1/upload", "https://a..b/upload", "https://[x/upload",
        "file:///tmp/x", "",
    ],
)  # fmt: skip
def test_nothing_is_uploaded_to_another_host(registry: FakeRegistry, signer: Signer, to: str) -> None:
    def twist(asked: Asked) -> Said | None:
        return Said(202, headers=(("Location", to),)) if asked.method == "POST" else None

    registry.twist = twist
    with pytest.raises(FileAccess):
        publish_at(registry.address, signer, signer.release(1, NOISE))
    assert registry.blobs == {}


@pytest.mark.parametrize("size", ["9" * 5_000, "-1", "1_0", "²", ""])
def test_a_size_that_is_none_is_not_believed(registry: FakeRegistry, size: str) -> None:
    registry.twist = lambda _: Said(200, headers=(("Content-Length", size),))
    with open_writable(registry.address) as depot:
        assert depot.size(chunk_path("a" * 64)) is None


def test_tags_are_read_page_by_page(registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oci, "_PAGE", 3)
    bundles = {sha256_hex(bytes([number])) for number in range(10)}
    with open_writable(registry.address) as depot:
        for bundle_id in bundles:
            depot.write(bundle_path(bundle_id, "bundle.sig"), b"signed")
        assert depot.bundle_ids() == bundles
        assert sum("/tags/list" in one.path for one in registry.asked) == 4


@pytest.mark.parametrize("tags", [["a", "b"], [], None])
def test_tags_that_never_end_are_refused(registry: FakeRegistry, tags: list[str] | None) -> None:
    page = Said(200, json.dumps({"name": REPOSITORY, "tags": tags}).encode(), (("Link", '</again>; rel="next"'),))
    registry.twist = lambda _: page
    with open_writable(registry.address) as depot, pytest.raises(Malformed, match="round and round"):
        depot.bundle_ids()
    assert len(registry.asked) <= 2


def test_a_registry_that_goes_away_is_told_by_its_address_alone(registry: FakeRegistry, signer: Signer) -> None:
    registry.twist = lambda asked: Said(503) if asked.method == "PUT" else None
    with pytest.raises(Unreachable, match=f"{registry.address}.*HTTP 503"):
        publish_at(registry.address, signer, signer.release(1, NOISE))


def test_a_depot_is_read_only_where_reading_is_all_that_is_asked(published: FakeRegistry, signer: Signer) -> None:
    with open_depot(published.address) as depot:
        _fetch_channel(depot)
    assert {one.method for one in published.asked} == {"GET"}


def _fetch_channel(depot: Depot) -> None:
    assert depot.read(CHANNEL, 1 << 20)


@pytest.mark.parametrize(("attack", "code"), [(None, 0), ("wrong bytes", 30), ("a moved channel", 43)])
def test_the_command_stages_from_a_registry_and_says_what_was_wrong(
    published: FakeRegistry,
    signer: Signer,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    attack: str | None,
    code: int,
) -> None:
    from pipeline.cli import main

    if attack is not None:
        published.twist = ATTACKS[attack][1](published)
    channel = f"{published.address}/channels/tiny"
    assert main(["stage", channel, "--trust", str(trust_file(signer)), "--to", str(tmp_path / "node")]) == code
    told = capsys.readouterr()
    assert told.err.count("\n") == (code != 0)
