# SPDX-License-Identifier: Apache-2.0
"""iptables rules as text: keys and matches in the form that rules are compared in.

That is what ``iptables-save`` 1.8.9 prints (iptables(8), iptables-extensions(8)), with
protocols that have no match of their own as numbers and IPv6 addresses as Python
writes them; ``agent/drivers/iptables_rule.py`` brings what other versions print into
it.  One function a match; ``rule`` puts them in a line: addresses, devices and
protocol first, then protocol's own match, mark, state, physdev, set, comment.
"""

from __future__ import annotations

from typing import Final

from agent.core import naming
from agent.core.plan import ItemRef, Key

FAMILIES: Final = (4, 6)
LIST_CHAIN: Final = "*"  # value of a chain whose rules are items of their own
FIRST: Final = "first"  # value of a jump of ours in a chain that is not ours
NONE: Final = ""  # value of a rule of a list chain

DROP: Final = "-j DROP"
TABLE: Final = "filter"


def chain_key(family: int, chain: str) -> Key:
    """Return the ``iptables`` driver's key of a chain; *family* is 4 or 6."""
    return f"{family} {TABLE} {chain}"


def rule_key(family: int, chain: str, text: str) -> Key:
    """Return the key of one rule of a list chain, or of a jump in a chain that is not ours."""
    return f"{family} {TABLE} {chain} {text}"


def chain_ref(family: int, chain: str) -> ItemRef:
    """Return a chain as something to require."""
    return ItemRef("iptables", chain_key(family, chain))


def rule_ref(family: int, chain: str, text: str) -> ItemRef:
    """Return a rule of a list chain, or a jump, as something to require."""
    return ItemRef("iptables", rule_key(family, chain, text))


def rule(*parts: str) -> str:
    """Return a rule made of *parts*; empty ones match everything."""
    return " ".join(part for part in parts if part)


def chain(*rules: str) -> str:
    """Return the value of an ordered chain."""
    return "\n".join(rules)


def jump(target: str) -> str:
    """Go on in chain *target*, and come back if nothing there decides."""
    return f"-j {target}"


def goto(target: str) -> str:
    """Go on in chain *target*, and from its end to where this chain was jumped to from."""
    return f"-g {target}"


def source(cidr: str) -> str:
    """Match the source address; nothing for a prefix that covers everything."""
    return _prefix("-s", cidr)


def destination(cidr: str) -> str:
    """Match the destination address; nothing for a prefix that covers everything."""
    return _prefix("-d", cidr)


def _prefix(option: str, cidr: str) -> str:
    address, _, length = cidr.partition("/")
    if length == "0":
        return ""
    return f"{option} {address}/{length or (128 if ':' in address else 32)}"


def from_device(name: str) -> str:
    """Match the device it came in on: in a bridge, the bridge; ``x+`` is every name that begins with x."""
    return f"-i {name}"


def to_device(name: str) -> str:
    """Match the device it leaves by: in a bridge, the bridge."""
    return f"-o {name}"


BRIDGED: Final = "-m physdev --physdev-is-bridged"


def between_bridge_ports(come: str, go: str) -> str:
    """Match what crosses a bridge from port *come* to port *go*."""
    return f"-m physdev --physdev-in {come} --physdev-out {go} --physdev-is-bridged"


def marked(bits: int) -> str:
    """Match packets in whose mark *bits* are set."""
    return f"-m mark --mark {bits:#x}/{bits:#x}"


def connection_marked(bits: int, *, negated: bool = False) -> str:
    """Match packets whose connection has (or has not) *bits* set in its mark."""
    return f"-m connmark {'! ' if negated else ''}--mark {bits:#x}/{bits:#x}"


def state(*states: str) -> str:
    """Match the state of the connection; several in iptables' own order."""
    return f"-m conntrack --ctstate {','.join(states)}"


def in_set(name: str, *, as_source: bool) -> str:
    """Match packets whose source (or else destination) address is in IP set *name*."""
    return f"-m set --match-set {name} {'src' if as_source else 'dst'}"


def comment(text: str) -> str:
    """Label a rule."""
    return f'-m comment --comment "{text}"'


def udp_ports(source_port: int, destination_port: int) -> str:
    """Match UDP from one port to another."""
    return f"-p udp -m udp --sport {source_port} --dport {destination_port}"


def icmpv6_type(number: int) -> str:
    """Match an ICMPv6 type."""
    return f"-p ipv6-icmp -m icmp6 --icmpv6-type {number}"


def set_mark(bits: int) -> str:
    """Set *bits* of the packet's mark and leave the others."""
    return f"-j MARK --set-xmark {bits:#x}/{bits:#x}"


def set_connection_mark(value: int, mask: int) -> str:
    """Write *value* over the bits *mask* of the connection's mark."""
    return f"-j CONNMARK --set-xmark {value:#x}/{mask:#x}"


_RATE_SCALE = 1_000_000  # hashlimit counts in steps of a millionth of a second


def log(limit_name: str, rate: int, burst: int, prefix: str) -> str:
    """Send packets to our NFLOG group with *prefix*, at most *rate* a second after the first *burst*.

    All rules whose *limit_name* is the same share one limit; the kernel keeps the
    first rate that it saw under a name.  The rate is rounded as the kernel does.
    """
    rounded = _RATE_SCALE // max(_RATE_SCALE // max(rate, 1), 1)
    return (
        f"-m hashlimit --hashlimit-upto {rounded}/sec --hashlimit-burst {burst} --hashlimit-name {limit_name} "
        f'-j NFLOG --nflog-prefix "{prefix}" --nflog-group {naming.LOG_GROUP}'
    )
