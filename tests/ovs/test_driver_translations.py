# SPDX-License-Identifier: Apache-2.0
"""Driver ``translations`` on the real kernel: connections through routers of the test's own.  Needs root."""

from __future__ import annotations

import select
import socket
import time

import pytest

from agent.command import CommandRunner
from agent.core.plan import Delta, ObjectId
from agent.drivers.nat import NatDriver
from agent.drivers.netns import NetnsDriver
from agent.drivers.translations import TranslationsDriver
from agent.namespace import inside_named
from tests.ovs.conntrack_entries import listed
from tests.ovs.namespace_lab import host, run, within

OWNER = ObjectId("router:1")
SPACES = ("qrouter-a", "qrouter-b")
GATEWAY, FLOATING, OTHER, OUTSIDE = "203.0.113.1", "203.0.113.10", "203.0.113.11", "203.0.113.200"
ONE, TWO, THREE = "10.0.0.5", "10.0.0.6", "10.0.0.7"
FAR = "10.1.0.5"
COMMENT = '-m comment --comment "hp:0123456789abcdef"'
SECONDS = 3.0
BASE = {
    "4 nat hp-dnat": "*",
    "4 nat hp-floating": "*",
    "4 nat hp-snat": f"-o qg-1 -j hp-floating\n-o qg-1 -j SNAT --to-source {GATEWAY}",
    f"4 nat PREROUTING {COMMENT} -j hp-dnat": "first",
    f"4 nat POSTROUTING {COMMENT} -j hp-snat": "first",
}


def floating(address, fixed):
    """The rules of a floating IP, and what it translates."""
    rules = {
        f"4 nat hp-dnat -d {address}/32 -j DNAT --to-destination {fixed}": "",
        f"4 nat hp-floating -s {fixed}/32 -j SNAT --to-source {address}": "",
    }
    return rules, {address: fixed}


def forwarding(first, last, inner):
    ports, shift = (f"{first}:{last}", f"-{inner + last - first}/{first}")
    if first == last:
        ports, shift = str(first), ""
    where = f"-d {GATEWAY}/32 -p udp -m udp --dport {ports}"
    rules = {f"4 nat hp-dnat {where} -j DNAT --to-destination {TWO}:{inner}{shift}": ""}
    return rules, {f"{GATEWAY} 17 {first}-{last}": f"{TWO}:{inner}-{inner + last - first}"}


HAIRPIN = {"4 nat hp-snat": f"{BASE['4 nat hp-snat']}\n-m conntrack --ctstate DNAT -j SNAT --to-source {GATEWAY}"}


class Router:
    """A namespace with a network inside and one outside, and both drivers; other routers have the same addresses."""

    def __init__(self, space):
        self.space, tail = space, space[-1]
        self.inside, self.outside, self.far = f"hpd-in-{tail}", f"hpd-out-{tail}", f"hpd-far-{tail}"
        for name, device, own, addresses in (
            (self.inside, "qr-1", "10.0.0.1", (ONE, TWO, THREE)),
            (self.outside, "qg-1", GATEWAY, (OUTSIDE,)),
        ):
            run("ip", "netns", "add", name)
            run("ip", "-n", space, "link", "add", device, "type", "veth", "peer", "name", "eth0", "netns", name)
            for where, what, each in ((space, device, (own,)), (name, "eth0", addresses)):
                for address in each:
                    run("ip", "-n", where, "address", "add", f"{address}/24", "dev", what)
                run("ip", "-n", where, "link", "set", what, "up")
        run("ip", "-n", self.inside, "route", "add", "default", "via", "10.0.0.1")
        for address in (FLOATING, OTHER):
            run("ip", "-n", self.outside, "route", "add", address, "via", GATEWAY)
        within(space, "sysctl", "-qw", "net.ipv4.ip_forward=1")
        self.nat, self.driver = NatDriver(CommandRunner()), TranslationsDriver()
        self.rules, self.wanted = {}, {}
        self.sockets = []

    def want(self, *things, translations=True):
        """Have these floating IPs and forwardings and no others; without *translations* the driver is not told."""
        rules = {
            f"{self.space} {key}": value
            for part in (BASE, *(rules for rules, _ in things))
            for key, value in part.items()
        }
        wanted = {f"{self.space} {key}": value for _, part in things for key, value in part.items()}
        assert self.nat.apply(changing(rules, self.rules)) == {}
        self.rules = rules
        if translations:
            delta = changing(wanted, {k: v for k, v in self.driver.observe().items() if k.startswith(self.space)})
            assert self.driver.apply(delta) == {}
            self.wanted = wanted
            assert {k: v for k, v in self.driver.observe().items() if k.startswith(self.space)} == wanted

    def talk(self, name, source, destination, port, at=None):
        """Send a datagram and have it answered (by who is *at* a namespace); return how the sender is seen."""
        places = {OUTSIDE: self.outside, OTHER: self.outside, FAR: self.far}
        server_space = at or places.get(destination, self.inside)
        address, inner = {FLOATING: (ONE, port), GATEWAY: (TWO, port + 100)}.get(destination, (destination, port))
        with inside_named(server_space):
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        server.bind((address, inner))
        with inside_named(name):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.bind((source, 40000 + port))
        client.connect((destination, port))
        self.sockets += [server, client]
        client.send(b"word")
        assert select.select([server], [], [], SECONDS)[0], f"nothing came to {destination}:{port}"
        _, seen = server.recvfrom(100)
        server.sendto(b"answer", seen)
        assert select.select([client], [], [], SECONDS)[0], "no answer came"
        return seen[0]

    def talk_all(self):
        """A connection of each kind, each to a port of its own."""
        assert self.talk(self.outside, OUTSIDE, FLOATING, 1) == OUTSIDE
        assert self.talk(self.inside, ONE, OUTSIDE, 2) == FLOATING
        assert self.talk(self.inside, THREE, OUTSIDE, 3) == GATEWAY
        assert self.talk(self.outside, OUTSIDE, GATEWAY, 100) == OUTSIDE
        assert self.talk(self.outside, OUTSIDE, GATEWAY, 105) == OUTSIDE
        assert self.alive() == {1, 2, 3, 100, 105}

    def alive(self):
        """The destination ports of the connections that the router knows."""
        with inside_named(self.space):
            return {int(entry["dport"]) for entry in listed() if entry["protocol"] == "17"}

    def close(self):
        for each in self.sockets:
            each.close()


RANGE = forwarding(100, 105, 200)


def changing(desired, actual):
    return Delta(
        creates={key: value for key, value in desired.items() if key not in actual},
        updates={key: (actual[key], value) for key, value in desired.items() if key in actual and actual[key] != value},
        deletes={key: value for key, value in actual.items() if key not in desired},
        owners=dict.fromkeys(desired, OWNER),
    )


@pytest.fixture
def routers():
    with host():
        assert NetnsDriver().apply(Delta(creates=dict.fromkeys(SPACES, "router:1"))) == {}
        made = [Router(space) for space in SPACES]
        for router in made:
            router.want(floating(FLOATING, ONE), RANGE)
            router.talk_all()
        yield made
        for router in made:
            router.close()


def test_what_a_floating_ip_carried_ends_with_it_both_ways_and_nothing_else(routers):
    first, second = routers
    first.want(RANGE)
    assert first.alive() == {3, 100, 105}
    assert second.alive() == {1, 2, 3, 100, 105}
    assert first.driver.ended == 2


def test_what_it_carried_ends_when_it_stands_for_another(routers):
    first, _ = routers
    first.want(floating(FLOATING, TWO), RANGE)
    assert first.alive() == {3, 100, 105}
    assert first.talk(first.inside, TWO, OUTSIDE, 8) == FLOATING


def test_a_second_floating_ip_ends_nothing(routers):
    first, _ = routers
    first.want(floating(FLOATING, ONE), floating(OTHER, TWO), RANGE)
    assert first.alive() == {1, 2, 3, 100, 105}
    assert first.driver.ended == 0


def go_on(router, port):
    """Send once more over the connection to *port*; return as who its sender is seen by the next server inside."""
    client = next(each for each in router.sockets if _is_client_of(each, port))
    with inside_named(router.inside), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((TWO, port))
        client.send(b"word")
        assert select.select([server], [], [], SECONDS)[0], f"nothing came to {TWO}:{port}"
        return server.recvfrom(100)[1]


def _is_client_of(one, port):
    try:
        return one.getpeername()[1] == port
    except OSError:
        return False


def bring_here(router):
    """Take an address from a machine outside: *OTHER* stands for TWO from now on, who has sent nothing yet."""
    run("ip", "-n", router.outside, "address", "delete", f"{OTHER}/32", "dev", "eth0")
    run("ip", "-n", router.outside, "route", "add", OTHER, "via", GATEWAY)
    return floating(OTHER, TWO)


@pytest.fixture
def elsewhere(routers):
    """The address that comes is another machine's outside; two inside have sent to it already."""
    first, _ = routers
    run("ip", "-n", first.outside, "route", "delete", OTHER)
    run("ip", "-n", first.outside, "address", "add", f"{OTHER}/32", "dev", "eth0")
    assert first.talk(first.inside, THREE, OTHER, 20) == GATEWAY
    assert first.talk(first.inside, ONE, OTHER, 21) == FLOATING
    assert first.alive() == {1, 2, 3, 20, 21, 100, 105}
    return first


def test_what_is_sent_to_a_floating_ip_that_comes_here_goes_on_to_where_it_is_now(elsewhere):
    come = bring_here(elsewhere)
    elsewhere.want(floating(FLOATING, ONE), RANGE, come, (HAIRPIN, {}))
    assert elsewhere.alive() == {1, 2, 3, 100, 105}
    assert elsewhere.driver.ended == 2
    assert go_on(elsewhere, 20) == (GATEWAY, 40020)
    assert go_on(elsewhere, 21) == (GATEWAY, 40021)


def test_a_fresh_process_ends_what_is_still_sent_past_a_floating_ip(elsewhere):
    elsewhere.want(floating(FLOATING, ONE), RANGE, bring_here(elsewhere), translations=False)
    elsewhere.driver = TranslationsDriver()
    elsewhere.want(floating(FLOATING, ONE), RANGE, floating(OTHER, TWO))
    assert elsewhere.alive() == {1, 2, 3, 100, 105}


def test_what_comes_from_a_floating_ip_that_comes_here_keeps_its_ports(elsewhere):
    """An older connection of what was outside is in the way of the one that goes on from inside."""
    assert elsewhere.talk(elsewhere.outside, OTHER, FLOATING, 22) == OTHER
    run("ip", "-n", elsewhere.outside, "address", "delete", f"{OTHER}/32", "dev", "eth0")
    back = {"4 nat hp-snat": f"{BASE['4 nat hp-snat']}\n-m conntrack --ctstate DNAT -j hp-floating"}
    back_inside: tuple[dict[str, str], dict[str, str]] = (back, {})
    wanted = (floating(FLOATING, ONE), RANGE, floating(OTHER, TWO), back_inside)
    elsewhere.want(*wanted, translations=False)
    server = next(each for each in elsewhere.sockets if each.getsockname() == (ONE, 22))
    with inside_named(elsewhere.inside), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((TWO, 40022))
        client.connect((FLOATING, 22))
        seen = []
        for translations in (False, True):
            elsewhere.want(*wanted, translations=translations)
            client.send(b"word")
            assert select.select([server], [], [], SECONDS)[0], "nothing came"
            seen.append(server.recvfrom(100)[1])
    assert seen[0] == (OTHER, seen[0][1]) != (OTHER, 40022)
    assert seen[1] == (OTHER, 40022)
    assert elsewhere.alive() == {1, 2, 3, 22, 100, 105}


def test_what_was_refused_at_a_port_ends_when_that_is_forwarded_and_its_neighbors_do_not(routers):
    first, _ = routers
    with inside_named(first.outside):
        for port in (110, 111):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"word", (GATEWAY, port))
    assert first.alive() == {1, 2, 3, 100, 105, 110, 111}
    first.want(floating(FLOATING, ONE), RANGE, forwarding(110, 110, 310))
    assert first.alive() == {1, 2, 3, 100, 105, 111}


PREFIXES = {"10.0.0.0/24": "translated", "10.1.0.0/24": "translated"}
NOTHING: dict[str, str] = {}


@pytest.fixture
def joined(routers):
    """A router with a second network inside: there is a connection to it, and one from there to outside."""
    first, _ = routers
    run("ip", "netns", "add", first.far)
    run("ip", "-n", first.space, "link", "add", "qr-2", "type", "veth", "peer", "name", "eth0", "netns", first.far)
    for space, device, address in ((first.space, "qr-2", "10.1.0.1"), (first.far, "eth0", FAR)):
        run("ip", "-n", space, "address", "add", f"{address}/24", "dev", device)
        run("ip", "-n", space, "link", "set", device, "up")
    run("ip", "-n", first.far, "route", "add", "default", "via", "10.1.0.1")
    first.want(floating(FLOATING, ONE), RANGE, (NOTHING, PREFIXES))
    assert first.talk(first.inside, THREE, FAR, 30) == THREE
    assert first.talk(first.far, FAR, OUTSIDE, 31) == GATEWAY
    assert first.alive() == {1, 2, 3, 30, 31, 100, 105}
    return first


def test_what_an_interface_carried_ends_with_it_and_nothing_else(joined):
    run("ip", "-n", joined.space, "link", "delete", "qr-2")
    joined.want(floating(FLOATING, ONE), RANGE, (NOTHING, {"10.0.0.0/24": "translated"}))
    assert joined.alive() == {1, 2, 3, 100, 105}
    assert joined.driver.ended == 2


def test_a_prefix_that_is_still_within_another_ends_nothing(joined):
    joined.want(floating(FLOATING, ONE), RANGE, (NOTHING, {"10.0.0.0/8": "translated"}))
    assert joined.alive() == {1, 2, 3, 30, 31, 100, 105}


def test_what_was_sent_outside_ends_when_that_comes_inside(routers):
    first, _ = routers
    run("ip", "-n", first.outside, "address", "add", f"{FAR}/32", "dev", "eth0")
    run("ip", "-n", first.space, "route", "add", "10.1.0.0/24", "via", OUTSIDE)
    first.want(floating(FLOATING, ONE), RANGE, (NOTHING, {"10.0.0.0/24": "translated"}))
    assert first.talk(first.inside, THREE, FAR, 32, at=first.outside) == GATEWAY
    first.want(floating(FLOATING, ONE), RANGE, (NOTHING, PREFIXES))
    assert first.alive() == {1, 2, 3, 100, 105}


def test_a_fresh_process_ends_what_would_leave_untranslated(joined):
    joined.driver = TranslationsDriver()
    joined.want(floating(FLOATING, ONE), RANGE, (NOTHING, PREFIXES))
    assert joined.driver.ended == 0
    joined.driver = TranslationsDriver()
    joined.want(floating(FLOATING, ONE), RANGE, (NOTHING, {"10.0.0.0/24": "translated"}))
    assert joined.alive() == {1, 2, 3, 31, 100, 105}


def test_where_nothing_is_translated_a_fresh_process_ends_nothing(joined):
    joined.driver = TranslationsDriver()
    joined.want(floating(FLOATING, ONE), RANGE, (NOTHING, {"10.0.0.0/24": "kept"}))
    assert joined.driver.ended == 0


def test_of_a_range_of_ports_only_those_end_that_are_no_longer_forwarded_to_where_they_went(routers):
    first, second = routers
    first.want(floating(FLOATING, ONE), forwarding(100, 103, 200))
    assert first.alive() == {1, 2, 3, 100}
    second.want(floating(FLOATING, ONE), forwarding(105, 105, 305))
    assert second.alive() == {1, 2, 3}


def test_a_fresh_process_ends_what_no_translation_of_today_accounts_for(routers):
    first, second = routers
    first.want(floating(OTHER, ONE), translations=False)  # and was killed before it came to connections
    first.driver = TranslationsDriver()
    assert first.driver.observe() == {f"{space} unjudged": "unjudged" for space in SPACES}
    first.want(floating(OTHER, ONE))
    assert first.alive() == {3}  # under the router's own address
    assert second.alive() == {1, 2, 3, 100, 105}

    second.driver = TranslationsDriver()
    second.want(floating(FLOATING, ONE), RANGE)
    assert second.alive() == {1, 2, 3, 100, 105}
    assert second.driver.ended == 0


def test_a_fresh_process_looks_at_routers_without_any_translation(routers):
    first, _ = routers
    first.want(translations=False)
    first.driver = TranslationsDriver()
    first.want()
    assert first.alive() == {3}


def test_what_leaves_under_the_routers_address_ends_when_that_is_not_to_be_any_more(routers):
    first, _ = routers
    everybody: tuple[dict[str, str], dict[str, str]] = ({}, {GATEWAY: "*"})
    first.want(floating(FLOATING, ONE), RANGE, everybody)
    assert first.alive() == {1, 2, 3, 100, 105}
    first.want(floating(FLOATING, ONE), RANGE)
    assert first.alive() == {1, 2, 100, 105}


def test_without_snat_what_comes_back_inside_goes_on_under_the_routers_address(routers):
    first, _ = routers
    everybody: tuple[dict[str, str], dict[str, str]] = ({}, {GATEWAY: "*"})
    back_inside: tuple[dict[str, str], dict[str, str]] = (HAIRPIN, {GATEWAY: "hairpin"})
    first.want(floating(FLOATING, ONE), RANGE, everybody, (HAIRPIN, {}))
    assert first.talk(first.inside, THREE, FLOATING, 9) == GATEWAY
    first.want(floating(FLOATING, ONE), RANGE, back_inside)
    assert first.alive() == {1, 2, 9, 100, 105}


def test_a_fresh_process_ends_what_snat_carried_that_is_no_more(routers):
    first, _ = routers
    first.want(floating(FLOATING, ONE), RANGE, (HAIRPIN, {}), translations=False)
    first.driver = TranslationsDriver()
    first.want(floating(FLOATING, ONE), RANGE, (HAIRPIN, {GATEWAY: "hairpin"}))
    assert first.alive() == {1, 2, 100, 105}


def test_a_namespace_that_is_gone_or_not_ours_is_no_concern(routers):
    first, _ = routers
    NetnsDriver().apply(Delta(deletes={"qrouter-a": "router:1"}))
    run("ip", "netns", "add", "qrouter-a")
    assert first.driver.apply(Delta(deletes=first.wanted)) == {}
    fresh = TranslationsDriver()
    assert fresh.observe() == {"qrouter-b unjudged": "unjudged"}
    assert fresh.observe({"qrouter-a unjudged": OWNER, f"qrouter-a {FLOATING}": OWNER}) == {}


def test_what_is_no_translation_fails_by_name_and_alone(routers):
    bad = {"qrouter-a 203.0.113.10 6 1-2": "10.0.0.5:1-5", "qrouter-a 2001:db8::1": "10.0.0.5", "qrouter-a": "x"}
    failed = TranslationsDriver().apply(Delta(creates={**bad, f"qrouter-a {OTHER}": ONE}))
    assert set(failed) == set(bad)
    assert "cannot be translated to '10.0.0.5:1-5'" in str(failed["qrouter-a 203.0.113.10 6 1-2"])


def test_a_hundred_routers_cost_a_look_each(routers):
    NetnsDriver().apply(Delta(creates={f"qrouter-{number}": "router:x" for number in range(100)}))
    fresh = TranslationsDriver()
    started = time.thread_time()
    found = fresh.observe()
    assert fresh.apply(Delta(deletes=found)) == {}
    taken = time.thread_time() - started
    print(f"102 routers looked at in {1000 * taken:.0f} ms of CPU")
    assert fresh.observe() == {}
    assert taken < 1.0
