# SPDX-License-Identifier: Apache-2.0
"""The router beyond the external network: somebody else's, with a bit of Internet behind it.

It knows the external network, what is behind itself, and the way to those tenants'
prefixes that are not translated: as an operator would have told it, or a routing
protocol.  To private addresses it has no way, so what leaves a router untranslated gets
no answer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence

from agent.sandbox.layout import EXTERNAL, UNDERLAY, UPSTREAM, SandboxPaths
from agent.sandbox.namespaces import Namespaces, join_network
from agent.sandbox.tools import run
from agent.store.records import SubnetRecord
from agent.store.records_routers import RouterRecord
from agent.store.writer import Writer

ADDRESSES = ("203.0.113.1/24", "2001:db8:ff::1/64")  # on the external network (RFC 5737, RFC 3849)
BEHIND = ("198.51.100.1/32", "2001:db8:100::1/128")
DEVICE = "eth0"

_OUTSIDE = "external-router"  # its end at the wire
_PROTOCOL = "static"
# It may use an address at once: nobody else has it, and waiting takes a second.
_SETTINGS = (
    "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
    " net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"
)


class Upstream:
    """The router of a sandbox that was made with an external network."""

    name = UPSTREAM

    def __init__(self, paths: SandboxPaths, namespaces: Namespaces) -> None:
        self._paths = paths
        self._namespaces = namespaces

    def create(self) -> None:
        """Make it and connect it to the external network; the wires must be there."""
        self._namespaces.create(UPSTREAM, self._paths.root / UPSTREAM / "netns")
        run([*self._namespaces.enter(UPSTREAM), "sysctl", "-q", "-w", *_SETTINGS.split()])
        pin = self._namespaces.network_pin(UPSTREAM)
        wires = [
            f"link add {_OUTSIDE} type veth peer name {DEVICE} netns {pin}",
            f"link set {_OUTSIDE} master {EXTERNAL} up",
        ]
        # Only the network namespace is entered: the pin is hidden in the mount namespace.
        wire = join_network(str(self._namespaces.network_pin(UNDERLAY)))
        run([*wire, "ip", "-batch", "-"], stdin=_script(wires))
        # The hosts' switches read its frames as they are: nobody fills in a checksum that it has left out.
        run([*self._namespaces.enter(UPSTREAM), "ethtool", "-K", DEVICE, "tx", "off"])
        lines = [f"link set {DEVICE} up"]
        lines += [f"address add {address} dev {DEVICE}" for address in ADDRESSES]
        lines += [f"address add {address} dev lo" for address in BEHIND]
        self._ip(lines)

    def follow(self, writer: Writer) -> None:
        """Take the gateways' addresses of external subnets, and the ways to prefixes that are not translated."""
        subnets = {subnet.id: subnet for subnet in writer.list_subnets()}
        networks = [network for network in writer.list_networks() if network.external and network.physnet == EXTERNAL]
        outside = {network.id for network in networks}
        ways = sorted(routes(writer.list_routers(), subnets).items())
        for family, mark in (("-4", "."), ("-6", ":")):
            lines = [
                f"address replace {subnet.gateway}/{ipaddress.ip_network(subnet.cidr).prefixlen} dev {DEVICE}"
                for subnet in subnets.values()
                if subnet.network in outside and subnet.gateway is not None and mark in subnet.gateway
            ]
            lines.append(f"route flush table main proto {_PROTOCOL}")
            lines += [f"route replace {to} via {via} dev {DEVICE} proto {_PROTOCOL}" for to, via in ways if mark in to]
            self._ip(lines, family)

    def environment(self) -> dict[str, str]:
        """Return the variables that point commands at the sandbox's store."""
        return {"HOSTPLANE_STORE": self._paths.store_address}

    def inner_environment(self) -> dict[str, str]:
        """Return the variables of commands that run here."""
        return self.environment()

    def instances(self) -> list[str]:
        """Return nothing: instances are on hosts."""
        return []

    def _ip(self, lines: Sequence[str], *options: str) -> None:
        run([*self._namespaces.enter(UPSTREAM), "ip", *options, "-batch", "-"], stdin=_script(lines))


def routes(routers: Iterable[RouterRecord], subnets: Mapping[str, SubnetRecord]) -> dict[str, str]:
    """Return by prefix the address of the gateway that leads to it.

    Without a way back are the IPv4 prefixes that a router translates: all of them, but for
    those of the external subnet's address scope, and all if it does no translation at all.
    """
    found: dict[str, str] = {}
    for router in routers:
        for fixed_ip in router.external_fixed_ips:
            outside = subnets[fixed_ip.subnet]
            for interface in router.interfaces:
                inside = subnets[interface.subnet]
                if (":" in inside.cidr) is not (":" in fixed_ip.address):
                    continue
                same_scope = inside.address_scope == outside.address_scope and inside.address_scope is not None
                if ":" in inside.cidr or same_scope or not router.enable_snat:
                    found.setdefault(inside.cidr, fixed_ip.address)
    return found


def _script(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
