# SPDX-License-Identifier: Apache-2.0
"""What systemd is told of our sockets, through a real notification socket, and what comes back from it."""

import os
import socket

import pytest

from agent.responder import fd_store
from agent.responder.fd_store import FdStore, Stored, name_of, take_passed

DIGEST = "metadata hp-responder hp-meta0 fe80::a9fe:a9fe 80 4711 3"


@pytest.fixture
def manager():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(f"\0hpc-store-{os.getpid()}")
        bound.settimeout(5)
        yield bound


@pytest.fixture
def store():
    return FdStore(f"@hpc-store-{os.getpid()}")


def heard(manager):
    """Return the fields of a message, and what the socket that came with it is bound to."""
    text, numbers, _, _ = socket.recv_fds(manager, 4096, 4)
    fields = dict(line.split("=", 1) for line in text.decode().split("\n"))
    names = []
    for number in numbers:
        with socket.socket(fileno=number) as found:
            names.append(found.getsockname())
    return fields, names


def test_a_socket_is_stored_replaced_and_removed_without_being_missing_in_between(manager, store):
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.bind(f"\0hpc-first-{os.getpid()}")
        second.bind(f"\0hpc-second-{os.getpid()}")
        store.put("socket metadata6", DIGEST, first.fileno())
        store.put("socket metadata6", "other", second.fileno())
        store.delete("socket metadata6")
        store.delete("socket metadata6")

        old, new = name_of("socket metadata6", DIGEST), name_of("socket metadata6", "other")
        assert heard(manager) == ({"FDSTORE": "1", "FDNAME": old, "FDPOLL": "0"}, [first.getsockname()])
        assert heard(manager) == ({"FDSTORE": "1", "FDNAME": new, "FDPOLL": "0"}, [second.getsockname()])
        assert heard(manager) == ({"FDSTOREREMOVE": "1", "FDNAME": old}, [])
        assert heard(manager) == ({"FDSTOREREMOVE": "1", "FDNAME": new}, [])
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):
            manager.recv(1)


def test_a_socket_stored_anew_under_the_same_name_leaves_one(manager, store):
    store.adopt(Stored("socket dhcp", "1", -1))
    with socket.socket(socket.AF_UNIX) as again:
        store.put("socket dhcp", "1", again.fileno())
        assert heard(manager)[0] == {"FDSTOREREMOVE": "1", "FDNAME": "socket dhcp@1"}
        assert heard(manager)[0]["FDSTORE"] == "1"


def test_without_systemd_nothing_is_said_and_nothing_breaks(caplog):
    with socket.socket(socket.AF_UNIX) as ours:
        FdStore(None).put("socket dhcp", "1", ours.fileno())
        assert caplog.text == ""
        FdStore("/nowhere/notify").put("socket dhcp", "1", ours.fileno())
        assert "takes no socket" in caplog.text


def test_a_name_is_what_systemd_allows():
    name = name_of("socket metadata6", DIGEST)
    assert ":" not in name
    assert name.isascii()
    assert len(name_of("socket x", "é" * 500)) <= fd_store.LONGEST_NAME


def test_what_was_stored_comes_back_with_key_and_digest(monkeypatch):
    names = ["hostplane-responder.socket", name_of("socket metadata6", DIGEST), "unknown"]
    descriptors = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    base = 900
    for index, number in enumerate(descriptors):
        os.dup2(number, base + index, inheritable=True)
        os.close(number)
    monkeypatch.setattr(fd_store, "FIRST", base)
    environ = {"LISTEN_FDS": "3", "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": ":".join(names), "HOME": "/"}

    passed = take_passed(environ)

    assert passed.listening == (base, base + 2)
    assert passed.stored == (Stored("socket metadata6", DIGEST, base + 1),)
    assert environ == {"HOME": "/"}
    assert not any(os.get_inheritable(base + index) for index in range(3))
    for index in range(3):
        os.close(base + index)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"LISTEN_FDS": "1", "LISTEN_PID": "1"},  # for another process
        {"LISTEN_FDS": "x", "LISTEN_PID": str(os.getpid())},
    ],
)
def test_what_is_not_for_us_is_left_alone(environ):
    assert take_passed(dict(environ)) == ((), ())
