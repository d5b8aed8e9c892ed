# SPDX-License-Identifier: Apache-2.0
"""The wires between simulated hosts.

One network namespace holds a Linux bridge for the underlay and one for each physical
network; every host has a veth to each of them.  A bridge there is a plain shared
segment: no snooping, no spanning tree, no filter.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.sandbox.layout import LINKS, UNDERLAY, UPLINK, SandboxPaths, wire_name
from agent.sandbox.namespaces import Namespaces, join_network
from agent.sandbox.tools import run

# veth ends take part in nothing of IPv6 by themselves: tenants' packets are all that is on these wires.
_QUIET = "sysctl -q -w net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1"
# A global filter switch of a loaded br_netfilter would send bridged frames through iptables and conntrack.
_UNFILTERED = """
for switch in /proc/sys/net/bridge/bridge-nf-call-*; do
    test ! -e "$switch" || echo 0 > "$switch"
done
"""


def create(paths: SandboxPaths, namespaces: Namespaces) -> None:
    """Make the namespace of the wires and the bridges in it."""
    namespaces.create(UNDERLAY, paths.root / UNDERLAY / "netns")
    run([*namespaces.enter(UNDERLAY), "sh", "-ec", f"{_QUIET}\n{_UNFILTERED}"])
    lines = []
    for bridge in LINKS:
        lines += [
            f"link add {bridge} type bridge stp_state 0 mcast_snooping 0",
            f"link set {bridge} up",
        ]
    _batch(namespaces, lines)


def connect(namespaces: Namespaces, hosts: Sequence[str]) -> None:
    """Give each host its ends of the wires: ``uplink``, and one named after each physical network."""
    lines = []
    for number, host in enumerate(hosts, 1):
        pin = namespaces.network_pin(host)
        for bridge in LINKS:
            inside, outside = UPLINK if bridge == UNDERLAY else bridge, wire_name(number, bridge)
            lines += [
                f"link add {outside} type veth peer name {inside} netns {pin}",
                f"link set {outside} master {bridge} up",
            ]
    _batch(namespaces, lines)


def _batch(namespaces: Namespaces, lines: Sequence[str]) -> None:
    # Only the network namespace is entered: the pins of the other hosts are hidden in the mount namespace.
    pin = str(namespaces.network_pin(UNDERLAY))
    run([*join_network(pin), "ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))
