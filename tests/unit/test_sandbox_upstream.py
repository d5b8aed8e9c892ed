# SPDX-License-Identifier: Apache-2.0
"""Which of the tenants' prefixes the router beyond the external network knows a way to."""

from __future__ import annotations

from dataclasses import replace

from agent.sandbox.upstream import routes
from agent.store.records import FixedIpRecord, SubnetRecord
from agent.store.records_routers import RouterInterfaceRecord, RouterRecord


def subnet(name: str, cidr: str, scope: str | None = None) -> SubnetRecord:
    return SubnetRecord(name, name, name, name, cidr, None, True, (), None, None, address_scope=scope)


SUBNETS = {
    each.id: each
    for each in (
        subnet("public4", "203.0.113.0/24", "internet"),
        subnet("public6", "2001:db8:ff::/64"),
        subnet("blue4", "10.0.0.0/24"),
        subnet("blue6", "2001:db8:1::/64"),
        subnet("known4", "192.0.2.0/24", "internet"),
        subnet("lab4", "10.9.0.0/24", "lab"),
    )
}
EDGE = RouterRecord(
    id="edge",
    name="edge",
    admin_state_up=True,
    distributed=False,
    ha=True,
    enable_snat=True,
    external_network="public",
    external_network_name="public",
    external_fixed_ips=(FixedIpRecord("203.0.113.9", "public4"), FixedIpRecord("2001:db8:ff::9", "public6")),
    gateway_port="g",
    gateway_hosts=("host1",),
    interfaces=tuple(
        RouterInterfaceRecord(name, name, name, "", "", name) for name in ("blue4", "blue6", "known4", "lab4")
    ),
    routes=(),
)


def test_a_way_leads_to_ipv6_and_to_what_is_in_the_external_address_scope() -> None:
    assert routes([EDGE], SUBNETS) == {"2001:db8:1::/64": "2001:db8:ff::9", "192.0.2.0/24": "203.0.113.9"}


def test_a_way_leads_to_all_that_a_router_does_not_translate() -> None:
    found = routes([replace(EDGE, enable_snat=False)], SUBNETS)
    assert found["10.0.0.0/24"] == "203.0.113.9"


def test_no_way_leads_to_a_router_without_a_gateway_of_that_ip_version() -> None:
    assert routes([replace(EDGE, external_fixed_ips=())], SUBNETS) == {}
