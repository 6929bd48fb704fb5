"""Which of the named nodes serve what is in force, and how long after the move each of them did."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.commands.build.follower_memory import Fate, Memory, Say, stages_s
from pipeline.core.clock import utc_now
from pipeline.core.errors import HotspareError
from pipeline.registry.lag import Lag, measure_lag, read_node
from pipeline.registry.pair import Pair

PROMOTING = "promote and publish"


class Node(Protocol):
    """A running server, as far as a follower looks at it."""

    @property
    def url(self) -> str:
        """Return its address."""
        ...

    def pair(self, model: str) -> dict[str, object]:
        """Return what it says of a model; raises HotspareError."""
        ...


def have_caught_up(nodes: Sequence[Node], model: str, fate: Fate, memory: Memory, say: Say) -> bool:
    """Ask every node what it serves, and tell who has caught up; tells whether all have."""
    if fate.pair is None:
        return True
    behind = [node for node in nodes if not _has_caught_up(node, model, fate.pair, fate, memory, say)]
    return not behind


def _has_caught_up(node: Node, model: str, pair: Pair, fate: Fate, memory: Memory, say: Say) -> bool:
    if memory.serving.get(node.url) == pair:
        return True
    serves, seq = _asked(node, model, pair)
    moment = fate.moved_at
    if serves:
        if node.url in memory.waiting and moment is not None:
            lag = measure_lag(f"node {node.url}", 1, moment, utc_now(), utc_now())
            _tell_ready(node, seq, lag, memory, say)
            memory.alarm(lag, fate.terms, say)
        memory.waiting.discard(node.url)
        memory.serving[node.url] = pair
        return True
    memory.waiting.add(node.url)
    if moment is not None:
        behind = max(1, (fate.seq or 1) - (seq or 0)) if seq is not None else 1
        memory.alarm(measure_lag(f"node {node.url}", behind, moment, None, utc_now()), fate.terms, say)
    return False


def _tell_ready(node: Node, seq: int | None, lag: Lag, memory: Memory, say: Say) -> None:
    took_s = stages_s(one for one in memory.took if one.stage != PROMOTING)
    ratio = {"stages_s": round(took_s, 3), "lag_per_stages": round(lag.seconds / took_s, 3)} if took_s else {}
    say("info", "node ready", node=node.url, seq=seq, lag_s=round(lag.seconds, 3), **ratio)


def _asked(node: Node, model: str, pair: Pair) -> tuple[bool, int | None]:
    try:
        report = read_node({"pairs": [node.pair(model)]}, model)
    except HotspareError:
        return False, None
    return (report.serves(pair), report.seq) if report else (False, None)
