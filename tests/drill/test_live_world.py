"""The live world: what is played is real, comes out as in the simulated world, and nothing of it is left."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sealed import Sealed, sealed, tiny_rows

from pipeline.bundle.policy import load_policy
from pipeline.bundle.verify import load_channel, verify_bundle
from pipeline.core.clock import utc_now
from pipeline.core.errors import Expired, InternalError, NotAccepted, RolledBack, SignatureInvalid, Tampered, UsageError
from pipeline.core.names import Role
from pipeline.drill import faulty_server
from pipeline.drill.live import launching, playing, world
from pipeline.drill.live.generating import generating
from pipeline.drill.live.launching import Hotspare, PairFiles
from pipeline.drill.live.plan import Plan
from pipeline.drill.live.processes import descendants, standing_in, until
from pipeline.drill.live.releases import Copied, copied, flip_bit, put_in_place, tamper, truncate
from pipeline.drill.live.world import live
from pipeline.drill.nouns import FaultKind, Load, MomentKind, Objectives, Outcome, Script, Strike
from pipeline.drill.orders import OrderBook
from pipeline.drill.play import Subject, World, play
from pipeline.drill.script import load_scripts
from pipeline.drill.transcript import transcript
from pipeline.runtime.release import Places, accept, open_release

SCRIPTS = load_scripts(Path(__file__).parents[2] / "recipes" / "drills")
A_FEW = ("server-death", "expired", "drags")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for a file system or a group of its own")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Sealed:
    return sealed(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def pair(tiny) -> PairFiles:
    return PairFiles(tiny.primary, tiny.backup, tiny.trust)


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.npz"
    np.savez(path, **tiny_rows(300, seed=4))
    return path


def unhurried(name: str) -> Script:
    """Return a shipped script that asks ten times the time of everything: other tests run beside.

    What is asked here is what happens; how soon it does is what the drills of a build and the benchmarks ask.
    """
    found = next(one for one in SCRIPTS if one.name == name)
    asked = {
        one.name: 10 * value for one in fields(Objectives)
        if one.name.endswith("_ms_max") and (value := getattr(found.objectives, one.name)) is not None
    }  # fmt: skip
    load = replace(found.load, deadline_ms=10 * found.load.deadline_ms)
    settings = (*found.settings, ("deadline_ms", f"{load.deadline_ms:.0f}"))
    return replace(found, load=load, settings=settings, objectives=replace(found.objectives, **asked))


def script(*strikes: Strike, seconds: float = 0.6, **changes: object) -> Script:
    return Script("mine", "It is a test.", Load(seconds=seconds, seed=1), strikes, **changes)


# Bundles on disk and their channel.


@pytest.fixture
def served(pair, tmp_path) -> Copied:
    return copied(pair, tmp_path, with_channel=True)


def verified(served: Copied, role: Role = Role.PRIMARY) -> str:
    policy, now = load_policy(served.files.trust), utc_now()
    assert served.channels is not None
    channel = load_channel(served.channels.folder, policy, now)
    return verify_bundle(served.files.bundle(role), policy, now, channel, role).bundle_id


@pytest.mark.slow
def test_a_play_s_own_channel_is_accepted_and_what_is_done_to_its_files_is_refused_as_what_it_is(served):
    assert served.channels is not None
    places = Places(served.files.primary, served.files.backup, served.files.trust, served.files.channel)
    accept(open_release(places, utc_now(), strict=True))
    model = served.model_path(Role.PRIMARY)
    content = model.read_bytes()
    for spoil in (lambda: flip_bit(model, 0.5), lambda: truncate(model)):
        spoil()
        with pytest.raises(Tampered):
            verified(served)
        model.write_bytes(content)
    assert verified(served) == served.bundles[Role.PRIMARY].bundle_id
    tamper(served.files.backup)
    with pytest.raises(SignatureInvalid):
        verified(served, Role.BACKUP)
    put_in_place(served.channels.previous.primary, served.files.primary)
    with pytest.raises(NotAccepted):
        verified(served)
    served.channels.write_before()
    with pytest.raises(RolledBack):
        verified(served)
    served.channels.write_ending(utc_now() - timedelta(seconds=2))
    with pytest.raises(Expired):
        verified(served)


@pytest.mark.slow
def test_the_version_before_is_genuine_and_counts_as_one_behind(served):
    assert served.channels is not None
    policy = load_policy(served.files.trust)
    before = verify_bundle(served.channels.previous.backup, policy, utc_now())
    assert served.channels.behind(before.bundle_id) == 1
    assert served.channels.behind(served.bundles[Role.BACKUP].bundle_id) == 0


# What is left.


def busy() -> list[str]:
    found = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return [line for line in found.stdout.splitlines() if "while True" in line or "pipeline.drill" in line]


def left_behind(folder: Path) -> list[object]:
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    groups = [*Path("/sys/fs/cgroup").glob(f"**/hotspare-drill-*-{folder.name}")]
    return [*standing_in(folder / "run"), *mounts, *groups, *busy()]


@pytest.fixture
def folder(tmp_path) -> Iterator[Path]:
    yield tmp_path / "play"
    assert left_behind(tmp_path / "play") == []


@pytest.mark.slow
@needs_root
def test_a_play_that_is_interrupted_leaves_nothing(pair, rows, folder, monkeypatch):
    seen: list[object] = []

    def interrupted(self: object) -> None:
        seen.extend(left_behind(folder))
        raise KeyboardInterrupt

    monkeypatch.setattr(playing.Play, "settle", interrupted)
    strikes = (
        Strike(10, FaultKind.CPU_STARVATION, amounts=(("processes", 1),)),
        Strike(50, FaultKind.DISK_FULL),
        Strike(60, FaultKind.DELAYED),
        Strike(80, FaultKind.STOP, Role.BACKUP),
        Strike(100, FaultKind.OUT_OF_MEMORY, Role.PRIMARY),
    )
    with pytest.raises(KeyboardInterrupt):
        live(script(*strikes), pair, folder, rows)
    assert len(seen) >= 6  # it was all there


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_this_process_does_so_by_an_exception_while_a_play_goes_on(number):
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as raised, world._ended_by_signals():
        os.kill(os.getpid(), number)
    assert raised.value.code == 128 + number
    assert signal.getsignal(number) is before


def test_of_a_server_too_busy_to_say_the_workers_are_those_that_it_named_last_and_that_live(tmp_path, monkeypatch):
    system = Hotspare(PairFiles(tmp_path, tmp_path, tmp_path), tmp_path)
    monkeypatch.setattr(launching, "stands_in", lambda pid, _: pid in (12, 13))
    named = [(11, Role.PRIMARY), (12, Role.PRIMARY), (13, Role.BACKUP), (None, Role.BACKUP)]
    status = {"members": [{"pid": pid, "seat": {"role": role, "replica": 0}} for pid, role in named]}
    monkeypatch.setattr(system, "status", lambda _timeout_s=1.0: status)
    assert system.pids(Role.PRIMARY) == [12]
    assert system.pid(Role.BACKUP) == 13
    monkeypatch.setattr(system, "status", lambda _timeout_s=1.0: {})
    assert system.pids(Role.PRIMARY) == [12]
    monkeypatch.setattr(launching, "stands_in", lambda *_: False)
    with pytest.raises(InternalError, match="No backup is up"):
        system.pid(Role.BACKUP)


@pytest.mark.slow
def test_of_a_server_too_busy_to_say_no_worker_is_struck_in_its_place(tmp_path, monkeypatch):
    """A death of the server that was a worker's would pass every drill of it."""
    system = Hotspare(PairFiles(tmp_path, tmp_path, tmp_path), tmp_path)
    members = [{"seat": {"role": role}, "pid": pid} for role, pid in (("primary", 11), ("backup", 12))]
    monkeypatch.setattr(Hotspare, "keeper_pid", 10)
    monkeypatch.setattr(launching, "descendants", lambda _: [11, 12, 13])  # the server was started anew, last of all
    for status in ({"members": members}, {}):
        monkeypatch.setattr(system, "status", lambda _timeout_s=1.0, told=status: told)
        assert system.answering_pid() == 13


def test_a_server_that_does_not_start_is_told_and_leaves_nothing(pair, folder, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(folder))
    folder.mkdir()
    (folder / "uvicorn.py").write_text("raise RuntimeError('broken on purpose')")
    with pytest.raises(InternalError, match="ended by itself"):
        live(script(), pair, folder)


def test_a_generator_that_fails_is_told_and_ended(tmp_path):
    plan = Plan(port=1, path="/", bodies=("x",), rate=1.0, seconds=0.1)
    with pytest.raises(InternalError, match="did not start"), generating(plan, tmp_path):
        pass
    assert busy() == []


def test_what_needs_root_is_left_out_with_the_reason_where_there_is_none(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(world, "is_root", lambda: False)
    observed = live(script(needs=("root",)), pair, tmp_path)
    assert observed.left_out.startswith("It needs root")
    assert transcript(script(), observed).startswith("not played")
    assert list(tmp_path.iterdir()) == []


def test_settings_that_are_none_are_refused_before_anything_starts(pair, tmp_path):
    with pytest.raises(UsageError):
        live(script(settings=(("replicas", "0"),)), pair, tmp_path)
    with pytest.raises(UsageError):
        play(script(), World.LIVE)


def test_the_deadline_that_a_script_sets_is_that_of_requests_which_name_none(tmp_path, monkeypatch):
    """The front kept its own: whatever the pair was told, a request was given up after a second."""
    seen = []
    monkeypatch.setattr(faulty_server, "serve", lambda args, *_: seen.append(args.deadline_ms) or 0)
    OrderBook(tmp_path / "orders")
    places = ["--primary", "a", "--standby", "b", "--trust", "c", "--orders", str(tmp_path / "orders")]
    assert faulty_server.main([*places, "--set", "deadline_ms=8000"]) == faulty_server.main(places) == 0
    assert seen == [8000, 1000]


# Plays.


@pytest.mark.slow
def test_a_killed_primary_end_to_end(pair, rows, folder):
    wanted = unhurried("kill")
    observed = play(wanted, World.LIVE, subject=Subject(pair, rows), folder=folder)
    assert transcript(wanted, observed) == wanted.transcript
    assert {one.outcome for one in observed.requests} == {Outcome.RIGHT}
    assert [role for _, role, _ in observed.serving] == [Role.PRIMARY, Role.BACKUP]
    assert observed.moments[0].kind is MomentKind.STRUCK
    before = [one for one in observed.requests if (one.role, one.term) == (Role.PRIMARY, 1)]
    after = [one for one in observed.requests if (one.role, one.term) == (Role.BACKUP, 2)]
    assert before[-1].number < after[-1].number
    assert {one.bundle_id for one in before} == {observed.facts["primary bundle"]}
    # What was late, on a busy machine, the other one was asked as well.
    assert len(observed.requests) - len(before) - len(after) <= observed.hedged + observed.resent
    assert observed.memory_mb > 10
    assert 0 < observed.cpu_ratio < 2
    assert not (pair.trust.parent / "state").exists()  # the play's state is its own


@pytest.mark.slow
@pytest.mark.parametrize("name", A_FEW)
def test_a_few_drills_come_out_live_as_they_are_recorded(pair, rows, folder, name):
    wanted = unhurried(name)
    assert transcript(wanted, live(wanted, pair, folder, rows)) == wanted.transcript


@pytest.mark.long
@pytest.mark.parametrize("wanted", SCRIPTS, ids=lambda one: one.name)
def test_every_drill_comes_out_live_as_it_is_recorded(pair, rows, folder, wanted):
    observed = live(wanted, pair, folder, rows)
    if observed.left_out:
        pytest.skip(observed.left_out)
    assert transcript(wanted, observed) == wanted.transcript


@pytest.mark.slow
def test_a_strike_that_finds_nobody_is_said_and_the_play_goes_on(pair, rows, folder):
    twice = (Strike(50, FaultKind.KILL, Role.BACKUP), Strike(51, FaultKind.STOP, Role.BACKUP))
    wanted = replace(script(*twice), settings=(("backoff_first_ms", "500"),))
    observed = live(wanted, pair, folder, rows)
    assert any("could not be done" in one.text for one in observed.moments)
    assert all(one.outcome is Outcome.RIGHT for one in observed.requests)


@pytest.mark.slow
@needs_root
def test_a_drill_that_is_killed_leaves_no_server_that_obeys_no_load_and_no_mount(pair: PairFiles, tmp_path: Path):
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pipeline.drill.live.launching import PairFiles\n"
        "from pipeline.drill.live.world import live\n"
        "from pipeline.drill.script import parse_script\n"
        "files = PairFiles(*map(Path, sys.argv[1:4]))\n"
        "text = '# A rule.\\nload constant 50/s for 60s\\nat 50ms disk-full\\n'\n"
        "live(parse_script(text, 'x'), files, Path(sys.argv[4]))\n"
    )
    play = tmp_path / "play"
    command = [sys.executable, "-c", code, *map(str, (pair.primary, pair.backup, pair.trust, play))]
    with subprocess.Popen(command, start_new_session=True) as drill:
        until("The strike", (play / "state" / "filler").exists)
        family = descendants(drill.pid)
        drill.kill()
    assert len(family) >= 4
    until("The end of everybody", lambda: not any(map(runs, family)) and not standing_in(play / "run"))
    until("The end of the mount", lambda: not (play / "state").is_mount())


def runs(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
