# SPDX-License-Identifier: Apache-2.0
"""Hosts, instances and the wire between them, drawn with characters.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from agent.store.records import PortRecord

GAP = 4
_MIN_WIDTH = 32


def topology(hosts: Sequence[tuple[str, str]], ports: Sequence[PortRecord], underlay: str) -> list[str]:
    """Return lines that show each host (name, underlay address) with its ports, side by side, and the underlay."""
    contents = {name: _instances([port for port in ports if port.host == name]) for name, _ in hosts}
    width = max([_MIN_WIDTH, *(len(line) for lines in contents.values() for line in lines)])
    height = max(len(lines) for lines in contents.values())
    boxes = [_box(name, address, contents[name], width, height) for name, address in hosts]
    lines = [(" " * GAP).join(parts) for parts in zip(*boxes, strict=True)]
    centre = width // 2 + 2
    span = (len(hosts) - 1) * (width + 4 + GAP)
    wire = [" "] * (span + 1)
    for index in range(len(hosts)):
        wire[index * (width + 4 + GAP)] = "|"
    rail = "".join("+" if mark == "|" else "-" for mark in wire)
    return [
        *(line.rstrip() for line in lines),
        " " * centre + "".join(wire).rstrip(),
        " " * centre + rail,
        " " * centre + f"underlay {underlay}",
    ]


def _instances(ports: Sequence[PortRecord]) -> list[str]:
    names = max((len(port.name) for port in ports), default=0)
    networks = max((len(port.network_name) for port in ports), default=0)
    lines = []
    for port in sorted(ports, key=lambda port: (port.network_name, port.name)):
        addresses = [address.address for address in port.fixed_ips] or ["-"]
        lines.append(f"{port.name:<{names}}  {port.network_name:<{networks}}  {addresses[0]}")
        lines += [f"{'':<{names}}  {'':<{networks}}  {address}" for address in addresses[1:]]
    return lines


def _box(name: str, address: str, lines: Sequence[str], width: int, height: int) -> list[str]:
    def row(text: str = "") -> str:
        return f"| {text:<{width}} |"

    edge = f"+{'-' * (width + 2)}+"
    filled = [*lines, *[""] * (height - len(lines))]
    title = f"{name}{address:>{width - len(name)}}"
    return [edge, row(title), row(), *map(row, filled), row(), row("br-int (Open vSwitch, our flows)"[:width]), edge]
