# SPDX-License-Identifier: Apache-2.0
"""Driver ``routes`` on the real kernel, in namespaces of the test's own.  Needs root."""

from __future__ import annotations

import json
import socket
import time

import pytest

from agent.core.items import Link
from agent.core.plan import Delta
from agent.drivers.links import LinksDriver
from agent.drivers.namespaces import ForeignError
from agent.drivers.netns import NetnsDriver
from agent.drivers.routes import RoutesDriver
from agent.namespace import inside_named
from tests.ovs.namespace_lab import host, run, within

SPACE, DEVICE = "hpb-r", "inner"
ROUTER_MAC, OTHER_MAC = "02:48:50:00:00:03", "02:48:50:00:00:04"
ITEMS = {
    f"{SPACE} address {DEVICE} 169.254.169.254/32": "",
    f"{SPACE} address {DEVICE} fe80::a9fe:a9fe/64": "",
    f"{SPACE} address {DEVICE} 10.0.0.1/24": "noprefixroute",
    f"{SPACE} address {DEVICE} fd00:1::1/64": "noprefixroute",
    f"{SPACE} route 100.64.0.0/10": f"via 169.254.169.253 dev {DEVICE} onlink",
    f"{SPACE} route fd00:a9fe::/64": f"via fe80::a9fe:a9fd dev {DEVICE}",
    f"{SPACE} route 0.0.0.0/0": f"via 10.9.0.1 dev {DEVICE}",
    f"{SPACE} route ::/0": f"via fe80::a9fe:a9fd dev {DEVICE}",
    f"{SPACE} route 10.9.0.0/24": f"dev {DEVICE}",
    f"{SPACE} route 10.8.0.0/16": f"nexthop via 10.9.0.7 dev {DEVICE} nexthop via 10.9.0.8 dev {DEVICE}",
    f"{SPACE} route fd00:8::/64": f"nexthop via fe80::7 dev {DEVICE} nexthop via fe80::8 dev {DEVICE}",
    f"{SPACE} neighbor {DEVICE} 169.254.169.253": ROUTER_MAC,
    f"{SPACE} neighbor {DEVICE} fe80::a9fe:a9fd": ROUTER_MAC,
    f"{SPACE} sysctl net.ipv4.conf.{DEVICE}.forwarding": "0",
    f"{SPACE} sysctl net.ipv4.conf.{DEVICE}.rp_filter": "2",
    f"{SPACE} sysctl net.ipv6.conf.all.forwarding": "1",
    f"{SPACE} sysctl net.ipv4.tcp_rmem": "4096 65536 1000000",
}


def several(*neighbors: str) -> str:
    """A route that is shared by ways over several neighbours."""
    return " ".join(f"nexthop via {neighbor} dev {DEVICE}" for neighbor in neighbors)


def links(space: str = SPACE, number: int = 0) -> dict[str, Link]:
    outer, inner = f"outer{number}", f"{space}/{DEVICE}"
    return {
        outer: Link(outer, "veth", "host:metadata", 1500, peer=inner),
        inner: Link(
            DEVICE,
            "veth",
            "host:metadata",
            1500,
            peer=outer,
            tx_checksum=False,
            namespace=space,
            address="02:48:50:00:00:02",
        ),
    }


@pytest.fixture(autouse=True)
def _host():
    with host():
        assert NetnsDriver().apply(Delta(creates={SPACE: "responder"})) == {}
        assert LinksDriver().apply(Delta(creates=links())) == {}
        yield


@pytest.fixture
def driver():
    return RoutesDriver()


def everything(space: str = SPACE) -> str:
    """All that a namespace has, as ip prints it; without what changes by itself."""
    listed = []
    for words in (["address"], ["route"], ["-6", "route"], ["neighbor"]):
        found = json.loads(within(space, "ip", "-j", "-details", *words, "show"))
        for each in found:
            each.pop("operstate", None)  # follows in the kernel's own time
        listed.append(json.dumps(found, sort_keys=True))
    return "\n".join(listed)


def test_everything_is_made_and_read_back(driver):
    assert driver.apply(Delta(creates=ITEMS)) == {}

    assert driver.observe() == ITEMS
    assert driver.observe(dict.fromkeys(ITEMS, "x")) == ITEMS
    few = {key: ITEMS[key] for key in list(ITEMS)[::3]}
    assert driver.observe(dict.fromkeys((*few, f"{SPACE} route 1.0.0.0/8", "hpb-x route 1.0.0.0/8"), "x")) == few
    shown = within(SPACE, "ip", "address", "show", "dev", DEVICE)
    assert "tentative" not in shown
    assert "scope link nodad" in shown
    assert "100.64.0.0/10 via 169.254.169.253 dev inner proto 72 onlink" in within(SPACE, "ip", "route")


def test_a_device_comes_up_without_an_address_and_without_a_word(driver):
    names = {"fresh", f"{SPACE}/fresh0"}
    pair = {
        "fresh": Link("fresh", "veth", "port:1", 1500, peer=f"{SPACE}/fresh0", up=True),
        f"{SPACE}/fresh0": Link("fresh0", "veth", "port:1", 1500, peer="fresh", namespace=SPACE, up=False),
    }
    driver = LinksDriver()
    assert driver.apply(Delta(creates=pair)) == {}
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    wire.bind(("fresh", 3))
    assert names == driver.observe(dict.fromkeys(names, "x")).keys()

    shut, up = pair[f"{SPACE}/fresh0"], Link("fresh0", "veth", "port:1", 1500, peer="fresh", namespace=SPACE)
    assert driver.apply(Delta(updates={f"{SPACE}/fresh0": (shut, up)})) == {}
    items = {f"{SPACE} address fresh0 fe80::1/64": "", f"{SPACE} sysctl net.ipv6.conf.fresh0.accept_ra": "0"}
    assert RoutesDriver().apply(Delta(creates=items)) == {}
    assert "inet6 fe80::1/64" in within(SPACE, "ip", "address", "show", "dev", "fresh0")
    assert within(SPACE, "ip", "-6", "address", "show", "dev", "fresh0").count("inet6") == 1

    wire.settimeout(1.5)  # probes and solicitations come within a second
    heard = []
    try:
        while True:
            heard.append(wire.recv(2048))
    except TimeoutError:
        pass
    wire.close()
    # Next header 58 are probes (135) and router solicitations (133).  Multicast listener
    # reports have a header of options before that; they are about the address that we gave.
    assert [frame[54] for frame in heard if frame[12:14] == b"\x86\xdd" and frame[20] == 58] == []


def test_writing_the_same_again_changes_nothing(driver):
    driver.apply(Delta(creates=ITEMS))
    before = everything()

    assert driver.apply(Delta(creates=ITEMS)) == {}
    assert RoutesDriver().apply(Delta(creates=ITEMS)) == {}
    assert everything() == before


def test_everything_that_somebody_changes_is_seen_and_put_right(driver):
    driver.apply(Delta(creates=ITEMS))
    batch = (
        "route replace 10.8.0.0/16 proto 72 nexthop via 10.9.0.7 dev inner weight 3 nexthop via 10.9.0.8 dev inner",
        f"address del 169.254.169.254/32 dev {DEVICE}",
        f"address del fd00:1::1/64 dev {DEVICE}",
        f"route change 10.9.0.0/24 via 10.0.0.9 dev {DEVICE} onlink proto 72",
        f"route append fd00:a9fe::/64 via fe80::77 dev {DEVICE} proto 72",
        f"route replace 100.64.0.0/10 dev {DEVICE} proto 72",
        f"route del fd00:8::/64 via fe80::8 dev {DEVICE} proto 72",
        "route del default",
        f"neighbor replace 169.254.169.253 lladdr {OTHER_MAC} dev {DEVICE} nud permanent proto 72",
        f"neighbor del fe80::a9fe:a9fd dev {DEVICE}",
    )
    within(SPACE, "ip", "-batch", "-", stdin="\n".join(batch))
    within(SPACE, "sysctl", "-qw", "net.ipv4.conf.inner.rp_filter=0")
    RoutesDriver().apply(Delta(creates={f"{SPACE} address {DEVICE} fd00:1::1/64": ""}))  # not what is desired

    seen = driver.observe()
    gone = {key for key in ITEMS if key not in seen}
    changed = {key.partition(" ")[2] for key in seen if seen[key] != ITEMS[key]}
    assert {key.partition(" ")[2] for key in gone} == {
        "address inner 169.254.169.254/32",
        "neighbor inner fe80::a9fe:a9fd",
        "route 0.0.0.0/0",
    }
    assert changed == {
        "address inner fd00:1::1/64",
        "route 10.9.0.0/24",
        "route fd00:a9fe::/64",
        "route 100.64.0.0/10",
        "route 10.8.0.0/16",
        "route fd00:8::/64",
        "neighbor inner 169.254.169.253",
        "sysctl net.ipv4.conf.inner.rp_filter",
    }

    updates = {key: (seen[key], ITEMS[key]) for key in seen if seen[key] != ITEMS[key]}
    assert driver.apply(Delta(creates={key: ITEMS[key] for key in gone}, updates=updates)) == {}
    assert driver.observe() == ITEMS


def test_what_others_made_is_neither_read_nor_changed(driver):
    batch = (
        f"address add 10.0.0.1/24 dev {DEVICE}",
        f"route add 10.7.0.0/24 dev {DEVICE}",
        f"route add 10.9.0.0/24 dev {DEVICE} proto static",
        f"neighbor add 169.254.169.253 lladdr {OTHER_MAC} dev {DEVICE} nud permanent",
        f"neighbor add 10.0.0.77 lladdr {OTHER_MAC} dev {DEVICE} nud permanent",
        f"neighbor add fe80::a9fe:a9fd lladdr {OTHER_MAC} dev {DEVICE} nud reachable",
    )
    within(SPACE, "ip", "-batch", "-", stdin="\n".join(batch))
    assert driver.observe() == {}

    failed = driver.apply(Delta(creates=ITEMS))

    assert {str(err) for err in failed.values()} == {
        f"namespace {SPACE}: address inner 10.0.0.1/24 exists and was not made by hostplane",
        f"namespace {SPACE}: neighbor inner 169.254.169.253 exists and was not made by hostplane",
        f"namespace {SPACE}: route 10.9.0.0/24 exists and was not made by hostplane",
    }
    assert {type(err) for err in failed.values()} == {ForeignError}
    done = {key: value for key, value in ITEMS.items() if key not in failed}
    assert driver.observe() == done  # a neighbour that was learned is replaced
    assert driver.apply(Delta(deletes=done)) == {}
    shown = everything()
    assert all(word in shown for word in ("10.7.0.0/24", "10.9.0.0/24", "10.0.0.77", '"169.254.169.253"', "10.0.0.1"))
    assert driver.observe() == {}


def test_deleting_leaves_settings_as_they_are_and_what_is_gone_is_no_error(driver):
    driver.apply(Delta(creates=ITEMS))

    assert driver.apply(Delta(deletes=ITEMS)) == {}
    assert driver.observe() == {}
    assert driver.observe(dict.fromkeys(ITEMS, "x")) == {}
    assert within(SPACE, "sysctl", "-n", "net.ipv4.conf.inner.rp_filter").strip() == "2"
    assert driver.apply(Delta(deletes=ITEMS)) == {}
    assert LinksDriver().apply(Delta(deletes=links())) == {}
    assert driver.apply(Delta(deletes=ITEMS)) == {}
    assert NetnsDriver().apply(Delta(deletes={SPACE: "responder"})) == {}
    assert driver.apply(Delta(deletes=ITEMS)) == {}


@pytest.mark.parametrize(
    ("prefix", "old", "new"),
    [
        ("10.5.0.0/16", f"via 10.9.0.1 dev {DEVICE}", f"via 10.9.0.2 dev {DEVICE}"),
        ("10.5.0.0/16", f"dev {DEVICE}", f"via 10.9.0.2 dev {DEVICE}"),
        ("10.5.0.0/16", f"via 10.9.0.2 dev {DEVICE}", f"via 10.9.0.2 dev {DEVICE} onlink"),
        ("fd05::/64", f"via fe80::1 dev {DEVICE}", f"via fe80::2 dev {DEVICE}"),
        ("fd05::/64", f"dev {DEVICE}", f"via fe80::2 dev {DEVICE}"),
        ("fd05::/64", f"via fe80::2 dev {DEVICE}", f"dev {DEVICE}"),
        ("10.5.0.0/16", f"via 10.9.0.1 dev {DEVICE}", several("10.9.0.1", "10.9.0.2")),
        ("10.5.0.0/16", several("10.9.0.1", "10.9.0.2"), f"via 10.9.0.2 dev {DEVICE}"),
        ("10.5.0.0/16", several("10.9.0.1", "10.9.0.2"), several("10.9.0.2", "10.9.0.3", "10.9.0.4")),
        ("0.0.0.0/1", several("10.9.0.1", "10.9.0.2"), f"dev {DEVICE}"),
        ("fd05::/64", f"via fe80::1 dev {DEVICE}", several("fe80::1", "fe80::2")),
        ("fd05::/64", several("fe80::1", "fe80::2"), f"via fe80::2 dev {DEVICE}"),
        ("fd05::/64", several("fe80::1", "fe80::2"), several("fe80::2", "fe80::3", "fe80::4")),
        ("fd05::/64", several("fe80::1", "fe80::2"), several("fe80::3", "fe80::4")),
        ("fd05::/64", f"dev {DEVICE}", several("fe80::1", "fe80::2")),
        ("fd05::/64", several("fe80::1", "fe80::2"), f"dev {DEVICE}"),
    ],
)
def test_a_route_changes_whatever_is_believed_of_it(driver, prefix, old, new):
    driver.apply(Delta(creates=ITEMS))
    key = f"{SPACE} route {prefix}"
    assert driver.apply(Delta(creates={key: old})) == {}

    assert driver.apply(Delta(updates={key: (old, new)})) == {}
    assert driver.observe({key: "x"}) == {key: new}
    assert driver.apply(Delta(updates={key: (old, new)})) == {}  # a second time: it is so already
    assert driver.observe({key: "x"}) == {key: new}
    assert driver.apply(Delta(creates={key: old})) == {}
    assert driver.observe({key: "x"}) == {key: old}
    assert driver.apply(Delta(deletes={key: new})) == {}  # believed to be another
    assert driver.observe({key: "x"}) == {}


def test_an_address_of_another_length_takes_the_place_of_the_one_before(driver):
    old, new = (f"{SPACE} address {DEVICE} fd00:7::1/{length}" for length in (64, 80))
    driver.apply(Delta(creates={old: ""}))

    assert driver.apply(Delta(creates={new: ""}, deletes={old: ""})) == {}
    assert driver.observe() == {new: ""}


def test_an_address_that_the_kernel_has_given_itself_is_taken_over(driver):
    """With less than IPv6 needs (RFC 8200) a device loses all of it, and then begins as the kernel likes."""
    key = f"{SPACE} address {DEVICE} fe80::48:50ff:fe00:2/64"
    assert driver.apply(Delta(creates={key: ""})) == {}
    for mtu in ("1000", "1500"):
        within(SPACE, "ip", "link", "set", DEVICE, "mtu", mtu)
    assert key not in driver.observe()
    assert "fe80::48:50ff:fe00:2" in within(SPACE, "ip", "address")
    assert driver.apply(Delta(creates={key: ""})) == {}
    assert driver.observe()[key] == ""


def test_what_cannot_be_done_fails_alone_and_says_where(driver):
    bad = {
        f"{SPACE} address nowhere 10.1.0.1/24": "",
        f"{SPACE} route 10.2.0.0/16": "dev nowhere",
        f"{SPACE} route 10.3.0.0/16": "via 192.0.2.77 dev inner",
        f"{SPACE} route 10.4.0.0/16": "somewhere",
        f"{SPACE} sysctl net.ipv4.no_such_thing": "1",
        f"{SPACE} sysctl net.ipv4.ip_default_ttl": "many",
        f"{SPACE} sysctl kernel.hostname": "x",
        "hpb-none route 10.2.0.0/16": "dev inner",
    }

    failed = driver.apply(Delta(creates={**bad, **ITEMS}))

    assert {key: str(err) for key, err in failed.items()} == {
        f"{SPACE} address nowhere 10.1.0.1/24": f"namespace {SPACE}: address nowhere 10.1.0.1/24: "
        "there is no device nowhere",
        f"{SPACE} route 10.2.0.0/16": f"namespace {SPACE}: route 10.2.0.0/16: there is no device nowhere",
        f"{SPACE} route 10.3.0.0/16": f"namespace {SPACE}: route 10.3.0.0/16: Network is unreachable "
        "(Nexthop has invalid gateway)",
        f"{SPACE} route 10.4.0.0/16": f"namespace {SPACE}: route 10.4.0.0/16: a route cannot lead 'somewhere'",
        f"{SPACE} sysctl net.ipv4.no_such_thing": f"namespace {SPACE}: sysctl net.ipv4.no_such_thing: "
        "No such file or directory",
        f"{SPACE} sysctl net.ipv4.ip_default_ttl": f"namespace {SPACE}: sysctl net.ipv4.ip_default_ttl: "
        "Invalid argument",
        f"{SPACE} sysctl kernel.hostname": f"'{SPACE} sysctl kernel.hostname' is no address, route, neighbor or sysctl",
        "hpb-none route 10.2.0.0/16": "there is no namespace hpb-none of hostplane's",
    }
    assert driver.observe() == {**ITEMS}


def test_a_namespace_that_is_made_anew_gets_everything_again(driver):
    driver.apply(Delta(creates=ITEMS))
    with inside_named(SPACE):
        kept = socket.socket()  # keeps the old one alive, and its end of the pair
    run("ip", "netns", "delete", SPACE)
    wanted = links()

    assert driver.observe() == {}
    assert NetnsDriver().apply(Delta(creates={SPACE: "responder"})) == {}
    seen = LinksDriver().observe()
    assert set(seen) == {"outer0"}
    inner = next(key for key in wanted if "/" in key)
    changed = Delta(creates={inner: wanted[inner]}, updates={"outer0": (seen["outer0"], wanted["outer0"])})
    assert LinksDriver().apply(changed) == {}
    assert LinksDriver().observe() == wanted
    assert driver.apply(Delta(creates=ITEMS)) == {}
    assert driver.observe() == ITEMS
    kept.close()


def test_foreign_namespaces_are_neither_read_nor_written(driver):
    run("ip", "netns", "add", "hpb-f")
    batch = "link set lo up\nroute add 10.0.0.0/8 dev lo proto 72\n"
    within("hpb-f", "ip", "-batch", "-", stdin=batch)

    assert driver.observe() == {}
    failed = driver.apply(Delta(creates={"hpb-f route 11.0.0.0/8": "dev lo"}))
    assert [str(err) for err in failed.values()] == ["there is no namespace hpb-f of hostplane's"]
    assert driver.apply(Delta(deletes={"hpb-f route 10.0.0.0/8": "dev lo"})) == {}
    assert "10.0.0.0/8" in within("hpb-f", "ip", "route")


def test_hundreds_of_namespaces_and_thousands_of_neighbours_are_read_at_once(driver):
    spaces = {f"hpb-{n:03}": f"router:{n}" for n in range(200)}
    NetnsDriver().apply(Delta(creates=spaces))
    pairs = {key: link for n, space in enumerate(spaces, 1) for key, link in links(space, n).items()}
    items = {key.replace(SPACE, space): value for space in spaces for key, value in ITEMS.items()}
    many = {f"{SPACE} neighbor {DEVICE} 10.0.{n >> 8}.{n & 255}": ROUTER_MAC for n in range(2000)}
    one = next(iter(many))
    netns, devices = NetnsDriver(), LinksDriver()
    work = {
        "pairs made": lambda: devices.apply(Delta(creates=pairs)) == {},
        "items made": lambda: driver.apply(Delta(creates=items)) == {},
        "neighbours made": lambda: driver.apply(Delta(creates=many)) == {},
        "namespaces read": lambda: len(netns.observe()) == 201,
        "pairs read": lambda: devices.observe() == pairs | links(),
        "items and neighbours read": lambda: driver.observe() == items | many,
        "one neighbour read": lambda: driver.observe({one: "x"}) == {one: ROUTER_MAC},
        "one item written": lambda: driver.apply(Delta(deletes={one: ROUTER_MAC})) == {},
    }
    taken = {}
    for name, do in work.items():
        started = time.thread_time()  # what others do on the machine does not count
        assert do(), name
        taken[name] = 1000 * (time.thread_time() - started)
    for each in (netns, devices, driver):
        steps: list[float] = []
        found: dict[str, object] = {}
        for place in each.places():
            started = time.thread_time()
            found |= each.observe_place(place)
            steps.append(1000 * (time.thread_time() - started))
        assert found == each.observe()
        taken[f"a place of {each.name} read"] = sorted(steps)[-2]  # the largest is that with all the neighbours

    print({name: round(each, 1) for name, each in taken.items()}, "ms of CPU")
    assert taken["items and neighbours read"] < 1000
    assert taken["one neighbour read"] < 20, "not all are read for one"
    assert max(taken[f"a place of {each.name} read"] for each in (netns, devices, driver)) < 20
