# SPDX-License-Identifier: Apache-2.0
"""The networks that tests of DHCP and metadata are about: two tenants with equal addresses, and each IPv6 mode.

``blue`` and ``red`` have the same prefixes and their first ports the same addresses; one
is plugged directly, the other through a filter.  ``green`` is configured by SLAAC, ``lean``
by SLAAC and stateless DHCPv6.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.functional.lab import Lab

ROUTE = ("192.0.2.0/24", "10.0.0.9")  # a host route of blue's IPv4 subnet


@dataclass(frozen=True, slots=True)
class Tenant:
    """What the first port of a network must be told, and of nobody else's network."""

    port: str
    network: str
    hostname: str
    domain: str
    mtu: int
    dns4: str
    dns6: str


BLUE = Tenant("blue1", "blue", "web", "blue.example.org", 1400, "10.0.0.53", "2001:db8::53")
RED = Tenant("red1", "red", "db", "red.example.org", 1300, "10.0.0.99", "2001:db8::99")
ADDRESS4, ADDRESS6 = "10.0.0.11", "2001:db8::11"  # of both

DOCUMENT = f"""
networks:
  blue: {{type: vxlan, mtu: {BLUE.mtu}, dns_domain: {BLUE.domain}}}
  red: {{type: vxlan, mtu: {RED.mtu}, dns_domain: {RED.domain}}}
  green: {{type: vxlan, mtu: 1420}}
  lean: {{type: vxlan, dns_domain: lean.example.org}}
subnets:
  blue4:
    network: blue
    cidr: 10.0.0.0/24
    gateway: 10.0.0.1
    dns: [{BLUE.dns4}]
    host_routes: [{{destination: {ROUTE[0]}, nexthop: {ROUTE[1]}}}]
  blue6: {{network: blue, cidr: "2001:db8::/64", ipv6_mode: dhcpv6-stateful, dns: ["{BLUE.dns6}"]}}
  red4: {{network: red, cidr: 10.0.0.0/24, gateway: 10.0.0.1, dns: [{RED.dns4}]}}
  red6: {{network: red, cidr: "2001:db8::/64", ipv6_mode: dhcpv6-stateful, dns: ["{RED.dns6}"]}}
  green4: {{network: green, cidr: 10.2.0.0/24}}
  green6: {{network: green, cidr: "2001:db8:2::/64", ipv6_mode: slaac, dns: ["2001:db8:2::53"]}}
  lean6: {{network: lean, cidr: "2001:db8:3::/64", ipv6_mode: dhcpv6-stateless, dns: ["2001:db8:3::53"]}}
security_groups:
  everything:
    - {{direction: egress}}
    - {{direction: ingress, remote_group: everything}}
  closed: {{rules: []}}
ports:
  blue1: {{network: blue, host: host1, fixed_ips: [{ADDRESS4}, "{ADDRESS6}"], hostname: {BLUE.hostname}}}
  red1:
    network: red
    host: host1
    fixed_ips: [{ADDRESS4}, "{ADDRESS6}"]
    hostname: {RED.hostname}
    security_groups: [everything]
  blue2: {{network: blue, host: host1, fixed_ips: [10.0.0.12, "2001:db8::12"]}}
  red2: {{network: red, host: host1, fixed_ips: [10.0.0.12, "2001:db8::12"], security_groups: [closed]}}
  green1: {{network: green, host: host1}}
  lean1: {{network: lean, host: host1}}
"""


def route_to_metadata(lab: Lab, *instances: str) -> None:
    """Give instances the route that they would have from DHCP."""
    for instance in instances:
        lab.output(instance, "ip", "route", "replace", "169.254.169.254/32", "dev", "eth0")


def addresses(lab: Lab, instance: str, version: int = 4) -> list[str]:
    """Return the global addresses that an instance's device has, with their prefix lengths."""
    words = ["ip", "-o", f"-{version}", "address", "show", "dev", "eth0", "scope", "global"]
    lines = lab.output(instance, *words).splitlines()
    return [line.split("inet6" if version == 6 else "inet")[1].split()[0] for line in lines]


def mtu(lab: Lab, instance: str) -> int:
    """Return the MTU of an instance's device."""
    return int(lab.output(instance, "ip", "-o", "link", "show", "eth0").split(" mtu ")[1].split()[0])


def routes(lab: Lab, instance: str, version: int = 4) -> list[str]:
    """Return an instance's routes as ``ip route`` prints them, without what is only about how they came."""
    lines = lab.output(instance, "ip", f"-{version}", "route").splitlines()
    return [line.split(" proto ")[0].split(" metric ")[0].strip() for line in lines]
