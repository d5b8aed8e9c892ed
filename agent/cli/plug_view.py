# SPDX-License-Identifier: Apache-2.0
"""From what the store says of a port to what a plug needs to know of it."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from agent.cli.plug_devices import PortView
from agent.store.records import NetworkRecord, PortRecord, SubnetRecord


def port_view(port: PortRecord, network: NetworkRecord, subnets: Mapping[str, SubnetRecord]) -> PortView:
    """Return *port* as it is plugged; *subnets* by id, those of its network at least.

    Of each family the first subnet that has a gateway gives the default route.
    """
    addresses = []
    gateways: dict[int, str] = {}
    for fixed_ip in port.fixed_ips:
        subnet = subnets[fixed_ip.subnet]
        prefix = ipaddress.ip_network(subnet.cidr)
        addresses.append(f"{fixed_ip.address}/{prefix.prefixlen}")
        if subnet.gateway is not None:
            gateways.setdefault(prefix.version, subnet.gateway)
    return PortView(
        id=port.id,
        name=port.name,
        mac=port.mac_address,
        mtu=network.mtu,
        addresses=tuple(addresses),
        gateways=tuple(gateways.values()),
        host=port.host,
        filtered=port.security_groups is not None,
    )
