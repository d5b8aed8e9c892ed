# SPDX-License-Identifier: Apache-2.0
"""What the responder is told for a port's metadata requests."""

import json
from dataclasses import replace

import pytest

from agent.core.model import (
    FixedIp,
    MetadataService,
    Network,
    NetworkId,
    NetworkType,
    Port,
    PortId,
    Subnet,
    SubnetId,
)
from agent.core.service_identity import link_local
from agent.metadata.data import ContentData, Limits, MetadataData, decode_metadata
from agent.metadata.planner import plan_port, plan_service

NETWORK = Network(NetworkId("n"), "blue", NetworkType.VXLAN, 5, None, 1450, dns_domain="example.org")
SUBNET4 = Subnet(SubnetId("s4"), "four", NETWORK.id, "10.0.0.0/24", "10.0.0.1", server_address="10.0.0.254")
SUBNET6 = Subnet(SubnetId("s6"), "six", NETWORK.id, "2001:db8::/64", None, "slaac", "slaac")
ADDRESSES = (FixedIp("10.0.0.5", SUBNET4.id), FixedIp("2001:db8::5", SUBNET6.id))
PORT = Port(PortId("p"), "vm1", NETWORK.id, "fa:16:3e:00:00:01", ADDRESSES, device_id="vm-id", project="acme")


def told(port=PORT, subnets=(SUBNET4, SUBNET6), number=7, *, service=False) -> MetadataData:
    """Return what the responder gets, as it reads it."""
    plan = plan_port(port, NETWORK, subnets, number, service=service)
    assert plan.served is not None
    assert plan.problems == ()
    data = decode_metadata(json.loads(plan.served.data))
    assert (data.aliases, data.content is None) == (plan.aliases, plan.asks_service)
    return data


def content_of(data: MetadataData) -> ContentData:
    """Return the content, which must be there."""
    assert data.content is not None
    return data.content


def test_each_address_that_a_port_may_ask_from_has_an_alias():
    addresses = {address for _, address in told().aliases}
    assert addresses == {"10.0.0.5", "2001:db8::5", link_local(PORT.mac)}
    assert {address for _, address in told(subnets=(SUBNET4,)).aliases} == {"10.0.0.5", "2001:db8::5"}


def test_ports_with_equal_addresses_have_other_aliases():
    first, second = ({alias for alias, _ in told(number=number).aliases} for number in (7, 8))
    assert not first & second


def test_an_alias_stays_when_another_address_comes():
    before = {address: alias for alias, address in told().aliases}
    more = replace(PORT, fixed_ips=(*ADDRESSES, FixedIp("10.0.0.6", SUBNET4.id)))
    after = {address: alias for alias, address in told(more).aliases}
    assert {address: after[address] for address in before} == before


def test_a_port_that_cannot_ask_has_nothing():
    plan = plan_port(replace(PORT, fixed_ips=()), NETWORK, (SUBNET4,), 7, service=False)
    assert (plan.served, plan.aliases) == (None, ())


def test_without_a_service_what_follows_from_the_port_is_served():
    data = told()
    content = content_of(data)
    assert (data.instance_id, data.project, data.addresses) == ("vm-id", "acme", ("10.0.0.5", "2001:db8::5"))
    assert (content.hostname, content.fqdn) == ("host-10-0-0-5", "host-10-0-0-5.example.org")
    assert json.loads(content.network_data)["links"][0]["ethernet_mac_address"] == PORT.mac
    assert told(replace(PORT, device_id="")).instance_id == "p"


def test_with_a_service_it_is_asked_unless_the_store_knows_better():
    assert told(service=True).content is None
    data = told(replace(PORT, metadata=(("instance_id", "i-1"), ("user_data", "#!/bin/sh"))), service=True)
    assert (data.instance_id, content_of(data).user_data) == ("i-1", b"#!/bin/sh")


def test_a_key_that_makes_no_sense_takes_only_itself():
    metadata = (("instance_id", "not an id"), ("meta:role", "db"), ("user_data", "a"), ("user_data_base64", "Yg=="))
    plan = plan_port(replace(PORT, metadata=metadata), NETWORK, (SUBNET4,), 7, service=True)
    assert plan.served is not None
    data = decode_metadata(json.loads(plan.served.data))
    assert (data.instance_id, content_of(data).meta, content_of(data).user_data) == ("vm-id", (("role", "db"),), b"a")
    assert [p.object_id for p in plan.problems] == ["port:p/metadata"] * 2


def test_a_service_that_cannot_be_asked_is_not_asked_and_its_ports_are_not_told_something_else():
    assert json.loads(plan_service(MetadataService("", "/etc/secret"), Limits()).data)["nova"] is None
    assert told(service=True).content is None


@pytest.mark.parametrize("service", [None, MetadataService("https://nova:8775", "/etc/secret", insecure=True)])
def test_the_service_is_named_with_its_files_and_the_limits(service):
    value = json.loads(plan_service(service, Limits(rate=2, burst=3, connections=4)).data)
    assert value["limits"] == {"rate": 2, "burst": 3, "connections": 4, "body": 65536, "patience": 10.0}
    if service is None:
        assert value["nova"] is None
    else:
        assert value["nova"] == {
            "url": "https://nova:8775",
            "secret_file": "/etc/secret",
            "ca_file": "",
            "client_cert_file": "",
            "client_key_file": "",
            "insecure": True,
            "timeout": 60.0,
        }
