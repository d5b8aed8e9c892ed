# SPDX-License-Identifier: Apache-2.0
"""The fields of routers and what belongs to them; see ``fields``."""

from __future__ import annotations

from agent.cli.fields import ADMIN_STATE, EXTERNAL_IDS, PROJECT, Field, Kind, Noun
from agent.store.document import (
    AddressScopeFields,
    FloatingIpFields,
    PortForwardingFields,
    RouterFields,
    SubnetPoolFields,
)

ROUTER = Noun(
    name="router",
    section="routers",
    make=RouterFields,
    fields=(
        Field("external_network", Kind.TEXT, "where its gateway is", metavar="NETWORK", nullable=True),
        Field(
            "external_fixed_ips",
            Kind.FIXED_IPS,
            "an address of the gateway, or subnet=SUBNET[,address=ADDRESS]; chosen if not given",
            metavar="ADDRESS",
            option="external_fixed_ip",
            negation="no-external-fixed-ips",
        ),
        Field(
            "gateway_hosts",
            Kind.TEXTS,
            "host that the gateway can be on, the preferred one first",
            metavar="HOST",
            option="gateway_host",
        ),
        Field(
            "interfaces",
            Kind.INTERFACES,
            "subnet that it is the gateway of, or subnet=SUBNET,address=ADDRESS",
            metavar="SUBNET",
            option="interface",
        ),
        Field(
            "routes",
            Kind.ROUTES,
            "static route: destination=CIDR,nexthop=ADDRESS; several to one destination share the traffic",
            metavar="ROUTE",
            option="route",
        ),
        ADMIN_STATE,
        Field(
            "distributed",
            Kind.BOOLEAN,
            "each host routes for its own ports, else the gateway host for all",
            negation="centralized",
        ),
        Field("ha", Kind.BOOLEAN, "whether another gateway host takes over from one that fails"),
        Field("enable_snat", Kind.BOOLEAN, "whether what has no floating IP leaves under the gateway's address"),
        PROJECT,
        EXTERNAL_IDS,
    ),
    columns=("id", "name", "gateway", "gateway_hosts", "interfaces", "distributed", "admin_state_up"),
    together={
        "gateway": {
            "network": "external_network",
            "hosts": "gateway_hosts",
            "fixed_ips": "external_fixed_ips",
        }
    },
)

_FIXED_IP = Field("fixed_ip", Kind.TEXT, "which of the port's addresses, if it has several", metavar="ADDRESS")

FLOATING_IP = Noun(
    name="floating ip",
    section="floating_ips",
    make=FloatingIpFields,
    fields=(
        Field("network", Kind.TEXT, "external network; follows from the address", metavar="NETWORK"),
        Field("port", Kind.TEXT, "port that it stands for", metavar="PORT", nullable=True),
        _FIXED_IP,
        Field("mac_address", Kind.TEXT, "chosen if not given", metavar="MAC"),
        PROJECT,
        EXTERNAL_IDS,
    ),
    columns=("id", "floating_ip_address", "network", "port", "fixed_ip", "router", "host"),
)

PORT_FORWARDING = Noun(
    name="port forwarding",
    section="port_forwardings",
    make=PortForwardingFields,
    fields=(
        Field("protocol", Kind.TEXT, "tcp, udp, sctp, ...", metavar="PROTOCOL"),
        Field("internal", Kind.TEXT, "where it leads: port, and number or FIRST-LAST", metavar="PORT:NUMBER"),
        _FIXED_IP,
        EXTERNAL_IDS,
    ),
    columns=("id", "external", "protocol", "internal", "fixed_ip", "router"),
)
EXTERNAL = Field("external", Kind.TEXT, "ADDRESS:PORT or ADDRESS:FIRST-LAST", metavar="ADDRESS:PORT")

SUBNET_POOL = Noun(
    name="subnet pool",
    section="subnet_pools",
    make=SubnetPoolFields,
    fields=(
        Field("prefixes", Kind.TEXTS, "range that subnets are taken from", metavar="CIDR", option="prefix"),
        Field("default_prefixlen", Kind.INTEGER, "of a subnet that does not say (24, IPv6: 64)", metavar="BITS"),
        Field("min_prefixlen", Kind.INTEGER, "of the largest subnet (8, IPv6: 64)", metavar="BITS"),
        Field("max_prefixlen", Kind.INTEGER, "of the smallest subnet (32, IPv6: 128)", metavar="BITS"),
        Field("address_scope", Kind.TEXT, "scope that its addresses belong to", metavar="SCOPE", nullable=True),
        PROJECT,
        EXTERNAL_IDS,
    ),
    columns=("id", "name", "prefixes", "default_prefixlen", "address_scope"),
    short="prefixes",
)

ADDRESS_SCOPE = Noun(
    name="address scope",
    section="address_scopes",
    make=AddressScopeFields,
    fields=(Field("ip_version", Kind.INTEGER, "4 or 6", metavar="VERSION"), PROJECT, EXTERNAL_IDS),
    columns=("id", "name", "ip_version", "project"),
)
