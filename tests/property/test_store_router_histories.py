# SPDX-License-Identifier: Apache-2.0
"""What is put together of routers and their translations follows from the rows there are, not from how they came."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import product
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.model import (
    FixedIp,
    FloatingIp,
    FloatingIpId,
    HostName,
    NetworkId,
    PortForwarding,
    PortForwardingId,
    PortId,
    Router,
    RouterId,
    RouterInterface,
    Subnet,
    SubnetId,
)
from agent.store.gathered_routers import Routers
from agent.store.gathered_translations import Translations
from agent.store.router_rows import FloatingIpRow, RouterPort, RouterRow

HOST = HostName("host1")
MORE = settings(max_examples=300)  # rivals for an address are rare, and these are cheap
NETWORKS = [NetworkId(name) for name in ("public", "blue", "red")]
ROUTERS = [RouterId(name) for name in ("r1", "r2")]


def address(number: int) -> str:
    return f"10.0.0.{number}"


def routers(key: str) -> Iterator[RouterRow]:
    places = [(), (HOST,), (HostName("host2"),)]
    routes = [(), (("10.9.0.0/16", address(2)),)]
    inner = [frozenset(NETWORKS[1:]), frozenset(NETWORKS[2:])]
    for hosts, ways, distributed, networks, outer in product(places, routes, (0, 1), inner, (None, NETWORKS[0])):
        head = Router(RouterId(key), key, distributed=bool(distributed), gateway_hosts=hosts, routes=ways)
        yield RouterRow(head, networks, outer)


def ports(key: str) -> Iterator[RouterPort]:
    choices = [(1, "s1"), (2, "s1"), (3, "s1"), (1, "s2")]
    for router, network, (number, subnet) in product(ROUTERS, NETWORKS, choices):
        fixed_ips = (FixedIp(address(number), SubnetId(subnet)), FixedIp(address(number + 4), SubnetId("s2")))
        interface = RouterInterface(PortId(key), network, "fa:16:3e:00:00:01", fixed_ips[: 1 + number % 2])
        yield RouterPort(router, key, network == NETWORKS[0], True, interface)


def floating_ips(key: str) -> Iterator[FloatingIpRow]:
    id_ = FloatingIpId(key)
    for router, number, network in product(ROUTERS, (2, 3), NETWORKS[:2]):
        floating = FloatingIp(
            id_, router, address(number), "fa:16:3e:00:00:02", PortId("p"), "10.1.0.4", NETWORKS[1], HOST
        )
        yield FloatingIpRow(id_, address(number), network, floating)
    yield FloatingIpRow(id_, address(1), NETWORKS[0], None)


def forwardings(key: str) -> Iterator[PortForwarding]:
    for router, protocol, number, first, more in product(ROUTERS, (6, 17), (3, 4), (1, 2), (0, 1)):
        inner = PortId("p"), "10.1.0.4", 1, 1 + more
        yield PortForwarding(PortForwardingId(key), router, protocol, address(number), first, first + more, *inner)


def subnets(key: str) -> Iterator[tuple[Subnet, ...]]:
    for cidrs in ({"s1": "10.0.0.0/24"}, {"s1": "10.0.0.0/30", "s2": "10.0.0.4/30"}, {"s2": "10.0.0.0/16"}):
        yield tuple(Subnet(SubnetId(i), i, NetworkId(key), cidr, None) for i, cidr in cidrs.items())


def steps() -> st.SearchStrategy[list[tuple[str, str, Any] | None]]:
    """Return histories: a row that changes, comes or goes (None), or a moment at which a snapshot is made (None)."""
    kinds: list[tuple[str, Callable[[str], Iterable[Any]], Iterable[str]]] = [
        ("router", routers, ROUTERS),
        ("port", ports, ("p1", "p2", "p3")),
        ("floating", floating_ips, ("f1", "f2", "f3")),
        ("forwarding", forwardings, ("w1", "w2", "w3")),
        ("subnets", subnets, NETWORKS),
        ("own", lambda _: [frozenset(NETWORKS[1:2]), frozenset(NETWORKS[2:])], ["networks"]),
    ]
    some: list[list[tuple[str, str, Any] | None]] = [
        [(kind, str(key), row) for key in keys for row in (*make(key), None, None)] for kind, make, keys in kinds
    ]
    some.append([None])
    return st.lists(st.one_of(*(st.sampled_from(few) for few in some)), min_size=5, max_size=30)


def beginning() -> list[tuple[str, str, Any]]:
    """Return rows of two routers with a gateway each, and for each a floating IP and a port forwarding, rivals both."""
    outer = [(FixedIp(address(number), SubnetId("s1")),) for number in (1, 2)]
    legs = [RouterInterface(PortId(f"p{n}"), NETWORKS[0], "", fixed) for n, fixed in enumerate(outer, 1)]
    heads = [Router(router, router, gateway_hosts=(HOST,)) for router in ROUTERS]
    behind = PortId("p"), "10.1.0.4"
    rows: list[tuple[str, str, Any]] = [
        ("subnets", NETWORKS[0], (Subnet(SubnetId("s1"), "s1", NETWORKS[0], "10.0.0.0/24", None),))
    ]
    for number, (head, leg) in enumerate(zip(heads, legs, strict=True), 1):
        floating = FloatingIp(
            FloatingIpId(f"f{number}"), head.id, address(3), "fa:16:3e:00:00:02", *behind, NETWORKS[1], HOST
        )
        forwarding = PortForwarding(PortForwardingId(f"w{number}"), head.id, 6, address(4), 2, 2, *behind, 1, 1)
        rows += [
            ("router", head.id, RouterRow(head, frozenset(NETWORKS[1:]), NETWORKS[0])),
            ("port", leg.port, RouterPort(head.id, leg.port, True, True, leg)),
            ("floating", floating.id, FloatingIpRow(floating.id, address(3), NETWORKS[0], floating)),
            ("forwarding", forwarding.id, forwarding),
        ]
    return rows


class Gathered:
    """Rows as the reader files them."""

    def __init__(self, rows: Iterable[tuple[str, str, Any]] = ()) -> None:
        self.rows: dict[tuple[str, str], Any] = {}
        self.routers = Routers(HOST)
        self.translations = Translations()
        for row in rows:
            self.file(*row)

    def file(self, kind: str, key: str, row: Any) -> None:
        before = self.rows.pop((kind, key), None)
        if row is not None:
            self.rows[kind, key] = row
        if before == row:
            return
        if kind == "router":
            self.routers.file(before, row)
        elif kind == "port":
            self.routers.file_port(before, row)
        elif kind == "floating":
            self.translations.file(before, row)
        elif kind == "forwarding":
            self.translations.file_forwarding(before, row)
        elif kind == "subnets":
            self.routers.note_subnets(NetworkId(key))
            self.translations.note_subnets(NetworkId(key), row or ())

    def snapshot(self) -> tuple[Any, ...]:
        subnets = {NetworkId(key): row for (kind, key), row in self.rows.items() if kind == "subnets" and row}
        own = self.rows.get(("own", "networks"), frozenset())  # networks of this host's ports
        needs = self.routers.needs(own, frozenset({NETWORKS[0]}))
        self.translations.settle(self.routers.settle(needs, subnets), needs.whole)
        problems = sorted(map(str, (*self.routers.problems(), *self.translations.problems())))
        found = self.routers.chosen(), self.translations.floating_ips(), self.translations.port_forwardings()
        return *found, problems, needs


def test_at_the_beginning_one_of_each_two_is_served():
    found, floating, forwarded, problems, needs = Gathered(beginning()).snapshot()
    assert set(found) == needs.whole == set(ROUTERS)
    assert (set(floating), set(forwarded)) == ({ROUTERS[0]}, {ROUTERS[0]})
    assert [problem.partition(":")[0] for problem in problems] == ["floating_ip", "port_forwarding"]


@MORE
@given(steps())
def test_any_history_ends_like_the_rows_that_are_left(history_of):
    history = Gathered(beginning())
    for step in history_of:
        if step is None:
            history.snapshot()
        else:
            history.file(*step)
    left = sorted(history.rows.items(), key=lambda item: item[0], reverse=True)
    assert history.snapshot() == Gathered((*key, row) for key, row in left).snapshot()


@MORE
@given(steps())
def test_what_is_as_before_is_the_same_object_and_an_external_address_leads_to_one_place(history_of):
    gathered = Gathered(beginning())
    before = gathered.snapshot()
    for step in history_of:
        if step is not None:
            gathered.file(*step)
        after = gathered.snapshot()
        for old, new in zip(before[:3], after[:3], strict=True):
            for key, value in new.items():
                assert key not in old or value != old[key] or value is old[key]
        before = after
        _assert_one_place_each(*after)


def _assert_one_place_each(found, floating, forwarded, _, needs):
    assert floating.keys() | forwarded.keys() <= needs.whole <= found.keys()
    gateways = {ip.address for r in found.values() if r.gateway is not None for ip in r.gateway.fixed_ips}
    whole = [ip.address for members in floating.values() for ip in members.values()]
    assert len(whole) == len(set(whole))
    assert not gateways & set(whole)
    served = [forwarding for members in forwarded.values() for forwarding in members.values()]
    taken = [
        (forwarding.protocol, forwarding.external_address, number)
        for forwarding in served
        for number in range(forwarding.external_min, forwarding.external_max + 1)
    ]
    assert len(taken) == len(set(taken))
    assert not set(whole) & {forwarding.external_address for forwarding in served}
