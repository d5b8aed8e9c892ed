# SPDX-License-Identifier: Apache-2.0
"""What the store holds after documents of one set were applied depends on the last one only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.store.document import (
    AddressGroupFields,
    Document,
    Entry,
    FixedIpRequest,
    MetadataServiceFields,
    NetworkFields,
    PortFields,
    RuleFields,
    SecurityGroupFields,
    SubnetFields,
)
from agent.store.writer import Writer
from agent.store.writer_records import rule_text
from tests.servers import StoreServer
from tests.store_rows import assert_consistent

NETWORKS = ("blue", "red", "lan")
SUBNETS = {
    "blue4": SubnetFields(network="blue", cidr="10.0.0.0/28"),
    "blue6": SubnetFields(network="blue", cidr="2001:db8::/64", ipv6_mode="slaac"),
    "red4": SubnetFields(network="red", cidr="10.0.0.0/28", gateway=None),
    "lan6": SubnetFields(network="lan", cidr="2001:db8:1::/64"),
}
# Whether a subnet answers DHCP changes; that it needs an address for it depends on nothing else.
SWITCHED = ("blue4", "red4")
TOLD: tuple[dict[str, Any], ...] = (
    {},
    {"hostname": "web", "dhcp_options": {"mtu": "1400"}},
    {"metadata": {"user_data": "#!/bin/sh", "meta:role": "db"}, "hostname": ""},
)
TOLD_IN_FULL = tuple({"hostname": "", "dhcp_options": {}, "metadata": {}, **told} for told in TOLD)
NOVA = st.sampled_from(["https://nova1", "https://nova2"]).map(
    lambda url: Entry("", MetadataServiceFields(url=url, secret_file="/secret"))
)
WISHES = ((), (FixedIpRequest("10.0.0.5"),), (FixedIpRequest("10.0.0.6"),), (FixedIpRequest(subnet="{}4"),))


RULES = (
    RuleFields(direction="egress"),
    RuleFields(direction="ingress", protocol="tcp", ports="80,443"),
    RuleFields(direction="ingress", protocol="tcp", ports="443-444", ethertype="IPv4"),
    RuleFields(direction="ingress", protocol="icmp", remote_group="web"),
    RuleFields(direction="ingress", remote_group="db"),
    RuleFields(direction="ingress", protocol="udp", remote_address_group="office"),
)


@st.composite
def groups(
    draw: st.DrawFn,
) -> tuple[tuple[Entry[SecurityGroupFields], ...], tuple[Entry[AddressGroupFields], ...]]:
    """Return security groups and address groups whose rules refer to what is there."""
    names = draw(st.lists(st.sampled_from(["web", "db"]), unique=True))
    offices = draw(st.lists(st.just("office"), max_size=1))
    fit = [rule for rule in RULES if {rule.remote_group, rule.remote_address_group} <= {*names, *offices, None}]
    rules = st.lists(st.sampled_from(fit), max_size=4).map(tuple)
    addresses = st.sets(st.sampled_from(["10.0.0.1", "10.0.0.0/8", "2001:db8::/32"])).map(tuple)
    return (
        tuple(Entry(name, SecurityGroupFields(rules=draw(rules))) for name in names),
        tuple(Entry(name, AddressGroupFields(addresses=draw(addresses))) for name in offices),
    )


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """Return a document without contradictions: no wish twice, no port on a network that is not there."""
    networks = draw(st.lists(st.sampled_from(NETWORKS), unique=True))
    security_groups, address_groups = draw(groups())
    known = [entry.name for entry in security_groups]
    subnets = [name for name in SUBNETS if name[:-1] in networks and draw(st.booleans())]
    ports = []
    wished: set[tuple[str, str | None]] = set()
    for name in draw(st.lists(st.sampled_from(["vm1", "vm2", "vm3"]), unique=True)) if networks else []:
        # A port keeps its network: its name says which.
        network = draw(st.sampled_from(networks))
        wishes = draw(st.sampled_from(WISHES)) if f"{network}4" in subnets else ()
        wishes = tuple(FixedIpRequest(w.address, w.subnet and w.subnet.format(network)) for w in wishes)
        if any((network, wish.address) in wished for wish in wishes if wish.address):
            wishes = ()
        wished |= {(network, wish.address) for wish in wishes}
        fields = PortFields(
            network=network,
            host=draw(st.sampled_from(["host1", "host2"])),
            fixed_ips=wishes,
            admin_state_up=draw(st.booleans()),
            security_groups=tuple(name for name in known if draw(st.booleans())) if draw(st.booleans()) else None,
            **draw(st.sampled_from(TOLD_IN_FULL)),
        )
        ports.append(Entry(f"{network}-{name}", fields))
    return Document(
        tuple(Entry(name, network_fields(name, draw(st.sampled_from([1300, 1400])))) for name in networks),
        tuple(Entry(name, subnet_fields(name, draw(st.booleans()))) for name in subnets),
        tuple(ports),
        security_groups=security_groups,
        address_groups=address_groups,
        metadata_service=draw(st.none() | NOVA),
    )


def subnet_fields(name: str, dhcp: bool) -> SubnetFields:
    return replace(SUBNETS[name], dhcp=dhcp) if name in SWITCHED else SUBNETS[name]


def network_fields(name: str, mtu: int) -> NetworkFields:
    if name == "lan":
        return NetworkFields(type="vlan", physnet="p", segmentation_id=7, mtu=mtu)
    return NetworkFields(type="vxlan", mtu=mtu)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as server, Writer.connect([server.address]) as writer:
        yield writer


def declared(writer: Writer) -> dict[str, object]:
    """Return what a document can say about what is in the store."""
    state: dict[str, object] = {}
    for network in writer.list_networks():
        state[f"network {network.name}"] = (network.type, network.mtu, network.physnet)
    for subnet in writer.list_subnets():
        served = subnet.server_address is not None
        state[f"subnet {subnet.name}"] = (subnet.network_name, subnet.cidr, subnet.gateway, subnet.dhcp, served)
    for port in writer.list_ports():
        # Which address of a subnet was chosen may depend on the past; how many of which subnet may not.
        subnets = sorted(writer.get_subnet(fixed_ip.subnet).name for fixed_ip in port.fixed_ips)
        state[f"port {port.name}"] = (port.network_name, port.host, port.admin_state_up, subnets, port.security_groups)
        state[f"{port.name} is told"] = (port.hostname, port.dhcp_options, port.metadata)
    for group in writer.list_security_groups():
        state[f"group {group.name}"] = {rule_text(rule) for rule in group.rules}
    for addresses in writer.list_address_groups():
        state[f"addresses {addresses.name}"] = addresses.addresses
    service = writer.get_metadata_service()
    return state if service is None else {**state, "metadata service": service.url}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(history=st.lists(documents(), min_size=1, max_size=4))
def test_the_store_depends_on_the_last_document_only(writer: Writer, history: list[Document]) -> None:
    def apply(document: Document) -> None:
        before = writer.revision()[1]
        planned = writer.difference(document, "one", prune=True)
        written = writer.apply(document, set_name="one", prune=True)
        assert [(c.kind, c.name, c.verb) for c in written.result] == [(c.kind, c.name, c.verb) for c in planned]
        assert written.revision == before + bool(planned)
        assert_consistent(writer)

    apply(Document())
    assert declared(writer) == {}
    for document in history:
        apply(document)
    after_history = declared(writer)
    assert not writer.apply(history[-1], set_name="one", prune=True).changed
    apply(Document())
    apply(history[-1])
    assert declared(writer) == after_history
