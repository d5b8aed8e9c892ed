# SPDX-License-Identifier: Apache-2.0
"""Namespaces, devices and routes through random states and accidents, on the real kernel.  Needs root."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.plan import Delta, Driver, Key, Value
from agent.drivers.links import LinksDriver
from agent.drivers.netns import NetnsDriver
from agent.drivers.routes import RoutesDriver
from agent.namespace import inside_named
from tests.ovs.namespace_lab import host, run, within
from tests.ovs.test_driver_routes import DEVICE, ROUTER_MAC, SPACE, everything, links, several

OTHER = "hpb-o"
HOPS4 = (
    "dev inner",
    "via 10.9.0.1 dev inner onlink",
    "via 10.9.0.2 dev inner onlink",
    "nexthop via 10.9.0.1 dev inner onlink nexthop via 10.9.0.3 dev inner onlink",
)
HOPS6 = (
    "dev inner",
    "via fe80::1 dev inner",
    "via fe80::2 dev inner",
    several("fe80::1", "fe80::2"),
    several("fe80::2", "fe80::3"),
)
PARTS = {
    "address inner 10.0.0.1/24": ("", "noprefixroute"),
    "address inner 10.0.0.2/24": ("", "noprefixroute"),
    "address inner fe80::9/64": ("", "noprefixroute"),
    "address inner fd00::1/64": ("", "noprefixroute"),
    "address inner fd00::1/80": ("",),
    "route 10.5.0.0/16": HOPS4,
    "route 0.0.0.0/0": HOPS4,
    "route fd05::/64": HOPS6,
    "route ::/0": HOPS6,
    "neighbor inner 10.0.0.9": (ROUTER_MAC, "02:00:00:00:00:09"),
    "neighbor inner fe80::1": (ROUTER_MAC, "02:00:00:00:00:09"),
    "sysctl net.ipv4.conf.inner.rp_filter": ("0", "1", "2"),
}
# Two lengths of one IPv6 address cannot be there at once.
ITEMS = st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in PARTS.items()}).filter(
    lambda items: sum("fd00::1/" in key for key in items) < 2
)
STATES = st.dictionaries(st.sampled_from([SPACE, OTHER]), ITEMS, max_size=2)
ACCIDENTS = st.sampled_from(
    [
        f"netns delete {SPACE}",
        f"link delete outer-{SPACE}",
        f"-n {SPACE} link set {DEVICE} down",
        f"-n {SPACE} address flush dev {DEVICE}",
        f"-n {SPACE} neighbor flush all nud permanent",
        f"-n {SPACE} -6 route flush proto 72",
        f"-n {SPACE} route replace 10.5.0.0/16 dev lo proto 72",
        f"-n {SPACE} -6 route append fd05::/64 via fe80::77 dev {DEVICE} proto 72",
        f"-n {SPACE} neighbor replace 10.0.0.9 lladdr 02:00:00:00:00:77 dev {DEVICE} nud stale",
    ]
)


def desired(state: Mapping[str, Mapping[str, str]]) -> dict[str, dict[Key, Value]]:
    """What each driver is to hold."""
    devices: dict[Key, Value] = {}
    for space in state:
        for key, link in links(space).items():
            name = key.replace("outer0", f"outer-{space}")
            devices[name] = type(link)(
                **{
                    **{field: getattr(link, field) for field in link.__slots__},
                    "name": name.rpartition("/")[2],
                    "peer": (link.peer or "").replace("outer0", f"outer-{space}"),
                }
            )
    return {
        "netns": dict.fromkeys(state, "router:1"),
        "links": devices,
        "routes": {f"{space} {key}": value for space, items in state.items() for key, value in items.items()},
    }


def difference(wanted: Mapping[Key, Value], actual: Mapping[Key, Value]) -> Delta:
    return Delta(
        creates={key: value for key, value in wanted.items() if key not in actual},
        updates={key: (actual[key], value) for key, value in wanted.items() if actual.get(key, value) != value},
        deletes={key: value for key, value in actual.items() if key not in wanted},
    )


def reconcile(drivers: list[Driver], wanted: Mapping[str, Mapping[Key, Value]]) -> dict[Key, Exception]:
    """Make everything as wanted as the reconciler does: creates forward, deletes backward."""
    deltas = {driver.name: difference(wanted[driver.name], driver.observe()) for driver in drivers}
    failed: dict[Key, Exception] = {}
    for driver in drivers:
        delta = deltas[driver.name]
        failed |= driver.apply(Delta(delta.creates, delta.updates))
    for driver in reversed(drivers):
        failed |= driver.apply(Delta(deletes=deltas[driver.name].deletes))
    return failed


def fresh() -> list[Driver]:
    return [NetnsDriver(), LinksDriver(), RoutesDriver()]


@settings(max_examples=25)
@given(history=st.lists(st.tuples(STATES, st.lists(ACCIDENTS, max_size=3)), min_size=1, max_size=3), final=STATES)
def test_the_end_depends_only_on_the_last_state(history, final):
    with host():
        drivers = fresh()
        for state, accidents in history:
            reconcile(drivers, desired(state))
            for accident in accidents:
                if SPACE in state:
                    run("sh", "-c", f"ip {accident} 2>&1 || true")
        wanted = desired(final)
        deadline = time.monotonic() + 10
        # What has gone with a device is seen when it is read next: a pass, and one more.
        while reconcile(drivers, wanted) or any(difference(wanted[each.name], each.observe()) for each in drivers):
            assert time.monotonic() < deadline, [difference(wanted[each.name], each.observe()) for each in drivers]
        before = {space: everything(space) for space in final}
        assert reconcile(fresh(), wanted) == {}, "a process that knows nothing has nothing else to write"
        assert {space: everything(space) for space in final} == before


@pytest.mark.parametrize(
    ("prefix", "target", "hops"), [("10.5.0.0/16", "10.5.0.9", HOPS4), ("fd05::/64", "fd05::9", HOPS6)]
)
def test_no_packet_is_refused_while_a_route_changes(prefix, target, hops):

    with host():
        state = {SPACE: {"address inner 10.0.0.1/24": "", "address inner fd00::1/64": "", f"route {prefix}": hops[0]}}
        drivers = fresh()
        assert reconcile(drivers, desired(state)) == {}
        for address in ("10.9.0.1", "10.9.0.2", "fe80::1", "fe80::2", target):
            within(SPACE, "ip", "neighbor", "replace", address, "lladdr", ROUTER_MAC, "dev", DEVICE)
        with inside_named(SPACE):
            sender = socket.socket(socket.AF_INET6 if ":" in target else socket.AF_INET, socket.SOCK_DGRAM)
        sent, refused, over = 0, [], threading.Event()

        def send() -> None:
            nonlocal sent
            while not over.is_set():
                try:
                    sender.sendto(b"x", (target, 9))
                    sent += 1
                except OSError as err:
                    refused.append(err)

        thread = threading.Thread(target=send)
        thread.start()
        key, driver = f"{SPACE} route {prefix}", drivers[-1]
        for turn in range(300):
            change = (hops[turn % 3], hops[(turn + 1) % 3])
            assert driver.apply(Delta(updates={key: change})) == {}
        over.set()
        thread.join()
        sender.close()
        assert sent > 300
        assert refused == []
