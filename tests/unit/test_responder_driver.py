# SPDX-License-Identifier: Apache-2.0
"""The driver against a responder that really listens, is told things over a socket, and may end at any moment."""

import json
import os
import socket

import pytest

from agent.core.errors import Actor, AgentError
from agent.core.items import ResponderSocket, Served, SocketKind
from agent.core.plan import Delta
from agent.drivers.responder import ResponderDriver, Target
from agent.drivers.responder_sockets import Sockets
from agent.responder_client import ResponderAwayError
from tests.fakes.namespaces import FakeNamespaces, free_port
from tests.fakes.responder import FakeResponder


class Responders:
    """Names the responder that the driver is to speak to."""

    def __init__(self):
        self.now = None
        self.handed = []

    def target(self):
        if self.now is None:
            raise ResponderAwayError("none")
        return self.now

    def handed_over(self, target):
        self.handed.append(target.generation)


class Host:
    """One host: its devices, its responders, and the driver of the agent that runs now."""

    def __init__(self, folder):
        self.path = folder / "responder.sock"
        self.kernel = FakeNamespaces()
        self.kernel.make("hp-responder", "hp-meta0", 11, 2)
        self.listener = ResponderSocket(SocketKind.METADATA, "hp-responder", "hp-meta0", "127.0.0.1", free_port())
        self.responders = Responders()
        self.processes = []
        self.responder = self.start(self.path)
        self.drivers = []
        self.start_agent()

    def start(self, path, former=None, **options):
        responder = FakeResponder(path, **options)
        self.processes.append(responder)
        self.responders.now = Target(path, responder.generation, former)
        self.responder = responder
        return responder

    def start_agent(self):
        self.driver = ResponderDriver(self.responders, Sockets(self.kernel))
        self.drivers.append(self.driver)
        return self.driver

    def write(self, creates=None, updates=None, deletes=None):
        return self.driver.apply(Delta(creates or {}, updates or {}, deletes or {}))

    def stop(self):
        for driver in self.drivers:
            driver.close()
            for key in list(driver._sockets._kept):
                driver._sockets.forget(key)
        for process in self.processes:
            with process:
                pass


@pytest.fixture
def host(tmp_path):
    host = Host(tmp_path)
    yield host
    host.stop()


def served(digest, **data):
    return Served(digest, json.dumps(data))


def accepts(sock_item):
    """Connect to a listener; return the connection."""
    return socket.create_connection((sock_item.address, sock_item.port), 5)


def test_what_was_written_is_what_is_observed(host):
    assert host.driver.observe() == {}
    wanted = {
        "service": served("s1", nova=None, limits={"rate": 3.0}),
        "dhcp one": served("d1", identity="02:48:50:01:00:01"),
        "metadata one": served("m1", port="one"),
        "socket metadata4": host.listener,
    }
    assert host.write(wanted) == {}
    assert host.driver.observe() == wanted
    assert host.driver.observe({"dhcp one": "port:one"}) == {"dhcp one": wanted["dhcp one"]}
    assert host.responder.data["dhcp one"] == {"identity": "02:48:50:01:00:01"}
    assert host.responder.data["service"] == {"nova": None, "limits": {"rate": 3.0}}
    assert host.write(deletes={"dhcp one": wanted["dhcp one"], "socket metadata4": host.listener}) == {}
    assert sorted(host.driver.observe()) == ["metadata one", "service"]
    with pytest.raises(OSError):
        accepts(host.listener)  # nobody holds the socket any more


def test_ports_are_told_before_anything_is_read(host):
    host.driver.observe()
    host.write({"socket metadata4": host.listener, "metadata z": served("1"), "service": served("2", nova=None)})
    assert [frame for frame in host.responder.frames if " " in frame or "service" in frame] == [
        "put service",
        "put metadata z",
        "socket socket metadata4",
    ]


def test_what_it_refuses_is_an_error_of_that_item_alone(host):
    host.responder.refused = {"dhcp bad"}
    host.driver.observe()
    failed = host.write({"dhcp bad": served("1"), "dhcp good": served("2")})
    assert {key: str(err) for key, err in failed.items()} == {"dhcp bad": "responder: dhcp bad: does not like it"}
    assert host.driver.observe() == {"dhcp good": served("2")}


def test_a_port_that_says_too_much_costs_no_other_anything(host):
    host.driver.observe()
    failed = host.write({"metadata bad": Served("1", json.dumps({"x": "y" * (1 << 24)})), "metadata good": served("2")})
    assert list(failed) == ["metadata bad"]
    assert list(host.driver.observe()) == ["metadata good"]


def test_more_than_both_buffers_hold_goes_through_in_one_batch(host):
    host.driver.observe()
    wanted = {f"metadata {number}": served(str(number), fill="x" * 4000) for number in range(2000)}
    assert host.write(wanted) == {}
    assert host.driver.observe() == wanted


def test_a_responder_that_ends_in_a_batch_loses_the_driver_and_the_next_gets_all(host):
    host.driver.observe()
    wanted = {f"dhcp {number}": served("1") for number in range(20)}
    host.responder.frames_left = 7
    with pytest.raises(AgentError) as caught:
        host.write(wanted)
    assert caught.value.actor is Actor.NOBODY
    host.responder.end()
    host.start(host.path)
    with pytest.raises(ResponderAwayError):
        host.write(wanted)  # what it knows is not known
    assert host.driver.observe() == {}
    assert host.write(wanted) == {}
    assert host.driver.observe() == wanted


def test_another_process_is_never_taken_for_the_one_that_was_read(host):
    host.driver.observe()
    host.write({"dhcp a": served("1")})
    host.responder.end()
    host.start(host.path)
    with pytest.raises(ResponderAwayError, match="another process"):
        host.driver.observe({"dhcp a": "port:a"})
    assert host.driver.observe() == {}


def test_a_responder_that_hangs_holds_nobody_for_long(host, monkeypatch):
    monkeypatch.setattr("agent.responder_client.SILENCE", 0.05)
    host.driver.observe()
    host.responder.silent = True
    with pytest.raises(AgentError, match="does not answer"):
        host.driver.observe()


def test_connections_that_wait_outlive_the_responder(host):
    host.driver.observe()
    host.write({"socket metadata4": host.listener})
    with accepts(host.listener) as client:
        client.sendall(b"before")
        host.responder.end()
        host.start(host.path)
        with accepts(host.listener):
            assert host.driver.observe() == {}
            assert host.write({"socket metadata4": host.listener}) == {}
            server, _ = host.responder.sockets["socket metadata4"].accept()
            with server:
                assert server.recv(10) == b"before"
    assert host.kernel.opened == 1


def test_a_new_agent_gets_the_sockets_back(host):
    host.driver.observe()
    host.write({"socket metadata4": host.listener})
    for key in list(host.driver._sockets._kept):
        host.driver._sockets.forget(key)  # the kernel closes what a killed agent held
    host.driver.close()
    host.start_agent()
    assert host.driver.observe() == {"socket metadata4": host.listener}
    host.responder.end()
    host.start(host.path)
    host.driver.observe()
    assert host.write({"socket metadata4": host.listener}) == {}
    assert host.kernel.opened == 1


@pytest.mark.parametrize("place", [(11, 3), (12, 2)], ids=["device", "namespace"])
def test_a_socket_whose_place_was_made_anew_is_opened_anew(host, place):
    host.driver.observe()
    host.write({"socket metadata4": host.listener})
    host.kernel.make("hp-responder", "hp-meta0", *place)
    found = host.driver.observe()["socket metadata4"]
    assert found != host.listener
    assert host.write(updates={"socket metadata4": (found, host.listener)}) == {}  # the old one is not in the way
    assert host.driver.observe() == {"socket metadata4": host.listener}
    assert host.kernel.opened == 2


def test_a_device_that_is_not_there_yet_is_that_sockets_error(host):
    host.kernel.places.clear()
    host.driver.observe()
    failed = host.write({"socket metadata4": host.listener, "dhcp a": served("1")})
    assert "hp-meta0 is not there" in str(failed["socket metadata4"])
    assert list(host.driver.observe()) == ["dhcp a"]


# A responder of another version


def test_everything_goes_to_the_successor_before_the_former_may_end(host, tmp_path):
    host.driver.observe()
    wanted = {"dhcp a": served("1"), "dhcp b": served("2"), "socket metadata4": host.listener}
    host.write(wanted)
    former = host.responder
    successor = host.start(tmp_path / "next", former=host.path)
    found = host.driver.observe()
    assert found.keys() == wanted.keys()
    assert all(found[key] != value for key, value in wanted.items())
    assert host.write(updates={key: (found[key], wanted[key]) for key in ("dhcp a", "socket metadata4")}) == {}
    assert host.responders.handed == []  # nothing is known of b yet
    assert host.write(deletes={"dhcp b": found["dhcp b"]}) == {}  # which nobody wants any more
    assert host.responders.handed == [successor.generation]
    assert host.driver.observe() == {key: wanted[key] for key in ("dhcp a", "socket metadata4")}
    assert host.kernel.opened == 1
    assert former.digests.keys() == wanted.keys()


def test_an_agent_that_was_just_started_takes_the_sockets_over_from_the_former(host, tmp_path):
    host.driver.observe()
    host.write({"dhcp a": served("1"), "socket metadata4": host.listener})
    memory = dict(host.responder._memory)
    for key in list(host.driver._sockets._kept):
        host.driver._sockets.forget(key)
    host.driver.close()
    host.start_agent()
    host.start(tmp_path / "next", former=host.path, memory=memory)  # it has read the file of the former
    found = host.driver.observe()
    assert found["dhcp a"] == served("1")
    assert host.write(updates={"socket metadata4": (found["socket metadata4"], host.listener)}) == {}
    assert len(host.responders.handed) == 1
    assert host.kernel.opened == 1


@pytest.mark.parametrize("major", [1, 2])
def test_a_former_of_another_protocol_is_asked_for_its_sockets_only(tmp_path, host, major):
    host.driver.observe()
    host.responder.end()
    former = host.start(host.path, version="0.0.0", major=major)
    with accepts_listener(host) as listening:
        former.sockets["socket metadata4"] = listening.dup()
        former.digests["socket metadata4"] = "00"
        host.start(tmp_path / "next", former=host.path)
        found = host.driver.observe()
        assert list(found) == ["socket metadata4"]
        host.write(updates={"socket metadata4": (found["socket metadata4"], host.listener)})
    assert host.kernel.opened == 1
    assert ("digests" in former.frames) is (major == 1)
    assert len(host.responders.handed) == 1


def accepts_listener(host):
    return host.kernel.open_listener("hp-responder", "hp-meta0", host.listener.address, host.listener.port)


def test_a_former_that_has_ended_by_itself_is_not_waited_for(host, tmp_path):
    host.driver.observe()
    host.responder.end()
    host.start(tmp_path / "next", former=host.path)
    assert host.driver.observe() == {}
    assert len(host.responders.handed) == 1


# The files of the metadata service


@pytest.fixture
def files(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    authority = tmp_path / "ca.pem"
    authority.write_text("-----BEGIN CERTIFICATE-----\n")
    return secret, authority


def service(files, digest="p1"):
    secret, authority = files
    nova = {
        "url": "https://nova:8775",
        "secret_file": str(secret),
        "ca_file": str(authority),
        "client_cert_file": "",
        "client_key_file": "",
        "insecure": False,
        "timeout": 60.0,
    }
    return served(digest, nova=nova, limits={"rate": 50.0})


def test_contents_are_handed_over_and_not_names(host, files):
    host.driver.observe()
    assert host.write({"service": service(files)}) == {}
    assert host.responder.data["service"] == {
        "nova": {
            "url": "https://nova:8775",
            "secret": "s3cret",
            "ca": "-----BEGIN CERTIFICATE-----\n",
            "certificate": "",
            "key": "",
            "insecure": False,
            "timeout": 60.0,
        },
        "limits": {"rate": 50.0},
    }
    assert host.driver.observe() == {"service": service(files)}


def test_a_file_that_changes_is_found_and_taken_over(host, files):
    host.driver.observe()
    host.write({"service": service(files)})
    files[0].write_text("n3w\n")
    found = host.driver.observe()["service"]
    assert found != service(files)
    assert "s3cret" not in repr(found)
    assert "n3w" not in repr(found)
    assert host.write(updates={"service": (found, service(files))}) == {}
    assert host.responder.data["service"]["nova"]["secret"] == "n3w"
    assert host.driver.observe() == {"service": service(files)}


def test_a_new_agent_writes_nothing_if_the_files_are_as_they_were(host, files):
    host.driver.observe()
    host.write({"service": service(files)})
    host.driver.close()
    host.start_agent()
    before = len(host.responder.frames)
    found = host.driver.observe()["service"]
    host.write(updates={"service": (found, service(files))})
    assert host.driver.observe() == {"service": service(files)}
    assert "put service" not in host.responder.frames[before:]


def test_a_new_responder_gets_the_service_although_nothing_has_changed(host, files):
    host.driver.observe()
    host.write({"service": service(files)})
    host.responder.end()
    host.start(host.path)
    host.driver.observe()
    host.write({"service": service(files)})
    assert host.responder.data["service"]["nova"]["secret"] == "s3cret"


def make_fifo(path):
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b"\xff"), "not text"),
        (lambda path: path.write_text("x" * (1 << 21)), "longer than"),
        (lambda path: path.write_text("\n"), "empty|PEM"),
        (make_fifo, "not a file"),
    ],
    ids=["missing", "binary", "large", "empty", "fifo"],
)
@pytest.mark.parametrize("index", [0, 1], ids=["secret", "authority"])
def test_a_file_that_cannot_be_used_is_named_and_what_was_known_stays(host, files, index, spoil, text):
    host.driver.observe()
    host.write({"service": service(files)})
    known = dict(host.responder.data)
    spoil(files[index])
    found = host.driver.observe()["service"]
    assert found != service(files)
    failed = host.write(updates={"service": (found, service(files))}, creates={"dhcp a": served("1")})
    (error,) = failed.values()
    assert isinstance(error, AgentError)
    assert error.actor is Actor.OPERATOR
    assert str(files[index]) in str(error)
    assert ("secret_file", "ca_file")[index] in str(error)
    assert host.responder.data == {**known, "dhcp a": {}}


def test_what_a_responder_says_opens_no_file(host, tmp_path):
    """It reads what tenants send, and so may have been taken over: it must not lead us by the nose."""
    trap = tmp_path / "trap"
    os.mkfifo(trap)  # opening it for reading would be seen by who writes
    host.responder.digests["service"] = json.dumps(["p1", "x", {"secret_file": str(trap)}])
    where = f"metadata ../../..{trap} eth0 127.0.0.1 80 1 1"
    host.responder.digests["socket evil"] = where.encode().hex()
    host.responder.digests["socket nonsense"] = "zz"
    found = host.driver.observe()
    assert found["socket evil"].device == ""
    assert found["socket nonsense"].device == ""
    with pytest.raises(OSError):
        os.close(os.open(trap, os.O_WRONLY | os.O_NONBLOCK))
