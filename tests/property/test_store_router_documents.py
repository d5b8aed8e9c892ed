# SPDX-License-Identifier: Apache-2.0
"""What the store holds of routers after documents of one set were applied depends on the last one only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.store.document import (
    AddressScopeFields,
    Document,
    Entry,
    FixedIpRequest,
    FloatingIpFields,
    NetworkFields,
    PortFields,
    PortForwardingFields,
    RouterFields,
    SubnetFields,
    SubnetPoolFields,
)
from agent.store.writer import Writer
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

CIDRS = {"blue": "10.0.0.0/24", "red": "10.0.0.0/24", "green": "10.2.0.0/24"}
GATEWAYS = {"one": "203.0.113.2", "two": "203.0.113.3"}
PORTS = tuple(f"{network}-vm{number}" for network in CIDRS for number in (1, 2))
NETWORKS = (
    Entry("public", NetworkFields(type="flat", physnet="p", external=True)),
    *(Entry(name, NetworkFields(type="vxlan")) for name in CIDRS),
)
SUBNETS = (
    Entry("public4", SubnetFields(network="public", cidr="203.0.113.0/24", dhcp=False)),
    *(Entry(f"{name}4", SubnetFields(network=name, cidr=cidr)) for name, cidr in CIDRS.items()),
)


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Return a document without contradictions: no prefix twice on a router, no address without a way to it."""
    routers = draw(st.lists(st.sampled_from(sorted(GATEWAYS)), unique=True))
    joined = {network: draw(st.sampled_from([None, *routers])) for network in CIDRS}
    if joined["red"] == joined["blue"]:
        joined["red"] = None
    outside = {router for router in routers if draw(st.booleans())}
    distributed = {router for router in routers if draw(st.booleans())}
    ports = draw(st.lists(st.sampled_from(PORTS), unique=True))
    reached = [port for port in ports if joined[port.partition("-")[0]] in outside]
    floating = draw(st.lists(st.sampled_from(reached), unique=True, max_size=2)) if reached else []
    forwarded = [port for port in reached if port not in floating or joined[port.partition("-")[0]] not in distributed]
    addresses = dict(zip(("203.0.113.10", "203.0.113.20"), floating, strict=False))
    explicit: dict[str, str | None] = {"203.0.113.11": None} if draw(st.booleans()) else {}
    return Document(
        NETWORKS,
        (*SUBNETS, *draw(st.sampled_from([(), POOLED]))),
        tuple(Entry(port, port_fields(port, draw(st.sampled_from(["host1", "host2"])))) for port in ports),
        address_scopes=(Entry("inside", AddressScopeFields(ip_version=6)),),
        subnet_pools=(Entry("six", SubnetPoolFields(prefixes=("2001:db8::/60",), address_scope="inside")),),
        routers=tuple(
            Entry(router, draw(router_fields(router, joined, router in outside, router in distributed)))
            for router in routers
        ),
        floating_ips=tuple(Entry(a, FloatingIpFields(port=port)) for a, port in (addresses | explicit).items()),
        port_forwardings=tuple(draw(forwardings(forwarded, joined))),
    )


POOLED = tuple(Entry(f"{name}6", SubnetFields(network=name, subnet_pool="six", gateway=None)) for name in CIDRS)


def port_fields(name: str, host: str) -> PortFields:
    network, _, number = name.partition("-vm")
    return PortFields(network=network, host=host, fixed_ips=(FixedIpRequest(f"{CIDRS[network][:7]}1{number}"),))


@st.composite
def router_fields(
    draw: st.DrawFn, name: str, joined: dict[str, str | None], outside: bool, distributed: bool
) -> RouterFields:
    return RouterFields(
        external_network="public" if outside else None,
        external_fixed_ips=(FixedIpRequest(GATEWAYS[name]),) if outside else (),
        gateway_hosts=draw(st.sampled_from([(), ("host1",), ("host2", "host1")])),
        interfaces=tuple(FixedIpRequest(subnet=f"{network}4") for network, router in joined.items() if router == name),
        distributed=distributed,
        routes=(),
    )


@st.composite
def forwardings(
    draw: st.DrawFn, reached: list[str], joined: dict[str, str | None]
) -> Iterator[Entry[PortForwardingFields]]:
    """Return forwardings of the gateways' addresses, and of one free address to what one router reaches."""
    found = []
    for port in reached:
        router = joined[port.partition("-")[0]] or ""
        sources = [GATEWAYS[router], *(["203.0.113.11"] if router == joined[reached[0].partition("-")[0]] else [])]
        for source in sources:
            if draw(st.booleans()):
                outer = 1000 + PORTS.index(port)
                fields = PortForwardingFields(protocol="tcp", internal=f"{port}:{draw(st.sampled_from([22, 23]))}")
                found.append(Entry(f"{source}:{outer}", fields))
    return iter(found)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as server, Writer.connect([server.address]) as writer:
        yield writer


def declared(writer: Writer) -> dict[str, object]:
    """Return what a document can say about what is in the store."""
    state: dict[str, object] = {}
    for router in writer.list_routers():
        interfaces = [(i.subnet_name, i.address) for i in router.interfaces]
        outside = [fixed_ip.address for fixed_ip in router.external_fixed_ips]
        state[router.name] = (interfaces, outside, router.gateway_hosts, router.distributed)
    for row in writer.list_floating_ips():
        state[row.name] = (row.port_name, row.fixed_ip, row.router_name, row.host)
    for forwarding in writer.list_port_forwardings():
        state[forwarding.name] = (forwarding.internal, forwarding.router_name)
    for subnet in writer.list_subnets():
        state[subnet.name] = (subnet.subnet_pool, subnet.address_scope, subnet.network_name)
    return state | {port.name: port.host for port in writer.list_ports() if port.name}


@settings(max_examples=15)
@given(history=st.lists(documents(), min_size=1, max_size=4))
def test_what_is_in_the_store_of_routers_depends_on_the_last_document_only(
    writer: Writer, history: list[Document]
) -> None:
    def apply(document: Document) -> None:
        before = writer.revision()[1]
        planned = writer.difference(document, "one", prune=True)
        written = writer.apply(document, set_name="one", prune=True)
        assert [(c.kind, c.name, c.verb) for c in written.result] == [(c.kind, c.name, c.verb) for c in planned]
        assert written.revision - before in (0, 1)
        assert_consistent(writer)

    apply(Document())
    for document in history:
        apply(document)
    after_history = declared(writer)
    assert not writer.apply(history[-1], set_name="one", prune=True).changed
    apply(Document())
    assert declared(writer) == {}
    apply(history[-1])
    assert declared(writer) == after_history
