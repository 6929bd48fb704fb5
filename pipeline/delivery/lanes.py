"""Doing the same with many things, a few at once: what waits for a network is asked for ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_lanes(lanes: int, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in order, ``lanes`` at once.

    Items are taken, and results held, for no more than the lanes; the first error ends it all.
    """
    if lanes == 1:
        yield from map(work, items)
        return
    under_way: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(lanes) as pool:
        try:
            for item in items:
                under_way.append(pool.submit(work, item))
                if len(under_way) > lanes:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
