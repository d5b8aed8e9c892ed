# SPDX-License-Identifier: Apache-2.0
"""Flow text, exactly as Open vSwitch prints it.

A flow is two strings: its key ``table=N,priority=P,<match>`` and its actions.  Both
are canonical: letter by letter what ``ovs-ofctl -O OpenFlow14 dump-flows --no-stats
--no-names`` shows after the flow was installed, so that comparing what is wanted
with what is there is comparing strings.  The order of fields and the notation of
values follow ``match_format()`` and ``ofpacts_format()`` of Open vSwitch; a test
loads everything the planners can say into a real switch and compares.

Rendering is on the path of every planned flow (tens of thousands at start), hence
plain string work and no field objects.
"""

from __future__ import annotations

from functools import cache
from typing import Final

# Bundles need 1.4; from 1.5 on ``load`` actions would print differently, so every
# ovs-ofctl call has to name this one version.
OPENFLOW_VERSION: Final = "OpenFlow14"

IN_PORT: Final = "IN_PORT"
DROP: Final = "drop"
POP_VLAN: Final = "pop_vlan"
UNTAGGED: Final = "0x0000/0x1000"  # value of vlan_tci: the frame has no VLAN header, not even one with VID 0
MULTICAST: Final = "01:00:00:00:00:00/01:00:00:00:00:00"  # value of dl_dst or dl_src: group bit set
NO_MAC: Final = "00:00:00:00:00:00"  # value of nd_sll or nd_tll: the option is not there

ETH_P_8021Q: Final = 0x8100
ETH_P_8021AD: Final = 0x88A8
VLAN_PRESENT: Final = 0x1000  # OFPVID_PRESENT, set in every vlan_vid that is written

ANNOUNCED: Final = 5  # register: 1 in frames that the daemon itself sends in the name of a port

_DEFAULT_PRIORITY = 32768  # Open vSwitch leaves it out of its text: not to be used

# In the order in which Open vSwitch prints them.
_FIELDS = (
    *(f"reg{n}" for n in range(16)),
    "tun_id",
    "tun_src",
    "tun_dst",
    "tun_ipv6_src",
    "tun_ipv6_dst",
    "metadata",
    "in_port",
    "dl_vlan",
    "vlan_tci",
    "dl_src",
    "dl_dst",
    "dl_type",
    "ipv6_src",
    "ipv6_dst",
    "nw_src",
    "nw_dst",
    "arp_spa",
    "arp_tpa",
    "arp_op",
    "arp_sha",
    "arp_tha",
    "nw_frag",
    "tp_src",
    "tp_dst",
    "icmp_type",
    "icmp_code",
    "nd_target",
    "nd_sll",
    "nd_tll",
)
_RANK = {name: rank for rank, name in enumerate(_FIELDS)}
_HEXADECIMAL = frozenset((*(f"reg{n}" for n in range(16)), "tun_id", "metadata", "dl_type"))


@cache  # there are as many as planners have kinds of matches
def _in_order(names: tuple[str, ...]) -> tuple[tuple[str, bool], ...]:
    """Return *names* as ``ovs-ofctl`` orders them, and whether it prints their values in hexadecimal."""
    return tuple((name, name in _HEXADECIMAL) for name in sorted(names, key=_RANK.__getitem__))


def match(protocol: str = "", /, **fields: int | str | None) -> str:
    """Return the canonical text of a match, "" for everything.

    *protocol* is a keyword of ``ovs-fields(7)`` such as ``arp``, ``ip``, ``udp6``,
    ``icmp6``; a field that is None is a wildcard.  A field that this module does not
    know raises KeyError: its place in the order must be looked up first.
    """
    parts = [protocol] if protocol else []
    for name, hexadecimal in _in_order(tuple(fields)):
        value = fields[name]
        if value is None:
            continue
        if value and hexadecimal:
            parts.append(f"{name}={value:#x}")
        else:
            parts.append(f"{name}={value}")
    return ",".join(parts)


def flow_key(table: int, priority: int, match_text: str) -> str:
    """Return the key of a flow; *priority* is 0..65535 but not 32768, which has no text."""
    if priority == _DEFAULT_PRIORITY:
        raise ValueError("priority 32768 is the one that Open vSwitch does not print")
    if match_text:
        return f"table={table},priority={priority},{match_text}"
    return f"table={table},priority={priority}"


def set_register(number: int, value: int) -> str:
    """Return the action that loads *value* into a 32-bit register."""
    return f"set_field:{value:#x}->reg{number}" if value else f"set_field:0->reg{number}"


def set_metadata(value: int) -> str:
    """Return the action that loads *value* into the 64-bit metadata field."""
    return f"set_field:{value:#x}->metadata"


def set_tunnel_id(value: int) -> str:
    """Return the action that sets the virtual network identifier (24 bits) of a tunnel."""
    return f"set_field:{value:#x}->tun_id"


def set_tunnel_destination(address: str) -> str:
    """Return the action that sets where a flow-based tunnel port sends to (IPv4 or IPv6)."""
    if ":" in address:
        return f"set_field:{ipv6_text(address)}->tun_ipv6_dst"
    return f"set_field:{address}->tun_dst"


def set_field(value: str, field: str) -> str:
    """Return the action that sets a field whose value prints as it is given (MAC, IPv4, decimal)."""
    return f"set_field:{value}->{field}"


def move(source: str, target: str) -> str:
    """Return the action that copies a whole field; both are NXM names (``NXM_OF_ETH_SRC``)."""
    return f"move:{source}[]->{target}[]"


def move_low_bits(source: str, target: str, width: int) -> str:
    """Return the action that copies the *width* lowest bits of a field; both are NXM names."""
    return f"move:{source}[0..{width - 1}]->{target}[0..{width - 1}]"


def output(ofport: int) -> str:
    """Return the action that sends the packet out of a port (nothing, if it came from there)."""
    return f"output:{ofport}"


def push_vlan(vid: int) -> tuple[str, str]:
    """Return the actions that add an 802.1Q header with *vid* (1..4094)."""
    return f"push_vlan:{ETH_P_8021Q:#06x}", f"set_field:{VLAN_PRESENT | vid}->vlan_vid"


def ipv6_text(address: str) -> str:
    """Return *address* (canonical, as Python prints it) as ``inet_ntop(3)`` prints it.

    They differ below ``::ffff:0:0/96``, where the C library writes the last 32 bits
    of IPv4-compatible and IPv4-mapped addresses in dotted form.
    """
    if not address.startswith("::") or "." in address:
        return address
    groups = address[2:].split(":")
    if len(groups) == 2:
        return f"::{_dotted(*groups)}"
    if len(groups) == 3 and groups[0] == "ffff":
        return f"::ffff:{_dotted(*groups[1:])}"
    return address


def prefix_text(cidr: str) -> str | None:
    """Return an address or CIDR prefix (canonical) as a match value; None if it covers everything."""
    address, _, length = cidr.partition("/")
    if length == "0":
        return None
    if ":" in address:
        address = ipv6_text(address)
        return address if length in ("", "128") else f"{address}/{length}"
    return address if length in ("", "32") else f"{address}/{length}"


def _dotted(high: str, low: str) -> str:
    first, second = int(high, 16), int(low, 16)
    return f"{first >> 8}.{first & 0xFF}.{second >> 8}.{second & 0xFF}"
