# SPDX-License-Identifier: Apache-2.0
"""Driver ``connects`` on the real kernel: who connects too fast is dropped, and nobody else.  Needs root and nft."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest

from agent.command import CommandRunner
from agent.core.plan import Delta, ObjectId
from agent.drivers.connects import ConnectsDriver
from agent.drivers.netns import NetnsDriver
from agent.namespace import inside_named
from tests.fakes.openvswitch import wait_until
from tests.ovs.namespace_lab import host, run, within

NAME = "limited"
LIMIT, OTHER = "1/second burst 5 packets", "7/second burst 70 packets"
OWNER = {NAME: ObjectId("host:metadata")}
PORT = 80
PLACES = {"192.0.2.1": ("192.0.2.2", "192.0.2.3"), "2001:db8::1": ("2001:db8::2", "2001:db8::3")}


@pytest.fixture
def driver() -> Iterator[ConnectsDriver]:
    with host():
        assert not NetnsDriver().apply(Delta({NAME: "responder"}, owners=OWNER))
        yield ConnectsDriver(CommandRunner(), (NAME,))


def test_what_was_written_is_read_back_and_what_somebody_does_to_it_is_seen(driver: ConnectsDriver) -> None:
    assert driver.observe() == {}
    assert driver.apply(Delta({NAME: LIMIT}, owners=OWNER)) == {}
    assert driver.observe() == {NAME: LIMIT}
    assert driver.observe({NAME: ObjectId("x")}) == {NAME: LIMIT}
    assert driver.observe({"another": ObjectId("x")}) == {}

    assert driver.apply(Delta(updates={NAME: (LIMIT, OTHER)}, owners=OWNER)) == {}
    assert driver.observe() == {NAME: OTHER}

    within(NAME, "nft", "flush", "chain", "inet", "hostplane", "connects")
    assert driver.observe() not in ({}, {NAME: OTHER})
    within(NAME, "nft", "delete", "table", "inet", "hostplane")
    assert driver.observe() == {}

    driver.apply(Delta({NAME: LIMIT}, owners=OWNER))
    within(NAME, "nft", "add", "table", "inet", "others")
    assert driver.apply(Delta(deletes={NAME: LIMIT})) == {}
    assert within(NAME, "nft", "list", "tables").split() == ["table", "inet", "others"]


def test_without_its_namespace_there_is_nothing_to_read_and_nothing_to_delete(driver: ConnectsDriver) -> None:
    NetnsDriver().apply(Delta(deletes={NAME: "responder"}))

    assert driver.observe() == {}
    assert driver.apply(Delta(deletes={NAME: LIMIT})) == {}
    assert list(driver.apply(Delta({NAME: LIMIT}, owners=OWNER))) == [NAME]


@pytest.mark.parametrize("address", list(PLACES))
def test_who_connects_without_pause_has_nobody_else_wait(driver: ConnectsDriver, address: str) -> None:
    greedy, modest = PLACES[address]
    length = 64 if ":" in address else 24
    run("ip", "link", "add", "outer", "type", "veth", "peer", "name", "inner", "netns", NAME)
    for source in (greedy, modest):
        run("ip", "address", "add", f"{source}/{length}", "dev", "outer", *(("nodad",) if ":" in source else ()))
    run("ip", "link", "set", "outer", "up")
    within(NAME, "ip", "address", "add", f"{address}/{length}", "dev", "inner", *(("nodad",) if ":" in address else ()))
    within(NAME, "ip", "link", "set", "inner", "up")
    driver.apply(Delta({NAME: LIMIT}, owners=OWNER))

    with contextlib.ExitStack() as ends:
        with inside_named(NAME):
            listener = ends.enter_context(socket.create_server((address, PORT), family=_family(address), backlog=500))
        begun = time.monotonic()
        many = [ends.enter_context(_begin(address, greedy)) for _ in range(100)]
        wait_until(lambda: len(_connected(many)) >= 5)
        few = ends.enter_context(_begin(address, modest))
        wait_until(lambda: _connected([few]))
        through = len(_connected(many))
        assert through <= 5 + (time.monotonic() - begun) + 1
        assert listener.accept()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _begin(address: str, source: str) -> socket.socket:
    """Return a socket that begins to connect."""
    link = socket.socket(_family(address))
    link.setblocking(False)
    link.bind((source, 0))
    with contextlib.suppress(BlockingIOError):
        link.connect((address, PORT))
    return link


def _connected(links: list[socket.socket]) -> list[socket.socket]:
    return select.select([], links, [], 0)[1]
