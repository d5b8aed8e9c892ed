# SPDX-License-Identifier: Apache-2.0
"""Driver ``fallback`` on the real kernel: connections of which each gateway sees one direction.  Needs root and nft."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator, Mapping

import pytest

from agent.command import CommandRunner
from agent.core.errors import CommandError
from agent.core.plan import Delta, Key, ObjectId, Value
from agent.drivers.fallback import CHANGED, EMPTY, FallbackDriver
from agent.drivers.nat import NatDriver
from agent.drivers.netns import NetnsDriver
from agent.namespace import inside_named
from tests.ovs.namespace_lab import host, run, within

OWNER = ObjectId("floating_ip:1")
SPACES = ("qrouter-a", "qrouter-b")
INSIDE, OUTSIDE = "hpn-inside", "hpn-outside"
ONE, TWO, THREE = "10.0.0.11", "10.0.0.12", "10.0.0.13"
FLOATING_ONE, FLOATING_TWO, FAR = "203.0.113.11", "203.0.113.12", "203.0.113.200"
PAIRS = {FLOATING_ONE: ONE, FLOATING_TWO: TWO}
COMMENT = '-m comment --comment "hp:0123456789abcdef"'
SECONDS = 5.0
RULES = {
    "4 nat hp-dnat": "*",
    **{f"4 nat hp-dnat -d {there}/32 -j DNAT --to-destination {fixed}": "" for there, fixed in PAIRS.items()},
    "4 nat hp-snat": "\n".join(
        f"-s {fixed}/32 {where} -j SNAT --to-source {there}"
        for there, fixed in PAIRS.items()
        for where in ("-o qg-1", "-m conntrack --ctstate DNAT")
    ),
    "4 filter hp-forward": "-m mark --mark 0x2/0x2 -j RETURN\n-o qg-1 -m conntrack --ctstate INVALID -j DROP",
    "4 filter hp-input": "-m conntrack --ctstate INVALID -j DROP",
    f"4 nat PREROUTING {COMMENT} -j hp-dnat": "first",
    f"4 nat POSTROUTING {COMMENT} -j hp-snat": "first",
    f"4 filter FORWARD {COMMENT} -j hp-forward": "first",
    f"4 filter INPUT {COMMENT} -j hp-input": "first",
}


def items(space: str, pairs: Mapping[str, str] = PAIRS) -> dict[Key, Value]:
    return {f"{space} {floating}": fixed for floating, fixed in pairs.items()}


class CountingRunner(CommandRunner):
    """Remembers how often it has started a program."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __call__(self, argv, **more):
        self.calls += 1
        return super().__call__(argv, **more)


@pytest.fixture
def programs() -> CountingRunner:
    return CountingRunner()


@pytest.fixture
def driver(programs: CountingRunner) -> Iterator[FallbackDriver]:
    with host():
        assert not NetnsDriver().apply(Delta(dict.fromkeys(SPACES, "router:1")))
        yield FallbackDriver(programs)


class TestTable:
    def test_what_was_written_is_read_back_by_this_process_and_the_next(self, driver):
        desired = items("qrouter-a") | items("qrouter-b", {FLOATING_ONE: TWO})
        assert driver.observe() == {}
        assert driver.apply(Delta(desired)) == {}
        for each in (driver, FallbackDriver(CommandRunner())):
            assert each.observe() == desired
            assert each.observe(dict.fromkeys(items("qrouter-a"), OWNER)) == items("qrouter-a")
            assert each.observe_place("qrouter-b") == items("qrouter-b", {FLOATING_ONE: TWO})
        assert sorted(driver.places()) == [*SPACES]

    def test_addresses_are_exchanged_in_one_step(self, driver):
        driver.apply(Delta(items("qrouter-a")))
        swapped = items("qrouter-a", {FLOATING_ONE: TWO, FLOATING_TWO: ONE})
        updates = {key: (value, swapped[key]) for key, value in items("qrouter-a").items()}
        assert driver.apply(Delta(updates=updates)) == {}
        assert driver.observe() == swapped
        moved = {"qrouter-a 203.0.113.13": ONE}
        assert driver.apply(Delta(moved, deletes={f"qrouter-a {FLOATING_TWO}": ONE})) == {}
        assert driver.observe() == {f"qrouter-a {FLOATING_ONE}": TWO, **moved}

    def test_the_table_goes_with_the_last_of_them_and_nothing_else_does(self, driver):
        within("qrouter-a", "nft", "add", "table", "ip", "theirs")
        driver.apply(Delta(items("qrouter-a")))
        driver.apply(Delta(deletes={f"qrouter-a {FLOATING_ONE}": ONE}))
        assert driver.observe() == {f"qrouter-a {FLOATING_TWO}": TWO}
        driver.apply(Delta(deletes={f"qrouter-a {FLOATING_TWO}": TWO}))
        assert driver.observe() == {}
        assert within("qrouter-a", "nft", "list", "tables").split() == ["table", "ip", "theirs"]

    @pytest.mark.parametrize(
        "words",
        [
            ("flush", "chain", "ip", "hostplane", "out"),
            ("insert", "rule", "ip", "hostplane", "in", "accept"),
            ("add", "chain", "ip", "hostplane", "more"),
            ("delete", "element", "ip", "hostplane", "fip_out", f"{{ {ONE} }}"),
            ("delete", "element", "ip", "hostplane", "fip_in", f"{{ {FLOATING_ONE} }}"),
            ("flush", "map", "ip", "hostplane", "fip_in"),
            ("delete", "table", "ip", "hostplane"),
            ("chain", "ip", "hostplane", "in", "{ policy drop; }"),
            ("add", "element", "ip", "hostplane", "fip_in", "{ 203.0.113.99 : 10.0.0.99 }"),
        ],
        ids=" ".join,
    )
    def test_what_somebody_does_to_it_is_seen_and_undone(self, driver, words):
        desired = items("qrouter-a")
        driver.apply(Delta(desired))
        within("qrouter-a", "nft", *words)
        found = driver.observe()
        assert found != desired
        assert set(found.values()) <= {CHANGED, ONE, TWO}
        converge(driver, desired)

    def test_who_did_not_look_again_writes_all_the_same(self, driver):
        driver.apply(Delta(items("qrouter-a", {FLOATING_ONE: ONE})))
        within("qrouter-a", "nft", "flush", "ruleset")
        assert driver.apply(Delta(items("qrouter-a", {FLOATING_TWO: TWO}))) == {}
        assert driver.observe() == items("qrouter-a")

    def test_a_table_that_translates_nothing_is_nothing_that_anybody_wants(self, driver):
        driver.apply(Delta(items("qrouter-a")))
        for name in ("fip_in", "fip_out"):
            within("qrouter-a", "nft", "flush", "map", "ip", "hostplane", name)
        assert driver.observe() == {f"qrouter-a {EMPTY}": EMPTY}
        converge(driver, {})
        assert within("qrouter-a", "nft", "list", "tables") == ""

    def test_it_is_not_read_again_while_nobody_has_changed_anything(self, driver, programs):
        driver.apply(Delta(items("qrouter-a")))
        driver.observe()
        before = programs.calls
        assert driver.observe() == items("qrouter-a")
        assert programs.calls == before

    def test_a_namespace_that_is_gone_or_not_ours_is_no_concern(self, driver):
        driver.apply(Delta(items("qrouter-a")))
        NetnsDriver().apply(Delta(deletes={"qrouter-a": "router:1"}))
        assert driver.apply(Delta(deletes=items("qrouter-a"))) == {}
        run("ip", "netns", "add", "qrouter-a")
        within("qrouter-a", "nft", "add", "table", "ip", "hostplane")
        assert driver.observe() == {}
        assert set(driver.apply(Delta(items("qrouter-a")))) == set(items("qrouter-a"))
        assert within("qrouter-a", "nft", "list", "tables").split() == ["table", "ip", "hostplane"]

    def test_one_that_was_made_anew_has_nothing(self, driver):
        driver.apply(Delta(items("qrouter-a")))
        NetnsDriver().apply(Delta(deletes={"qrouter-a": "router:1"}))
        NetnsDriver().apply(Delta({"qrouter-a": "router:1"}))
        assert driver.apply(Delta(items("qrouter-a", {FLOATING_TWO: TWO}))) == {}
        assert driver.observe() == items("qrouter-a", {FLOATING_TWO: TWO})

    def test_what_cannot_be_fails_by_name_and_alone(self, driver):
        bad = {"qrouter-a 2001:db8::1": ONE, f"qrouter-a {FLOATING_TWO}": f"{ONE} }}", "elsewhere 203.0.113.9": TWO}
        twice = {"qrouter-a 203.0.113.13": ONE}
        failed = driver.apply(Delta({f"qrouter-a {FLOATING_ONE}": ONE, **bad, **twice}))
        assert set(failed) == {*bad, *twice}
        assert f"{FLOATING_ONE} stands for {ONE} already" in str(failed["qrouter-a 203.0.113.13"])
        assert driver.observe() == {f"qrouter-a {FLOATING_ONE}": ONE}

    def test_without_the_program_nothing_is_found_and_nothing_can_be_written(self, driver, monkeypatch):
        monkeypatch.setenv("PATH", "/nowhere")
        assert driver.observe() == {}
        with pytest.raises(CommandError, match="not installed"):
            driver.apply(Delta(items("qrouter-a")))


def converge(driver: FallbackDriver, desired: Mapping[Key, Value]) -> None:
    actual = driver.observe()
    creates = {key: value for key, value in desired.items() if key not in actual}
    updates = {key: (actual[key], value) for key, value in desired.items() if key in actual and actual[key] != value}
    deletes = {key: value for key, value in actual.items() if key not in desired}
    assert driver.apply(Delta(creates, updates, deletes)) == {}
    assert driver.observe() == desired


@pytest.fixture
def gateways(driver: FallbackDriver) -> FallbackDriver:
    """Two gateways of one router, both ready: what comes in passes the first, what goes out the second."""
    for bridge, member, addresses in (("inner", INSIDE, (ONE, TWO, THREE)), ("outer", OUTSIDE, (FAR,))):
        run("ip", "link", "add", bridge, "up", "type", "bridge")
        run("ip", "netns", "add", member)
        attach(bridge, member, "eth0", *(f"{address}/24" for address in addresses))
    for number, space in enumerate(SPACES, 1):
        attach("inner", space, "qr-1", f"10.0.0.{number}/24")
        attach("outer", space, "qg-1", f"203.0.113.{number}/24", *(f"{address}/32" for address in PAIRS))
        for setting in ("ipv4.ip_forward=1", "netfilter.nf_conntrack_tcp_loose=1", "ipv4.conf.all.send_redirects=0"):
            within(space, "sysctl", "-qw", f"net.{setting}")
        for each in ("all", "default", "qr-1", "qg-1"):
            within(space, "sysctl", "-qw", f"net.ipv4.conf.{each}.rp_filter=0")
        assert not NatDriver(CommandRunner()).apply(Delta({f"{space} {key}": value for key, value in RULES.items()}))
    for address in PAIRS:
        run("ip", "-n", OUTSIDE, "route", "add", address, "via", "203.0.113.1")
    run("ip", "-n", OUTSIDE, "route", "add", THREE, "via", "203.0.113.1")
    for table, source, gateway in ((1, ONE, "10.0.0.1"), (2, TWO, "10.0.0.2"), (2, THREE, "10.0.0.2")):
        run("ip", "-n", INSIDE, "route", "replace", "default", "via", gateway, "table", str(table))
        run("ip", "-n", INSIDE, "rule", "add", "from", source, "table", str(table))
    return driver


def attach(bridge: str, space: str, device: str, *addresses: str) -> None:
    run(
        "ip",
        "link",
        "add",
        f"{space[-7:]}-{device}",
        "up",
        "master",
        bridge,
        "type",
        "veth",
        "peer",
        device,
        "netns",
        space,
    )
    for address in addresses:
        run("ip", "-n", space, "address", "add", address, "dev", device)
    run("ip", "-n", space, "link", "set", device, "up")


def talk(source: tuple[str, str], destination: str, server: str) -> str:
    """Open a connection, send a word each way, twice; return how the client is seen.  Raises TimeoutError."""
    with inside_named(INSIDE):
        listener = socket.create_server((server, 80))
    with inside_named(source[0]):
        client = socket.socket()
    with listener, client:
        client.settimeout(SECONDS)
        listener.settimeout(SECONDS)
        client.bind((source[1], 0))
        client.connect((destination, 80))
        there, (seen, _) = listener.accept()
        with there:
            there.settimeout(SECONDS)
            for _ in range(2):
                client.sendall(b"word")
                assert there.recv(4) == b"word"
                there.sendall(b"answer")
                assert client.recv(6) == b"answer"
    return str(seen)


def taken(space: str) -> int:
    """Return how many packets were translated without a connection."""
    listed = json.loads(within(space, "nft", "-j", "list", "table", "ip", "hostplane"))["nftables"]
    expressions = [part for entry in listed if "rule" in entry for part in entry["rule"]["expr"]]
    return sum(part["counter"]["packets"] for part in expressions if "counter" in part)


class TestPackets:
    def test_a_connection_goes_on_of_which_each_gateway_sees_one_direction(self, gateways):
        gateways.apply(Delta(items("qrouter-a") | items("qrouter-b")))
        assert talk((OUTSIDE, FAR), FLOATING_TWO, TWO) == FAR
        assert taken("qrouter-a") > 0
        assert taken("qrouter-b") > 0

    def test_and_one_between_two_floating_ips_of_the_router(self, gateways):
        gateways.apply(Delta(items("qrouter-a") | items("qrouter-b")))
        assert talk((INSIDE, ONE), FLOATING_TWO, TWO) == FLOATING_ONE

    def test_what_nobody_can_translate_does_not_leave(self, gateways):
        gateways.apply(Delta(items("qrouter-a") | items("qrouter-b")))
        with inside_named(INSIDE):
            listener = socket.create_server((THREE, 80))
        with inside_named(OUTSIDE):
            client = socket.socket()
        with listener, client:
            client.setblocking(False)
            assert client.connect_ex((THREE, 80))
            deadline = time.monotonic() + SECONDS
            while dropped("qrouter-b") == 0:
                assert time.monotonic() < deadline
                assert not select.select([], [client], [], 0.05)[1]


def dropped(space: str) -> int:
    lines = within(space, "iptables", "-nvxL", "hp-forward").splitlines()
    return sum(int(line.split()[0]) for line in lines if " DROP " in line)
