"""Who leads, what is in both logs, what may be acknowledged: pure, (state, event) → (state, actions).

Two members, told apart by their seat, 0 or 1. The leader orders updates; its follower has every record on disk before
it confirms it. A leader may acknowledge ``ahead_max`` updates more than it knows to be in both logs: none where
replication is synchronous.

Fencing is by epochs, and by promises on time. An epoch belongs to one seat (its parity), is on disk before it is used,
and whoever hears of a higher one obeys it: records of a lower one are refused. A follower promises with each
confirmation not to take over for ``promise_s``; a leader acknowledges only within ``lease_s`` (shorter) of having sent
what was last confirmed. So a leader that was stopped, and wakes up deposed, is silent before it hears why. Source of
the leases: Gray and Cheriton, "Leases: an efficient fault-tolerant mechanism" (1989).

A disk may be exchanged for an empty or older one, which has forgotten its epochs. So nobody is cut below what it knew
to be in both logs, whoever leads; and a follower goes on from a record only if it is the leader's, by its digest.

Old records go when both members hold them, and the state after them in a checkpoint of their own. A follower whose log
ends before the leader's begins, because its disk is new or older, is lent the checkpoint that the leader's begins with.
"""

from dataclasses import replace

from pipeline.online.leading_nouns import (
    Action,
    Append,
    Confirm,
    Confirmed,
    Cut,
    Event,
    Greet,
    Greeted,
    Install,
    KeepEpoch,
    Lend,
    Lent,
    Linked,
    Message,
    Offered,
    Part,
    Refuse,
    Ship,
    Shipped,
    Shortened,
    Stand,
    State,
    Step,
    Store,
    Terms,
    Ticked,
    Unlinked,
    Welcome,
    Welcomed,
)


def start(seat: int, terms: Terms, epoch: int, last: int, now: float, first: int = 0) -> State:
    """Return a member that just started: it follows, and keeps what it may have promised before; seat 0 leads first.

    ``first`` is the record that its log goes on from.
    """
    return State(seat, terms, epoch, last, heard_at=now + seat * terms.promise_s, start=first)


def next_epoch(epoch: int, seat: int) -> int:
    """Return the lowest epoch above ``epoch`` that belongs to a seat."""
    return epoch + 1 + (epoch + 1 + seat) % 2


def acknowledgeable(state: State, now: float) -> int:
    """Return up to which record a member may acknowledge now; 0 when it may acknowledge nothing."""
    if state.stand is not Stand.LEADS or (state.lease_until is not None and now >= state.lease_until):
        return 0
    return min(state.last, state.shared + state.terms.ahead_max)


def may_go(state: State, mine: int, theirs: int, window: int) -> int | None:
    """Return up to which record the log may be dropped, or None while that is not worth the writing.

    ``mine`` and ``theirs`` are what the members' verified checkpoints hold. The last ``window`` records stay, so that
    an update that is sent again is known; what goes is as long, so that each record is written twice at most.
    """
    upto = min(state.shared, mine, theirs) - window
    return upto if upto - state.start >= window else None


def step(state: State, event: Event) -> Step:
    """Return what a member does when something happens."""
    match event:
        case Ticked(now):
            return _ticked(state, now)
        case Linked():
            return state, (Greet(state.epoch, state.stand is Stand.LEADS),)
        case Unlinked():
            return replace(state, joined=False), ()
        case Offered(now, count):
            return _offered(state, now, count)
        case Shortened(first):
            return replace(state, start=first), ()
        case _:
            return _told(state, event)


def _told(state: State, event: Message) -> Step:
    match event:
        case Greeted():
            return _greeted(state, event)
        case Welcomed():
            return _welcomed(state, event)
        case Lent():
            return _lent(state, event)
        case Shipped():
            return _shipped(state, event)
        case Confirmed():
            return _confirmed(state, event), ()


def _ticked(state: State, now: float) -> Step:
    if state.stand is Stand.FOLLOWS and now - state.heard_at >= state.terms.promise_s:
        epoch = next_epoch(state.epoch, state.seat)
        led = replace(state, epoch=epoch, stand=Stand.LEADS, joined=False, lease_until=None)
        return led, (KeepEpoch(epoch), Greet(epoch, True))
    if state.stand is Stand.LEADS and state.joined and now - state.beat_at >= state.terms.beat_s:
        return replace(state, beat_at=now), (Ship(state.epoch, state.last + 1, now),)
    return state, ()


def _offered(state: State, now: float, count: int) -> Step:
    if state.stand is not Stand.LEADS:
        return state, (Refuse(),)
    first = state.last + 1
    grown = replace(state, last=state.last + count)
    if not state.joined:
        return grown, (Append(state.epoch),)
    return replace(grown, beat_at=now), (Append(state.epoch), Ship(state.epoch, first, now))


def _greeted(state: State, event: Greeted) -> Step:
    if event.epoch > state.epoch:
        obeyed, actions = _obey(state, event.epoch, event.now)
        return obeyed, (*actions, Greet(event.epoch, False))
    if state.stand is not Stand.LEADS or event.epoch < state.epoch:
        return state, ()  # nobody leads yet; or it has not heard of this epoch, and greets again when it does
    lease = event.now if state.lease_until is None else state.lease_until
    shared = min(state.shared, event.common)  # of what it says that it has, only what it confirms is the same
    joined = replace(state, joined=True, shared=shared, lease_until=lease, beat_at=event.now)
    if event.common < state.start:
        return joined, (Lend(state.epoch, event.now), Ship(state.epoch, state.start + 1, event.now))
    return joined, (
        Welcome(state.epoch, event.common, event.now),
        Ship(state.epoch, event.common + 1, event.now),
    )


def _obey(state: State, epoch: int, now: float) -> Step:
    """Follow whoever holds a higher epoch; what both logs had they still have."""
    actions: tuple[Action, ...] = (KeepEpoch(epoch),)
    if state.stand is Stand.LEADS:
        actions = (*actions, Refuse())
    return replace(state, epoch=epoch, stand=Stand.FOLLOWS, joined=False, lease_until=None, heard_at=now), actions


def _welcomed(state: State, event: Welcomed) -> Step:
    if _is_old(state, event):
        return state, ()
    state, actions = _led_by(state, event)
    if state.joined or not max(state.start, state.once_shared) <= event.common <= state.last:
        return replace(state, joined=False), (*actions, Part())  # nothing that was confirmed is ever cut
    if not event.is_same:
        return state, (*actions, Greet(event.epoch, False, is_bare=True))
    followed = replace(_sharing(state, event.common), joined=True, last=event.common, heard_at=event.now)
    return followed, (*actions, Cut(event.common), Confirm(event.epoch, event.common, event.sent_at))


def _lent(state: State, event: Lent) -> Step:
    if _is_old(state, event):
        return state, ()
    state, actions = _led_by(state, event)
    if state.joined or event.start <= state.start or event.start < state.once_shared:
        return replace(state, joined=False), (*actions, Part())
    begun = event.start
    followed = replace(_sharing(state, begun), joined=True, start=begun, last=begun, heard_at=event.now)
    return followed, (*actions, Install(), Confirm(event.epoch, begun, event.sent_at))


def _is_old(state: State, event: Welcomed | Lent) -> bool:
    return event.epoch < state.epoch or (event.epoch == state.epoch and state.stand is Stand.LEADS)


def _led_by(state: State, event: Welcomed | Lent) -> Step:
    return _obey(state, event.epoch, event.now) if event.epoch > state.epoch else (state, ())


def _shipped(state: State, event: Shipped) -> Step:
    if event.epoch != state.epoch or state.stand is Stand.LEADS or not state.joined:
        return state, ()
    if event.first != state.last + 1:
        return replace(state, joined=False), (Part(),)
    last = state.last + event.count
    stored: tuple[Action, ...] = (Store(),) if event.count else ()
    grown = replace(_sharing(state, last), last=last, heard_at=event.now)
    return grown, (*stored, Confirm(state.epoch, last, event.sent_at))


def _confirmed(state: State, event: Confirmed) -> State:
    if event.epoch != state.epoch or state.stand is not Stand.LEADS or not state.joined:
        return state
    lease = max(state.lease_until or 0.0, event.sent_at + state.terms.lease_s)
    return replace(_sharing(state, max(state.shared, min(event.seq, state.last))), lease_until=lease)


def _sharing(state: State, seq: int) -> State:
    return replace(state, shared=seq, once_shared=max(state.once_shared, seq))
