"""How long a strike was felt by those who asked."""

from collections.abc import Sequence

from pipeline.drill.nouns import Outcome, Request

STEADY = 10  # right answers in a row after which an incident is over, so that a late one belongs to it no more


def is_bad(request: Request) -> bool:
    """Tell whether a request was not answered rightly; a poison request is not meant to be."""
    return request.outcome is not Outcome.RIGHT


def is_late(request: Request, late_ms: float) -> bool:
    """Tell whether a right answer took too long."""
    took_ms = request.latency_ms
    return request.outcome is Outcome.RIGHT and took_ms is not None and took_ms > late_ms


def restored_ms(
    asked: Sequence[Request], at_ms: float, until_ms: float, late_until_ms: float, late_ms: float
) -> float | None:
    """Return how long after a strike service was as before; 0 where no request noticed, None where it never was.

    ``asked`` is in the order of due times. Felt by: requests that were due, or still waited, between the strike and
    ``until_ms`` (the next one). A late answer counts up to ``late_until_ms`` and among others that were hit; later, and
    alone, it may be anybody's. Service is back with the first right answer, in time, to a request due after all those.
    """
    last, good = None, STEADY
    for number, one in enumerate(asked):
        is_felt = one.due_ms >= at_ms or one.done_ms is None or one.done_ms > at_ms
        if not is_felt or one.due_ms >= until_ms:
            continue
        counts_late = one.due_ms <= late_until_ms or good < STEADY
        if is_bad(one) or (counts_late and is_late(one, late_ms)):
            last, good = number, 0
        else:
            good += 1
    if last is None:
        return 0.0
    back = (one.done_ms for one in asked[last + 1 :] if not is_bad(one) and not is_late(one, late_ms))
    done_ms = next((one for one in back if one is not None and one > at_ms), None)
    return None if done_ms is None else done_ms - at_ms
