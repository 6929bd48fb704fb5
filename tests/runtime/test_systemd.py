"""systemd's sockets, notifications and watchdog."""

import socket

import pytest

from pipeline.core.errors import UsageError
from pipeline.runtime.systemd import listen_fds, notify, take_watchdog, watchdog_s


def test_inherited_sockets_are_those_of_this_process():
    assert listen_fds({"LISTEN_PID": "42", "LISTEN_FDS": "2"}, 42) == (3, 4)
    assert listen_fds({"LISTEN_PID": "41", "LISTEN_FDS": "2"}, 42) == ()
    assert listen_fds({}, 42) == ()
    for count in ("-1", "65", "9" * 5000):
        with pytest.raises(UsageError, match="LISTEN_FDS"):
            listen_fds({"LISTEN_PID": "42", "LISTEN_FDS": count}, 42)


def test_the_watchdog_is_told_twice_in_its_time():
    assert watchdog_s({"WATCHDOG_USEC": "3000000"}) == 1.5
    assert watchdog_s({}) is None
    with pytest.raises(UsageError, match="WATCHDOG_USEC"):
        watchdog_s({"WATCHDOG_USEC": "soon"})


@pytest.mark.parametrize(
    ("watched", "left"), [({}, 1.5), ({"WATCHDOG_PID": "42"}, 1.5), ({"WATCHDOG_PID": "41"}, None)]
)
def test_a_watchdog_of_this_process_is_that_of_its_children_and_anothers_is_not(watched, left):
    environment = {"WATCHDOG_USEC": "3000000", **watched}
    take_watchdog(environment, 42)
    assert "WATCHDOG_PID" not in environment
    assert watchdog_s(environment) == left


@pytest.mark.parametrize("abstract", [False, True])
def test_a_notification_arrives(tmp_path, abstract):
    address = f"\0hotspare-{tmp_path.name}" if abstract else str(tmp_path / "n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(address)
        assert notify("READY=1\nSTATUS=ok", {"NOTIFY_SOCKET": address.replace("\0", "@")})
        assert listener.recv(99) == b"READY=1\nSTATUS=ok"


def test_nobody_to_notify_is_no_error(tmp_path):
    for address in ("", "relative", str(tmp_path / "gone")):
        assert not notify("READY=1", {"NOTIFY_SOCKET": address})
    assert not notify("READY=1", {})
