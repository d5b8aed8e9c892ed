# SPDX-License-Identifier: Apache-2.0
"""Random security groups, who has them, and conversations between ports.

The ports, their networks and addresses are always the same (plugging takes longer than
anything else); two networks use the same addresses, with other ports.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from tests.functional.filter_oracle import (
    EGRESS,
    ESP,
    GRE,
    ICMP,
    ICMPV6,
    INGRESS,
    NEIGHBOR_ADVERTISEMENT,
    NEIGHBOR_SOLICITATION,
    ROUTER_ADVERTISEMENT,
    ROUTER_SOLICITATION,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    VRRP,
    Address,
    Group,
    Network,
    Packet,
    PortState,
    Rule,
    World,
    answer_to,
)


@dataclass(frozen=True, slots=True)
class Place:
    """A port that is always there."""

    name: str
    network: str
    host: str
    number: int

    @property
    def mac(self) -> str:
        """Its MAC address: other ones on each network."""
        return f"02:00:00:00:{'00' if self.network == 'blue' else '01'}:{self.number:02x}"

    @property
    def addresses(self) -> tuple[Network, ...]:
        """Its fixed IPs."""
        return tuple(ipaddress.ip_network(f"{prefix}{self.number}") for prefix in ("10.0.0.", "2001:db8::"))


PLACES = (
    Place("a1", "blue", "host1", 11),
    Place("a2", "blue", "host1", 12),
    Place("a3", "blue", "host1", 13),
    Place("b1", "blue", "host2", 14),
    Place("b2", "blue", "host2", 15),
    Place("c1", "red", "host1", 11),
    Place("c2", "red", "host1", 12),
    Place("d1", "red", "host2", 14),
)
STATEFUL, STATELESS = ("web", "base", "mesh"), ("fast", "free")
ADDRESS_GROUPS = ("office", "wide")


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


PAIRS = (
    (),
    _networks("10.9.0.0/24"),
    _networks("10.0.0.100/32"),
    _networks("2001:db8:9::/64"),
    _networks("10.9.0.0/25", "2001:db8:9::5/128"),
    _networks("0.0.0.0/0"),
    _networks("::/0"),
)
PREFIXES = _networks(
    "10.0.0.0/24",
    "10.0.0.11/32",
    "10.0.0.12/31",
    "10.9.0.0/24",
    "0.0.0.0/0",
    "192.0.2.0/24",
    "2001:db8::/64",
    "2001:db8::11/128",
    "2001:db8::10/125",
    "2001:db8:9::/64",
    "::/0",
)
ADDRESS_LISTS = (
    (),
    _networks("10.0.0.0/24", "10.0.0.11/32", "2001:db8::12/128"),
    _networks("10.0.0.14/32", "10.9.0.5/32"),
    _networks("2001:db8::/64", "2001:db8::/126"),
    _networks("0.0.0.0/0"),
    _networks("::/0", "10.0.0.8/29"),
)
RANGES = ((22, 22), (80, 80), (443, 443), (8000, 8100), (1, 65535))
TARGET_PORTS = (80, 22, 443, 7999, 8000, 8100, 8101, 53)
ICMP_RULES = {4: ((None, None), (8, None), (8, 0), (3, None), (3, 3), (0, None)), 6: ((None, None), (128, 0), (1, 4))}
OTHERS = (GRE, ESP, VRRP)


@st.composite
def rules(draw: st.DrawFn) -> Rule:
    """Return any rule that the API takes."""
    version = draw(st.sampled_from((4, 6)))
    icmp = ICMP if version == 4 else ICMPV6
    protocol = draw(st.sampled_from((None, TCP, UDP, TCP, UDP, icmp, icmp, SCTP, UDPLITE, *OTHERS)))
    low: int | None = None
    high: int | None = None
    if protocol == icmp:
        low, high = draw(st.sampled_from(ICMP_RULES[version]))
    elif protocol in (TCP, UDP, SCTP, UDPLITE):
        low, high = draw(st.sampled_from(((None, None), *RANGES)))
    rule = Rule(draw(st.sampled_from((INGRESS, EGRESS))), version, protocol, low, high)
    remote = draw(st.sampled_from(("any", "any", "prefix", "group", "group", "address group")))
    if remote == "prefix":
        return replace(rule, prefix=draw(st.sampled_from([p for p in PREFIXES if p.version == version])))
    if remote == "group":
        return replace(rule, group=draw(st.sampled_from(STATEFUL + STATELESS)))
    if remote == "address group":
        return replace(rule, address_group=draw(st.sampled_from(ADDRESS_GROUPS)))
    return rule


EVERYTHING_OUT = (Rule(EGRESS, 4), Rule(EGRESS, 6))
EVERYTHING_IN = (Rule(INGRESS, 4), Rule(INGRESS, 6))


@st.composite
def groups(draw: st.DrawFn, stateful: bool) -> Group:
    """Return a group; most let everything out, as the API makes them, and some much in."""
    made = draw(st.lists(rules(), max_size=6))
    if draw(st.integers(0, 3)):
        made += EVERYTHING_OUT
    if draw(st.integers(0, 3)) == 1:
        made += EVERYTHING_IN
    return Group(tuple(dict.fromkeys(made)), stateful)


MEMBERSHIPS = st.one_of(
    st.lists(st.sampled_from(STATEFUL), min_size=1, max_size=3, unique=True).map(tuple),
    st.lists(st.sampled_from(STATEFUL), min_size=1, max_size=2, unique=True).map(tuple),
    st.lists(st.sampled_from(STATELESS), min_size=1, max_size=2, unique=True).map(tuple),
    st.sampled_from(((), None, ("web",), ("base",))),
)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Return who has which groups, and what these allow."""
    pairs = {place.name: draw(st.sampled_from(PAIRS)) for place in PLACES}
    return World(
        {p.name: PortState(p.addresses + pairs[p.name], draw(MEMBERSHIPS)) for p in PLACES},
        {name: draw(groups(name in STATEFUL)) for name in STATEFUL + STATELESS},
        {name: draw(st.sampled_from(ADDRESS_LISTS)) for name in ADDRESS_GROUPS},
    )


@st.composite
def changed(draw: st.DrawFn, world: World) -> World:
    """Return *world* after some rules, members and addresses have gone or come."""
    made: dict[str, Group] = {}
    for name, group in world.groups.items():
        stay = [rule for rule in group.rules if draw(st.integers(0, 3))]
        come = draw(st.lists(rules(), max_size=1))
        made[name] = replace(group, rules=tuple(dict.fromkeys(stay + come)))
    ports = dict(world.ports)
    for name in draw(st.lists(st.sampled_from([place.name for place in PLACES]), max_size=2, unique=True)):
        ports[name] = replace(ports[name], groups=draw(MEMBERSHIPS))
    lists = dict(world.address_groups)
    lists[draw(st.sampled_from(ADDRESS_GROUPS))] = draw(st.sampled_from(ADDRESS_LISTS))
    return World(ports, made, lists)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Packets in the order in which they are sent, a round each; *later* ones after the groups have changed."""

    rounds: tuple[Packet, ...]
    later: tuple[Packet, ...] = ()

    def claims(self) -> frozenset[object]:
        """Return what no other conversation may share: of protocols without ports, the two addresses."""
        first = self.rounds[0]
        if first.protocol in OTHERS or first.source_port < 1024:
            return frozenset({(first.protocol, frozenset((first.source, first.target)))})
        return frozenset()


KINDS = (
    *("tcp", "tcp", "tcp reset", "tcp error", "tcp old", "tcp stray"),
    *("udp", "udp", "udp error", "udp late error", "echo", "echo", "stray icmp", "foreign error"),
    *("other", "other", "sctp", "dhcp", "neighbor"),
)
conversation_numbers = st.tuples(
    st.integers(0, len(PLACES) - 1),
    st.integers(0, 3),
    st.sampled_from((4, 6)),
    st.sampled_from(KINDS),
    st.integers(0, len(TARGET_PORTS) - 1),
    st.integers(0, 7),
)


def conversation(world: World, number: int, drawn: tuple[int, int, int, str, int, int]) -> Conversation:
    """Return conversation *number*, which makes its ports its own; *drawn* are of ``conversation_numbers``."""
    sender_number, receiver_number, version, kind, port_number, choice = drawn
    sender = PLACES[sender_number]
    others = [place for place in PLACES if place.network == sender.network and place is not sender]
    receiver = others[receiver_number % len(others)]
    third = others[(receiver_number + 1) % len(others)]
    first = Packet(
        sender.name,
        receiver.name,
        _address(world, sender.name, version, choice),
        _address(world, receiver.name, version, choice // 2),
        UDP,
        20_000 + number,
        TARGET_PORTS[port_number],
    )
    return _TALKS[kind.split()[0]](first, kind, choice, third)


def _address(world: World, port: str, version: int, choice: int) -> Address:
    """Return one of the port's addresses, mostly its fixed IP."""
    usable = [network for network in world.ports[port].addresses if network.version == version]
    network = usable[-1] if choice % 4 == 3 else usable[0]
    if network.prefixlen == network.max_prefixlen:
        return network.network_address
    if network.prefixlen == 0:
        return ipaddress.ip_address("192.0.2.5" if version == 4 else "2001:db8:ffff::5")
    return network.network_address + 5


def _unreachable(about: Packet, choice: int) -> Packet:
    """Return the error "unreachable" that the receiver of *about* sends."""
    code = (3 if choice % 2 else 1) if about.version == 4 else (4 if choice % 2 else 3)
    kind = (ICMP, 3) if about.version == 4 else (ICMPV6, 1)
    back = Packet(about.receiver, about.sender, about.target, about.source, kind[0])
    return replace(back, icmp_type=kind[1], icmp_code=code, about=about)


def _tcp(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    syn = replace(first, protocol=TCP, flags="S")
    data, back = replace(syn, flags="A"), answer_to(syn, flags="A")
    if kind == "tcp reset":
        return Conversation((syn, answer_to(syn, flags="RA")))
    if kind == "tcp error":
        return Conversation((syn, _unreachable(syn, choice)), (_unreachable(syn, choice),))
    if kind == "tcp old":
        return Conversation((data, back), (data, back))
    if kind == "tcp stray":
        return Conversation((replace(syn, flags=("SA", "R", "F", "RA")[choice % 4]),))
    return Conversation((syn, answer_to(syn, flags="SA"), data, back), (data, back))


def _udp(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    if kind == "udp error":
        return Conversation((first, _unreachable(first, choice)))
    if kind == "udp late error":
        return Conversation((first, answer_to(first)), (_unreachable(first, choice),))
    return Conversation((first, answer_to(first), first), (first, answer_to(first)))


def _echo(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    protocol, query = (ICMP, 13 if choice == 7 else 8) if first.version == 4 else (ICMPV6, 128)
    request = replace(first, protocol=protocol, target_port=0, icmp_type=query)
    return Conversation((request, answer_to(request)), (request, answer_to(request)))


def _stray(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    """An answer to nothing, an error about nothing, or what is neither query nor error about a packet."""
    protocol = ICMP if first.version == 4 else ICMPV6
    if choice % 2:
        about = answer_to(first)
        return Conversation((_unreachable(about, choice),))
    kinds = (0, 14, 5, 9) if first.version == 4 else (129, 129, 129, 129)
    return Conversation((replace(first, protocol=protocol, target_port=0, icmp_type=kinds[choice // 2]),))


def _foreign(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    """An error about a packet, from somebody who never saw it."""
    own = next(network.network_address for network in third.addresses if network.version == first.version)
    error = replace(_unreachable(first, choice), sender=third.name, source=own)
    return Conversation((first, error))


def _other(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    packet = replace(first, protocol=OTHERS[choice % len(OTHERS)], source_port=0, target_port=0)
    return Conversation((packet, answer_to(packet)), (packet, answer_to(packet)))


def _sctp(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    return Conversation((replace(first, protocol=SCTP),))


def _udplite(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    packet = replace(first, protocol=UDPLITE)
    return Conversation((packet, answer_to(packet)), (packet, answer_to(packet)))


def _dhcp(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    client, server = (68, 67) if first.version == 4 else (546, 547)
    source, target = (client, server) if choice % 2 else (server, client)
    return Conversation((replace(first, source_port=source, target_port=target),))


def _neighbor(first: Packet, kind: str, choice: int, third: Place) -> Conversation:
    types = (NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT, ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT)
    if first.version == 4:
        return _echo(first, kind, choice, third)
    return Conversation((replace(first, protocol=ICMPV6, source_port=0, target_port=0, icmp_type=types[choice % 4]),))


_TALKS = {
    "tcp": _tcp,
    "udp": _udp,
    "echo": _echo,
    "stray": _stray,
    "foreign": _foreign,
    "other": _other,
    "sctp": _sctp,
    "udplite": _udplite,
    "dhcp": _dhcp,
    "neighbor": _neighbor,
}


@dataclass(frozen=True, slots=True)
class Topology:
    """What is tried: groups, conversations, and the groups afterwards."""

    before: World
    conversations: tuple[Conversation, ...]
    after: World


@st.composite
def topologies(draw: st.DrawFn, packets: int = 200) -> Topology:
    """Return groups and at least so many *packets* to try them with, before they change and afterwards."""
    before = draw(worlds())
    made: list[Conversation] = []
    claimed: set[object] = set()
    for number, drawn in enumerate(draw(st.lists(conversation_numbers, min_size=packets // 2, max_size=packets // 2))):
        if sum(len(each.rounds) + len(each.later) for each in made) >= packets:
            break
        new = conversation(before, number, drawn)
        if claimed.isdisjoint(new.claims()):
            claimed |= new.claims()
            made.append(new)
    return Topology(before, tuple(made), draw(changed(before)))


def rounds_of(conversations: Sequence[Conversation]) -> list[list[Packet]]:
    """Return the packets of all conversations by the round in which they are sent."""
    longest = max((len(each.rounds) for each in conversations), default=0)
    return [[each.rounds[n] for each in conversations if n < len(each.rounds)] for n in range(longest)]


def later_rounds_of(conversations: Sequence[Conversation]) -> list[list[Packet]]:
    """Return the packets that follow when the groups have changed."""
    longest = max((len(each.later) for each in conversations), default=0)
    return [[each.later[n] for each in conversations if n < len(each.later)] for n in range(longest)]
