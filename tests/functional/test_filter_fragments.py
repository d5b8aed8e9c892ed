# SPDX-License-Identifier: Apache-2.0
"""Fragments: the verdict is the whole datagram's, half of one never passes, and tenants' never mix."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.functional import filter_store
from tests.functional.filter_fragments import Arrived, Piece, cut, frame_of, put_together
from tests.functional.filter_oracle import UDP, Packet
from tests.functional.filter_packets import Macs
from tests.functional.filter_wire import Station, Wire, namespace_of
from tests.functional.lab import Lab

# Three tenants with the same addresses, all on one host: each pair passes two filters.
TENANTS = {"blue": "stateful", "red": "stateful", "grey": "stateless"}
DOCUMENT = """
security_groups:
  stateful:
    rules:
      - {direction: egress}
      - {direction: ingress, protocol: udp, ports: 8000}
  stateless:
    stateful: false
    rules:
      - {direction: egress}
      - {direction: ingress, protocol: udp, ports: 8000}
"""
ALLOWED, FORBIDDEN = 8000, 8001
SIZE = 1200  # bytes of UDP data
NOTHING = Arrived((), 0)
_identifiers = itertools.count(0x1000)
_ports = itertools.count(30_000)


def document() -> str:
    lines = [DOCUMENT, "networks:", *(f"  {name}: {{type: vxlan}}" for name in TENANTS), "subnets:"]
    for name in TENANTS:
        lines += [f"  {name}4: {{network: {name}, cidr: 10.0.0.0/24}}"]
        lines += [f'  {name}6: {{network: {name}, cidr: "2001:db8::/64"}}']
    lines.append("ports:")
    for number, (name, group) in enumerate(TENANTS.items()):
        for end in (1, 2):
            fixed = f'[10.0.0.1{end}, "2001:db8::1{end}"]'
            lines.append(f"  {name}{end}: {{network: {name}, host: host1, security_groups: [{group}],")
            lines.append(f'    mac_address: "02:00:00:00:{number:02x}:{end:02x}", fixed_ips: {fixed}}}')
    return "\n".join(lines)


def macs(tenant: str) -> Macs:
    number = list(TENANTS).index(tenant)
    return Macs(f"02:00:00:00:{number:02x}:01", f"02:00:00:00:{number:02x}:02")


@pytest.fixture(scope="module")
def wire(new_lab: Callable[..., Lab]) -> Iterator[Wire]:
    lab = new_lab(1)
    lab.bring_up(document())
    names = [f"{tenant}{end}" for tenant in TENANTS for end in (1, 2)]
    filter_store.silence(lab, *names)
    stations = [Station(name, lab.mac(name), lab.address(name), name[:-1], namespace_of(lab, name)) for name in names]
    with Wire(stations) as wire:
        yield wire


def datagram(version: int, port: int = ALLOWED, source_port: int | None = None) -> Packet:
    ends = ("10.0.0.11", "10.0.0.12") if version == 4 else ("2001:db8::11", "2001:db8::12")
    one, two = map(ipaddress.ip_address, ends)
    return Packet("one", "two", one, two, UDP, source_port or next(_ports), port)


def content(letter: str) -> bytes:
    return (letter.encode() * SIZE)[:SIZE]


class Sender:
    """Fragments of one tenant's datagram."""

    def __init__(self, tenant: str, packet: Packet, identifier: int, text: bytes, *cuts: int) -> None:
        self.tenant = tenant
        self.pieces = cut(packet, text, *cuts)
        self._packet = packet
        self._identifier = identifier

    def frame(self, piece: Piece | int) -> tuple[str, bytes]:
        """Return who sends which frame, for this piece or the one of that number."""
        chosen = self.pieces[piece] if isinstance(piece, int) else piece
        return f"{self.tenant}1", frame_of(self._packet, macs(self.tenant), self._identifier, chosen)


def what_came(wire: Wire, frames: list[tuple[str, bytes]]) -> dict[str, Arrived]:
    """Send *frames* and return what the second instance of each tenant got."""
    # Other frames do not count: what an instance's kernel said just before it was silenced may come late.
    arrived = {name: put_together(came) for name, came in wire.exchange(frames).items()}
    assert [arrived[f"{tenant}1"] for tenant in TENANTS] == [NOTHING] * len(TENANTS)
    return {tenant: arrived[f"{tenant}2"] for tenant in TENANTS}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tenant", ["blue", "grey"])
@pytest.mark.parametrize("port", [ALLOWED, FORBIDDEN])
def test_the_verdict_is_the_whole_datagrams_in_whatever_order_it_comes(
    wire: Wire, version: int, tenant: str, port: int
) -> None:
    frames = []
    for order in itertools.permutations(range(3)):
        # The second cut is inside the UDP header: no fragment shows both ports.
        sender = Sender(tenant, datagram(version, port), next(_identifiers), content("x"), 8, 608)
        frames += [sender.frame(number) for number in order]
    expected = Arrived((content("x"),) * 6, 0) if port == ALLOWED else NOTHING
    assert what_came(wire, frames)[tenant] == expected


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tenant", ["blue", "grey"])
def test_nothing_of_an_incomplete_datagram_passes(wire: Wire, version: int, tenant: str) -> None:
    frames = []
    for missing in range(3):
        sender = Sender(tenant, datagram(version), next(_identifiers), content("x"), 304, 608)
        frames += [sender.frame(number) for number in range(3) if number != missing]
    assert what_came(wire, frames)[tenant] == NOTHING


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("others", ["red", "grey"])
def test_fragments_of_two_tenants_with_equal_addresses_never_mix(wire: Wire, version: int, others: str) -> None:
    packet, identifier = datagram(version), next(_identifiers)
    ours = Sender("blue", packet, identifier, content("b"), 304, 608)
    theirs = Sender(others, packet, identifier, content("r"), 304, 608)
    frames = [ours.frame(0), theirs.frame(1), ours.frame(1), theirs.frame(2), theirs.frame(0), ours.frame(2)]
    came = what_came(wire, frames)
    assert came["blue"] == Arrived((content("b"),), 0)
    assert came[others] == Arrived((content("r"),), 0)


@pytest.mark.parametrize("version", [4, 6])
def test_one_tenant_cannot_complete_anothers_datagram(wire: Wire, version: int) -> None:
    packet, identifier = datagram(version), next(_identifiers)
    ours = Sender("blue", packet, identifier, content("b"), 608)
    theirs = Sender("red", packet, identifier, content("r"), 608)
    came = what_came(wire, [ours.frame(0), theirs.frame(1)])
    assert came == dict.fromkeys(TENANTS, NOTHING)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tenant", ["blue", "grey"])
def test_a_header_cannot_be_written_over_by_a_later_fragment(wire: Wire, version: int, tenant: str) -> None:
    """RFC 1858, RFC 5722: the filter and the instance must not see two different datagrams."""
    source = next(_ports)
    allowed, forbidden = (datagram(version, port, source) for port in (ALLOWED, FORBIDDEN))
    identifier = next(_identifiers)
    good = Sender(tenant, allowed, identifier, content("x"), 304, 608)
    evil = Sender(tenant, forbidden, identifier, content("y"), 304, 608)
    overlap = Piece(0, evil.pieces[0].data + evil.pieces[1].data[:8], True)
    came = what_came(wire, [good.frame(0), good.frame(overlap), good.frame(1), good.frame(2)])[tenant]
    assert not any(b"y" in text for text in came.contents)
