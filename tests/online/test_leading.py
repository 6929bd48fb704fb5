"""Two pure members on a simulated disk, network and clock: what may never happen, whatever does."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.online import leading
from pipeline.online import leading_nouns as nouns
from pipeline.online.leading import acknowledgeable, next_epoch, start, step
from pipeline.online.leading_nouns import Stand, State, Terms
from pipeline.online.records import common_seq


@dataclass
class Member:
    """A member with a disk that outlives it: its log of (epoch, update), and its epoch.

    The log's records up to ``first`` are dropped: what is kept of them here stands for the state that they came to.
    """

    seat: int
    terms: Terms
    log: list[tuple[int, int]] = field(default_factory=list)
    epoch: int = 0
    first: int = 0
    state: State | None = None
    inbox: list[tuple] = field(default_factory=list)
    paused: bool = False

    def ends(self) -> dict[int, int]:
        return {epoch: seq for seq, (epoch, _) in enumerate(self.log, 1) if seq >= self.first}


@dataclass
class World:
    """Both members; ``acknowledged`` holds (update, seq, epoch) of all that a sender was told."""

    terms: Terms
    now: float = 0.0
    updates: int = 0
    linked: bool = False
    acknowledged: list[tuple[int, int, int]] = field(default_factory=list)
    told: dict[int, set[int]] = field(default_factory=dict)  # who acknowledged, by epoch
    took_over: int = 0
    lent: int = 0

    def __post_init__(self) -> None:
        self.members = [Member(seat, self.terms) for seat in (0, 1)]
        for member in self.members:
            self.begin(member)

    def begin(self, member: Member) -> None:
        epoch = max([member.epoch, *(epoch for epoch, _ in member.log[-1:])])
        member.state = start(member.seat, self.terms, epoch, len(member.log), self.now, member.first)
        member.paused = False

    def happen(self, member: Member, event: nouns.Event, records: list | None = None, stop: int | None = None) -> None:
        """Let a member carry out what an event makes it do; killed after ``stop`` actions."""
        if member.state is None or member.paused:
            return
        before = member.state
        member.state, actions = step(member.state, event)
        self.took_over += member.state.stand is Stand.LEADS and before.stand is Stand.FOLLOWS
        for action in actions[:stop]:
            self.do(member, action, records or [])
        if stop is not None and stop < len(actions):
            self.kill(member)
            return
        self.acknowledge(member)

    def acknowledge(self, member: Member) -> None:
        limit = acknowledgeable(member.state, self.now)
        known = {update for update, _, _ in self.acknowledged}
        for seq, (_, update) in enumerate(member.log[:limit], 1):
            if update not in known:
                self.acknowledged.append((update, seq, member.state.epoch))
                self.told.setdefault(member.state.epoch, set()).add(member.seat)

    def do(self, member: Member, action: nouns.Action, records: list) -> None:
        match action:
            case nouns.KeepEpoch(epoch):
                assert epoch > member.epoch or not member.epoch
                member.epoch = epoch
            case nouns.Append() | nouns.Store() | nouns.Cut() | nouns.Install():
                self.keep(member, action, records)
            case nouns.Part():
                self.unlink()
            case nouns.Refuse():
                pass
            case _ if self.linked:
                self.members[1 - member.seat].inbox.append((action, self.content(member, action)))

    def keep(self, member: Member, action: nouns.Action, records: list) -> None:
        match action:
            case nouns.Append(epoch):
                member.log += [(epoch, update) for update in records]
            case nouns.Store():
                member.log += records
            case nouns.Cut(seq):
                assert seq >= member.first
                del member.log[seq:]
            case nouns.Install():
                member.log, member.first = list(records), len(records)

    def content(self, member: Member, action: nouns.Action) -> object:
        match action:
            case nouns.Ship(_, first, _):
                assert first > member.first
                return member.log[first - 1 :]
            case nouns.Lend():
                self.lent += 1
                return member.log[: member.first]
            case nouns.Welcome(_, common, _):
                return member.log[:common]
            case nouns.Greet(_, _, is_bare) if is_bare:
                return {}
            case _:
                return member.ends()

    def shorten(self, member: Member, window: int, stop: int | None) -> None:
        """Drop what both hold, as a member does; killed before it takes notice when ``stop`` is a number."""
        other = self.members[1 - member.seat]
        if member.state is None or member.paused:
            return
        held = common_seq(member.ends(), other.ends())  # the other one has a checkpoint of all that it has
        upto = leading.may_go(member.state, len(member.log), held, window)
        if upto is not None:
            assert member.log[:upto] == other.log[:upto]
            member.first = upto
            if stop is not None:
                self.kill(member)
                return
            self.happen(member, nouns.Shortened(upto))

    def deliver(self, member: Member, stop: int | None = None) -> None:
        if member.state is None or member.paused or not member.inbox:
            return
        sent, content = member.inbox.pop(0)
        match sent:
            case nouns.Greet(epoch, leads, _):
                event = nouns.Greeted(self.now, epoch, leads, common_seq(member.ends(), content))
            case nouns.Welcome(epoch, common, sent_at):
                event = nouns.Welcomed(self.now, epoch, common, content == member.log[:common], sent_at)
            case nouns.Lend(epoch, sent_at):
                event = nouns.Lent(self.now, epoch, len(content), sent_at)
            case nouns.Ship(epoch, first, sent_at):
                event = nouns.Shipped(self.now, epoch, first, len(content), sent_at)
            case nouns.Confirm(epoch, seq, sent_at):
                event = nouns.Confirmed(self.now, epoch, seq, sent_at)
        self.happen(member, event, content if isinstance(sent, nouns.Ship | nouns.Lend) else None, stop)

    def link(self) -> None:
        if not self.linked and all(member.state is not None and not member.paused for member in self.members):
            self.linked = True
            for member in self.members:
                self.happen(member, nouns.Linked(self.now))

    def unlink(self) -> None:
        self.linked = False
        for member in self.members:
            member.inbox.clear()
            if member.state is not None:
                member.state, _ = step(member.state, nouns.Unlinked(self.now))

    def kill(self, member: Member) -> None:
        member.state, member.paused = None, False
        self.unlink()

    def tick(self, seconds: float) -> None:
        self.now += seconds
        for member in self.members:
            self.happen(member, nouns.Ticked(self.now))

    def heal(self) -> Member:
        """Start, wake and link all, let everything arrive, and return who leads."""
        for member in self.members:
            member.paused = False
            if member.state is None:
                self.begin(member)
        for _ in range(60):
            self.link()
            self.tick(0.3)
            while any(member.inbox for member in self.members):
                for member in self.members:
                    self.deliver(member)
        (leader,) = [member for member in self.members if member.state.stand is Stand.LEADS]
        return leader


SEATS = st.sampled_from([0, 1])
STOPS = st.none() | st.integers(0, 3)
EVERY = st.one_of(
    st.tuples(st.just("tick"), st.sampled_from([0.01, 0.2, 0.7, 1.6])),
    st.tuples(st.just("deliver"), SEATS, STOPS),
    st.tuples(st.just("deliver"), SEATS, st.none()),
    st.tuples(st.just("offer"), SEATS, STOPS),
    st.tuples(st.just("offer"), SEATS, st.none()),
    st.tuples(st.just("flow"), st.none()),
    st.tuples(st.just("shorten"), SEATS, STOPS),
    st.tuples(st.just("kill"), SEATS),
    st.tuples(st.just("start"), SEATS),
    st.tuples(st.just("pause"), SEATS),
    st.tuples(st.just("wake"), SEATS),
    st.tuples(st.just("link"), st.none()),
    st.tuples(st.just("unlink"), st.none()),
)
EVENTS = st.lists(EVERY, max_size=80)


def play(world: World, events: list[tuple]) -> None:
    for name, argument, *stop in events:
        ALL[name](world, argument, *stop)


def replaced(world: World, seat: int) -> None:
    """Kill a member and start it again on an empty disk."""
    member = world.members[seat]
    world.kill(member)
    member.log, member.epoch, member.first = [], 0, 0
    world.begin(member)


def offer(world: World, seat: int, stop: int | None) -> None:
    world.updates += 1
    world.happen(world.members[seat], nouns.Offered(world.now, 1), [world.updates], stop)


def flow(world: World, _: object) -> None:
    for _ in range(6):
        for one in world.members:
            world.deliver(one)


def kill(world: World, seat: int) -> None:
    if world.members[seat].state is not None:
        world.kill(world.members[seat])


def shorten(world: World, seat: int, stop: int | None) -> None:
    world.shorten(world.members[seat], 1 + seat, stop)


def begin(world: World, seat: int) -> None:
    if world.members[seat].state is None:
        world.begin(world.members[seat])


def pause(world: World, seat: int) -> None:
    world.members[seat].paused = world.members[seat].state is not None


def wake(world: World, seat: int) -> None:
    world.members[seat].paused = False


ALL = {
    "tick": World.tick,
    "deliver": lambda world, seat, stop: world.deliver(world.members[seat], stop),
    "offer": offer,
    "flow": flow,
    "shorten": shorten,
    "kill": kill,
    "start": begin,
    "pause": pause,
    "wake": wake,
    "link": lambda world, _: world.link(),
    "unlink": lambda world, _: world.unlink(),
}


def opened(ahead_max: int) -> World:
    """Return a world in which seat 0 leads and seat 1 follows."""
    world = World(Terms(ahead_max))
    assert world.heal().seat == 0
    world.took_over = 0
    return world


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_what_was_acknowledged_in_synchronous_mode_is_never_lost(events: list[tuple]) -> None:
    world = opened(0)
    play(world, events)
    leader = world.heal()
    assert {update for update, _, _ in world.acknowledged} <= {update for _, update in leader.log}
    assert leader.log == world.members[1 - leader.seat].log
    assert world.lent == 0  # while both keep their disks no log is ever too short for the other one


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["serve", "replace", "link", "unlink", "hear", "flow", "sleep", "wake", "tick", "wait"]))
)
def test_what_was_acknowledged_is_not_lost_where_one_goes_on_running_and_the_others_disk_is_replaced_again_and_again(
    events: list[str],
) -> None:
    world = opened(0)
    kept, other = world.members[1], world.members[0]
    for event in events:
        match event:
            case "serve":
                serve(world)
            case "replace":
                replaced(world, 0)
            case "hear":
                world.deliver(other)
            case "sleep" | "wake":
                kept.paused = event == "sleep"
            case "tick" | "wait":
                world.tick(0.3 if event == "tick" else 1.6)
            case _:
                ALL[event](world, None)
    leader = world.heal()
    assert {update for update, _, _ in world.acknowledged} <= {update for _, update in leader.log}
    assert leader.log == world.members[1 - leader.seat].log


def serve(world: World) -> None:
    """Offer an update to whoever leads, and let all arrive that can."""
    for member in world.members:
        if member.state is not None and member.state.stand is Stand.LEADS:
            offer(world, member.seat, None)
    flow(world, None)


def test_a_survivor_that_was_stopped_is_not_made_to_cut_what_both_had_by_a_leader_on_an_empty_disk() -> None:
    world = opened(0)
    for _ in range(5):
        serve(world)
    assert len(world.acknowledged) == 5
    replaced(world, 0)
    world.link()
    world.deliver(world.members[0])
    world.members[1].paused = True
    world.tick(1.6)
    assert world.members[0].state.stand is Stand.LEADS
    world.members[1].paused = False
    flow(world, None)
    assert len(world.members[1].log) == 5
    assert len(world.heal().log) == 5
    assert len(world.members[0].log) == 5


def test_an_epoch_that_was_led_again_on_an_empty_disk_does_not_pass_for_the_one_before() -> None:
    world = opened(0)
    serve(world)
    world.kill(world.members[1])
    replaced(world, 0)
    world.tick(1.6)
    offer(world, 0, None)
    world.begin(world.members[1])
    world.link()
    flow(world, None)
    told = {update for update, _, _ in world.acknowledged}
    assert 2 not in told or world.members[0].log == world.members[1].log
    leader = world.heal()
    assert leader.log == world.members[1 - leader.seat].log


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 4))
def test_asynchronous_mode_loses_no_more_than_it_may_at_each_takeover(events: list[tuple], ahead: int) -> None:
    world = opened(ahead)
    play(world, events)
    leader = world.heal()
    lost = {update for update, _, _ in world.acknowledged} - {update for _, update in leader.log}
    assert len(lost) <= ahead * world.took_over
    assert leader.log == world.members[1 - leader.seat].log


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(0, 3))
def test_no_two_leaders_acknowledge_in_one_epoch(events: list[tuple], ahead: int) -> None:
    world = opened(ahead)
    play(world, events)
    world.heal()
    assert all(len(seats) == 1 for seats in world.told.values())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(0, 3), st.floats(1.5, 5), st.integers(0, 3))
def test_a_leader_that_was_stopped_acknowledges_nothing_after_the_takeover(
    logged: int, ahead: int, slept: float, late: int
) -> None:
    world = opened(ahead)
    old, new = world.members
    for update in range(logged):
        world.happen(old, nouns.Offered(world.now, 1), [update])
        world.deliver(new)  # the confirmations wait in the old leader's inbox
    old.paused = True
    world.tick(slept)
    assert new.state.stand is Stand.LEADS
    told = len(world.acknowledged)
    old.paused = False
    for update in range(late):
        world.happen(old, nouns.Offered(world.now, 1), [1000 + update])
    while old.inbox:
        world.deliver(old)
    assert len(world.acknowledged) == told
    assert old.state.stand is Stand.FOLLOWS


@given(st.integers(0, 1000), SEATS)
def test_an_epoch_belongs_to_one_seat(epoch: int, seat: int) -> None:
    following = next_epoch(epoch, seat)
    assert following > epoch
    assert following <= epoch + 2
    assert following % 2 == seat


def test_a_new_leader_does_not_take_its_own_records_for_shared() -> None:
    state = replace(start(0, Terms(), 0, 7, 0.0), heard_at=-9.0)
    led, _ = step(state, nouns.Ticked(0.0))
    assert led.stand is Stand.LEADS
    assert acknowledgeable(led, 0.0) == 0


def test_a_follower_is_welcomed_once_an_epoch_so_that_nothing_confirmed_is_cut() -> None:
    state = replace(start(1, Terms(), 2, 9, 0.0), joined=True, shared=9)
    _, actions = step(state, nouns.Welcomed(1.0, 2, 4, True, 1.0))
    assert actions == (nouns.Part(),)


def test_records_of_a_lower_epoch_are_refused() -> None:
    state = replace(start(1, Terms(), 4, 9, 0.0), joined=True)
    assert step(state, nouns.Shipped(1.0, 2, 10, 1, 1.0)) == (state, ())


def grown(ahead: int, updates: int, window: int) -> World:
    """Return a world in which the leader holds ``updates``, all of them confirmed, and has dropped what it may."""
    world = opened(ahead)
    leader = world.members[0]
    for update in range(updates):
        world.happen(leader, nouns.Offered(world.now, 1), [update])
        flow(world, None)
    world.shorten(leader, window, None)
    assert leader.first == (updates - window if updates >= 2 * window else 0)
    return world


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(2, 12), st.integers(1, 3), st.integers(0, 2), SEATS)
def test_a_follower_whose_disk_is_new_or_older_is_lent_the_start_and_gets_the_rest(
    data: st.DataObject, updates: int, window: int, ahead: int, dirty: int
) -> None:
    world = grown(ahead, updates, window)
    leader, follower = world.members
    world.kill(follower)
    kept = data.draw(st.integers(0, updates))
    own = [] if kept else [(1, -1)] * dirty
    follower.log, follower.epoch, follower.first = follower.log[:kept] + own, 0, 0
    world.begin(follower)
    world.link()
    while leader.inbox or follower.inbox:
        for member in (leader, follower):
            world.deliver(member)
    assert follower.log == leader.log
    assert follower.state.joined
    assert (follower.first == leader.first) == (world.lent == 1) or leader.first == 0
    world.happen(leader, nouns.Offered(world.now, 1), [99])
    flow(world, None)
    assert world.acknowledged[-1][0] == 99


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 12), SEATS)
def test_a_leader_on_an_empty_disk_cannot_make_the_other_one_cut_what_it_has_only_as_a_state(
    updates: int, ahead: int
) -> None:
    world = grown(ahead, updates, 1)
    kept, lost = world.members
    world.kill(kept)
    world.kill(lost)
    lost.log, lost.epoch, lost.first = [], kept.epoch + 2, 0  # it leads in a higher epoch
    world.begin(lost)
    world.tick(5.0)
    assert lost.state.stand is Stand.LEADS
    leader = world.heal()
    assert {update for _, update in leader.log} == set(range(updates))
    assert world.members[0].log == world.members[1].log


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(1, 9), st.integers(0, 9))
def test_only_what_both_hold_twice_over_is_dropped_and_the_window_stays(
    shared: int, mine: int, theirs: int, window: int, first: int
) -> None:
    upto = leading.may_go(State(0, Terms(), 1, 40, 0.0, start=first, shared=shared), mine, theirs, window)
    if upto is None:
        assert min(shared, mine, theirs) < first + 2 * window
    else:
        assert upto == min(shared, mine, theirs) - window >= first + window
