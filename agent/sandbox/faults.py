# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between hosts: wires that are cut, and pairs of hosts that do not hear each other.

All of it happens in the namespace of the wires, so no host can tell it from the real
thing.  Each may be done twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.sandbox.layout import LINKS, UNDERLAY, wire_name
from agent.sandbox.namespaces import Namespaces, join_network
from agent.sandbox.tools import run

_TABLE = "bridge sandbox"
_DEAF = f"{_TABLE} deaf"  # pairs of wires between which nothing passes
_PARTITIONS = f"""
add table {_TABLE}
add set {_DEAF} {{ type ifname . ifname; }}
add chain {_TABLE} wires {{ type filter hook forward priority 0; policy accept; }}
flush chain {_TABLE} wires
add rule {_TABLE} wires iifname . oifname @deaf drop
"""


def cut(namespaces: Namespaces, number: int, links: Sequence[str] = LINKS, *, silently: bool = False) -> None:
    """Cut *links* of a host: they lose their carrier, or with *silently* only what is sent on them."""
    for link in links:
        _set(namespaces, wire_name(number, link), *(("nomaster",) if silently else ("down",)))


def mend(namespaces: Namespaces, number: int, links: Sequence[str] = LINKS) -> None:
    """Connect *links* of a host again."""
    for link in links:
        _set(namespaces, wire_name(number, link), "master", link, "up")


def partition(namespaces: Namespaces, first: int, second: int) -> None:
    """Let two hosts hear nothing of each other on the underlay; all others hear both."""
    _nft(namespaces, f"{_PARTITIONS}add element {_DEAF} {_pairs(first, second)}\n")


def heal(namespaces: Namespaces, first: int, second: int) -> None:
    """Let two hosts hear each other again."""
    pairs = _pairs(first, second)
    # Added first, as what is not there cannot be deleted.
    _nft(namespaces, f"{_PARTITIONS}add element {_DEAF} {pairs}\ndelete element {_DEAF} {pairs}\n")


def _pairs(first: int, second: int) -> str:
    one, other = wire_name(first, UNDERLAY), wire_name(second, UNDERLAY)
    return f'{{ "{one}" . "{other}", "{other}" . "{one}" }}'


def _set(namespaces: Namespaces, device: str, *words: str) -> None:
    run([*_wires(namespaces), "ip", "link", "set", device, *words])


def _nft(namespaces: Namespaces, script: str) -> None:
    run([*_wires(namespaces), "nft", "-f", "-"], stdin=script)


def _wires(namespaces: Namespaces) -> list[str]:
    return join_network(str(namespaces.network_pin(UNDERLAY)))
