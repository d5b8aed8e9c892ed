# SPDX-License-Identifier: Apache-2.0
"""The file of the routers' functional tests: tenants with equal addresses, and all ways of leaving them.

- ``c``: a centralised router; ``t`` ("twin"): another with the same subnets on the same hosts,
  whose IPv6 ends in it; ``d``: a distributed one, again with the same subnets.
- ``l``: a distributed router between a network on physical wires and one in tunnels.  On the
  wires are ``m``, distributed, and ``n``, centralised, as well, with a network each behind.
- ``s``: a centralised router with subnets in two address scopes, and in none.
- ``e``: a distributed router without a gateway.

An instance on each of three hosts, on each of two networks; host3 has no gateway, and
floating IPs are on the preferred gateway's host, the other gateway's, and host3.  Those of
``MORE`` are beside others, so that there are two with floating IPs on a host.
"""

from __future__ import annotations

from agent.sandbox.upstream import ADDRESSES, BEHIND

HOSTS = ("host1", "host2", "host3")
UPSTREAM_ADDRESSES = tuple(each.partition("/")[0] for each in (*ADDRESSES, *BEHIND))
# The first answers for what is beyond: by it the router beyond sends.
BEHIND_INSTANCES = {"cb1": ("10.9.0.1", "10.8.0.1"), "cb2": ("10.8.0.1",), "db3": ("10.9.0.1",)}
MORE = (("cb", 4, "host2"), ("cb", 5, "host1"), ("db", 4, "host1"), ("db", 5, "host3"))

_TEXT = """
networks:
  public: {type: flat, physnet: external, external: true}
  cb: {type: vxlan}
  cr: {type: geneve}
  tb: {type: vxlan}
  tr: {type: vxlan}
  db: {type: vxlan}
  dr: {type: geneve}
  ll: {type: vlan, physnet: physnet1, segmentation_id: 100}
  lt: {type: vxlan}
  lm: {type: vxlan}
  ln: {type: vxlan}
  sk: {type: vxlan}
  sl: {type: vxlan}
  sn: {type: vxlan}
  eb: {type: vxlan}
  er: {type: vxlan}

address_scopes:
  internet: {ip_version: 4}
  lab: {ip_version: 4}
subnet_pools:
  known: {prefixes: [203.0.113.0/24, 192.0.2.0/24], default_prefixlen: 28, address_scope: internet}
  labs: {prefixes: [10.20.0.0/16], default_prefixlen: 24, address_scope: lab}

subnets:
  public4: {network: public, subnet_pool: known, cidr: 203.0.113.0/24, gateway: 203.0.113.1, dhcp: false}
  public6: {network: public, cidr: "2001:db8:ff::/64", gateway: "2001:db8:ff::1", dhcp: false}
  cb4: {network: cb, cidr: 10.0.0.0/24, dhcp: false}
  cb6: {network: cb, cidr: "2001:db8:c0::/64", dhcp: false}
  cr4: {network: cr, cidr: 10.1.0.0/24, dhcp: false}
  cr6: {network: cr, cidr: "2001:db8:c1::/64", dhcp: false}
  tb4: {network: tb, cidr: 10.0.0.0/24, dhcp: false}
  tb6: {network: tb, cidr: "2001:db8:c0::/64", dhcp: false}
  tr4: {network: tr, cidr: 10.1.0.0/24, dhcp: false}
  db4: {network: db, cidr: 10.0.0.0/24, dhcp: false}
  db6: {network: db, cidr: "2001:db8:d0::/64", dhcp: false}
  dr4: {network: dr, cidr: 10.1.0.0/24, dhcp: false}
  dr6: {network: dr, cidr: "2001:db8:d1::/64", dhcp: false}
  ll4: {network: ll, cidr: 10.0.0.0/24, dhcp: false}
  lt4: {network: lt, cidr: 10.1.0.0/24, dhcp: false}
  lm4: {network: lm, cidr: 10.2.0.0/24, dhcp: false}
  ln4: {network: ln, cidr: 10.3.0.0/24, dhcp: false}
  sk4: {network: sk, subnet_pool: known, cidr: 192.0.2.0/28, dhcp: false}
  sl4: {network: sl, subnet_pool: labs, cidr: 10.20.1.0/24, dhcp: false}
  sn4: {network: sn, cidr: 10.0.0.0/24, dhcp: false}
  eb4: {network: eb, cidr: 10.0.0.0/24, dhcp: false}
  er4: {network: er, cidr: 10.1.0.0/24, dhcp: false}

routers:
  c:
    gateway: {network: public, hosts: [host1, host2], fixed_ips: [203.0.113.2, "2001:db8:ff::2"]}
    interfaces: [cb4, cb6, cr4, cr6]
    routes:
      - {destination: 10.9.0.0/24, nexthop: 10.0.0.11}
      - {destination: 10.8.0.0/24, nexthop: 10.0.0.11}
      - {destination: 10.8.0.0/24, nexthop: 10.0.0.12}
  t:
    gateway: {network: public, hosts: [host2, host1], fixed_ips: [203.0.113.3]}
    interfaces: [tb4, tb6, tr4]
  d:
    distributed: true
    gateway: {network: public, hosts: [host1, host2], fixed_ips: [203.0.113.4, "2001:db8:ff::4"]}
    interfaces: [db4, db6, dr4, dr6]
    routes: [{destination: 10.9.0.0/24, nexthop: 10.0.0.13}]
  l:
    distributed: true
    gateway: {network: public, hosts: [host2, host1], fixed_ips: [203.0.113.5]}
    interfaces: [ll4, lt4]
    routes: [{destination: 10.2.0.0/24, nexthop: 10.0.0.254}, {destination: 10.3.0.0/24, nexthop: 10.0.0.253}]
  m:
    distributed: true
    interfaces: [{subnet: ll4, address: 10.0.0.254}, lm4]
    routes: [{destination: 10.1.0.0/24, nexthop: 10.0.0.1}, {destination: 10.3.0.0/24, nexthop: 10.0.0.253}]
  n:
    gateway: {network: public, hosts: [host1, host2], fixed_ips: [203.0.113.7]}
    interfaces: [{subnet: ll4, address: 10.0.0.253}, ln4]
    routes: [{destination: 10.1.0.0/24, nexthop: 10.0.0.1}, {destination: 10.2.0.0/24, nexthop: 10.0.0.254}]
  s:
    gateway: {network: public, hosts: [host2, host1], fixed_ips: [203.0.113.6]}
    interfaces: [sk4, sl4, sn4]
  e: {distributed: true, interfaces: [eb4, er4]}

security_groups:
  from-blue:
    - {direction: egress}
    - {direction: ingress, protocol: icmp, remote_ip_prefix: 10.0.0.0/24}
    - {direction: ingress, protocol: icmpv6, ethertype: IPv6, remote_ip_prefix: "2001:db8:c0::/64"}
  from-beyond:
    - {direction: egress}
    - {direction: ingress, protocol: icmp, remote_ip_prefix: 203.0.113.1/32}
  members:
    - {direction: egress}
    - {direction: ingress, remote_group: members}

ports:
PORTS
floating_ips:
  203.0.113.11: {port: cb1}
  203.0.113.12: {port: cr2}
  203.0.113.13: {port: cb3}
  203.0.113.14: {port: cb4}
  203.0.113.15: {port: cb5}
  203.0.113.22: {port: tb2}
  203.0.113.31: {port: db1}
  203.0.113.32: {port: dr2}
  203.0.113.33: {port: db3}
  203.0.113.34: {port: db4}
  203.0.113.35: {port: db5}
  203.0.113.41: {port: ll1}
  203.0.113.43: {port: lt3}
  203.0.113.52: {port: sl2}
  203.0.113.63: {port: ln3}
"""
_GROUPS = {"cr1": "from-blue", "cb3": "from-beyond", "dr1": "members", "dr2": "members", "db1": "members"}
_IPV4 = {
    "cb": 0,
    "cr": 1,
    "tb": 0,
    "tr": 1,
    "db": 0,
    "dr": 1,
    "ll": 0,
    "lt": 1,
    "lm": 2,
    "ln": 3,
    "sn": 0,
    "eb": 0,
    "er": 1,
}
_IPV6 = {"cb": "c0", "cr": "c1", "tb": "c0", "db": "d0", "dr": "d1"}


_TWO = ("sn", "sk", "sl")  # networks without an instance on host3


def _ports() -> str:
    places = [(network, number, host) for network in (*_IPV4, "sk", "sl") for number, host in enumerate(HOSTS, 1)]
    places = [place for place in places if place[0] not in _TWO or place[2] != "host3"]
    return "\n".join(_port(*place) for place in (*places, *MORE))


def _port(network: str, number: int, host: str) -> str:
    first = {"sk": "192.0.2.", "sl": "10.20.1."}.get(network, f"10.{_IPV4.get(network)}.0.1")
    addresses = f"{first}{number + (2 if network in ('sk', 'sl') else 0)}"
    if network in _IPV6:
        addresses += f', "2001:db8:{_IPV6[network]}::1{number}"'
    name = f"{network}{number}"
    more = f", security_groups: [{_GROUPS[name]}]" if name in _GROUPS else ""
    if name in BEHIND_INSTANCES:
        more += f", allowed_address_pairs: [{', '.join(BEHIND_INSTANCES[name])}]"
    return f"  {name}: {{network: {network}, host: {host}, fixed_ips: [{addresses}]{more}}}"


DOCUMENT = _TEXT.replace("PORTS", _ports())
