# SPDX-License-Identifier: Apache-2.0
"""What a host reads of routers: all of those that live on it, of others only where to send to, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.core.errors import Actor
from agent.core.model import Host, HostName, HostSnapshot, NetworkType, Router, RouterId
from agent.core.report import RouterState
from agent.store import conditions
from agent.store.document import (
    FixedIpRequest,
    FloatingIpFields,
    HostRoute,
    NetworkFields,
    PortFields,
    PortForwardingFields,
    RouterFields,
    SubnetFields,
)
from agent.store.status_writer import StatusWriter
from agent.store.writer import Writer
from tests.followed import DEADLINE, Followed
from tests.servers import StoreServer
from tests.store_routers import RouterStore, ref, refs, some, text_map

PUBLIC = "203.0.113."


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    with StoreServer(tmp_path) as running:
        yield running


@pytest.fixture
def store(server: StoreServer) -> Iterator[RouterStore]:
    filled = RouterStore(server)
    yield filled
    filled.close()


@pytest.fixture
def follow(server: StoreServer) -> Iterator[Callable[[str], Followed]]:
    started: list[Followed] = []

    def start(host: str) -> Followed:
        started.append(Followed(server.address, host))
        return started[-1]

    yield start
    for following in started:
        following.stop()


class Edge:
    """Router ``edge`` between blue and red, with its gateway on public; green has a router of its own."""

    def __init__(self, store: RouterStore, **columns: object) -> None:
        self.store = store
        self.public = store.network("public", "flat")
        self.public4 = store.subnet("public4", self.public, "203.0.113.0/24", gateway_ip="203.0.113.1")
        self.blue, self.red, self.green = (store.network(name) for name in ("blue", "red", "green"))
        self.blue4 = store.subnet("blue4", self.blue, "10.0.0.0/24")
        self.red4 = store.subnet("red4", self.red, "10.1.0.0/24")
        hosts = ["gw1", "gw2"]
        networks = (self.blue, self.red, self.public)
        self.id = store.router("edge", networks, hosts, external_network=ref(self.public), **columns)
        self.gateway = store.leg(self.id, self.public, {f"{PUBLIC}5": self.public4}, gateway=True)
        self.blue_leg = store.leg(self.id, self.blue, {"10.0.0.1": self.blue4})
        self.red_leg = store.leg(self.id, self.red, {"10.1.0.1": self.red4})
        self.vm1 = store.port("vm1", self.blue, "host1", fixed_ips=["map", [["10.0.0.4", ref(self.blue4)]]])
        self.vm2 = store.port("vm2", self.red, "host2", fixed_ips=["map", [["10.1.0.4", ref(self.red4)]]])
        self.floating = self.associate(f"{PUBLIC}10", "host1")
        self.forwarding = store.forwarding(self.id, f"{PUBLIC}5", range(2222, 2224), self.vm2, "10.1.0.4", 22)
        store.port("vm3", self.green, "host3")
        store.commit()

    def associate(self, address: str, host: str, fixed: str = "10.0.0.4") -> str:
        return self.store.associated(address, self.public, self.id, self.vm1, self.blue, fixed, host)


def whole(edge: Edge, snapshot: HostSnapshot) -> bool:
    """Tell whether a snapshot holds all that a host on which the router lives must know."""
    networks = {edge.blue, edge.red, edge.public}
    router = RouterId(edge.id)
    return (
        set(snapshot.routers) == {edge.id}
        and networks == set(snapshot.networks) == set(snapshot.subnets) == set(snapshot.endpoints)
        and set(snapshot.floating_ips.get(router, {})) == {edge.floating}
        and set(snapshot.port_forwardings.get(router, {})) == {edge.forwarding}
    )


def test_a_gateway_host_gets_the_router_whole_without_a_port_of_its_own(store, follow):
    edge = Edge(store, routes=some(["10.9.0.0/16 10.0.0.9"]))
    snapshot = follow("gw2").until(lambda s: s.routers)
    assert whole(edge, snapshot)
    assert not snapshot.problems
    assert not snapshot.ports
    router = snapshot.routers[edge.id]
    assert (router.name, router.gateway_hosts, router.distributed) == ("edge", ("gw1", "gw2"), False)
    assert router.gateway is not None
    assert (router.gateway.port, router.gateway.fixed_ips[0].address) == (edge.gateway, "203.0.113.5")
    assert {i.port: i.network for i in router.interfaces} == {edge.blue_leg: edge.blue, edge.red_leg: edge.red}
    assert [i.port for i in router.interfaces] == sorted(i.port for i in router.interfaces)
    assert router.routes == (("10.9.0.0/16", "10.0.0.9"),)
    floating = snapshot.floating_ips[edge.id][edge.floating]
    assert (floating.address, floating.fixed_address, floating.port) == ("203.0.113.10", "10.0.0.4", edge.vm1)
    assert (floating.network, floating.host) == (edge.blue, "host1")
    forwarding = snapshot.port_forwardings[edge.id][edge.forwarding]
    assert (forwarding.external_min, forwarding.external_max) == (2222, 2223)
    assert (forwarding.internal_min, forwarding.internal_max, forwarding.protocol) == (22, 23, 6)


@pytest.mark.parametrize("distributed", [False, True])
def test_a_host_with_a_port_gets_a_distributed_router_whole_and_of_another_only_the_way_there(
    store, follow, distributed
):
    edge = Edge(store, distributed=distributed)
    snapshot = follow("host1").until(lambda s: s.routers)
    assert set(snapshot.ports) == {edge.vm1}
    assert snapshot.routers[edge.id].gateway_hosts == ("gw1", "gw2")
    assert len(snapshot.routers[edge.id].interfaces) == 2
    assert not snapshot.problems
    if distributed:
        assert whole(edge, snapshot)
    else:
        assert set(snapshot.networks) == set(snapshot.subnets) == set(snapshot.endpoints) == {edge.blue}
        assert (dict(snapshot.floating_ips), dict(snapshot.port_forwardings)) == ({}, {})
    assert not follow("host3").until(lambda s: s.generation).routers


def test_a_router_without_gateway_hosts_is_whole_where_it_has_ports(store, follow):
    """One of them has it: which, only those know that see all of its networks' endpoints."""
    edge = Edge(store)
    store.update("Router", edge.id, hosts=some([]), gateway_hosts=text_map({}))
    store.commit()
    assert whole(edge, follow("host1").until(lambda s: s.routers))
    assert not follow("gw1").until(lambda s: s.generation).routers


def test_a_router_is_known_where_it_may_be_the_next_hop_of_one_that_lives_there(store, follow):
    edge = Edge(store)
    inner = store.router("inner", [edge.blue, edge.green], ["host9"], distributed=True)
    store.leg(inner, edge.blue, {"10.0.0.9": edge.blue4})
    store.commit()
    snapshot = follow("gw1").until(lambda s: len(s.routers) == 2)
    assert snapshot.routers[inner].gateway_hosts == ("host9",)
    assert edge.green not in snapshot.networks


def test_a_port_on_the_physical_external_network_needs_no_router(store, follow):
    edge = Edge(store, distributed=True)
    store.port("vm9", edge.public, "host9")
    store.commit()
    snapshot = follow("host9").until(lambda s: s.ports)
    assert (dict(snapshot.routers), set(snapshot.networks)) == ({}, {edge.public})


def test_the_first_port_of_a_host_brings_the_distributed_router_with_it_in_one_snapshot(store, follow):
    edge = Edge(store, distributed=True)
    following = follow("host9")
    following.until(lambda s: s.generation)
    store.port("vm9", edge.blue, "host9")
    store.commit()
    following.until(lambda s: s.ports)
    for snapshot in following.published:
        assert bool(snapshot.ports) is bool(snapshot.routers)
        assert not snapshot.ports or whole(edge, snapshot)


def test_what_the_router_brought_goes_with_the_last_port_and_comes_back(store, follow, monkeypatch):
    edge = Edge(store, distributed=True)
    following = follow("host1")
    assert whole(edge, following.until(lambda s: s.routers))
    for linger in (conditions.LINGER, 0.0):
        monkeypatch.setattr(conditions, "LINGER", linger)  # rows may stay in the replica, but in no snapshot
        store.update("Port", edge.vm1, host="host9")
        store.commit()
        snapshot = following.until(lambda s: not s.ports)
        assert replace(snapshot, generation="", revision=0) == HostSnapshot(HostName("host1"), in_sync=True)
        store.update("Port", edge.vm1, host="host1")
        store.commit()
        assert whole(edge, following.until(lambda s: s.ports))


def test_a_router_port_is_no_port_of_a_host_whatever_its_row_says(store, follow):
    edge = Edge(store)
    store.update("Port", edge.blue_leg, host="gw1")
    store.port("stray", edge.blue, "host9", device_id=edge.id)  # names the router, but is none of its ports
    store.commit()
    snapshot = follow("gw1").until(lambda s: s.routers)
    assert not snapshot.ports
    assert {i.port for i in snapshot.routers[edge.id].interfaces} == {edge.blue_leg, edge.red_leg}


def test_one_floating_ip_more_leaves_all_else_the_same_objects(store, follow):
    edge = Edge(store)
    other = store.router("other", [edge.green, edge.public], ["gw1"], external_network=ref(edge.public))
    store.leg(other, edge.public, {f"{PUBLIC}6": edge.public4}, gateway=True)
    store.associated(f"{PUBLIC}11", edge.public, other, edge.vm2, edge.green, "10.2.0.4", "host2")
    store.commit()
    following = follow("gw1")
    before = following.until(lambda s: len(s.floating_ips) == 2)
    added = edge.associate(f"{PUBLIC}12", "host1", "10.0.0.5")
    store.commit()
    after = following.until(lambda s: len(s.floating_ips[edge.id]) == 2)
    for field in ("networks", "subnets", "endpoints", "ports", "routers", "port_forwardings", "problems", "hosts"):
        assert getattr(after, field) is getattr(before, field), field
    assert after.floating_ips[other] is before.floating_ips[other]
    assert after.floating_ips[edge.id][edge.floating] is before.floating_ips[edge.id][edge.floating]
    store.delete("Floating_IP", added)
    store.update("Router", other, name="another")
    store.commit()
    last = following.until(lambda s: len(s.floating_ips[edge.id]) == 1)
    assert last.routers[edge.id] is before.routers[edge.id]
    assert last.routers[other].gateway is before.routers[other].gateway
    assert last.floating_ips[other] is before.floating_ips[other]


def test_a_floating_ip_is_there_only_while_it_has_a_port_and_moves_with_it(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.floating_ips)
    store.update("Floating_IP", edge.floating, port=some([]), fixed_ip_address=some([]), host="")
    store.commit()
    assert not following.until(lambda s: not s.floating_ips).problems
    store.update("Floating_IP", edge.floating, port=ref(edge.vm1), fixed_ip_address="10.0.0.4", host="host7")
    store.commit()
    snapshot = following.until(lambda s: s.floating_ips)
    assert snapshot.floating_ips[edge.id][edge.floating].host == "host7"
    store.delete("Port", edge.vm1)  # the reference is weak: nobody has to be asked
    store.delete("Port_Forwarding", edge.forwarding)
    store.commit()
    assert not following.until(lambda s: not s.floating_ips).port_forwardings


def only_problem(snapshot: HostSnapshot) -> tuple[str, str, str]:
    (problem,) = snapshot.problems
    assert problem.actor is Actor.CLOUD
    return problem.object_id, problem.field, problem.text


# A column of the router or of one of its ports, what it says, and then: the field and words of
# the problem, and what is left of the router.
MISFITS: dict[str, tuple[str, Any, str, tuple[str, ...], Callable[[Router, Edge], bool]]] = {
    "gateway outside of its subnet": (
        "gateway.fixed_ips", {"198.51.100.5": "public4"}, "external_fixed_ips",
        ("198.51.100.5", "public4 (203.0.113.0/24)"), lambda r, e: r.gateway is None and len(r.interfaces) == 2,
    ),
    "gateway that has the address of the next one": (
        "gateway.fixed_ips", {"203.0.113.1": "public4"}, "external_fixed_ips",
        ("203.0.113.1", "gateway of subnet public4"), lambda r, e: r.gateway is None and len(r.interfaces) == 2,
    ),
    "interface outside of its subnet": (
        "red_leg.fixed_ips", {"10.1.0.1": "red4", "10.2.0.1": "red4"}, "interfaces", ("10.2.0.1", "red4"),
        lambda r, e: {f.address for i in r.interfaces for f in i.fixed_ips} == {"10.0.0.1", "10.1.0.1"},
    ),
    "address of another network's subnet": (
        "red_leg.fixed_ips", {"10.0.0.9": "blue4"}, "interfaces", ("10.0.0.9", "not there"),
        lambda r, e: [i.port for i in r.interfaces] == [e.blue_leg],
    ),
    "no address": (
        "red_leg.fixed_ips", {}, "interfaces", ("no address",),
        lambda r, e: [i.port for i in r.interfaces] == [e.blue_leg],
    ),
    "no MAC address": (
        "red_leg.mac_address", "not:a:mac:at:all!", "mac_address", ("not:a:mac",),
        lambda r, e: [i.port for i in r.interfaces] == [e.blue_leg],
    ),
    "next hop in no subnet": (
        "id.routes", some(["10.9.0.0/16 10.9.0.1", "0.0.0.0/0 10.1.0.7"]), "routes", ("10.9.0.0/16", "10.9.0.1"),
        lambda r, e: r.routes == (("0.0.0.0/0", "10.1.0.7"),),
    ),
    "next hop that is the router": (
        "id.routes", some(["10.9.0.0/16 10.0.0.1"]), "routes", ("own address",), lambda r, e: r.routes == (),
    ),
    "route to an own subnet": (
        "id.routes", some(["10.0.0.0/24 10.1.0.7", "10.0.0.0/25 10.1.0.7"]), "routes", ("10.0.0.0/24", "a subnet of"),
        lambda r, e: r.routes == (("10.0.0.0/25", "10.1.0.7"),),
    ),
    "route that is none": (
        "id.routes", some(["10.9.0.0/33 10.0.0.9", "10.8.0.0/16 10.0.0.9"]), "routes", ("10.9.0.0/33",),
        lambda r, e: r.routes == (("10.8.0.0/16", "10.0.0.9"),),
    ),
    "host named twice": (
        "id.gateway_hosts", text_map({0: "gw1", 2: "gw2", 5: "gw1"}), "gateway_hosts", ("gw1", "twice"),
        lambda r, e: r.gateway_hosts == ("gw1", "gw2"),
    ),
    "host that does not know": (
        "id.hosts", some(["gw1"]), "hosts", ("gateway hosts",), lambda r, e: r.gateway_hosts == ("gw1", "gw2"),
    ),
    "network that is not named": (
        "id.networks", ["blue", "public"], "networks", ("not among",),
        lambda r, e: [i.port for i in r.interfaces] == [e.blue_leg],
    ),
    "gateway on another network": (
        "id.external_network", some([]), "external_network", ("without an external network",),
        lambda r, e: r.gateway is None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_named_and_the_rest_of_the_router_works(store, follow, misfit):
    edge = Edge(store)
    following = follow("gw1")
    good = following.at(store.revision)
    assert not good.problems
    where, value, field, words, rest = MISFITS[misfit]
    which, _, column = where.partition(".")
    if isinstance(value, dict):
        value = text_map({address: ref(getattr(edge, subnet)) for address, subnet in value.items()})
    elif column == "networks":
        value = refs(getattr(edge, name) for name in value)
    table, key = ("Router" if which == "id" else "Port"), getattr(edge, which)
    store.update(table, key, **{column: value})
    store.commit()
    snapshot = following.at(store.revision)
    mine = [problem for problem in snapshot.problems if problem.object_id.startswith("router:")]
    assert {(problem.object_id, problem.field) for problem in mine} == {(f"router:{edge.id}", field)}
    assert all("router edge" in problem.text for problem in mine)
    assert any(all(word in problem.text for word in words) for problem in mine), mine
    assert rest(snapshot.routers[edge.id], edge), snapshot.routers[edge.id]
    assert [problem.actor for problem in mine] == [Actor.CLOUD] * len(mine)


def test_interfaces_on_overlapping_subnets_are_told_apart_by_what_else_they_are(store, follow):
    """The gateway comes before interfaces; of these the one with the lower id has its addresses."""
    edge = Edge(store)
    wide = store.network("wide")
    wide4 = store.subnet("wide4", wide, "10.0.0.0/8")
    public = store.subnet("shadow", edge.blue, "203.0.113.0/25")
    wide_leg = store.leg(edge.id, wide, {"10.7.0.1": wide4})
    shadow = store.leg(edge.id, edge.blue, {"203.0.113.77": public})
    store.update("Router", edge.id, networks=refs([edge.blue, edge.red, edge.public, wide]))
    store.commit()
    snapshot = follow("gw1").until(lambda s: s.routers)
    router = snapshot.routers[edge.id]
    inner = sorted((edge.blue_leg, edge.red_leg, wide_leg))
    kept = {wide_leg} if inner[0] == wide_leg else {edge.blue_leg, edge.red_leg}
    assert router.gateway is not None
    assert {i.port for i in router.interfaces} == kept
    assert {p.object_id for p in snapshot.problems} == {f"router:{edge.id}"}
    assert {p.field for p in snapshot.problems} == {"interfaces"}
    assert any("shadow (203.0.113.0/25)" in p.text and "public4" in p.text for p in snapshot.problems), shadow


def test_an_external_address_leads_to_one_place_only(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.floating_ips)
    twice = edge.associate(f"{PUBLIC}10", "host2")
    store.commit()
    first, second = sorted((edge.floating, twice))
    snapshot = following.until(lambda s: s.problems)
    object_id, field, text = only_problem(snapshot)
    assert (object_id, field) == (f"floating_ip:{second}", "floating_ip_address")
    assert "203.0.113.10" in text
    assert first in text
    assert set(snapshot.floating_ips[edge.id]) == {first}
    store.delete("Floating_IP", first)
    store.commit()
    snapshot = following.until(lambda s: not s.problems)
    assert set(snapshot.floating_ips[edge.id]) == {second}
    store.update("Floating_IP", second, floating_ip_address=f"{PUBLIC}5")
    store.commit()
    snapshot = following.until(lambda s: s.problems)
    assert not snapshot.floating_ips
    problems = {p.object_id: p for p in snapshot.problems}
    assert problems[f"floating_ip:{second}"].field == "floating_ip_address"
    assert "router edge" in problems[f"floating_ip:{second}"].text
    assert problems[f"port_forwarding:{edge.forwarding}"].field == "external_ip_address"
    assert snapshot.routers[edge.id].gateway is not None


def test_nothing_leads_away_from_the_gateway_outside_or_from_other_networks(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.floating_ips)
    wrong = {
        "floating_ip_address": [
            f"floating_ip:{edge.associate(address, 'host1', fixed)}"
            for address, fixed in ((f"{PUBLIC}1", "10.0.0.5"), ("198.51.100.7", "10.0.0.6"), ("10.1.0.4", "10.0.0.7"))
        ],
        "external_ip_address": [
            f"port_forwarding:{store.forwarding(edge.id, address, range(80, 81), edge.vm1, '10.0.0.4', 80)}"
            for address in (f"{PUBLIC}1", "198.51.100.7")
        ],
    }
    store.commit()
    snapshot = following.at(store.revision)
    assert {(p.object_id, p.field) for p in snapshot.problems} == {
        (object_id, field) for field, ids in wrong.items() for object_id in ids
    }
    assert set(snapshot.floating_ips[edge.id]) == {edge.floating}
    assert set(snapshot.port_forwardings[edge.id]) == {edge.forwarding}
    store.update("Subnet", edge.public4, gateway_ip="203.0.113.10", cidr="203.0.113.0/28")
    store.commit()
    snapshot = following.at(store.revision)
    of_the_gateway = wrong["floating_ip_address"][0].partition(":")[2]
    assert set(snapshot.floating_ips[edge.id]) == {of_the_gateway}, "it is another one by now"
    assert len(snapshot.problems) == len([each for ids in wrong.values() for each in ids])  # of the floating IPs others


def test_a_floating_ip_does_not_take_the_gateways_mac_address(store, follow):
    edge = Edge(store)
    (row,) = (row for row in store.select("Port", "_uuid", "mac_address") if row["_uuid"][1] == edge.gateway)
    store.update("Floating_IP", edge.floating, mac_address=row["mac_address"])
    store.commit()
    snapshot = follow("gw1").until(lambda s: s.problems)
    assert only_problem(snapshot)[:2] == (f"floating_ip:{edge.floating}", "mac_address")


def test_an_address_has_one_floating_ip_the_first_that_has_an_address_itself(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.floating_ips)
    twice = edge.associate(f"{PUBLIC}12", "host1")
    store.commit()
    first, second = sorted((edge.floating, twice))
    snapshot = following.until(lambda s: s.problems)
    object_id, field, text = only_problem(snapshot)
    assert (object_id, field) == (f"floating_ip:{second}", "fixed_ip_address")
    assert "10.0.0.4" in text
    assert first in text
    assert set(snapshot.floating_ips[edge.id]) == {first}
    store.update("Floating_IP", first, floating_ip_address=f"{PUBLIC}5")  # the router's
    store.commit()
    snapshot = following.until(lambda s: s.floating_ips and first not in s.floating_ips[edge.id])
    assert set(snapshot.floating_ips[edge.id]) == {second}
    store.delete("Floating_IP", first)
    store.commit()
    assert not following.at(store.revision).problems


def test_of_routers_that_want_one_address_one_has_it_and_the_other_says_whose_it_is(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.floating_ips)
    other = store.router("other", (edge.public, edge.blue), ["gw1"], external_network=ref(edge.public))
    gateway = store.leg(other, edge.public, {f"{PUBLIC}5": edge.public4}, gateway=True)
    leg = store.leg(other, edge.blue, {"10.0.0.1": edge.blue4, "10.0.0.2": edge.blue4})
    store.commit()
    snapshot = following.at(store.revision)
    first, second = sorted((edge.id, other))
    name = "edge" if first == edge.id else "other"
    assert {(p.object_id, p.field) for p in snapshot.problems if p.object_id.startswith("router:")} == {
        (f"router:{second}", "external_fixed_ips"),
        (f"router:{second}", "interfaces"),
    }
    assert all(f"router {name} already" in p.text for p in snapshot.problems if p.object_id.startswith("router:"))
    assert snapshot.routers[first].gateway is not None
    assert snapshot.routers[second].gateway is None
    held = [ip.address for router in snapshot.routers.values() for i in router.interfaces for ip in i.fixed_ips]
    assert sorted(held) == ["10.0.0.1", "10.0.0.2", "10.1.0.1"]
    store.update("Port", gateway, fixed_ips=text_map({f"{PUBLIC}6": ref(edge.public4)}))
    store.delete("Port", leg)
    store.commit()
    snapshot = following.at(store.revision)
    assert not [problem for problem in snapshot.problems if problem.object_id.startswith("router:")]
    assert all(snapshot.routers[router].gateway for router in (edge.id, other))


def test_port_forwardings_do_not_share_ports(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.port_forwardings)
    rival = store.forwarding(edge.id, f"{PUBLIC}5", range(2223, 2300), edge.vm1, "10.0.0.4", 1000)
    beside = store.forwarding(edge.id, f"{PUBLIC}5", range(3000, 3001), edge.vm1, "10.0.0.4", 80)
    store.commit()
    first, second = sorted((edge.forwarding, rival))
    snapshot = following.until(lambda s: s.problems)
    object_id, field, text = only_problem(snapshot)
    assert (object_id, field) == (f"port_forwarding:{second}", "external_port_min")
    assert first in text
    assert set(snapshot.port_forwardings[edge.id]) == {first, beside}
    store.delete("Port_Forwarding", first)
    store.commit()
    snapshot = following.until(lambda s: not s.problems)
    assert set(snapshot.port_forwardings[edge.id]) == {second, beside}


def test_of_a_distributed_router_nothing_is_forwarded_to_who_has_a_floating_ip(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.floating_ips)
    forwarding = store.forwarding(edge.id, f"{PUBLIC}5", range(80, 81), edge.vm1, "10.0.0.4", 80)
    store.commit()
    assert forwarding in following.at(store.revision).port_forwardings[edge.id]
    store.update("Router", edge.id, distributed=True)
    store.commit()
    snapshot = following.at(store.revision)
    assert forwarding not in snapshot.port_forwardings[edge.id]
    object_id, field, text = only_problem(snapshot)
    assert (object_id, field) == (f"port_forwarding:{forwarding}", "internal_ip_address")
    assert "10.0.0.4" in text
    assert "router edge is distributed" in text
    store.update("Floating_IP", edge.floating, fixed_ip_address="10.0.0.99")
    store.commit()
    assert forwarding in following.at(store.revision).port_forwardings[edge.id]
    store.update("Floating_IP", edge.floating, fixed_ip_address="10.0.0.4")
    store.commit()
    assert forwarding not in following.at(store.revision).port_forwardings[edge.id]
    store.delete("Floating_IP", edge.floating)
    store.commit()
    assert forwarding in following.at(store.revision).port_forwardings[edge.id]


def test_a_floating_ip_that_cannot_be_understood_is_a_problem_of_that_one_alone(store, follow):
    edge = Edge(store)
    other = edge.associate(f"{PUBLIC}11", "host1", "10.0.0.5")
    store.commit()
    following = follow("gw1")
    following.until(lambda s: s.floating_ips)
    for column, value, good in (
        ("floating_ip_address", "203.0.113.999", f"{PUBLIC}11"),
        ("floating_ip_address", "2001:db8::1", f"{PUBLIC}11"),
        ("mac_address", "zz:16:3e:00:00:09", "fa:16:3e:00:00:77"),
        ("fixed_ip_address", "nowhere", "10.0.0.5"),
        ("floating_network", ref(edge.green), ref(edge.public)),
    ):
        following.until(lambda s: not s.problems)
        store.update("Floating_IP", other, **{column: value})
        store.commit()
        snapshot = following.until(lambda s: s.problems)
        object_id, field, _ = only_problem(snapshot)
        assert (object_id, field) == (f"floating_ip:{other}", column)
        assert set(snapshot.floating_ips[edge.id]) == {edge.floating}
        store.update("Floating_IP", other, **{column: good})
        store.commit()
    store.delete("Port", edge.gateway)
    store.commit()
    snapshot = following.until(lambda s: s.problems and not s.floating_ips)
    fields = {(p.object_id.partition(":")[0], p.field) for p in snapshot.problems}
    assert fields == {("floating_ip", "router"), ("port_forwarding", "router"), ("router", "external_network")}


def test_a_router_without_a_subnet_that_can_be_read_says_so_once_the_store_is_whole(store, follow):
    edge = Edge(store)
    following = follow("gw1")
    following.until(lambda s: s.routers)
    store.update("Subnet", edge.red4, cidr="10.1.0.0/99")
    store.commit()
    snapshot = following.until(lambda s: s.problems)
    problems = {p.object_id: p for p in snapshot.problems}
    assert set(problems) == {f"subnet:{edge.red4}", f"router:{edge.id}"}
    assert edge.red4 in problems[f"router:{edge.id}"].text
    assert [i.port for i in snapshot.routers[edge.id].interfaces] == [edge.blue_leg]
    assert all(s is snapshot or not s.problems for s in following.published)


def test_after_many_changes_the_snapshot_is_that_of_a_fresh_reader(store, follow):
    edge = Edge(store, distributed=True)
    following, gateway = follow("host1"), follow("gw1")
    spare: list[str] = []
    for step in range(24):
        kind = step % 8
        if kind == 0:
            store.update("Port", edge.vm1, host=("host1", "host2")[step // 8 % 2])
        elif kind == 1:
            spare.append(edge.associate(f"{PUBLIC}{20 + step // 16}", "host1"))
        elif kind == 2:
            store.update("Router", edge.id, distributed=step % 16 < 8)
        elif kind == 3:
            store.update("Router", edge.id, hosts=some(["gw2"]), gateway_hosts=text_map({0: "gw2"}))
        elif kind == 4:
            store.delete("Floating_IP", spare.pop(0))
        elif kind == 5:
            store.update("Router", edge.id, hosts=some(["gw1", "gw2"]), gateway_hosts=text_map({0: "gw1", 1: "gw2"}))
        elif kind == 6:
            store.update("Port", edge.gateway, fixed_ips=text_map({f"{PUBLIC}{20 + step % 3}": ref(edge.public4)}))
        else:
            store.update("Port", edge.vm1, host="host1")
        store.commit()
    for host, seen in (("host1", following), ("gw1", gateway)):
        fresh = follow(host).at(store.revision)
        assert seen.at(store.revision) == fresh
        assert fresh.routers


def test_the_status_of_gateways_is_written_and_goes_with_them(store, follow):
    edge = Edge(store)
    router, other = RouterId(edge.id), RouterId("gone")
    following = follow("gw1")
    snapshot = following.at(store.revision)
    status = StatusWriter(following.reader, HostName("gw1"))
    neighbor = StatusWriter(follow("gw2").reader, HostName("gw2"))

    def rows() -> list[tuple[str, str, bool, bool, str, int]]:
        columns = ("router", "host", "active", "ready", "reason", "since")
        return sorted(tuple(row[column] for column in columns) for row in store.select("Router_Status", *columns))

    def report(writer: StatusWriter, *states: RouterState) -> None:
        said = {state.id: state for state in states}
        writer.report({}, snapshot.generation, 1, 5.0, said).result(DEADLINE)

    report(neighbor, RouterState(router, False, True, "gw1 is before it", 7.5))
    report(status, RouterState(router, True, False, "", 6.5), RouterState(other, True, True, "", 6.5))
    assert rows() == sorted([
        (router, "gw1", True, False, "", 6500),
        (other, "gw1", True, True, "", 6500),
        (router, "gw2", False, True, "gw1 is before it", 7500),
    ])  # fmt: skip
    report(status, RouterState(router, True, True, "", 8.5))
    assert (router, "gw1", True, True, "", 8500) in rows()
    report(status, RouterState(router, True, True, "", 9.5))
    assert (router, "gw1", True, True, "", 8500) in rows()  # nothing new: since then
    report(status, RouterState(router, False, True, "drained", 9.5))
    assert rows() == [
        (router, "gw1", False, True, "drained", 9500),
        (router, "gw2", False, True, "gw1 is before it", 7500),
    ]


def test_a_host_that_announces_itself_goes_on_being_drained(store, follow):
    following = follow("gw1")
    status = StatusWriter(following.reader, HostName("gw1"))
    announced = Host(HostName("gw1"), "192.0.2.1", frozenset({NetworkType.VXLAN}), {"external": "br-ex"})
    status.announce(announced).result(DEADLINE)
    snapshot = following.until(lambda s: s.hosts)
    assert not snapshot.hosts[announced.name].drain
    (row,) = store.select("Host", "_uuid")
    store.update("Host", row["_uuid"][1], drain=True)
    store.commit()
    assert following.until(lambda s: s.hosts[announced.name].drain)
    status.announce(replace(announced, bridge_mappings={"external": "br-new"})).result(DEADLINE)
    snapshot = following.until(lambda s: s.hosts[announced.name].bridge_mappings["external"] == "br-new")
    assert snapshot.hosts[announced.name].drain


def test_what_the_writer_writes_is_read_whole_and_goes_without_a_trace(server, follow):
    with Writer.connect([server.address]) as writer:
        writer.create_network("public", NetworkFields(type="flat", physnet="external", external=True))
        writer.create_subnet("public4", SubnetFields(network="public", cidr="203.0.113.0/24", dhcp=False))
        for number, name in enumerate(("blue", "red")):
            writer.create_network(name, NetworkFields(type="vxlan"))
            writer.create_subnet(f"{name}4", SubnetFields(network=name, cidr=f"10.{number}.0.0/24"))
            cidr, mode = f"2001:db8:{number}::/64", "slaac"
            writer.create_subnet(f"{name}6", SubnetFields(network=name, cidr=cidr, ipv6_mode=mode))
        inner = tuple(FixedIpRequest(subnet=subnet) for subnet in ("blue4", "blue6", "red4", "red6"))
        routes = (HostRoute("10.9.0.0/16", "10.0.0.9"), HostRoute("10.9.0.0/16", "10.1.0.9"))
        fields = RouterFields(external_network="public", gateway_hosts=("gw1",), interfaces=inner, routes=routes)
        router = RouterId(writer.create_router("edge", fields).result.id)
        writer.create_port("vm1", PortFields(network="blue", host="host1"))
        writer.create_floating_ip("203.0.113.10", FloatingIpFields(port="vm1"))
        writer.create_port_forwarding("203.0.113.11:2222", PortForwardingFields(protocol="tcp", internal="vm1:22"))
        following = follow("gw1")
        snapshot = following.until(lambda s: s.revision == writer.revision()[1])
        assert not snapshot.problems
        found = snapshot.routers[router]
        assert found.gateway is not None
        inner_addresses = {f.address for i in found.interfaces for f in i.fixed_ips}
        assert inner_addresses == {"10.0.0.1", "10.1.0.1", "2001:db8::1", "2001:db8:1::1"}
        assert found.routes == (("10.9.0.0/16", "10.0.0.9"), ("10.9.0.0/16", "10.1.0.9"))
        assert [f.address for f in snapshot.floating_ips[router].values()] == ["203.0.113.10"]
        assert [f.external_min for f in snapshot.port_forwardings[router].values()] == [2222]
        assert {n.name for n in snapshot.networks.values()} == {"public", "blue", "red"}
        moved = writer.set_port("vm1", PortFields(host="host2")).revision
        (floating,) = following.until(lambda s: s.revision == moved).floating_ips[router].values()
        assert floating.host == "host2"
        writer.delete_port_forwarding("203.0.113.11:2222/tcp")
        writer.delete_floating_ip("203.0.113.10")
        gone = writer.delete_router("edge").revision
        snapshot = following.until(lambda s: s.revision == gone)
        assert replace(snapshot, generation="", revision=0) == HostSnapshot(HostName("gw1"), in_sync=True)
