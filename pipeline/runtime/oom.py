"""Kills for want of memory: how many of late may be a worker's own. The kernel counts those of the whole machine."""

from collections.abc import Callable


class OomKills:
    """The kernel's count, looked at every second, so that a kill of long ago is taken for nobody's of now."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._before = self._last = count()  # at the last two looks: news of an end may come after the next one

    def look(self) -> None:
        """Take the count of now."""
        self._before, self._last = self._last, self._count()

    def take(self) -> int:
        """Return how many were killed in the last second or two; one of them was the worker that is asked for."""
        now = self._count()
        recent = now - self._before
        self._before, self._last = min(self._before + 1, now), min(self._last + 1, now)
        return recent
