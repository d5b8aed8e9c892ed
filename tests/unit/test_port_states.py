# SPDX-License-Identifier: Apache-2.0
"""Why a port is not up: the first gate that objects says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from agent.core.errors import Actor, Problem
from agent.core.model import (
    Direction,
    HostName,
    HostSnapshot,
    Network,
    NetworkId,
    NetworkType,
    OwnerId,
    PluggedInterface,
    Port,
    PortId,
    SecurityGroup,
    SecurityGroupId,
    SecurityGroupRule,
    Subnet,
    SubnetId,
    SwitchView,
)
from agent.core.report import PortState
from agent.port_states import PortFacts, concerned, is_news, port_states

NETWORK = Network(NetworkId("n"), "blue", NetworkType.LOCAL, None, None, 1500)
PORT = Port(PortId("p"), "vm1", NETWORK.id, "fa:16:3e:00:00:01", ())
INTERFACE = PluggedInterface("tap1", PORT.id, 7)


def facts(port: Port = PORT, network: Network | None = NETWORK, interface: PluggedInterface | None = INTERFACE, **more):
    snapshot = HostSnapshot(
        HostName("h"), in_sync=True, ports={port.id: port}, networks={} if network is None else {network.id: network}
    )
    return PortFacts(snapshot, SwitchView(True, interfaces={} if interface is None else {port.id: interface}), **more)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (facts(), ""),
        (facts(replace(PORT, admin_state_up=False)), "administratively down"),
        (facts(network=replace(NETWORK, admin_state_up=False)), "network blue is administratively down"),
        (facts(network=None), "network n is not in the store"),
        (facts(interface=None), "not plugged in"),
        (facts(interface=replace(INTERFACE, error="no such device")), "no such device"),
        (facts(interface=replace(INTERFACE, ofport=None)), "no OpenFlow port number yet"),
        (facts(problems={"port:p": "its MAC is taken"}), "its MAC is taken"),
        (facts(problems={"network:n": "no bridge"}), "no bridge"),
        (facts(unusable=frozenset({"flows"})), "flows cannot be used"),
        (facts(unfinished={"port:p": "flows: refused"}), "flows: refused"),
        (facts(unfinished={"port:q": "flows: refused"}), ""),
    ],
)
def test_the_reason(given, reason):
    (state,) = port_states(given, {}, 5.0).values()
    assert reason in state.reason
    assert state.up is (reason == "")
    assert state.since == 5.0


def impaired_facts(**texts):
    rules = (SecurityGroupRule("r", Direction.INGRESS, 4, remote_owner=OwnerId("o")),)
    groups = [SecurityGroup(SecurityGroupId(name), name, rules=rules if name == "db" else ()) for name in ("web", "db")]
    ports = [replace(PORT, id=PortId(g.name), filtered=True, security_groups=(g.id,)) for g in groups]
    given = facts(**texts)
    found = {group.id: group for group in groups}
    snapshot = replace(given.snapshot, ports={port.id: port for port in ports}, security_groups=found)
    return replace(given, snapshot=snapshot, switch=SwitchView(True, interfaces={p.id: INTERFACE for p in ports}))


@pytest.mark.parametrize(
    ("given", "reasons"),
    [
        (impaired_facts(), ["", ""]),
        (impaired_facts(problems={"security_group:web": "a rule is left out"}), ["a rule is left out", ""]),
        (
            impaired_facts(unfinished={"security_group:web": "iptables: locked"}),
            ["security group web is not all in place: iptables: locked", ""],
        ),
        (
            impaired_facts(unfinished={"members:o": "members: full"}),
            ["", "security group db is not all in place: members: full"],
        ),
        (impaired_facts(problems={"members:x": "nobody refers to it here"}), ["", ""]),
    ],
)
def test_a_port_with_less_than_its_security_groups_say_is_up_and_says_what_is_missing(given, reasons):
    states = port_states(given, {}, 5.0)
    assert [states[PortId(name)].reason for name in ("web", "db")] == reasons
    assert all(state.up for state in states.values())


def test_since_stays_while_nothing_changes_and_an_unchanged_state_is_the_same_object():
    first = port_states(facts(), {}, 5.0)
    second = port_states(facts(), first, 6.0)
    assert second[PORT.id] is first[PORT.id]
    down = port_states(facts(interface=None), second, 7.0)
    assert down[PORT.id].since == 7.0


def test_a_port_that_is_up_outlives_a_short_failure_and_not_a_long_one():
    up = port_states(facts(), {}, 5.0)
    short = port_states(facts(unusable=frozenset({"flows"})), up, 6.0)
    assert short[PORT.id] is up[PORT.id]
    replugged = facts(interface=replace(INTERFACE, ofport=8), unusable=frozenset({"flows"}))
    assert not port_states(replugged, up, 6.0)[PORT.id].up
    long = facts(unusable=frozenset({"flows"}), lost=frozenset({"flows"}))
    assert not port_states(long, up, 7.0)[PORT.id].up


@pytest.mark.parametrize("driver", ["nat", "fallback", "translations"])
def test_a_port_needs_nothing_that_translates_for_routers(driver):
    assert port_states(facts(unusable=frozenset({driver}), lost=frozenset({driver})), {}, 5.0)[PORT.id].up


def test_a_port_whose_row_makes_no_sense_is_down_and_says_why():
    given = facts()
    problem = Problem("port:q", "mac_address", "port vm2: not a MAC", Actor.CLOUD)
    states = port_states(replace(given, snapshot=replace(given.snapshot, problems=(problem,))), {}, 5.0)
    assert states[PORT.id].up
    assert states[PortId("q")].reason == "port vm2: not a MAC"


SUBNET = Subnet(SubnetId("s"), "s", NETWORK.id, "10.0.0.0/24", None)
DEVICES = {"hp-dhcp": 11, "hp-meta": 12}


def served_facts(port=PORT, devices=DEVICES, subnets=(SUBNET,), **more):
    """Return the facts of a host that answers DHCP and metadata requests."""
    given = facts(port, services=True, **more)
    snapshot = replace(given.snapshot, subnets={NETWORK.id: subnets})
    return replace(given, snapshot=snapshot, switch=replace(given.switch, ofports=devices))


RESTARTING: dict[str, Any] = {
    "unusable": frozenset({"responder"}),
    "unfinished": {"port:p/dhcp": "responder: it has ended"},
}


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (served_facts(), ""),
        (served_facts(devices={"hp-meta": 12}), "hp-dhcp has no OpenFlow port number yet"),
        (served_facts(devices={"hp-dhcp": 11}), "hp-meta has no OpenFlow port number yet"),
        (served_facts(unfinished={"port:p/dhcp": "responder: away"}), "DHCP is not in place: responder: away"),
        (served_facts(unfinished={"port:p/metadata": "flows: no"}), "the metadata service is not in place: flows: no"),
        (served_facts(unfinished={"host:dhcp": "netns: taken"}), "DHCP is not in place: netns: taken"),
        (served_facts(unfinished={"network:n/services": "flows: no"}), "DHCP is not in place: flows: no"),
        (served_facts(problems={"responder:p": "all numbers are in use"}), "all numbers are in use"),
        (served_facts(**RESTARTING), "responder cannot be used"),
        (served_facts(unfinished={"port:q/dhcp": "responder: away"}), ""),
        (served_facts(replace(PORT, device_owner="network:dhcp"), devices={}), ""),
        (served_facts(replace(PORT, device_owner="network:dhcp"), **RESTARTING), ""),
        (served_facts(subnets=(), devices={}), ""),
        (facts(**RESTARTING), ""),
    ],
)
def test_a_port_is_up_when_what_answers_it_is_in_place(given, reason):
    (state,) = port_states(given, {}, 5.0).values()
    assert reason in state.reason
    assert state.up is (reason == "")


def test_a_port_that_is_up_stays_so_and_says_nothing_while_the_responder_restarts():
    up = port_states(served_facts(), {}, 5.0)
    assert port_states(served_facts(**RESTARTING), up, 6.0)[PORT.id] is up[PORT.id]
    lost = served_facts(**RESTARTING, lost=frozenset({"responder"}))
    assert not port_states(lost, up, 6.0)[PORT.id].up


@pytest.mark.parametrize(
    "trouble",
    [
        {"unfinished": {"port:p/dhcp": "responder: refused"}},
        {"problems": {"port:p/dhcp": "port vm1: dhcp option mtu: refused"}},
        {"problems": {"port:p/metadata": "port vm1: metadata: user_data: refused"}},
    ],
)
def test_a_port_that_is_up_and_is_answered_less_than_it_should_be_says_so(trouble):
    up = port_states(served_facts(), {}, 5.0)
    state = port_states(served_facts(**trouble), up, 6.0)[PORT.id]
    assert state.up
    assert "refused" in state.reason


def test_what_is_wrong_with_a_ports_options_is_no_port_of_its_own():
    problem = Problem("port:p/dhcp", "dhcp_options", "port vm1: no such option", Actor.CLOUD)
    given = served_facts()
    states = port_states(replace(given, snapshot=replace(given.snapshot, problems=(problem,))), {}, 5.0)
    assert list(states) == [PORT.id]


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        ("port:p", "port:p"),
        ("port:p/dhcp", "port:p/dhcp"),
        ("network:n/flood/3", "network:n"),
        ("network:n/services", "network:n/services"),
        ("host:metadata", "host:metadata"),
    ],
)
def test_whose_ports_wait_for_an_object(owner, expected):
    assert concerned(owner) == expected


def test_that_a_port_is_about_to_come_up_is_no_news_and_all_else_is():
    unplugged = port_states(facts(interface=None), {}, 5.0)
    coming = port_states(facts(interface=replace(INTERFACE, ofport=None)), unplugged, 6.0)
    up = port_states(facts(), coming, 7.0)
    gone = port_states(facts(interface=replace(INTERFACE, ofport=None)), up, 8.0)
    assert not is_news(unplugged, unplugged)
    assert not is_news(coming, unplugged)
    assert is_news(up, coming)
    assert is_news(up, unplugged)
    assert is_news(gone, up)
    assert is_news(unplugged, coming)
    assert is_news({}, up)
    assert is_news(coming, {})


def test_facts_that_say_the_same_give_the_same_states():
    given = facts(unfinished={"port:p": "flows: refused"})
    later = replace(given, snapshot=replace(given.snapshot, revision=9), unfinished={"port:p": "flows: refused"})
    assert later.says_the_same(given)
    first = port_states(given, {}, 5.0)
    assert port_states(later, first, 6.0) == first
    for other in (
        replace(given, switch=SwitchView(True)),
        replace(given, snapshot=replace(given.snapshot, ports={})),
        replace(given, snapshot=replace(given.snapshot, networks={})),
        replace(given, snapshot=replace(given.snapshot, problems=(Problem("port:q", "mac", "x", Actor.CLOUD),))),
        replace(given, unfinished={}),
        replace(given, unusable=frozenset({"flows"})),
        replace(given, lost=frozenset({"flows"})),
        replace(given, problems={"port:p": "its MAC is taken"}),
    ):
        assert not other.says_the_same(given)


def changed_worlds() -> list[PortFacts]:
    """Return what a host with three ports may be led through."""
    ports = {port.id: port for port in (replace(PORT, id=PortId(name), name=name) for name in "pqr")}
    given = served_facts()
    plugged = {port: replace(INTERFACE, port=port, ofport=place) for place, port in enumerate(ports, 5)}
    world = replace(
        given,
        snapshot=replace(given.snapshot, ports=ports),
        switch=replace(given.switch, interfaces=plugged),
    )
    some = {port: plugged[port] for port in list(ports)[1:]}
    renamed = {**ports, PORT.id: replace(ports[PORT.id], name="other")}
    return [
        world,
        replace(world, switch=replace(world.switch, interfaces=some)),
        replace(world, switch=replace(world.switch, ofports={})),
        replace(world, snapshot=replace(world.snapshot, ports=renamed)),
        replace(world, snapshot=replace(world.snapshot, ports={PORT.id: ports[PORT.id]})),
        replace(world, snapshot=replace(world.snapshot, networks={})),
        replace(world, snapshot=replace(world.snapshot, subnets={})),
        replace(world, unfinished={"port:p": "flows: refused", "port:q/dhcp": "responder: refused"}),
        replace(world, problems={"port:p/dhcp": "no such option"}),
        replace(world, unusable=frozenset({"responder"})),
        replace(world, unusable=frozenset({"flows"}), lost=frozenset({"flows"})),
    ]


@given_any(st.lists(st.sampled_from(changed_worlds()), max_size=6))
def test_looking_only_at_what_changed_gives_the_states_of_looking_at_all(worlds):
    states: dict[PortId, PortState] = {}
    then: PortFacts | None = None
    for now, world in enumerate(worlds):
        everything = port_states(world, states, now)
        states = port_states(world, states, now, then)
        assert states == everything
        then = world
