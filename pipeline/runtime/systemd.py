"""systemd's two small protocols without a library: inherited sockets (LISTEN_FDS) and notifications (NOTIFY_SOCKET).

Sources: sd_listen_fds(3), sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
from collections.abc import Mapping, MutableMapping

from pipeline.core.errors import UsageError

_FIRST_FD = 3
_SOCKETS_MAX = 64


def listen_fds(environment: Mapping[str, str], pid: int) -> tuple[int, ...]:
    """Return the descriptors of the sockets that systemd opened for the process ``pid``; none without activation.

    Raises UsageError when the variables are there and make no sense.
    """
    if environment.get("LISTEN_PID") != str(pid):
        return ()
    count = environment.get("LISTEN_FDS", "0")
    if not count.isdecimal() or len(count) > len(str(_SOCKETS_MAX)) or int(count) > _SOCKETS_MAX:
        raise UsageError(
            f"LISTEN_FDS is {count!r}, no number from 0 to {_SOCKETS_MAX}; start the server by systemd, or unset it."
        )
    return tuple(range(_FIRST_FD, _FIRST_FD + int(count)))


def take_watchdog(environment: MutableMapping[str, str], pid: int) -> None:
    """Take a watchdog over for all that is started here; one that is another process's is none of ours.

    Whoever feeds it is another process than systemd started, be it that the one it started is dead by then.
    """
    if environment.pop("WATCHDOG_PID", str(pid)) != str(pid):
        environment.pop("WATCHDOG_USEC", None)


def watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return how often to call ``notify("WATCHDOG=1")``: half of what systemd allows, or None when it does not watch.

    Raises UsageError when the variable is no number.
    """
    microseconds = environment.get("WATCHDOG_USEC")
    if microseconds is None:
        return None
    if not microseconds.isdecimal():
        raise UsageError(f"WATCHDOG_USEC is {microseconds!r}, not a number; start the server by systemd, or unset it.")
    return int(microseconds) / 2e6


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send a state such as ``READY=1`` to systemd; False where nobody listens, which is no error.

    The unit needs ``NotifyAccess=all``: of ours, only the first process is one that systemd started itself.
    """
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # the abstract namespace
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(state.encode(), address)
    except OSError:  # a supervisor that went away must not take the server with it
        return False
    return True
