# SPDX-License-Identifier: Apache-2.0
"""Who may send what to whom: security groups as the Neutron API describes them, in plain Python.

The judge of the filter tests.  It is written from the API reference (security groups,
security group rules, address groups, ``allowed_address_pairs``) and from what RFCs say
about connections, not from the daemon's planner, and it knows nothing of chains, sets
or marks.  What the API leaves open is decided here, in one place:

- A port without security groups that is filtered lets nothing pass but what every
  instance needs: its DHCP client, and neighbor discovery.
- A member of a remote group is an address: each fixed IP and each allowed address pair
  of each port with the group, on whatever network.
- *Stateful*: what belongs to a connection that the port's rules let begin passes both
  ways, and so do ICMP errors about it.  What belongs to none passes if a rule allows it
  and it can begin one.  Of TCP that is a SYN (RFC 9293) or, as firewalls pick up
  connections that are older than they are, a plain ACK; of ICMP queries the request
  (RFC 792, RFC 4443); an ICMP error begins nothing.
- *Stateless*: each packet by itself.
- When rules change, a connection lives on if the new rules would have let it begin.  Of
  a TCP connection that does not, nothing passes any more, either way: it is not picked
  up from the side that may still speak.  It can begin anew once the rules allow it again.
- An instance is never a DHCP server or a router (port security).

A packet passes the sender's filter, on its way out, and then the receiver's, on its way
in.  Each port remembers only what has passed its own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
Key: TypeAlias = tuple[object, ...]

ICMP, TCP, UDP, GRE, ESP, ICMPV6, VRRP, SCTP, UDPLITE = 1, 6, 17, 47, 50, 58, 112, 132, 136
WITH_PORTS = frozenset({TCP, UDP, SCTP, UDPLITE})
INGRESS, EGRESS = "ingress", "egress"

# Requests and their answers (RFC 792, RFC 4443), by protocol.
QUERIES = {ICMP: {8: 0, 13: 14}, ICMPV6: {128: 129}}
ANSWERS = {protocol: {answer: query for query, answer in pairs.items()} for protocol, pairs in QUERIES.items()}
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT = 133, 134, 135, 136
# Link-local signalling (RFC 4861, RFC 3810): has no connections.
SIGNALLING = frozenset({130, 131, 132, 133, 134, 135, 136, 143})
ALWAYS_OUT = frozenset({ROUTER_SOLICITATION, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT})
ALWAYS_IN = frozenset({ROUTER_ADVERTISEMENT, NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT})


@dataclass(frozen=True, slots=True)
class Rule:
    """One security group rule; at most one of the three remotes is given.

    ``low`` and ``high`` are destination ports, or ICMP type and code.
    """

    direction: str
    version: int
    protocol: int | None = None
    low: int | None = None
    high: int | None = None
    prefix: Network | None = None
    group: str | None = None
    address_group: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """A security group."""

    rules: tuple[Rule, ...] = ()
    stateful: bool = True


@dataclass(frozen=True, slots=True)
class PortState:
    """A port: what it may send from, and its groups (None: it is not filtered)."""

    addresses: tuple[Network, ...]
    groups: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class World:
    """Everything that verdicts depend on, but for what has passed before."""

    ports: Mapping[str, PortState]
    groups: Mapping[str, Group]
    address_groups: Mapping[str, tuple[Network, ...]] = field(default_factory=dict)

    def members(self, group: str) -> tuple[Network, ...]:
        """Return the addresses of the ports that have *group*."""
        ports = [port for port in self.ports.values() if port.groups is not None and group in port.groups]
        return tuple(address for port in ports for address in port.addresses)

    def is_stateful(self, port: str) -> bool:
        """Tell whether the port remembers connections (one without any group does)."""
        return all(self.groups[group].stateful for group in self.ports[port].groups or ())


@dataclass(frozen=True, slots=True)
class Packet:
    """An IP packet on its way between two ports.

    ``source_port`` and ``target_port`` are 0 for protocols without; of an ICMP query,
    or its answer, ``source_port`` is the identifier.  ``flags`` are TCP's: S, SA, A, R
    or RA, F.  ``about`` is the packet that an ICMP error complains of.
    """

    sender: str
    receiver: str
    source: Address
    target: Address
    protocol: int
    source_port: int = 0
    target_port: int = 0
    flags: str = ""
    icmp_type: int = 0
    icmp_code: int = 0
    about: Packet | None = None

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.source.version

    @property
    def is_icmp(self) -> bool:
        """True for ICMP of either family."""
        return self.protocol == (ICMP if self.version == 4 else ICMPV6)

    @property
    def is_signalling(self) -> bool:
        """True for what has no connections by its nature."""
        return self.version == 6 and self.is_icmp and self.icmp_type in SIGNALLING

    def key(self) -> Key:
        """Return what all packets of a connection in this direction have in common."""
        if not self.is_icmp:
            return (self.protocol, self.source, self.source_port, self.target, self.target_port)
        query = ANSWERS[self.protocol].get(self.icmp_type)
        if query is None:
            return ("query", self.icmp_type, self.icmp_code, self.source, self.target, self.source_port)
        return ("answer", query, self.icmp_code, self.target, self.source, self.source_port)

    def reverse_key(self) -> Key:
        """Return the key of what goes the other way."""
        if not self.is_icmp:
            return (self.protocol, self.target, self.target_port, self.source, self.source_port)
        kind, *rest = self.key()
        return ("answer" if kind == "query" else "query", *rest)

    def begins(self) -> bool:
        """Tell whether a connection can begin with this packet."""
        if self.protocol == TCP:
            return self.flags in ("S", "A")
        if self.is_icmp:
            return self.icmp_type in QUERIES[self.protocol]
        return True


@dataclass(slots=True)
class Connection:
    """What a port remembers: the first packet, which way it went, and whether an answer came.

    Of TCP also that it is over because the rules no longer allow it.
    """

    first: Packet
    direction: str
    answered: bool = False
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a packet passes, and why or where not."""

    passes: bool
    reason: str


class Oracle:
    """Judges packets in the order in which they are sent, and remembers what has passed."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._connections: dict[str, dict[Key, Connection]] = {port: {} for port in world.ports}

    def forget(self) -> None:
        """Forget all connections."""
        for connections in self._connections.values():
            connections.clear()

    def change(self, world: World) -> None:
        """Take *world* instead: connections that it would not have let begin are over."""
        self.world = world
        for port, connections in self._connections.items():
            for key, connection in list(connections.items()):
                allowed = self._is_allowed(port, connection.direction, connection.first)
                if not allowed and connection.first.protocol == TCP:
                    connection.ended = True
                elif not allowed or connection.ended:
                    del connections[key]

    def judge(self, packet: Packet) -> Verdict:
        """Tell whether *packet* reaches the other instance."""
        if _is_servers(packet):
            return Verdict(False, "instances are no DHCP servers and no routers")
        out = self._filter(packet.sender, EGRESS, packet)
        if not out.passes:
            return Verdict(False, f"{packet.sender} egress: {out.reason}")
        into = self._filter(packet.receiver, INGRESS, packet)
        return Verdict(into.passes, f"{packet.sender} egress: {out.reason}; {packet.receiver} ingress: {into.reason}")

    def _filter(self, port: str, direction: str, packet: Packet) -> Verdict:
        if self.world.ports[port].groups is None:
            return Verdict(True, "not filtered")
        if _is_needed(direction, packet):
            return Verdict(True, "every instance needs it")
        if not self.world.is_stateful(port) or packet.is_signalling:
            return self._by_rules(port, direction, packet)
        return self._by_connection(port, direction, packet)

    def _by_connection(self, port: str, direction: str, packet: Packet) -> Verdict:
        connections = self._connections[port]
        subject = packet.about or packet
        known = connections.get(subject.key()) or connections.get(subject.reverse_key())
        if known is not None and known.ended:
            return Verdict(False, "its connection is over")
        if packet.about is not None:
            return Verdict(known is not None, "an error about " + ("a connection" if known else "nothing known"))
        answered = connections.get(packet.reverse_key())
        if answered is not None:
            # Of TCP a SYN is answered by SYN and ACK; what else comes is let through for the opener to refuse.
            answered.answered |= answered.first.flags != "S" or packet.flags == "SA"
            return Verdict(True, "an answer")
        connection = connections.get(packet.key())
        if connection is not None and connection.answered:
            return Verdict(True, "goes on")
        if not packet.begins() or (connection is not None and packet.flags != connection.first.flags):
            return Verdict(False, "belongs to no connection and begins none")
        verdict = self._by_rules(port, direction, packet)
        if verdict.passes:
            connections.setdefault(packet.key(), Connection(packet, direction))
        return verdict

    def _is_allowed(self, port: str, direction: str, packet: Packet) -> bool:
        state = self.world.ports[port]
        return state.groups is None or _is_needed(direction, packet) or self._by_rules(port, direction, packet).passes

    def _by_rules(self, port: str, direction: str, packet: Packet) -> Verdict:
        for name in self.world.ports[port].groups or ():
            for number, rule in enumerate(self.world.groups[name].rules):
                if self._matches(rule, direction, packet):
                    return Verdict(True, f"{name} rule {number}")
        return Verdict(False, "no rule allows it")

    def _matches(self, rule: Rule, direction: str, packet: Packet) -> bool:
        if rule.direction != direction or rule.version != packet.version:
            return False
        if rule.protocol is not None and not self._matches_protocol(rule, packet):
            return False
        remote = packet.source if direction == INGRESS else packet.target
        if rule.prefix is not None:
            return remote in rule.prefix
        if rule.group is not None:
            return _is_among(remote, self.world.members(rule.group))
        if rule.address_group is not None:
            return _is_among(remote, self.world.address_groups[rule.address_group])
        return True

    @staticmethod
    def _matches_protocol(rule: Rule, packet: Packet) -> bool:
        if rule.protocol != packet.protocol:
            return False
        if packet.is_icmp:
            return rule.low in (None, packet.icmp_type) and rule.high in (None, packet.icmp_code)
        if rule.low is None or rule.high is None:
            return True
        return rule.low <= packet.target_port <= rule.high


def answer_to(packet: Packet, **changes: object) -> Packet:
    """Return a packet that goes the other way: ports exchanged, of an ICMP query the answer."""
    back = replace(
        packet,
        sender=packet.receiver,
        receiver=packet.sender,
        source=packet.target,
        target=packet.source,
        source_port=packet.source_port if packet.is_icmp else packet.target_port,
        target_port=packet.target_port if packet.is_icmp else packet.source_port,
        icmp_type=QUERIES[packet.protocol].get(packet.icmp_type, packet.icmp_type) if packet.is_icmp else 0,
    )
    return replace(back, **changes)  # type: ignore[arg-type]


def _is_among(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)


def _is_servers(packet: Packet) -> bool:
    """Tell whether only a DHCP server (RFC 2131, RFC 8415) or a router (RFC 4861) sends this."""
    if packet.protocol == UDP:
        server, client = (67, 68) if packet.version == 4 else (547, 546)
        return packet.source_port == server and packet.target_port == client
    return packet.version == 6 and packet.is_icmp and packet.icmp_type == ROUTER_ADVERTISEMENT


def _is_needed(direction: str, packet: Packet) -> bool:
    """Tell whether every instance may do this, whatever its groups: DHCP as a client, neighbor discovery."""
    if packet.protocol == UDP:
        client, server = (68, 67) if packet.version == 4 else (546, 547)
        if direction == EGRESS:
            return (packet.source_port, packet.target_port) == (client, server)
        return (packet.source_port, packet.target_port) == (server, client)
    if packet.version == 6 and packet.is_icmp:
        return packet.icmp_type in (ALWAYS_OUT if direction == EGRESS else ALWAYS_IN)
    return False
