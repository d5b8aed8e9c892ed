# SPDX-License-Identifier: Apache-2.0
"""What a router's namespace tells of its next hops and rules, on the real kernel.  Needs root."""

from __future__ import annotations

import pytest

from agent.command import CommandRunner
from agent.core.plan import Delta, ObjectId
from agent.drivers.netns import NetnsDriver
from agent.drivers.router_look import RouterLook
from tests.ovs.namespace_lab import host, run, within

SPACE, OUTSIDE = "qrouter-look", "hpop-outside"
THERE, SILENT, UNASKED = (("qg-1", f"203.0.113.{number}") for number in (1, 2, 3))
RULE = "hp-dnat -d 203.0.113.10/32 -j DNAT --to-destination 10.0.0.11"


@pytest.fixture
def look():
    with host():
        delta = Delta({SPACE: ""}, {}, {}, {SPACE: ObjectId("router:look")})
        assert NetnsDriver().apply(delta) == {}
        run("ip", "netns", "add", OUTSIDE)
        run("ip", "-n", SPACE, "link", "add", "qg-1", "type", "veth", "peer", "name", "eth0", "netns", OUTSIDE)
        for space, device, address in ((SPACE, "qg-1", "203.0.113.9"), (OUTSIDE, "eth0", "203.0.113.1")):
            run("ip", "-n", space, "address", "add", f"{address}/24", "dev", device)
            run("ip", "-n", space, "link", "set", device, "up")
        yield RouterLook(CommandRunner())


def test_who_answers_is_told_apart_from_who_does_not_and_who_was_not_asked(look):
    within(SPACE, "ping", "-c", "1", "-W", "5", "203.0.113.1")
    # As the kernel leaves it when nobody has answered: without an address.
    run("ip", "-n", SPACE, "neighbor", "add", SILENT[1], "dev", "qg-1", "nud", "failed")
    found = look.neighbors(SPACE, [THERE, SILENT, UNASKED])
    assert set(found) == {THERE, SILENT}
    assert found[THERE].count(":") == 5
    assert found[SILENT] == ""


def test_rules_tell_how_many_connections_they_have_translated(look):
    within(SPACE, "iptables", "-t", "nat", "-N", "hp-dnat")
    within(SPACE, "iptables", "-t", "nat", "-A", *RULE.split())
    within(SPACE, "iptables", "-t", "nat", "-A", "PREROUTING", "-j", "hp-dnat")
    assert look.translated(SPACE) == {RULE: 0}
    run("ip", "-n", OUTSIDE, "route", "add", "203.0.113.10", "via", "203.0.113.9")
    within(OUTSIDE, "sh", "-c", "ping -c 1 -W 0.1 203.0.113.10; true")
    assert look.translated(SPACE) == {RULE: 1}


def test_a_namespace_that_is_not_there_or_somebody_elses_tells_nothing(look):
    for space in ("qrouter-none", OUTSIDE):
        assert look.neighbors(space, [THERE]) == {}
        assert look.translated(space) == {}
