"""How long to wait before something that ended is started again: not at all, then longer and longer."""

from collections.abc import Sequence

WINDOW_S = 60.0
FREE_RESTARTS = 2
_FIRST_MS = 50
_MOST_MS = 5000


def restart_delay_ms(deaths_s: Sequence[float], now_s: float) -> int:
    """Return the wait after the latest of some deaths: 0 for two within a minute, then doubling up to 5 s."""
    recent = sum(1 for death in deaths_s if now_s - death < WINDOW_S)
    extra = recent - FREE_RESTARTS
    return 0 if extra <= 0 else int(min(_MOST_MS, _FIRST_MS * 2.0 ** (extra - 1)))
