"""``/metrics``: the Prometheus text format (version 0.0.4), written from what the service and the front count.

Its own few lines, because the values already exist as one immutable status: a client library would keep them twice.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain

from pipeline.core.names import Role
from pipeline.runtime.http.unread import Unread
from pipeline.runtime.members import MemberState
from pipeline.runtime.service import PairStatus, RefusalKind

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Sample = tuple[Mapping[str, object], float]

_COUNTED = {
    "degraded": "Correct answers of the backup.",
    "hedges": "Requests sent to a second member because the first was late.",
    "resent": "Requests sent again because a member failed.",
    "guarded": "Answers withheld by output guards.",
    "failovers": "Changes to the standby because of a fault.",
    "failbacks": "Returns to the recovered primary.",
    "restarts": "Workers started again.",
}

_CHANNEL = {
    "epoch": ("epoch", "Epoch of the channel that is served."),
    "seq": ("seq", "Sequence number of the channel that is served."),
    "age_seconds": ("age_s", "Seconds since the channel was issued."),
    "refresh_in_seconds": ("refresh_in_s", "Seconds until the channel is to be renewed; negative: it was not."),
    "expires_in_seconds": ("expires_in_s", "Seconds until the channel ends; negative: it has."),
    "expired": ("is_expired", "1 when the channel has ended."),
}


class HttpCounts:
    """What one front counts: answers by status, and the time that inference took in it."""

    def __init__(self, unread: Unread) -> None:
        self._unread = unread
        self.by_status: Counter[int] = Counter()
        self._buckets = [0] * (len(BUCKETS_S) + 1)
        self._sum_s = 0.0

    def count(self, status: int) -> None:
        """Count an answer."""
        self.by_status[status] += 1

    def time(self, seconds: float) -> None:
        """Count the time of an answered inference request."""
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._sum_s += seconds

    def lines(self) -> Iterator[str]:
        """Write both as metric families, and what waits to be read."""
        statuses = [({"status": status}, float(count)) for status, count in sorted(self.by_status.items())]
        yield from _family("hotspare_http_responses_total", "counter", "HTTP answers by status.", statuses)
        name = "hotspare_infer_seconds"
        yield f"# HELP {name} Time of answered inference requests, from their headers to their answer."
        yield f"# TYPE {name} histogram"
        for limit, count in zip((*map(str, BUCKETS_S), "+Inf"), accumulate(self._buckets), strict=True):
            yield f'{name}_bucket{{le="{limit}"}} {count}'
        yield f"{name}_sum {self._sum_s!r}"
        yield f"{name}_count {sum(self._buckets)}"
        doc = "Bytes of answers that wait for their clients to read them."
        yield from _family("hotspare_http_unread_bytes", "gauge", doc, [({}, float(self._unread.bytes))])
        doc = "Connections closed because too many bytes waited and this client's for the longest."
        yield from _family("hotspare_http_unread_closed_total", "counter", doc, [({}, float(self._unread.closed))])


def metrics_text(pairs: Sequence[PairStatus], counts: HttpCounts, draining: bool) -> str:
    """Write the whole page."""
    families = (
        counts.lines(),
        _server(draining),
        _answers(pairs),
        *_counted(pairs),
        _pair_gauges(pairs),
        *_channels(pairs),
        _members(pairs),
    )
    return "\n".join(chain.from_iterable(families)) + "\n"


def _server(draining: bool) -> Iterator[str]:
    yield from _family("hotspare_draining", "gauge", "1 while the server ends.", [({}, float(draining))])


def _answers(pairs: Sequence[PairStatus]) -> Iterator[str]:
    outcomes = [
        ({"model": pair.model, "outcome": outcome}, float(count))
        for pair in pairs
        for outcome, count in (
            ("answered", pair.counters.answered),
            *((kind.value, pair.counters.refused.get(kind, 0)) for kind in RefusalKind),
        )
    ]
    yield from _family("hotspare_requests_total", "counter", "Inference requests by outcome.", outcomes)


def _counted(pairs: Sequence[PairStatus]) -> Iterator[Iterator[str]]:
    for name, doc in _COUNTED.items():
        samples = [({"model": pair.model}, float(getattr(pair.counters, name))) for pair in pairs]
        yield _family(f"hotspare_{name}_total", "counter", doc, samples)


def _pair_gauges(pairs: Sequence[PairStatus]) -> Iterator[str]:
    by_model = [({"model": pair.model}, pair) for pair in pairs]
    terms: list[Sample] = [(labels, float(pair.term)) for labels, pair in by_model]
    yield from _family("hotspare_term", "gauge", "The term that stamps answers.", terms)
    queues: list[Sample] = [(labels, float(pair.queue)) for labels, pair in by_model]
    yield from _family("hotspare_queue", "gauge", "Requests in flight and waiting.", queues)
    serving: list[Sample] = [
        ({**labels, "role": role.value}, float(pair.serving is role)) for labels, pair in by_model for role in Role
    ]
    yield from _family("hotspare_serving", "gauge", "1 for the role that serves.", serving)


def _channels(pairs: Sequence[PairStatus]) -> Iterator[Iterator[str]]:
    known = [({"model": pair.model}, pair.channel) for pair in pairs if pair.channel is not None]
    for name, (field, doc) in _CHANNEL.items():
        yield _family(f"hotspare_channel_{name}", "gauge", doc, [(at, float(getattr(one, field))) for at, one in known])


def _members(pairs: Sequence[PairStatus]) -> Iterator[str]:
    members = [({"model": pair.model, "seat": str(member.seat)}, member) for pair in pairs for member in pair.members]
    states: list[Sample] = [
        ({**labels, "state": state.value}, float(member.state is state))
        for labels, member in members
        for state in MemberState
    ]
    yield from _family("hotspare_member_state", "gauge", "1 for the state a member is in.", states)
    restarts: list[Sample] = [(labels, float(member.restarts)) for labels, member in members]
    yield from _family("hotspare_member_restarts_total", "counter", "Starts of a member after its first.", restarts)
    sizes: list[Sample] = [
        (labels, float(member.rss_bytes)) for labels, member in members if member.rss_bytes is not None
    ]
    yield from _family("hotspare_member_resident_bytes", "gauge", "Resident memory of a member.", sizes)


def _family(name: str, kind: str, doc: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP {name} {doc}"
    yield f"# TYPE {name} {kind}"
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(str(text))}"' for key, text in labels.items())
        yield f"{name}{{{inner}}} {value!r}" if inner else f"{name} {value!r}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
