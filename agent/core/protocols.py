# SPDX-License-Identifier: Apache-2.0
"""IP protocols for people: names as the Neutron API has them."""

from __future__ import annotations

NAMES = {
    1: "icmp", 2: "igmp", 4: "ipip", 6: "tcp", 8: "egp", 17: "udp", 33: "dccp", 41: "ipv6-encap", 43: "ipv6-route",
    44: "ipv6-frag", 46: "rsvp", 47: "gre", 50: "esp", 51: "ah", 58: "ipv6-icmp", 59: "ipv6-nonxt", 60: "ipv6-opts",
    89: "ospf", 112: "vrrp", 113: "pgm", 132: "sctp", 136: "udplite",
}  # fmt: skip
ICMP_NUMBERS = frozenset((1, 58))


def protocol_name(number: int) -> str:
    """Return a protocol's name, its number where it has none."""
    return NAMES.get(number, str(number))
